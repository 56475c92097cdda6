// SPDX-License-Identifier: GPL-2.0

//! Which events a target is ready for: the question that [`ready`](crate::ready) has
//! another process answer, by way of its [`reader`](crate::reader).

use crate::descriptor::Descriptor;
use crate::kcmp::{self, Slot};
use crate::pidfd::PidFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::path::DecInt;
use std::cmp::Ordering;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// For which events a target is ready, as the process that polls is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The process that has the instance.
    pub(crate) pid: i32,
    pub(crate) owner: Descriptor,
    pub(crate) slot: Slot,
    /// The inode of the file; 0 if it is not known.
    pub(crate) ino: u64,
    pub(crate) wanted: u32,
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
