// SPDX-License-Identifier: GPL-2.0

//! One look at some processes, with BPF.
//!
//! Which owners are named, and in which order, is as in [`super::session`].

use super::bpf::{Kind, MAX_HOMES, Open, Programs, Seen};
use super::{
    Calls, Descriptor, HINTS, Method, Number, OWNERS, Owner, Progress, ROUNDS, Report, Resolved,
    Resolver, Scope, Set, Skipped, is_no_process,
};
use crate::fdinfo::{Events, Inode, Target};
use crate::kcmp::{self, Resource};
use crate::pidfd::PidFd;
use crate::{order, proc};
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};

/// A table of descriptors.
struct Table {
    /// Those that have it. The first stands for all.
    pids: Vec<i32>,
    /// Its descriptors, ascending.
    open: Vec<Open>,
}

impl Table {
    fn has(&self, fd: RawFd) -> bool {
        self.open.binary_search_by_key(&fd, |open| open.fd).is_ok()
    }
}

/// A set while it is looked at.
struct Watched {
    /// Its descriptors, the one that is used first.
    descriptors: Vec<Descriptor>,
    /// The tables that these are in.
    homes: Vec<usize>,
    id: u64,
    targets: Vec<Task>,
    /// Those that were nobody's when they were seen last, and when descriptors
    /// were listed after that.
    lost: HashSet<Identity>,
    gone: Option<io::Error>,
}

/// What a target is known by from one look to the next.
type Identity = (u32, u32, u64, u64);

/// A target on its way.
struct Task {
    seen: Seen,
    toff: u32,
    /// `None` as long as it is not known.
    owner: Option<Owner>,
    number: Number,
    /// The owner was compared with the one that was seen, but after that.
    asked: bool,
}

impl Task {
    fn identity(&self) -> Identity {
        let seen = &self.seen;
        (seen.tfd, seen.file, seen.data, seen.ino)
    }
}

/// The descriptors that are of interest, by file and by inode, each with its table.
#[derive(Default)]
struct Index {
    files: HashMap<u32, Vec<(usize, Descriptor)>>,
    inodes: HashMap<u64, Vec<(usize, Descriptor, u32)>>,
}

pub(super) struct Join<'a> {
    sets_of: Scope,
    search_all: bool,
    progress: &'a mut dyn FnMut(Progress),
    programs: Programs,
    calls: Cell<Calls>,
    tables: Vec<Table>,
    table_of: HashMap<i32, usize>,
    /// How many of the tables are those of the processes that were named.
    near: usize,
    /// Whether the descriptors of all processes that may be searched are listed.
    listed_all: bool,
    sets: Vec<Watched>,
    skipped: Vec<Skipped>,
}

impl<'a> Join<'a> {
    pub(super) fn new(resolver: &'a mut Resolver<'_>) -> io::Result<Self> {
        Ok(Self {
            programs: Programs::load()?,
            search_all: resolver.search_all || resolver.sets_of == Scope::All,
            sets_of: resolver.sets_of.clone(),
            progress: &mut *resolver.progress,
            calls: Cell::default(),
            tables: Vec::new(),
            table_of: HashMap::new(),
            near: 0,
            listed_all: false,
            sets: Vec::new(),
            skipped: Vec::new(),
        })
    }

    pub(super) fn run(mut self) -> io::Result<Report> {
        match self.sets_of.clone() {
            Scope::These(pids) => {
                let open = self.list(pids, false)?;
                self.take_in(open);
            }
            Scope::All => {
                let open = self.list_all()?;
                self.take_in(open);
            }
        }
        self.find_sets()?;

        for round in 1.. {
            // If not all were listed before, nothing can be nobody's.
            let after_all = self.listed_all || !self.search_all;
            self.look(after_all)?;
            if self.is_done() {
                break;
            }
            if round == ROUNDS {
                for task in self.sets.iter_mut().flat_map(|set| &mut set.targets) {
                    task.owner.get_or_insert(Owner::Unknown);
                }
                break;
            }
            self.list_again()?;
            self.find_lost(after_all);
        }
        Ok(self.report())
    }

    fn report(mut self) -> Report {
        let mut sets = Vec::new();
        for set in self.sets {
            let Descriptor { pid, fd: efd } = set.descriptors[0];
            if let Some(error) = set.gone {
                let efd = Some(efd);
                self.skipped.push(Skipped { pid, efd, error });
                continue;
            }
            sets.push(Set {
                pid,
                efd,
                id: Some(set.id),
                also: set.descriptors[1..].to_vec(),
                targets: set.targets.into_iter().map(Task::done).collect(),
            });
        }
        Report {
            sets,
            skipped: self.skipped,
            tables: self.tables.len(),
            descriptors: self.tables.iter().map(|table| table.open.len()).sum(),
            calls: self.calls.get(),
            method: Method::Bpf,
            no_bpf: None,
        }
    }

    fn count(&self, which: impl FnOnce(&mut Calls)) {
        let mut calls = self.calls.get();
        which(&mut calls);
        self.calls.set(calls);
    }

    fn files(&self, a: Descriptor, b: Descriptor) -> io::Result<Ordering> {
        self.count(|calls| calls.file += 1);
        kcmp::files(a.pid, a.fd, b.pid, b.fd)
    }

    fn compare_tables(&self, pid1: i32, pid2: i32) -> io::Result<Ordering> {
        self.count(|calls| calls.tables += 1);
        kcmp::compare(Resource::Files, pid1, pid2)
    }

    // The descriptors.

    /// Whether a process may be looked into. BPF does not ask, so we do.
    fn check(&self, pid: i32) -> io::Result<()> {
        fs::read_dir(format!("/proc/{pid}/fd"))?;
        let own = rustix::process::getpid().as_raw_pid();
        self.compare_tables(own, pid)?;
        Ok(())
    }

    /// Lists the descriptors of these processes.
    ///
    /// `quiet`: one that does not exist any more is no reason to say so.
    fn list(&mut self, pids: Vec<i32>, quiet: bool) -> io::Result<BTreeMap<i32, Vec<Open>>> {
        let pids: BTreeSet<i32> = pids.into_iter().collect();
        let mut open = BTreeMap::new();
        for pid in pids {
            match self.check(pid) {
                Ok(()) => {
                    open.insert(pid, self.programs.descriptors(Some(pid))?);
                }
                Err(error) if quiet && is_no_process(&error) => {}
                Err(error) => self.skip(pid, error),
            }
        }
        Ok(open)
    }

    /// Lists the descriptors of all processes.
    fn list_all(&mut self) -> io::Result<BTreeMap<i32, Vec<Open>>> {
        let mut open: BTreeMap<i32, Vec<Open>> = BTreeMap::new();
        for descriptor in self.programs.descriptors(None)? {
            open.entry(descriptor.pid).or_default().push(descriptor);
        }
        // Those that have none are listed all the same, if they may be.
        for pid in proc::pids()? {
            // One that has gone is sorted out by what follows.
            if !proc::is_kernel_thread(pid).unwrap_or(false) {
                open.entry(pid).or_default();
            }
        }
        let pids: Vec<i32> = open.keys().copied().collect();
        for pid in pids {
            if let Err(error) = self.check(pid) {
                open.remove(&pid);
                if !is_no_process(&error) {
                    self.skip(pid, error);
                }
            }
        }
        self.listed_all = true;
        Ok(open)
    }

    fn list_again(&mut self) -> io::Result<()> {
        let mut named = match &self.sets_of {
            Scope::These(pids) => pids.clone(),
            Scope::All => Vec::new(),
        };
        let mut open = BTreeMap::new();
        if self.search_all {
            // Threads are not among all processes, but can have been named.
            let processes = proc::pids()?;
            named.retain(|pid| processes.binary_search(pid).is_err());
            open = self.list_all()?;
        }
        open.extend(self.list(named, true)?);

        // Those that shared a table need not do so any more, or may have ended.
        let before = std::mem::take(&mut self.tables);
        self.take_in(open);
        for set in &mut self.sets {
            for descriptor in &mut set.descriptors {
                if self.table_of.contains_key(&descriptor.pid) {
                    continue;
                }
                let table = before.iter().find(|t| t.pids.contains(&descriptor.pid));
                let mut heirs = table.iter().flat_map(|table| &table.pids);
                if let Some(heir) = heirs.find(|pid| self.table_of.contains_key(pid)) {
                    descriptor.pid = *heir;
                }
            }
            set.find_homes(&self.table_of);
        }
        Ok(())
    }

    fn skip(&mut self, pid: i32, error: io::Error) {
        let efd = None;
        if !self.skipped.iter().any(|s| s.pid == pid && s.efd.is_none()) {
            self.skipped.push(Skipped { pid, efd, error });
        }
    }

    /// Whether this is one of the processes whose sets are looked at.
    fn is_named(&self, pid: i32) -> bool {
        match &self.sets_of {
            Scope::These(pids) => pids.contains(&pid),
            Scope::All => true,
        }
    }

    /// Puts all descriptors into their tables: those of the processes that were
    /// named first.
    fn take_in(&mut self, open: BTreeMap<i32, Vec<Open>>) {
        self.tables.clear();
        self.table_of.clear();
        // By the number of the table.
        let mut last = HashMap::new();
        let (near, far): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|(pid, _)| self.is_named(*pid));
        for (pid, open) in near {
            self.take_in_one(pid, open, &mut last);
        }
        self.near = self.tables.len();
        for (pid, open) in far {
            self.take_in_one(pid, open, &mut last);
        }
    }

    fn take_in_one(&mut self, pid: i32, open: Vec<Open>, last: &mut HashMap<u32, usize>) {
        let number = open.first().map(|descriptor| descriptor.table);
        let twin = number.and_then(|number| last.get(&number).copied());
        // The number alone could be that of one that has gone.
        let twin = twin.filter(|&twin| {
            let order = self.compare_tables(self.tables[twin].pids[0], pid);
            order.is_ok_and(Ordering::is_eq)
        });
        let table = twin.unwrap_or_else(|| {
            let pids = Vec::new();
            self.tables.push(Table { pids, open });
            self.tables.len() - 1
        });
        self.tables[table].pids.push(pid);
        self.table_of.insert(pid, table);
        if let Some(number) = number {
            last.insert(number, table);
        }
    }

    // The sets.

    fn find_sets(&mut self) -> io::Result<()> {
        let mut found: HashMap<u32, Vec<Descriptor>> = HashMap::new();
        for table in &self.tables {
            let sets = table.open.iter().filter(|open| open.kind == Kind::Epoll);
            for open in sets {
                let (pid, fd) = (table.pids[0], open.fd);
                found
                    .entry(open.file)
                    .or_default()
                    .push(Descriptor { pid, fd });
            }
        }
        let mut sets = Vec::new();
        for descriptors in found.into_values() {
            if descriptors.len() == 1 {
                sets.push(descriptors);
            } else {
                // They had one address, but perhaps one after the other.
                sets.extend(order::sort(descriptors, &|a, b| self.files(a, b))?);
            }
        }
        for set in &mut sets {
            set.sort_unstable();
        }
        sets.sort_unstable();
        self.sets = sets
            .into_iter()
            .map(|descriptors| Watched {
                homes: Vec::new(),
                descriptors,
                id: 0,
                targets: Vec::new(),
                lost: HashSet::new(),
                gone: None,
            })
            .collect();
        for set in &mut self.sets {
            set.find_homes(&self.table_of);
        }
        Ok(())
    }

    /// A descriptor of the set for us.
    fn open_set(&self, set: usize) -> io::Result<OwnedFd> {
        let Descriptor { pid, fd } = self.sets[set].descriptors[0];
        PidFd::open_task(pid)?.getfd(fd)
    }

    /// Looks at the targets of the sets that are not done.
    fn look(&mut self, after_all: bool) -> io::Result<()> {
        for set in 0..self.sets.len() {
            if self.sets[set].is_done() {
                continue;
            }
            self.read_set_or_not(set)?;
        }
        self.settle(after_all);
        self.confirm()?;
        let targets = || self.sets.iter().flat_map(|set| &set.targets);
        let done = targets().filter(|task| task.owner.is_some()).count();
        let total = targets().count();
        if total > 0 {
            (self.progress)(Progress::Targets { done, total });
        }
        Ok(())
    }

    fn read_set_or_not(&mut self, set: usize) -> io::Result<()> {
        if let Err(error) = self.read_set(set) {
            self.sets[set].gone = Some(reason(error)?);
        }
        Ok(())
    }

    fn read_set(&mut self, set: usize) -> io::Result<()> {
        let fd = match self.open_set(set) {
            Ok(fd) => fd,
            // It takes more than to look into the process. That of one set says
            // nothing about the others.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let descriptor = self.sets[set].descriptors[0];
                self.sets[set].gone = Some(refused(descriptor, &error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let homes = &self.sets[set].homes;
        let (homes, further) = homes.split_at(homes.len().min(MAX_HOMES));
        let homes: Vec<i32> = homes
            .iter()
            .map(|&home| self.tables[home].pids[0])
            .collect();
        let (id, seen) = self.programs.targets(fd.as_fd(), &homes)?;

        let mut counts = HashMap::new();
        let task = |seen: Seen| {
            let count = counts.entry(seen.tfd).or_insert(0);
            let toff = *count;
            *count += 1;
            let fd = seen.tfd as RawFd;
            let (owner, number) = if let Some(home) = seen.home_same {
                let pid = homes[home];
                let owner = Owner::SameNumber(Descriptor { pid, fd });
                (Some(owner), Number::Target)
            } else if let Some(home) = seen.home_open {
                let link = proc::link(homes[home], fd);
                (None, link.map_or(Number::Closed, Number::Other))
            } else {
                let mut further = further.iter().map(|&home| &self.tables[home]);
                let table = further.find(|table| table.has(fd));
                let link = table.and_then(|table| proc::link(table.pids[0], fd).ok());
                (None, link.map_or(Number::Closed, Number::Other))
            };
            Task {
                seen,
                toff,
                owner,
                number,
                asked: false,
            }
        };
        let targets = seen.into_iter().map(task).collect();
        let set = &mut self.sets[set];
        // Its descriptor is that of another set by now.
        if set.id != 0 && set.id != id {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        (set.id, set.targets) = (id, targets);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.sets.iter().all(Watched::is_done)
    }

    // The owners.

    fn open_tasks(&self) -> impl Iterator<Item = (&Watched, &Task)> {
        self.sets.iter().flat_map(|set| {
            let tasks = set.targets.iter().filter(|task| task.owner.is_none());
            tasks.map(move |task| (set, task))
        })
    }

    /// The descriptors that can be owners of these.
    fn index<'b>(&'b self, tasks: impl Iterator<Item = &'b Task>) -> Index {
        let mut index = Index::default();
        for task in tasks {
            index.files.entry(task.seen.file).or_default();
            index.inodes.entry(task.seen.ino).or_default();
        }
        if index.files.is_empty() {
            return index;
        }
        for (number, table) in self.tables.iter().enumerate() {
            let pid = table.pids[0];
            for open in &table.open {
                let descriptor = Descriptor { pid, fd: open.fd };
                if let Some(of_file) = index.files.get_mut(&open.file) {
                    of_file.push((number, descriptor));
                }
                let Kind::Inode(ino) = open.kind else {
                    continue;
                };
                if let Some(of_inode) = index.inodes.get_mut(&ino) {
                    of_inode.push((number, descriptor, open.file));
                }
            }
        }
        index
    }

    /// Finds the owners of targets that are not what their number means.
    fn settle(&mut self, after_all: bool) {
        let index = self.index(self.open_tasks().map(|(_, task)| task));
        let mut found = Vec::new();
        for (set, task) in self.open_tasks() {
            if let Some(at_number) = Self::at_number(set, task, &index) {
                let (same, asked) = self.verified(&task.seen, vec![at_number]);
                if let Some(&descriptor) = same.first() {
                    let owner = Owner::SameNumber(descriptor);
                    found.push((Some(owner), asked));
                    continue;
                }
            }
            let named = self.named(set, task, &index);
            found.push(if !named.is_empty() {
                let (same, asked) = self.verified(&task.seen, named);
                ((!same.is_empty()).then_some(Owner::Others(same)), asked)
            } else {
                let is_lost = after_all && set.lost.contains(&task.identity());
                (is_lost.then_some(Owner::NoOne), false)
            });
        }
        let tasks = self.sets.iter_mut().flat_map(|set| &mut set.targets);
        let open = tasks.filter(|task| task.owner.is_none());
        for (task, (owner, asked)) in open.zip(found) {
            if matches!(owner, Some(Owner::SameNumber(_))) {
                task.number = Number::Target;
            }
            (task.owner, task.asked) = (owner, asked);
        }
    }

    /// Looks once more at sets for which others were compared with the owner that
    /// was seen: if it is that still, it was then, and did not mean another file.
    fn confirm(&mut self) -> io::Result<()> {
        for set in 0..self.sets.len() {
            if self.sets[set].targets.iter().all(|task| !task.asked) {
                continue;
            }
            let mut targets = std::mem::take(&mut self.sets[set].targets);
            self.read_set_or_not(set)?;
            let now = self.sets[set].targets.iter();
            let now: HashMap<_, _> = now.map(|t| (t.identity(), t.seen.owner)).collect();
            for task in targets.iter_mut().filter(|task| task.asked) {
                task.asked = false;
                if now.get(&task.identity()) != Some(&task.seen.owner) {
                    (task.owner, task.number) = (None, Number::Unknown);
                }
            }
            self.sets[set].targets = targets;
        }
        Ok(())
    }

    /// Remembers which targets nobody has, by the descriptors that were listed after
    /// they were seen.
    fn find_lost(&mut self, after_all: bool) {
        let is_nobodys = |task: &&Task| matches!(task.owner, None | Some(Owner::NoOne));
        let tasks = self.sets.iter().flat_map(|set| &set.targets);
        let index = self.index(tasks.filter(is_nobodys));
        for set in &mut self.sets {
            let lost = set.targets.iter().filter(is_nobodys).filter(|task| {
                let of_file = index.files.get(&task.seen.file);
                after_all && of_file.is_none_or(Vec::is_empty)
            });
            set.lost = lost.map(Task::identity).collect();
        }
    }

    /// Those that have the inode of a target and its file, if they are among the
    /// first few that have the inode.
    fn hinted(
        &self,
        set: &Watched,
        task: &Task,
        index: &Index,
        is_meant: impl Fn(usize) -> bool,
    ) -> Vec<Descriptor> {
        let of_inode = index.inodes.get(&task.seen.ino);
        let candidates = of_inode.into_iter().flatten();
        let candidates = candidates.filter(|(table, ..)| is_meant(*table));
        let is_near = |(table, ..): &&(usize, Descriptor, u32)| set.homes.contains(table);
        let (near, far): (Vec<_>, Vec<_>) = candidates.partition(is_near);
        let first = near.iter().chain(&far).take(HINTS);
        let same = first.filter(|(_, _, file)| *file == task.seen.file);
        same.map(|(_, descriptor, _)| *descriptor).collect()
    }

    /// The descriptors to be named as owners, as they were listed.
    fn named(&self, set: &Watched, task: &Task, index: &Index) -> Vec<Descriptor> {
        let hinted = self.hinted(set, task, index, |table| table < self.near);
        if !hinted.is_empty() {
            return hinted;
        }
        let of_file = index.files.get(&task.seen.file);
        let of_file = of_file.map_or(&[][..], Vec::as_slice);
        let home = of_file
            .iter()
            .filter(|(table, _)| set.homes.first() == Some(table));
        let home: Vec<_> = home.map(|(_, descriptor)| *descriptor).collect();
        if !home.is_empty() {
            return home.into_iter().take(OWNERS).collect();
        }
        let hinted = self.hinted(set, task, index, |table| table >= self.near);
        if !hinted.is_empty() {
            return hinted;
        }
        let mut all: Vec<_> = of_file.iter().take(OWNERS).collect();
        all.sort_by_key(|(table, descriptor)| (!set.homes.contains(table), *descriptor));
        all.into_iter().map(|(_, descriptor)| *descriptor).collect()
    }

    /// The descriptor of the target's number, in a home that the kernel was not
    /// asked about, if it has the file.
    fn at_number(set: &Watched, task: &Task, index: &Index) -> Option<Descriptor> {
        let further = set.homes.get(MAX_HOMES..)?;
        let of_file = index.files.get(&task.seen.file)?.iter();
        let at_number = of_file.filter(|(_, open)| open.fd == task.seen.tfd as RawFd);
        let place = |table| further.iter().position(|home| *home == table);
        let first = at_number.filter_map(|(table, open)| Some((place(*table)?, *open)));
        first.min().map(|(_, descriptor)| descriptor)
    }

    /// Those that have the file still, and whether any had to be asked about.
    fn verified(&self, seen: &Seen, mut named: Vec<Descriptor>) -> (Vec<Descriptor>, bool) {
        let Some((pid, fd)) = seen.owner else {
            return (Vec::new(), false);
        };
        // Another process of the same table is asked about, too: they may have
        // parted since, or that one have ended.
        let owner = Descriptor { pid, fd };
        named
            .retain(|&other| other == owner || self.files(owner, other).is_ok_and(Ordering::is_eq));
        let asked = named.iter().any(|&other| other != owner);
        (named, asked)
    }
}

/// Why a set could not be read, if that says nothing about others.
fn reason(error: io::Error) -> io::Result<io::Error> {
    match error.raw_os_error() {
        // It was closed, or its number means something else now.
        Some(libc::EBADF | libc::EOPNOTSUPP) => Ok(io::ErrorKind::NotFound.into()),
        Some(libc::ESRCH) => Ok(error),
        _ => Err(error),
    }
}

fn refused(Descriptor { pid, fd }: Descriptor, error: &io::Error) -> io::Error {
    let why = format!("descriptor {fd} of process {pid} may not be duplicated: {error}");
    io::Error::new(error.kind(), why)
}

impl Watched {
    /// Which tables its descriptors are in, by those that there are now.
    fn find_homes(&mut self, table_of: &HashMap<i32, usize>) {
        let homes = self.descriptors.iter().map(|d| table_of.get(&d.pid));
        self.homes = homes.flatten().copied().collect();
        self.homes.dedup();
    }

    fn is_done(&self) -> bool {
        // One that was not read yet has no id, and others have.
        let is_read = self.id != 0;
        self.gone.is_some() || is_read && self.targets.iter().all(|task| task.owner.is_some())
    }
}

impl Task {
    fn done(self) -> Resolved {
        let seen = self.seen;
        Resolved {
            target: Target {
                tfd: seen.tfd,
                toff: self.toff,
                events: Events(seen.events),
                data: seen.data,
                pos: Some(seen.pos),
                inode: Some(Inode {
                    ino: seen.ino,
                    major: seen.dev >> 20,
                    minor: seen.dev & 0xf_ffff,
                }),
            },
            owner: self.owner.unwrap_or(Owner::Unknown),
            number: self.number,
            changed: false,
        }
    }
}
