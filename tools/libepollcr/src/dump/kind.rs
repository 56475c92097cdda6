// SPDX-License-Identifier: GPL-2.0

//! The kind of each open file, and its state.

use super::table::{Dumper, Ends};
use super::types::Source;
use super::{Result, inotify, listener, memory, mounts, socket};
use crate::device::Description;
use crate::image::{FLAGS, Kind, Pipe, Place};
use crate::types::{DeviceNumber, PipeEnds};
use crate::{fdinfo, pipe};
use rustix::fs::lstat;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// `__O_TMPFILE`, without the `O_DIRECTORY` that comes with it.
const TMPFILE: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

/// File systems, by the numbers of `linux/magic.h`.
const SECRETMEM: u32 = 0x5345_434d;
const MQUEUE: u32 = 0x1980_0202;
const HUGETLBFS: u32 = 0x9584_58f6;
const PROC: u32 = 0x9fa0;
const CGROUP2: u32 = 0x6367_7270;

/// The place of a file in another mount, if its path leads to it here, too.
fn same_here(description: &Description, name: &[u8]) -> Option<Place> {
    let mode = description.mode & libc::S_IFMT;
    let stat = description.stat.filter(|_| !description.unlinked)?;
    if !matches!(mode, libc::S_IFREG | libc::S_IFDIR | libc::S_IFCHR) {
        return None;
    }
    let found = lstat(OsStr::from_bytes(name)).ok()?;
    let device = DeviceNumber::of(found.st_dev);
    let same = (device, found.st_ino) == (stat.device, stat.inode);
    same.then(|| Place {
        path: name.to_vec(),
        mode: description.mode,
        device: stat.device,
        inode: stat.inode,
        special: (mode == libc::S_IFCHR).then_some(stat.special),
        unlinked: false,
    })
}

impl Dumper<'_, '_> {
    pub fn kind(&mut self, source: &Source, description: &Description) -> Result<Kind> {
        let other = |why: &str| Ok(Kind::Other { why: why.into() });
        match description.flags & !FLAGS {
            0 => {}
            flags if flags & TMPFILE != 0 => return other("it was opened with O_TMPFILE"),
            flags => return other(&format!("it has unknown flags ({flags:#o})")),
        }
        let is_path_only = description.flags & libc::O_PATH as u32 != 0;
        let mode = description.mode & libc::S_IFMT;
        let name = description.path.as_deref().unwrap_or_default();
        if !description.reachable {
            return match name {
                _ if is_path_only => other("it was opened with O_PATH, and has no path"),
                b"anon_inode:[eventfd]" => self.parsed(source, fdinfo::eventfd),
                b"anon_inode:[signalfd]" => self.parsed(source, fdinfo::signalfd),
                b"anon_inode:[timerfd]" => self.timer(source),
                _ if description.epoll_id.is_some() => {
                    let items = Vec::new();
                    Ok(Kind::Epoll { items })
                }
                _ if mode == libc::S_IFIFO && name.starts_with(b"pipe:") => {
                    self.pipe(source, description, None)
                }
                _ if mode == libc::S_IFSOCK => self.socket(source, description),
                _ if name.starts_with(b"/") => self.elsewhere(source, description, name),
                b"anon_inode:inotify" => {
                    let shown = self.fdinfo(source)?;
                    Ok(
                        match self.with(source, |fd| inotify::describe(fd, &shown))? {
                            Ok(watches) => Kind::Inotify { watches },
                            Err(why) => Kind::Other { why },
                        },
                    )
                }
                _ if name == b"anon_inode:[pidfd]" || name.starts_with(b"pidfd:") => {
                    Ok(match fdinfo::process(&self.fdinfo(source)?) {
                        Some(pid) if pid == self.options.pid() => Kind::PidFd,
                        Some(pid) if pid > 0 => Kind::Other {
                            why: format!("it refers to process {pid}, which may have ended"),
                        },
                        _ => Kind::Other {
                            why: "it refers to a process that has ended, or cannot be seen".into(),
                        },
                    })
                }
                _ => other("files of this kind cannot be recreated"),
            };
        }
        let Some(stat) = description.stat else {
            return other("its file system does not return its attributes");
        };
        let Some(path) = &description.path else {
            return other("its path is too long");
        };
        let place = Place {
            path: path.to_vec(),
            mode: description.mode,
            device: stat.device,
            inode: stat.inode,
            special: matches!(mode, libc::S_IFCHR | libc::S_IFBLK).then_some(stat.special),
            unlinked: description.unlinked,
        };
        match mode {
            libc::S_IFREG if !is_path_only && self.is_trigger(source, description, path)? => {
                other("it has a trigger for pressure (PSI), which cannot be read")
            }
            libc::S_IFIFO if !is_path_only => self.pipe(source, description, Some(place)),
            libc::S_IFSOCK if !is_path_only => other("it is a socket"),
            _ => {
                let position = description.position;
                Ok(Kind::Path { place, position })
            }
        }
    }

    /// Whether a file may have a trigger: one of `/proc/pressure`, or of a control group,
    /// that was opened for writing.
    fn is_trigger(&self, source: &Source, description: &Description, path: &[u8]) -> Result<bool> {
        let is_writable = description.flags as i32 & libc::O_ACCMODE != libc::O_RDONLY;
        let of_proc = path.split(|&byte| byte == b'/').rev().nth(1) == Some(b"pressure");
        if !is_writable || !of_proc && !path.ends_with(b".pressure") {
            return Ok(false);
        }
        let system = self.with(source, |fd| Ok(rustix::fs::fstatfs(fd)?.f_type))? as u32;
        Ok([PROC, CGROUP2].contains(&system))
    }

    /// A file whose path is not one here.
    fn elsewhere(
        &mut self,
        source: &Source,
        description: &Description,
        name: &[u8],
    ) -> Result<Kind> {
        let other = |why: &str| Ok(Kind::Other { why: why.into() });
        let stat = description.stat.unwrap_or_default();
        let system = self.with(source, |fd| Ok(rustix::fs::fstatfs(fd)?.f_type))? as u32;
        match system {
            SECRETMEM => {
                return other(
                    "it is secret memory (memfd_secret(2)), which only its own process can read",
                );
            }
            MQUEUE => return other("it is a POSIX message queue, and its messages would be lost"),
            HUGETLBFS if name.starts_with(memory::PREFIX) => {
                return other("it is memory of huge pages (memfd_create(2)), which is not read");
            }
            _ => {}
        }
        if let Some(name) = name.strip_prefix(memory::PREFIX) {
            // Anybody can name a file like that.
            if stat.nlink == 0 && memory::device() == Some(stat.device) {
                return self.memory(source, description, name);
            }
        }
        // A mount namespace begins as a copy of another one: the path may be the same, as
        // it is shown here, or as the process sees it.
        let root = std::fs::read_link(format!("/proc/{}/root", self.options.pid())).ok();
        let root = root.as_ref().map(|root| root.as_os_str().as_bytes());
        let seen = root.and_then(|root| name.strip_prefix(root));
        let paths = [Some(name), seen.filter(|path| path.starts_with(b"/"))];
        let mut paths = paths.into_iter().flatten();
        if let Some(place) = paths.find_map(|path| same_here(description, path)) {
            let position = description.position;
            return Ok(Kind::Path { place, position });
        }
        let mount = self.fdinfo(source).ok().as_deref().and_then(mounts::of);
        let pid = self.options.pid();
        let theirs = format!("/proc/{pid}/mountinfo");
        match mount {
            Some(mount) if mounts::ids(&theirs).contains(&mount) => Ok(Kind::Other {
                why: format!(
                    "its path exists only in the mount namespace of the process (dump and \
                     restore it there: nsenter --mount=/proc/{pid}/ns/mnt epollcr ...)"
                ),
            }),
            _ if description.unlinked => other("it was unlinked"),
            _ => other("it is in no file system that is mounted here, or where the process is"),
        }
    }

    fn memory(&mut self, source: &Source, description: &Description, name: &[u8]) -> Result<Kind> {
        let stat = description.stat.unwrap_or_default();
        let position = description.position;
        let key = (stat.device, stat.inode);
        if let Some(&memory) = self.memories.get(&key) {
            return Ok(Kind::Memory { memory, position });
        }
        if stat.length > memory::MOST {
            let why = format!(
                "it is memory (memfd_create(2)) of {} bytes, and an image can have {} of one",
                stat.length,
                memory::MOST
            );
            return Ok(Kind::Other { why });
        }
        let contents = self.with(source, |fd| match memory::read(fd, name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            contents => contents.map(Some),
        })?;
        let Some(contents) = contents else {
            let why = format!(
                "it is memory (memfd_create(2)) whose permissions ({:o}) do not allow to read it",
                description.mode & 0o7777
            );
            return Ok(Kind::Other { why });
        };
        let memory = self.image.memories.len() as u32;
        self.image.memories.push(contents);
        self.memories.insert(key, memory);
        Ok(Kind::Memory { memory, position })
    }

    /// A kind that fdinfo shows.
    fn parsed(&self, source: &Source, parse: fn(&str) -> Option<Kind>) -> Result<Kind> {
        let why = || "the kernel shows a state that is not known here".into();
        Ok(parse(&self.fdinfo(source)?).unwrap_or_else(|| Kind::Other { why: why() }))
    }

    fn timer(&self, source: &Source) -> Result<Kind> {
        // A timer that repeats and has expired is forwarded when timerfd_gettime() is
        // called, but not by fdinfo. It may expire once more between the two.
        self.with(source, |fd| {
            rustix::time::timerfd_gettime(fd)?;
            Ok(())
        })?;
        self.parsed(source, fdinfo::timerfd)
    }

    fn pipe(
        &mut self,
        source: &Source,
        description: &Description,
        place: Option<Place>,
    ) -> Result<Kind> {
        let stat = description.stat.unwrap_or_default();
        let here = PipeEnds::of(description.flags);
        let index = match self.pipes.get(&(stat.device, stat.inode)) {
            Some(&index) => index,
            None => {
                let capacity = self.with(source, pipe::capacity)?;
                let index = self.image.pipes.len() as u32;
                self.image.pipes.push(Pipe {
                    place,
                    ..Pipe::new(capacity)
                });
                self.ends.push(Ends::default());
                self.pipes.insert((stat.device, stat.inode), index);
                index
            }
        };
        let open = self.with(source, |fd| pipe::other_end(fd, here))?;
        let read = self.ends[index as usize].here.contains(PipeEnds::READ);
        if here.contains(PipeEnds::READ) && !read {
            let capacity = self.image.pipes[index as usize].capacity;
            let contents = self.with(source, |fd| pipe::contents(fd, capacity))?;
            let (data, packets) = match contents {
                pipe::Contents::Plain(data) => (data, Some(false)),
                pipe::Contents::Packets(data) => (data, Some(true)),
                // As far as its write end tells.
                pipe::Contents::Byte(data) => (data, None),
                pipe::Contents::Both => {
                    let why = "it contains packets (O_DIRECT) and other data".into();
                    return Ok(Kind::Other { why });
                }
            };
            let pipe = &mut self.image.pipes[index as usize];
            (pipe.data, pipe.packets) = (data, packets);
        }
        let ends = &mut self.ends[index as usize];
        ends.here |= here;
        ends.open |= open;
        Ok(Kind::Pipe { pipe: index })
    }

    /// Records which ends of pipes the image lacks.
    pub fn finish_pipes(&mut self) {
        for (pipe, ends) in self.image.pipes.iter_mut().zip(&self.ends) {
            // The ends of a FIFO find each other by its path.
            if pipe.place.is_none() {
                pipe.elsewhere = ends.open - ends.here;
            }
        }
    }

    fn socket(&mut self, source: &Source, description: &Description) -> Result<Kind> {
        match self.with(source, listener::describe)? {
            Some(Ok(listener)) => return Ok(Kind::Listener(listener)),
            Some(Err(why)) => return Ok(Kind::Other { why }),
            None => {}
        }
        let inode = description.stat.unwrap_or_default().inode as u32;
        let index = self.image.files.len() as u32;
        Ok(match self.with(source, socket::describe)? {
            Ok(socket) => {
                self.sockets.insert(inode, index);
                Kind::Socket(socket)
            }
            Err(why) => Kind::Other { why },
        })
    }
}
