// SPDX-License-Identifier: GPL-2.0

//! What any kernel tells of a process and its files.
//!
//! kcmp(2) tells open file descriptions apart, and the resolver of `epoll-targets` finds
//! out which descriptor has the file of a target. A file that the process has no
//! descriptor for is taken from one that has, and is held to the end of the dump: its
//! identity means something only as long as it is open.

use super::types::{Fetched, Listed, Source, Target};
use super::{mounts, stopped};
use crate::device::{Description, Item, Stat};
use crate::sys;
use crate::types::{DeviceNumber, PRIVATE_BITS};
use epoll_targets::Descriptor;
use epoll_targets::kcmp::{self, Resource, Slot};
use epoll_targets::pidfd::PidFd;
use epoll_targets::proc::{self, is_no_process};
use epoll_targets::ready::Poller;
use epoll_targets::resolve::{Instance, Owner, Report, Resolved, Resolver};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{fstat, lstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the link of a file that was unlinked ends with.
const DELETED: &[u8] = b" (deleted)";

/// A file without a path, by its link.
const EPOLL: &[u8] = proc::EPOLL_LINK.as_bytes();

/// What is known of the process so far.
pub struct Stock {
    pid: i32,
    own: i32,
    /// A descriptor for each open file, in the order of kcmp(2), and the identity that it
    /// was given.
    known: Vec<(Descriptor, u64)>,
    /// The identities of the process's descriptors.
    table: HashMap<u32, u64>,
    /// Files that were taken from elsewhere, by identity.
    held: HashMap<u64, OwnedFd>,
    /// Why the files of targets cannot be had, by identity.
    refused: HashMap<u64, String>,
    next: u64,
    /// The interest lists of the process, and of this one.
    theirs: Option<Report>,
    ours: Option<Report>,
    poller: Poller,
    mounts: HashSet<u64>,
}

/// Whether an error says that a descriptor is closed, or its process has ended. One that
/// may not be inspected any more is an error of the dump.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ESRCH))
}

impl Stock {
    /// # Errors
    ///
    /// `Unsupported` if the kernel lacks what is needed.
    pub fn new(pid: i32) -> io::Result<Self> {
        let support = kcmp::support();
        if support != kcmp::Support::Epoll {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                support.to_string(),
            ));
        }
        let own = std::process::id() as i32;
        kcmp::compare(Resource::Files, own, pid)?;
        Ok(Self {
            pid,
            own,
            known: Vec::new(),
            table: HashMap::new(),
            held: HashMap::new(),
            refused: HashMap::new(),
            next: 1,
            theirs: None,
            ours: None,
            poller: Poller::default(),
            mounts: mounts::ids("/proc/self/mountinfo"),
        })
    }

    pub fn other_table(&self) -> io::Result<Option<i32>> {
        for tid in stopped::threads(self.pid)? {
            match kcmp::compare(Resource::Files, self.pid, tid) {
                Ok(Ordering::Equal) => {}
                Ok(_) => return Ok(Some(tid)),
                // The thread has ended.
                Err(error) if is_no_process(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn identity(&mut self) -> u64 {
        let identity = self.next;
        self.next += 1;
        identity
    }

    pub fn files(&mut self) -> io::Result<Vec<Listed>> {
        let mut flags = HashMap::new();
        for fd in proc::fds(self.pid)? {
            // That of the directory was closed, if this is our own.
            if let Some(shown) = Shown::of(&format!("/proc/{}/fdinfo/{fd}", self.pid))? {
                flags.insert(fd as u32, shown.flags);
            }
        }
        let pid = self.pid;
        let descriptors = flags.keys().map(|&fd| Descriptor { pid, fd: fd as i32 });
        for group in kcmp::group(descriptors)? {
            let Some(&first) = group.first() else {
                continue;
            };
            let file = self.identity();
            self.known.push((first, file));
            let fds = group.iter().map(|descriptor| (descriptor.fd as u32, file));
            self.table.extend(fds);
        }
        let listed = self.table.iter().map(|(&fd, &file)| Listed {
            fd,
            cloexec: flags[&fd] & libc::O_CLOEXEC as u32 != 0,
            file,
        });
        let mut listed: Vec<_> = listed.collect();
        listed.sort_unstable_by_key(|listed| listed.fd);
        Ok(listed)
    }

    /// The identity of a known file, or the place where it belongs. `compare` compares a
    /// file with the one that is looked for.
    fn find(
        &mut self,
        compare: impl Fn(Descriptor) -> io::Result<Ordering>,
    ) -> io::Result<Result<u64, usize>> {
        'again: loop {
            let (mut low, mut high) = (0, self.known.len());
            while low < high {
                let middle = low + (high - low) / 2;
                let (descriptor, identity) = self.known[middle];
                match compare(descriptor) {
                    Ok(Ordering::Equal) => return Ok(Ok(identity)),
                    Ok(Ordering::Less) => low = middle + 1,
                    Ok(Ordering::Greater) => high = middle,
                    // The process runs, and has closed it.
                    Err(error) if is_closed(&error) => match kcmp::files(descriptor, descriptor) {
                        Ok(_) => return Err(error),
                        Err(_) => {
                            self.known.remove(middle);
                            continue 'again;
                        }
                    },
                    Err(error) => return Err(error),
                }
            }
            return Ok(Err(low));
        }
    }

    /// The identity of an open file of ours, of which a descriptor is held if it is new.
    fn identify(&mut self, fd: BorrowedFd<'_>) -> io::Result<u64> {
        let pid = self.own;
        let wanted = Descriptor {
            pid,
            fd: fd.as_raw_fd(),
        };
        let place = match self.find(|known| kcmp::files(known, wanted))? {
            Ok(identity) => return Ok(identity),
            Err(place) => place,
        };
        // Not among the standard streams, if one of these is closed.
        let copy = fcntl_dupfd_cloexec(fd, 3)?;
        let identity = self.identity();
        let fd = copy.as_raw_fd();
        self.known.insert(place, (Descriptor { pid, fd }, identity));
        self.held.insert(identity, copy);
        Ok(identity)
    }

    /// Describes the file of a descriptor of the process.
    pub fn describe(&self, process: &PidFd, fd: u32) -> io::Result<Option<Description>> {
        let Some(&identity) = self.table.get(&fd) else {
            return Ok(None);
        };
        match process.getfd(fd as i32) {
            Err(error) if is_closed(&error) => Ok(None),
            copy => self.description(identity, copy?.as_fd(), &format!("/proc/{}", self.pid), fd),
        }
    }

    /// Describes an open file of ours.
    pub fn describe_own(&mut self, fd: BorrowedFd<'_>) -> io::Result<Option<Description>> {
        let identity = self.identify(fd)?;
        self.description(identity, fd, "/proc/self", fd.as_raw_fd() as u32)
    }

    /// Describes an open file by a descriptor of ours, and by what `proc` shows of
    /// descriptor `number` there.
    fn description(
        &self,
        identity: u64,
        fd: BorrowedFd<'_>,
        proc: &str,
        number: u32,
    ) -> io::Result<Option<Description>> {
        let Some(shown) = Shown::of(&format!("{proc}/fdinfo/{number}"))? else {
            return Ok(None);
        };
        let stat = fstat(fd).ok();
        let link = match fs::read_link(format!("{proc}/fd/{number}")) {
            Ok(link) => Some(link.into_os_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // It is too long.
            Err(_) => None,
        };
        let mut path = link.as_ref().map(|link| link.as_bytes());
        let reachable = path.is_none_or(|path| path.starts_with(b"/"))
            && shown.mount.is_none_or(|mount| self.mounts.contains(&mount));
        let mut unlinked = false;
        if let Some(shorter) = path.and_then(|path| path.strip_suffix(DELETED)) {
            // It may be a part of its name.
            let same = path.zip(stat.as_ref()).is_some_and(|(path, stat)| {
                lstat(OsStr::from_bytes(path))
                    .is_ok_and(|found| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino))
            });
            if !(reachable && same) {
                unlinked = true;
                path = Some(shorter);
            }
        }
        Ok(Some(Description {
            file: identity,
            position: shown.position,
            epoll_id: (path == Some(EPOLL)).then_some(0),
            mode: stat.as_ref().map_or(0, |stat| stat.st_mode),
            flags: shown.flags & !(libc::O_CLOEXEC as u32),
            opener: None,
            owner: sys::owner(fd)?,
            stat: stat.map(|stat| Stat {
                nlink: stat.st_nlink as u32,
                device: DeviceNumber::of(stat.st_dev),
                special: DeviceNumber::of(stat.st_rdev),
                inode: stat.st_ino,
                length: stat.st_size.try_into().unwrap_or(0),
            }),
            path: path.map(Into::into),
            reachable,
            unlinked,
        }))
    }

    /// Finds the targets of the epoll instances of a process. All processes are searched
    /// for those that it has no descriptor for, and so are the files that are held.
    fn resolve(pid: i32) -> io::Result<Report> {
        Resolver::new([pid]).search_all_processes().resolve()
    }

    /// Reads the interest list of an epoll instance.
    pub fn targets(&mut self, instance: &Source) -> io::Result<Vec<Target>> {
        let (mut report, pid, efd) = match instance {
            Source::Ours(fd) => {
                // Its number may come to mean another one later, that of the held one
                // does not.
                let identity = self.identify(fd.as_fd())?;
                let held = self.held.get(&identity).ok_or(Errno::STALE)?;
                (self.ours.take(), self.own, held.as_raw_fd())
            }
            Source::Theirs(fd) => (self.theirs.take(), self.pid, *fd as i32),
        };
        let wanted = Descriptor { pid, fd: efd };
        let has = |instance: &Instance| {
            (instance.pid, instance.efd) == (pid, efd) || instance.also.contains(&wanted)
        };
        let found = report
            .as_ref()
            .and_then(|report| report.instances.iter().find(|instance| has(instance)));
        if found.is_none() {
            // There is none yet, or the instance was not there.
            report = Some(Self::resolve(pid)?);
        }
        let report = report.unwrap_or_default();
        let found = report.instances.iter().find(|instance| has(instance));
        let targets = match found {
            Some(instance) => self.all(wanted, instance),
            None => {
                let mut skipped = report.skipped.iter();
                let skipped = skipped.find(|skipped| skipped.efd.is_none_or(|fd| fd == efd));
                Err(skipped.map_or(Errno::STALE.into(), |skipped| {
                    io::Error::other(skipped.error.to_string())
                }))
            }
        };
        match instance {
            Source::Ours(_) => self.ours = Some(report),
            Source::Theirs(_) => self.theirs = Some(report),
        }
        targets
    }

    fn all(&mut self, wanted: Descriptor, instance: &Instance) -> io::Result<Vec<Target>> {
        if let Some(why) = &instance.unconfirmed {
            return Err(io::Error::other(why.clone()));
        }
        // Whether it has anything to report; asked only if it matters.
        let mut any = None;
        let mut targets = Vec::with_capacity(instance.targets.len());
        for resolved in &instance.targets {
            let file = self.target(wanted, resolved)?;
            let events = resolved.target.events.0;
            let is_edge = events & libc::EPOLLET as u32 != 0 && events & !PRIVATE_BITS != 0;
            let (ready, guessed) = match resolved.on_ready_list {
                Some(ready) => (ready, false),
                // It will be reported if there is an event, and not otherwise.
                None if !is_edge => (events & !PRIVATE_BITS != 0, false),
                None => {
                    let any = match any {
                        Some(any) => any,
                        None => *any.insert(self.has_any(wanted)?),
                    };
                    let guessed = any && self.has_event(wanted, resolved);
                    (guessed, guessed)
                }
            };
            targets.push(Target {
                item: Item {
                    tfd: resolved.target.tfd as u32,
                    toff: resolved.target.toff,
                    events,
                    ready,
                    data: resolved.target.data,
                    file,
                },
                guessed,
            });
        }
        Ok(targets)
    }

    /// Whether anything is on the ready list of an instance.
    fn has_any(&self, instance: Descriptor) -> io::Result<bool> {
        let copy = PidFd::open(instance.pid)?.getfd(instance.fd)?;
        let mut fds = [PollFd::new(&copy, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())))?;
        Ok(!fds[0].revents().is_empty())
    }

    /// Whether there is an event that a target waits for; true if that is not known.
    fn has_event(&mut self, instance: Descriptor, resolved: &Resolved) -> bool {
        let owner = match &resolved.owner {
            Owner::Tfd(owner) => *owner,
            Owner::Others(owners) => owners[0],
            _ => return true,
        };
        let events = self.poller.ready(instance, owner, &resolved.target);
        !events.is_ok_and(|events| events.0 == 0)
    }

    /// The identity of a target's file.
    fn target(&mut self, instance: Descriptor, resolved: &Resolved) -> io::Result<u64> {
        let target = &resolved.target;
        let slot = Slot {
            efd: instance.fd,
            tfd: target.tfd,
            toff: target.toff,
        };
        let owners = match &resolved.owner {
            Owner::Tfd(owner) => std::slice::from_ref(owner),
            Owner::Others(owners) => owners,
            _ => &[],
        };
        let mut why = match resolved.owner {
            Owner::Orphaned => "no process has a descriptor for it".to_owned(),
            _ => "no process that can be seen from here has a descriptor for it".into(),
        };
        for owner in owners {
            if owner.pid == self.pid {
                if let Some(&file) = self.table.get(&(owner.fd as u32)) {
                    return Ok(file);
                }
            }
            let copy = PidFd::open(owner.pid)
                .or_else(|_| PidFd::open_task(owner.pid))
                .and_then(|process| process.getfd(owner.fd));
            let copy = match copy {
                Ok(copy) => copy,
                Err(error) => {
                    why = format!("process {} does not give it away: {error}", owner.pid);
                    continue;
                }
            };
            let ours = Descriptor {
                pid: self.own,
                fd: copy.as_raw_fd(),
            };
            // The process may run, and have closed it.
            if kcmp::epoll_tfd(ours, instance.pid, slot).is_ok_and(Ordering::is_eq) {
                return self.identify(copy.as_fd());
            }
        }
        // It may be in a message that was read since.
        let known = self.find(|known| kcmp::epoll_tfd(known, instance.pid, slot));
        if let Ok(Ok(file)) = known {
            return Ok(file);
        }
        let file = self.identity();
        why += "; the kernel module epoll_cr could fetch it";
        self.refused.insert(file, why);
        Ok(file)
    }

    pub fn fetch(&self, file: u64) -> io::Result<Fetched> {
        if let Some(held) = self.held.get(&file) {
            return Ok(Fetched::File(held.try_clone()?));
        }
        let why = self.refused.get(&file).ok_or(Errno::STALE)?;
        Ok(Fetched::Refused(why.clone()))
    }
}

/// The lines of fdinfo that all files have.
struct Shown {
    position: u64,
    flags: u32,
    mount: Option<u64>,
}

impl Shown {
    /// `None` if the descriptor is not open.
    fn of(path: &str) -> io::Result<Option<Self>> {
        let text = match fs::read(Path::new(path)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Names that some files show after these need not be UTF-8.
        let text = String::from_utf8_lossy(&text);
        Self::parse(&text)
            .map(Some)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim)
        };
        let position: i64 = value("pos")?.parse().ok()?;
        Some(Self {
            position: position.try_into().unwrap_or(0),
            flags: u32::from_str_radix(value("flags")?, 8).ok()?,
            // Before 3.15 it was not shown.
            mount: mounts::of(text),
        })
    }
}
