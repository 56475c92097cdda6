// SPDX-License-Identifier: GPL-2.0

//! Asks which targets are ready, and for which events.
//!
//! The file of a target is duplicated from its owner, with pidfd_getfd(2), and asked
//! with poll(2). That is the state of the file, which is what epoll_wait(2) goes by: a
//! target with `EPOLLET` that is ready has reported it once, and is silent until something
//! changes.
//!
//! Only files are asked of which it is known that poll(2) does not change them. That of
//! a perf event or of `/proc/self/mountinfo` reports an event once, which the owner would
//! then never see; that of a signalfd is about the signals of who asks. Nor are files of
//! a FUSE file system, whose server could let stat(2) and poll(2) wait. Since the mutex of
//! an instance may be held for long, another process asks, as for the fdinfo of instances.

use crate::descriptor::Descriptor;
use crate::fdinfo::{Events, Target};
use crate::kcmp::{self, Slot};
use crate::pidfd::PidFd;
use crate::reader::{self, Reader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::path::DecInt;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// Asks files whether they are ready, in a process of its own.
#[derive(Debug, Default)]
pub struct Poller {
    reader: Reader,
    /// Instances that nobody waits for again.
    held: HashSet<Descriptor>,
    /// The devices of FUSE file systems, by process.
    fuse: HashMap<i32, HashSet<(u32, u32)>>,
}

impl Poller {
    /// The events for which a target is ready, of those that it waits for; none if it
    /// is not ready. `instance` is a descriptor of its instance, and `owner` one that
    /// was found to have its file.
    ///
    /// # Errors
    ///
    /// - `PermissionDenied`: pidfd_getfd(2) needs ptrace access to attach
    /// - `NotFound`: the owner does not have the file any more
    /// - `Unsupported`: poll(2) of such a file could change it, or wait
    /// - `TimedOut`: the mutex of the instance, or of one that is its target, is held
    /// - those of pidfd_getfd(2), poll(2) and kcmp(2)
    pub fn ready(
        &mut self,
        instance: Descriptor,
        owner: Descriptor,
        target: &Target,
    ) -> io::Result<Events> {
        if self.held.contains(&instance) || self.held.contains(&owner) {
            return Err(reader::held());
        }
        if let Some(inode) = target.inode {
            let device = (inode.major, inode.minor);
            if self.fuse_devices(owner.pid)?.contains(&device) {
                return Err(unsupported());
            }
        }
        let question = Question {
            pid: instance.pid,
            owner,
            slot: Slot {
                efd: instance.fd,
                tfd: target.tfd,
                toff: target.toff,
            },
            ino: target.inode.map_or(0, |inode| inode.ino),
            wanted: target.events.0 | Events::ALWAYS.0,
        };
        let answer = match self.reader.ask(&question) {
            // As Reader::read() does.
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied
                    && owner.pid == rustix::process::getpid().as_raw_pid() =>
            {
                question.answer().map_err(io::Error::from)
            }
            answer => answer,
        };
        if answer.as_ref().is_err_and(reader::is_held) {
            // The target may be an instance, too, whose mutex it is.
            self.held.extend([instance, owner]);
        }
        match answer {
            // The descriptor, its process, or the target is gone.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ESRCH)) => {
                Err(io::ErrorKind::NotFound.into())
            }
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Err(unsupported()),
            answer => Ok(Events(answer?)),
        }
    }

    fn fuse_devices(&mut self, pid: i32) -> io::Result<&HashSet<(u32, u32)>> {
        match self.fuse.entry(pid) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let mounts = fs::read(format!("/proc/{pid}/mountinfo"))?;
                Ok(new.insert(fuse_devices(&String::from_utf8_lossy(&mounts))))
            }
        }
    }
}

fn unsupported() -> io::Error {
    let why = "poll(2) could change such a file, or wait";
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// The devices of FUSE file systems, from a mountinfo.
fn fuse_devices(mounts: &str) -> HashSet<(u32, u32)> {
    let device = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        if !file_system.starts_with("fuse") {
            return None;
        }
        let (major, minor) = mount.split(' ').nth(2)?.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    mounts.lines().filter_map(device).collect()
}

/// What the process that asks is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The process that has the instance.
    pid: i32,
    owner: Descriptor,
    slot: Slot,
    /// The inode of the file; 0 if it is not known.
    ino: u64,
    wanted: u32,
}

impl Question {
    /// As text without blanks at its ends.
    pub(crate) fn to_text(self) -> String {
        let Self {
            pid,
            owner,
            slot,
            ino,
            wanted,
        } = self;
        let Slot { efd, tfd, toff } = slot;
        format!(
            "{pid} {efd} {tfd} {toff} {} {} {ino} {wanted}",
            owner.pid, owner.fd
        )
    }

    /// The opposite. It does not allocate.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        fn next<T: std::str::FromStr>(words: &mut std::str::Split<'_, char>) -> Option<T> {
            words.next()?.parse().ok()
        }
        let mut words = text.split(' ');
        let words = &mut words;
        Some(Self {
            pid: next(words)?,
            slot: Slot {
                efd: next(words)?,
                tfd: next(words)?,
                toff: next(words)?,
            },
            owner: Descriptor {
                pid: next(words)?,
                fd: next(words)?,
            },
            ino: next(words)?,
            wanted: next(words)?,
        })
    }

    /// The events for which the target is ready. It does not allocate, and may wait for the
    /// mutex of the instance.
    pub(crate) fn answer(&self) -> rustix::io::Result<u32> {
        let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        // Threads with a table of their own have it by their own id.
        let process = PidFd::open(self.owner.pid).or_else(|_| PidFd::open_task(self.owner.pid));
        let process = process.map_err(errno)?;
        let file = process.getfd(self.owner.fd).map_err(errno)?;
        let stat = rustix::fs::fstat(&file)?;
        if !is_harmless(&file, &stat)? {
            return Err(Errno::OPNOTSUPP);
        }
        // A socket has its inode for itself; both ends of a pipe have one.
        let is_socket = stat.st_mode & libc::S_IFMT == libc::S_IFSOCK;
        let is_it = match self.ino {
            ino @ 1.. if is_socket => stat.st_ino == ino,
            _ => {
                let own = Descriptor {
                    pid: rustix::process::getpid().as_raw_pid(),
                    fd: file.as_raw_fd(),
                };
                let order = kcmp::epoll_tfd(own, self.pid, self.slot);
                order.map_err(errno)? == Ordering::Equal
            }
        };
        // The owner may have another one by now.
        if !is_it {
            return Err(Errno::NOENT);
        }
        // Flags of epoll, as EPOLLET, are above.
        let flags = PollFlags::from_bits_retain(self.wanted as u16);
        let mut polled = [PollFd::new(&file, flags)];
        poll(&mut polled, Some(&Timespec::default()))?;
        Ok(u32::from(polled[0].revents().bits()) & self.wanted)
    }
}

/// Files without a path of which poll(2) changes nothing.
const ANONYMOUS: [&[u8]; 8] = [
    b"anon_inode:[eventfd]",
    b"anon_inode:[eventpoll]",
    b"anon_inode:[fanotify]",
    b"anon_inode:[io_uring]",
    b"anon_inode:[pidfd]",
    b"anon_inode:[timerfd]",
    b"anon_inode:[userfaultfd]",
    b"anon_inode:inotify",
];

/// The same of character devices: memory, terminals, input, and pseudoterminals.
const DEVICES: [u32; 5] = [1, 4, 5, 13, 136];

/// The same of files of a file system: message queues, pidfds, and sysfs.
const FILE_SYSTEMS: [u64; 3] = [0x1980_0202, 0x5049_4446, 0x6265_6572];

/// Whether poll(2) of a file neither waits for anybody nor changes what its owner sees.
fn is_harmless(file: &OwnedFd, stat: &Stat) -> rustix::io::Result<bool> {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFSOCK | libc::S_IFIFO => return Ok(true),
        libc::S_IFCHR => return Ok(DEVICES.contains(&rustix::fs::major(stat.st_rdev))),
        _ => {}
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
    let mut room = [MaybeUninit::uninit(); 64];
    let name = DecInt::from_fd(file);
    let (link, _) = rustix::fs::readlinkat_raw(&own, name.as_c_str(), &mut room)?;
    // Only the kernel gives names that begin so.
    if link.starts_with(b"anon_inode:") {
        return Ok(ANONYMOUS.contains(&&*link));
    }
    let kind = rustix::fs::fstatfs(file)?.f_type;
    Ok(FILE_SYSTEMS.contains(&(kind as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdinfo;
    use crate::kcmp::Support;
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

    #[test]
    fn fuse_is_found_in_mountinfo() {
        let mounts = "29 1 0:26 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
                      40 29 0:35 / /mnt/a rw - fuse.sshfs host:/ rw,user_id=0\n\
                      41 29 0:36 / /mnt/b rw shared:2 - fuseblk /dev/sdb rw\n\
                      42 29 0:37 / /mnt/fuse rw - tmpfs fuse rw\n";
        assert_eq!(fuse_devices(mounts), HashSet::from([(0, 35), (0, 36)]));
    }

    #[test]
    fn questions_are_understood() {
        let question = Question {
            pid: i32::MAX,
            owner: Descriptor {
                pid: i32::MAX - 1,
                fd: i32::MAX - 2,
            },
            slot: Slot {
                efd: i32::MAX,
                tfd: i32::MAX - 3,
                toff: u32::MAX,
            },
            ino: u64::MAX,
            wanted: u32::MAX,
        };
        let text = question.to_text();
        assert!(text.len() < reader::REQUEST - "poll:".len());
        assert_eq!(Question::parse(&text), Some(question));
        assert_eq!(Question::parse("1 2 3"), None);
    }

    /// A kernel that polls these tells the owner less, or somebody else's state.
    #[test]
    fn what_poll_would_change_is_not_asked() {
        if kcmp::support() != Support::Epoll {
            return;
        }
        let instance = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let pid = rustix::process::getpid().as_raw_pid();
        let at = |fd| Descriptor { pid, fd };
        let mut poller = Poller::default();
        let mounts = std::fs::File::open("/proc/self/mountinfo").unwrap();
        // SAFETY: An empty set is valid, and is initialised before it is used. The
        // descriptor is new, and nobody else's.
        let signals = unsafe {
            let mut none = MaybeUninit::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            let fd = libc::signalfd(-1, none.as_ptr(), libc::SFD_CLOEXEC);
            assert!(fd >= 0);
            std::os::fd::FromRawFd::from_raw_fd(fd)
        };
        for file in [OwnedFd::from(mounts), signals] {
            epoll::add(&instance, &file, EventData::new_u64(0), EventFlags::IN).unwrap();
            let targets = fdinfo::read(pid, instance.as_raw_fd()).unwrap();
            let target = targets.flatten().next().unwrap();
            let ready = poller.ready(at(instance.as_raw_fd()), at(file.as_raw_fd()), &target);
            assert_eq!(ready.unwrap_err().kind(), io::ErrorKind::Unsupported);
            epoll::delete(&instance, &file).unwrap();
        }
    }

    #[test]
    fn a_pipe_is_ready_once_it_has_data_and_keeps_them() {
        if kcmp::support() != Support::Epoll {
            return;
        }
        let instance = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let events = EventFlags::IN | EventFlags::ET;
        epoll::add(&instance, &reader, EventData::new_u64(0), events).unwrap();
        let pid = rustix::process::getpid().as_raw_pid();
        let at = |fd| Descriptor { pid, fd };
        let (instance_at, owner) = (at(instance.as_raw_fd()), at(reader.as_raw_fd()));
        let target = || {
            let targets = fdinfo::read(pid, instance_at.fd).unwrap();
            targets.flatten().next().unwrap()
        };

        let mut poller = Poller::default();
        let ready = poller.ready(instance_at, owner, &target()).unwrap();
        assert_eq!(ready, Events(0));
        rustix::io::write(&writer, b"ab").unwrap();
        let ready = poller.ready(instance_at, owner, &target()).unwrap();
        assert_eq!(ready, Events(1));
        let mut bytes = [0; 4];
        assert_eq!(rustix::io::read(&reader, &mut bytes).unwrap(), 2);
        // The other end is another file of the same inode.
        let other = poller.ready(instance_at, at(writer.as_raw_fd()), &target());
        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(writer);
        // Children that other tests start have it, too, until they close what they inherited.
        let begin = std::time::Instant::now();
        loop {
            let ready = poller.ready(instance_at, owner, &target()).unwrap();
            if ready == Events(0x10) {
                break;
            }
            assert_eq!(ready, Events(0));
            assert!(begin.elapsed().as_secs() < 60, "it is not hung up");
        }
    }

    #[test]
    fn a_socket_is_known_by_its_inode() {
        let instance = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        epoll::add(&instance, &one, EventData::new_u64(0), EventFlags::OUT).unwrap();
        let pid = rustix::process::getpid().as_raw_pid();
        let at = |fd| Descriptor { pid, fd };
        let instance_at = at(instance.as_raw_fd());
        let target = fdinfo::read(pid, instance_at.fd).unwrap().flatten().next();
        let target = target.unwrap();
        let mut poller = Poller::default();
        let ready = poller.ready(instance_at, at(one.as_raw_fd()), &target);
        assert_eq!(ready.unwrap(), Events(4));
        let wrong = poller.ready(instance_at, at(other.as_raw_fd()), &target);
        assert_eq!(wrong.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
