// SPDX-License-Identifier: GPL-2.0

//! The kind of each open file, and its state.

use super::table::{Dumper, Ends, Source};
use super::{Result, fdinfo, pipe, socket};
use crate::device::Description;
use crate::image::{FLAGS, Kind, Pipe, Place};
use crate::types::PipeEnds;

/// `__O_TMPFILE`, without the `O_DIRECTORY` that comes with it.
const TMPFILE: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

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
                _ if name.starts_with(b"/") => other("its path is outside of the root directory"),
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
            libc::S_IFIFO if !is_path_only => self.pipe(source, description, Some(place)),
            libc::S_IFSOCK if !is_path_only => other("it is a socket"),
            _ => {
                let position = description.position;
                Ok(Kind::Path { place, position })
            }
        }
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
            let data = self.with(source, |fd| pipe::data(fd, capacity))?;
            self.image.pipes[index as usize].data = data;
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
        let inode = description.stat.unwrap_or_default().inode as u32;
        let index = self.image.files.len() as u32;
        Ok(match self.with(source, socket::describe)? {
            Ok(socket) => {
                self.sockets.insert(inode, index);
                Kind::Socket(socket)
            }
            Err(why) => Kind::Other { why: why.into() },
        })
    }
}
