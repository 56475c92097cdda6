// SPDX-License-Identifier: GPL-2.0

//! Resolving targets with BPF iterators.
//!
//! Which owners are named, and in which order, is as in [`super::by_kcmp`].

mod owners;
mod processes;
mod programs;

use super::kernel::Kernel;
use super::tables::{Table, Tables};
use super::task::{self, Task, Watched};
use super::{
    Descriptor, Method, Owner, Progress, ROUNDS, Report, Resolved, Resolver, Scope, Skipped,
    TfdState, visible,
};
use crate::pidfd::PidFd;
use crate::{order, proc};
use programs::{Kind, MAX_HOMES, Open, Programs, Seen};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};

impl Table<Vec<Open>> {
    /// Whether a descriptor is open. They are listed in ascending order.
    fn has(&self, fd: RawFd) -> bool {
        self.open.binary_search_by_key(&fd, |open| open.fd).is_ok()
    }
}

/// An epoll instance as BPF saw it.
struct View {
    watched: Watched,
    targets: Vec<Candidate>,
    /// Targets that had no owner when they were last read, nor when descriptors were
    /// listed after that.
    lost: HashSet<Identity>,
}

impl View {
    fn is_done(&self) -> bool {
        let is_read = self.watched.id.is_some();
        let mut tasks = self.targets.iter().map(|target| &target.task);
        self.watched.gone.is_some() || is_read && tasks.all(|task| task.owner.is_some())
    }
}

/// Identifies a target from one read to the next: tfd, file, data, inode.
type Identity = (RawFd, u32, u64, u64);

/// A target as BPF saw it.
struct Candidate {
    task: Task,
    /// The number of its file, unless its owner is known.
    file: u32,
    /// A descriptor that had its file at that time.
    seen_owner: Option<Descriptor>,
    /// Other descriptors were compared with that one later.
    asked: bool,
}

impl Candidate {
    fn identity(&self) -> Identity {
        let target = &self.task.target;
        (target.tfd, self.file, target.data, self.ino())
    }

    /// The number of its inode.
    fn ino(&self) -> u64 {
        self.task.target.inode.map_or(0, |inode| inode.ino)
    }
}

pub(super) struct ByBpf<'a> {
    scope: Scope,
    search_all: bool,
    programs: Programs,
    kernel: Kernel<'a>,
    tables: Tables<Vec<Open>>,
    /// How many of the tables are those of the processes in `scope`.
    near: usize,
    /// Whether the descriptors of all processes that may be searched are listed.
    listed_all: bool,
    instances: Vec<View>,
    skipped: Vec<Skipped>,
    /// Why not all processes can be seen.
    partial: Option<String>,
}

impl<'a> ByBpf<'a> {
    pub(super) fn new(resolver: &'a mut Resolver<'_>) -> io::Result<Self> {
        Ok(Self {
            programs: Programs::load()?,
            search_all: resolver.searches_all(),
            scope: resolver.scope.clone(),
            kernel: Kernel::new(&mut *resolver.progress),
            tables: Tables::default(),
            near: 0,
            listed_all: false,
            instances: Vec::new(),
            skipped: Vec::new(),
            partial: visible::proc(),
        })
    }

    pub(super) fn run(mut self) -> io::Result<Report> {
        match self.scope.clone() {
            Scope::These(pids) => {
                let open = self.list(pids, false)?;
                self.take_in(open);
            }
            Scope::All => {
                let open = self.list_all()?;
                self.take_in(open);
            }
        }
        self.find_instances()?;

        for round in 1.. {
            // A target is orphaned only if all descriptors were listed before.
            let after_all = self.listed_all || !self.search_all;
            self.look(after_all)?;
            // What is not known by then is reported as unknown.
            if self.is_done() || round == ROUNDS {
                break;
            }
            // Even if not all are to be named: that nobody has it is said of all.
            self.search_all = true;
            self.list_again()?;
            self.find_lost(after_all);
        }
        Ok(self.report())
    }

    /// Whether no process can have escaped.
    fn sees_all(&self) -> bool {
        let mut skipped = self.skipped.iter();
        self.partial.is_none() && skipped.all(|s| s.efd.is_some() || s.has_ended())
    }

    fn report(self) -> Report {
        let views = self.instances.into_iter().map(|view| {
            let tasks = view.targets.into_iter().map(|target| target.task);
            let targets: Vec<Resolved> = tasks.map(|task| task.done(false)).collect();
            (view.watched, targets)
        });
        Report {
            tables: self.tables.len(),
            descriptors: self.tables.iter().map(|table| table.open.len()).sum(),
            calls: self.kernel.calls(),
            method: Method::Bpf,
            partial: self.partial,
            ..task::report(views, self.skipped)
        }
    }

    // The instances.

    fn find_instances(&mut self) -> io::Result<()> {
        let mut found: HashMap<u32, Vec<Descriptor>> = HashMap::new();
        for table in self.tables.iter() {
            let instances = table.open.iter().filter(|o| o.kind() == Kind::Epoll);
            for open in instances {
                let (pid, fd) = (table.pid(), open.fd);
                found
                    .entry(open.file)
                    .or_default()
                    .push(Descriptor { pid, fd });
            }
        }
        let mut instances = Vec::new();
        for descriptors in found.into_values() {
            if descriptors.len() == 1 {
                instances.push(descriptors);
            } else {
                // They had one address, but perhaps not at the same time.
                instances.extend(order::sort(descriptors, &|a, b| self.kernel.files(a, b))?);
            }
        }
        let views = Watched::all(instances, &self.tables).into_iter();
        let views = views.map(|watched| View {
            watched,
            targets: Vec::new(),
            lost: HashSet::new(),
        });
        self.instances = views.collect();
        Ok(())
    }

    /// Duplicates a descriptor of the instance.
    fn open_instance(&self, index: usize) -> io::Result<OwnedFd> {
        let Descriptor { pid, fd } = self.instances[index].watched.descriptors[0];
        PidFd::open_task(pid)?.getfd(fd)
    }

    /// Reads the instances that are not done, and finds owners of their targets.
    fn look(&mut self, after_all: bool) -> io::Result<()> {
        for index in 0..self.instances.len() {
            if self.instances[index].is_done() {
                continue;
            }
            self.read_instance_or_not(index)?;
        }
        self.settle(after_all);
        self.confirm()?;
        let targets = || self.instances.iter().flat_map(|view| &view.targets);
        let done = targets().filter(|t| t.task.owner.is_some()).count();
        let total = targets().count();
        if total > 0 {
            self.kernel.tell(Progress::Targets { done, total });
        }
        Ok(())
    }

    fn read_instance_or_not(&mut self, index: usize) -> io::Result<()> {
        if let Err(error) = self.read_instance(index) {
            self.instances[index].watched.gone = Some(reason(error)?);
        }
        Ok(())
    }

    fn read_instance(&mut self, index: usize) -> io::Result<()> {
        let fd = match self.open_instance(index) {
            Ok(fd) => fd,
            // pidfd_getfd(2) needs more than read access. That it is refused for one
            // instance says nothing about the others.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let descriptor = self.instances[index].watched.descriptors[0];
                let (kind, source) = (error.kind(), error);
                let refused = Refused { descriptor, source };
                self.instances[index].watched.gone = Some(io::Error::new(kind, refused));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let homes = &self.instances[index].watched.homes;
        let (homes, further) = homes.split_at(homes.len().min(MAX_HOMES));
        let homes = homes.iter().map(|&home| self.tables[home].pid());
        let homes: Vec<i32> = homes.collect();
        let (id, seen) = self.programs.targets(fd.as_fd(), &homes)?;

        let mut counts = HashMap::new();
        let candidate = |seen: Seen| {
            let count = counts.entry(seen.tfd).or_insert(0);
            let mut task = Task::new(index, seen.target(*count));
            *count += 1;
            let fd = seen.tfd;
            if let Some(home) = seen.home_same() {
                let pid = homes[home];
                task.owner = Some(Owner::Tfd(Descriptor { pid, fd }));
                task.tfd_state = TfdState::Target;
            } else {
                let mut further = further.iter().map(|&home| &self.tables[home]);
                let pid = match seen.home_open() {
                    Some(home) => Some(homes[home]),
                    None => further.find(|table| table.has(fd)).map(Table::pid),
                };
                let link = pid.and_then(|pid| proc::link(pid, fd).ok());
                task.tfd_state = link.map_or(TfdState::Closed, TfdState::Other);
            }
            Candidate {
                task,
                file: seen.file,
                seen_owner: seen.owner(),
                asked: false,
            }
        };
        let targets = seen.into_iter().map(candidate).collect();
        let view = &mut self.instances[index];
        // Its descriptor refers to another instance by now.
        if view.watched.id.is_some_and(|known| known != id) {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        view.watched.id = Some(id);
        view.targets = targets;
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.instances.iter().all(View::is_done)
    }

    /// Reads instances again if descriptors were compared with an owner that BPF saw:
    /// if that still is the owner, it was when it was compared.
    fn confirm(&mut self) -> io::Result<()> {
        for index in 0..self.instances.len() {
            if self.instances[index]
                .targets
                .iter()
                .all(|target| !target.asked)
            {
                continue;
            }
            let mut targets = std::mem::take(&mut self.instances[index].targets);
            self.read_instance_or_not(index)?;
            let now = self.instances[index].targets.iter();
            let now: HashMap<_, _> = now.map(|t| (t.identity(), t.seen_owner)).collect();
            for target in targets.iter_mut().filter(|target| target.asked) {
                target.asked = false;
                if now.get(&target.identity()) != Some(&target.seen_owner) {
                    (target.task.owner, target.task.tfd_state) = (None, TfdState::Unknown);
                }
            }
            self.instances[index].targets = targets;
        }
        Ok(())
    }
}

/// Why an instance could not be read, if that says nothing about others.
fn reason(error: io::Error) -> io::Result<io::Error> {
    match error.raw_os_error() {
        // It was closed, or its descriptor was reused.
        Some(libc::EBADF | libc::EOPNOTSUPP) => Ok(io::ErrorKind::NotFound.into()),
        Some(libc::ESRCH) => Ok(error),
        _ => Err(error),
    }
}

/// pidfd_getfd(2) was refused: it needs more access than kcmp(2).
#[derive(Debug, thiserror::Error)]
#[error("descriptor {} of process {} cannot be duplicated", descriptor.fd, descriptor.pid)]
struct Refused {
    descriptor: Descriptor,
    source: io::Error,
}
