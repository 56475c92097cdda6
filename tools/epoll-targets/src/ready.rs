// SPDX-License-Identifier: GPL-2.0

//! Asks which targets are ready, and for which events.
//!
//! The file of a target is duplicated from its owner, with pidfd_getfd(2), and asked
//! with poll(2), which neither waits nor takes anything from it. That is the state of
//! the file, which is what epoll_wait(2) goes by: a target with `EPOLLET` that is ready
//! has reported it once, and is silent until something changes.
//!
//! A file of a FUSE file system is not asked: its server could let poll(2) wait.

use crate::descriptor::Descriptor;
use crate::fdinfo::{Events, Target};
use crate::kcmp::{self, Slot};
use crate::pidfd::PidFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Asks files whether they are ready. It holds the processes that it has asked.
#[derive(Debug, Default)]
pub struct Poller {
    processes: HashMap<i32, PidFd>,
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
    /// - `Unsupported`: the file cannot be asked without a risk to wait
    /// - those of pidfd_getfd(2), poll(2) and kcmp(2)
    pub fn ready(
        &mut self,
        instance: Descriptor,
        owner: Descriptor,
        target: &Target,
    ) -> io::Result<Events> {
        if let Some(inode) = target.inode {
            let device = (inode.major, inode.minor);
            if self.fuse_devices(owner.pid)?.contains(&device) {
                let why = "its file system could let poll(2) wait";
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
        }
        let process = match self.processes.entry(owner.pid) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(PidFd::open(owner.pid)?),
        };
        let file = process.getfd(owner.fd)?;
        if !is_file_of(&file, instance, target)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        let wanted = target.events.0 | Events::ALWAYS.0;
        // Flags of epoll, as EPOLLET, are above.
        let flags = PollFlags::from_bits_retain(wanted as u16);
        let mut polled = [PollFd::new(&file, flags)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut polled, Some(&at_once))?;
        Ok(Events(u32::from(polled[0].revents().bits()) & wanted))
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

/// Whether this is the file of the target. The owner may have another one by now.
fn is_file_of(file: &impl AsFd, instance: Descriptor, target: &Target) -> io::Result<bool> {
    let file = file.as_fd();
    if let Some(inode) = target.inode {
        let stat = rustix::fs::fstat(file)?;
        // A socket has its inode for itself; both ends of a pipe have one.
        if stat.st_mode & libc::S_IFMT == libc::S_IFSOCK {
            return Ok(stat.st_ino == inode.ino);
        }
    }
    let own = Descriptor {
        pid: rustix::process::getpid().as_raw_pid(),
        fd: file.as_raw_fd(),
    };
    let slot = Slot {
        efd: instance.fd,
        tfd: target.tfd,
        toff: target.toff,
    };
    Ok(kcmp::epoll_tfd(own, instance.pid, slot)? == Ordering::Equal)
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
        let ready = poller.ready(instance_at, owner, &target()).unwrap();
        assert_eq!(ready, Events(0x10));
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
