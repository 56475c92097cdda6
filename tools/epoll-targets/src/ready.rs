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
use crate::kcmp::Slot;
use crate::question::Question;
use crate::reader::{self, Reader};
use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::fs;
use std::io;

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
        // It waits for nothing.
        if target.events.is_disarmed() {
            return Ok(Events(0));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdinfo;
    use crate::kcmp::{self, Support};
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
    use std::mem::MaybeUninit;
    use std::os::fd::{AsRawFd as _, OwnedFd};

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
            return crate::skipped(kcmp::support());
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

    /// It waits for nothing, not even for errors.
    #[test]
    fn a_oneshot_that_has_fired_is_not_ready() {
        let instance = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let once = EventFlags::IN | EventFlags::ONESHOT;
        epoll::add(&instance, &reader, EventData::new_u64(0), once).unwrap();
        drop(writer);
        let pid = rustix::process::getpid().as_raw_pid();
        let at = |fd| Descriptor { pid, fd };
        let target = || {
            let targets = fdinfo::read(pid, instance.as_raw_fd()).unwrap();
            targets.flatten().next().unwrap()
        };
        let mut events = Vec::with_capacity(1);
        let buffer = rustix::buffer::spare_capacity(&mut events);
        assert_eq!(epoll::wait(&instance, buffer, None), Ok(1));
        let owner = at(reader.as_raw_fd());
        let ready = Poller::default().ready(at(instance.as_raw_fd()), owner, &target());
        assert_eq!(ready.unwrap(), Events(0));
    }

    #[test]
    fn a_pipe_is_ready_once_it_has_data_and_keeps_them() {
        if kcmp::support() != Support::Epoll {
            return crate::skipped(kcmp::support());
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
