// SPDX-License-Identifier: GPL-2.0

//! One look at some processes.

use super::{
    Calls, Descriptor, HINTS, Method, Number, OWNERS, Owner, Progress, ROUNDS, Report, Resolved,
    Resolver, Scope, Set, Skipped, is_no_process,
};
use crate::fdinfo::{self, Target};
use crate::kcmp::{self, Resource, Slot};
use crate::order::{self, File, Found};
use crate::proc;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::RawFd;

/// How many descriptors are asked about one by one, rather than sorted; and for
/// how many targets that is done with all descriptors.
const FEW: usize = 64;

/// A table of descriptors.
struct Table {
    /// Those that have it. The first stands for all.
    pids: Vec<i32>,
    /// Each descriptor, with what its link says.
    links: BTreeMap<RawFd, OsString>,
    /// Its files in their order, once that was needed.
    sorted: Option<Vec<File>>,
}

impl Table {
    /// All descriptors of a process.
    fn links(pid: i32) -> io::Result<BTreeMap<RawFd, OsString>> {
        let mut links = BTreeMap::new();
        for fd in proc::fds(pid)? {
            match proc::link(pid, fd) {
                Ok(link) => drop(links.insert(fd, link)),
                // Closed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(links)
    }

    fn descriptors(&self) -> impl Iterator<Item = Descriptor> {
        let pid = self.pids[0];
        self.links.keys().map(move |&fd| Descriptor { pid, fd })
    }
}

/// Counts what the kernel is asked.
struct Kernel<'a> {
    calls: Cell<Calls>,
    progress: RefCell<&'a mut dyn FnMut(Progress)>,
    /// Calls when sorting began, and how many more it can take.
    sorting: Cell<(u64, u64)>,
}

impl Kernel<'_> {
    fn count(&self, which: impl FnOnce(&mut Calls)) {
        let mut calls = self.calls.get();
        which(&mut calls);
        self.calls.set(calls);
    }

    fn tell(&self, progress: Progress) {
        self.progress.borrow_mut()(progress);
    }

    fn files(&self, a: Descriptor, b: Descriptor) -> io::Result<Ordering> {
        self.count(|calls| calls.file += 1);
        let (began, total) = self.sorting.get();
        let done = self.calls.get().file - began;
        if done % 4096 == 0 && total > 0 {
            self.tell(Progress::Sorting { done, total });
        }
        kcmp::files(a.pid, a.fd, b.pid, b.fd)
    }

    fn epoll_tfd(&self, descriptor: Descriptor, pid: i32, slot: Slot) -> io::Result<Ordering> {
        self.count(|calls| calls.epoll_tfd += 1);
        kcmp::epoll_tfd(descriptor.pid, descriptor.fd, pid, slot)
    }

    fn compare_tables(&self, pid1: i32, pid2: i32) -> io::Result<Ordering> {
        self.count(|calls| calls.tables += 1);
        kcmp::compare(Resource::Files, pid1, pid2)
    }

    /// Runs what sorts `n` descriptors.
    fn sorting<T>(&self, n: usize, sort: impl FnOnce() -> T) -> T {
        let total = n as u64 * u64::from(n.next_power_of_two().trailing_zeros());
        self.sorting.set((self.calls.get().file, total));
        let sorted = sort();
        self.sorting.set((0, 0));
        sorted
    }
}

/// A target on its way.
struct Task {
    set: usize,
    target: Target,
    /// `None` as long as it is not known.
    owner: Option<Owner>,
    number: Number,
}

/// Why a target could not be asked about.
enum Failure {
    /// It, or its set, has gone.
    Gone,
    Error(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::EBADF | libc::EINVAL | libc::ESRCH | libc::EPERM) => {
                Self::Gone
            }
            _ => Self::Error(error),
        }
    }
}

/// What [`Session::check_pool`] found.
struct State {
    /// The pool was in order since it was made or checked last, and has all
    /// descriptors that are not loose.
    held: bool,
    /// Nothing seems to have changed since then.
    still: bool,
    loose: Vec<Descriptor>,
    all: Vec<Descriptor>,
}

/// A set while it is looked at.
struct Watched {
    /// Its descriptors, the one that is used first.
    descriptors: Vec<Descriptor>,
    /// The tables that these are in.
    homes: Vec<usize>,
    id: Option<u64>,
}

pub(super) struct Session<'a> {
    sets_of: Scope,
    search_all: bool,
    kernel: Kernel<'a>,
    tables: Vec<Table>,
    table_of: HashMap<i32, usize>,
    /// Sockets and pipes by inode.
    by_inode: HashMap<u64, Vec<Descriptor>>,
    /// Tables that look the same, by what they look like, in the kernel's order.
    alike: HashMap<u64, Vec<usize>>,
    /// Whether all processes that may be searched are in `tables`.
    searched_all: bool,
    /// All files of all tables in their order, once that was needed.
    pool: Option<Vec<File>>,
    /// Descriptors that are not in the pool, because they have changed.
    loose: Vec<Descriptor>,
    sets: Vec<Watched>,
    skipped: Vec<Skipped>,
}

impl<'a> Session<'a> {
    pub(super) fn new(resolver: &'a mut Resolver<'_>) -> Self {
        Self {
            search_all: resolver.search_all || resolver.sets_of == Scope::All,
            sets_of: resolver.sets_of.clone(),
            kernel: Kernel {
                calls: Cell::default(),
                progress: RefCell::new(&mut *resolver.progress),
                sorting: Cell::default(),
            },
            tables: Vec::new(),
            table_of: HashMap::new(),
            by_inode: HashMap::new(),
            alike: HashMap::new(),
            searched_all: false,
            pool: None,
            loose: Vec::new(),
            sets: Vec::new(),
            skipped: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> io::Result<Report> {
        match self.sets_of.clone() {
            Scope::These(pids) => self.load(pids, false)?,
            Scope::All => self.load_all()?,
        }
        self.find_sets()?;

        let mut tasks = Vec::new();
        let mut gone = Vec::new();
        for set in 0..self.sets.len() {
            match self.read_set(set) {
                Ok(targets) => tasks.extend(targets.into_iter().map(|t| Task::new(set, t))),
                Err(error) => gone.push((set, error)),
            }
        }
        self.work(&mut tasks)?;
        let resolved = self.look_again(tasks, &mut gone)?;
        Ok(self.report(resolved, gone))
    }

    fn report(self, resolved: Vec<Vec<Resolved>>, gone: Vec<(usize, io::Error)>) -> Report {
        let mut skipped = self.skipped;
        let mut lost = HashSet::new();
        for (set, error) in gone {
            let Descriptor { pid, fd } = self.sets[set].descriptors[0];
            let efd = Some(fd);
            lost.insert(set);
            skipped.push(Skipped { pid, efd, error });
        }
        let sets = self.sets.into_iter().zip(resolved).enumerate();
        let sets = sets
            .filter(|(set, _)| !lost.contains(set))
            .map(|(_, (set, targets))| Set {
                pid: set.descriptors[0].pid,
                efd: set.descriptors[0].fd,
                id: set.id,
                also: set.descriptors[1..].to_vec(),
                targets,
            });
        Report {
            sets: sets.collect(),
            skipped,
            tables: self.tables.len(),
            descriptors: self.tables.iter().map(|table| table.links.len()).sum(),
            calls: self.kernel.calls.get(),
            method: Method::Kcmp,
            no_bpf: None,
        }
    }

    // The processes.

    /// Lists the descriptors of processes that have not been listed.
    ///
    /// `quiet`: one that does not exist any more is no reason to say so.
    fn load(&mut self, pids: Vec<i32>, quiet: bool) -> io::Result<()> {
        let pids: BTreeSet<i32> = pids.into_iter().collect();
        let skipped: HashSet<i32> = self.skipped.iter().map(|s| s.pid).collect();
        for pid in pids {
            if self.table_of.contains_key(&pid) || skipped.contains(&pid) {
                continue;
            }
            match self.load_one(pid) {
                Ok(()) => {}
                Err(error) if quiet && is_no_process(&error) => {}
                Err(error) => self.skipped.push(Skipped {
                    pid,
                    efd: None,
                    error,
                }),
            }
        }
        Ok(())
    }

    fn load_all(&mut self) -> io::Result<()> {
        self.searched_all = true;
        let mut pids = proc::pids()?;
        // One that has gone is sorted out when it is listed.
        pids.retain(|&pid| !proc::is_kernel_thread(pid).unwrap_or(false));
        self.load(pids, true)
    }

    fn load_one(&mut self, pid: i32) -> io::Result<()> {
        let links = Table::links(pid)?;
        // What /proc shows is not all that kcmp(2) asks for. Without this,
        // descriptors that may not be compared would look as if they had gone.
        let own = rustix::process::getpid().as_raw_pid();
        self.kernel.compare_tables(own, pid)?;

        // Tables that are one look the same, unless they change at that time:
        // then its owners are told twice.
        let mut hasher = DefaultHasher::new();
        links.hash(&mut hasher);
        let alike = self.alike.entry(hasher.finish()).or_default();
        let compare = |&number: &usize| {
            let twin = self.tables[number].pids[0];
            let order = self.kernel.compare_tables(twin, pid);
            // It has gone: one side is as good as the other.
            order.unwrap_or(Ordering::Less)
        };
        match alike.binary_search_by(compare) {
            Ok(place) => {
                self.tables[alike[place]].pids.push(pid);
                self.table_of.insert(pid, alike[place]);
                return Ok(());
            }
            Err(place) => alike.insert(place, self.tables.len()),
        }
        for (&fd, link) in &links {
            if let Some(inode) = proc::linked_inode(link) {
                let of_inode = self.by_inode.entry(inode).or_default();
                of_inode.push(Descriptor { pid, fd });
            }
        }
        self.table_of.insert(pid, self.tables.len());
        self.tables.push(Table {
            pids: vec![pid],
            links,
            sorted: None,
        });
        self.pool = None;
        Ok(())
    }

    /// Lists the descriptors of all processes anew. Returns whether what is there
    /// looks as it did before, too.
    fn reload(&mut self) -> io::Result<(HashSet<Descriptor>, bool)> {
        let mut now = HashSet::new();
        let mut unchanged = true;
        for table in &mut self.tables {
            let links = loop {
                let pid = table.pids[0];
                match Table::links(pid) {
                    Ok(links) => break links,
                    // Others have the table still.
                    Err(_) if table.pids.len() > 1 => drop(table.pids.remove(0)),
                    Err(error) => {
                        let is_known = self.skipped.iter().any(|s| s.pid == pid);
                        if !is_known && !is_no_process(&error) {
                            let efd = None;
                            self.skipped.push(Skipped { pid, efd, error });
                        }
                        break BTreeMap::new();
                    }
                }
            };
            unchanged &= table.links == links;
            table.links = links;
            now.extend(table.descriptors());
        }
        if self.search_all {
            let pool = self.pool.take();
            let known = self.tables.len();
            self.load_all()?;
            self.pool = pool;
            now.extend(self.tables[known..].iter().flat_map(Table::descriptors));
        }
        Ok((now, unchanged))
    }

    // The sets.

    fn find_sets(&mut self) -> io::Result<()> {
        let mut descriptors = Vec::new();
        for table in &self.tables {
            let sets = table
                .links
                .iter()
                .filter(|(_, link)| *link == proc::EPOLL_LINK);
            let pid = table.pids[0];
            descriptors.extend(sets.map(|(&fd, _)| Descriptor { pid, fd }));
        }
        let mut sets = order::sort(descriptors, &|a, b| self.kernel.files(a, b))?;
        for set in &mut sets {
            set.sort_unstable();
        }
        sets.sort_unstable();
        self.sets = sets
            .into_iter()
            .map(|descriptors| {
                let mut homes: Vec<_> = descriptors.iter().map(|d| self.table_of[&d.pid]).collect();
                homes.dedup();
                Watched {
                    descriptors,
                    homes,
                    id: None,
                }
            })
            .collect();
        Ok(())
    }

    fn read_set(&mut self, set: usize) -> io::Result<Vec<Target>> {
        let Descriptor { pid, fd } = self.sets[set].descriptors[0];
        let mut targets = fdinfo::read(pid, fd)?;
        let all = targets.by_ref().collect();
        self.sets[set].id = targets.id();
        all
    }

    /// Reads the sets once more; keeps what was found out about targets that are
    /// still there, and finds out about those that were not there before.
    fn look_again(
        &mut self,
        tasks: Vec<Task>,
        gone: &mut Vec<(usize, io::Error)>,
    ) -> io::Result<Vec<Vec<Resolved>>> {
        let mut before: Vec<Vec<Task>> = self.sets.iter().map(|_| Vec::new()).collect();
        for task in tasks {
            before[task.set].push(task);
        }
        let mut resolved: Vec<Vec<Resolved>> = Vec::new();
        let mut new = Vec::new();
        let mut places = Vec::new();
        for (set, before) in before.into_iter().enumerate() {
            resolved.push(Vec::new());
            if gone.iter().any(|(lost, _)| *lost == set) {
                continue;
            }
            let now = match self.read_set(set) {
                Ok(now) => now,
                Err(error) => {
                    gone.push((set, error));
                    continue;
                }
            };
            for (place, (target, found)) in matched(before, now).into_iter().enumerate() {
                let mut task = Task::new(set, target);
                if let Some((owner, number)) = found {
                    (task.owner, task.number) = (Some(owner), number);
                    resolved[set].push(task.done(false));
                } else {
                    // A place to be filled.
                    resolved[set].push(Task::new(set, target).done(true));
                    places.push((set, place));
                    new.push(task);
                }
            }
        }
        if !new.is_empty() {
            self.work(&mut new)?;
        }
        for ((set, place), task) in places.into_iter().zip(new) {
            resolved[set][place] = task.done(true);
        }
        Ok(resolved)
    }

    // The targets.

    /// Finds the owners of all these.
    fn work(&mut self, tasks: &mut [Task]) -> io::Result<()> {
        let total = tasks.len();
        let mut done = 0;
        let mut progress = |kernel: &Kernel<'_>, task: &Task| {
            done += usize::from(task.owner.is_some());
            if done % 1024 == 0 || done == total {
                kernel.tell(Progress::Targets { done, total });
            }
        };
        for task in &mut *tasks {
            self.step(task, Self::near)?;
            progress(&self.kernel, task);
        }
        let mut left: Vec<&mut Task> = Vec::new();
        left.extend(tasks.iter_mut().filter(|task| task.owner.is_none()));
        if left.is_empty() {
            return Ok(());
        }

        let hinted = self.tables.len();
        if self.search_all && !self.searched_all {
            self.load_all()?;
        }
        let made = self.make_pool()?;
        for task in &mut left {
            self.step(task, |this, task| this.ask_hints(task, hinted))?;
            // One table alone has been searched already.
            if !(made && self.tables.len() == 1) {
                self.step(task, Self::search_pool)?;
            }
        }
        let mut each = FEW;
        for round in 1.. {
            left.retain(|task| task.owner.is_none());
            if left.is_empty() {
                break;
            }
            let state = self.check_pool()?;
            for task in &mut left {
                self.step(task, |this, task| this.ask_each(task, &state.loose))?;
                if state.held {
                    if !state.still && each > 0 {
                        each -= 1;
                        self.step(task, |this, task| this.ask_each(task, &state.all))?;
                    }
                    task.owner.get_or_insert(Owner::NoOne);
                } else {
                    self.step(task, Self::search_pool)?;
                    if round == ROUNDS {
                        task.owner.get_or_insert(Owner::Unknown);
                    }
                }
                progress(&self.kernel, task);
            }
        }
        Ok(())
    }

    /// Does one thing for a target; what has gone is unknown from then on.
    fn step(
        &mut self,
        task: &mut Task,
        step: impl FnOnce(&mut Self, &mut Task) -> Result<(), Failure>,
    ) -> io::Result<()> {
        match step(self, task) {
            Ok(()) => Ok(()),
            Err(Failure::Gone) => {
                task.owner = Some(Owner::Unknown);
                task.number = Number::Unknown;
                Ok(())
            }
            Err(Failure::Error(error)) => Err(error),
        }
    }

    /// Asks about what the processes of the set have.
    fn near(&mut self, task: &mut Task) -> Result<(), Failure> {
        self.ask_number(task)?;
        self.ask_hints(task, 0)?;
        if task.owner.is_some() {
            return Ok(());
        }
        // Others that have inherited the set come with all the rest.
        let home = self.sets[task.set].homes[0];
        let mut files = match self.tables[home].sorted.take() {
            Some(files) => files,
            None => {
                let table = &self.tables[home];
                let compare = |a, b| self.kernel.files(a, b);
                let sort = || order::sort(table.descriptors(), &compare);
                self.kernel.sorting(table.links.len(), sort)?
            }
        };
        let found = self.search(task, &mut files);
        self.tables[home].sorted = Some(files);
        found
    }

    fn ask(&self, task: &Task, descriptor: Descriptor) -> io::Result<Ordering> {
        let set = self.sets[task.set].descriptors[0];
        let slot = Slot {
            efd: set.fd as u32,
            tfd: task.target.tfd,
            toff: task.target.toff,
        };
        self.kernel.epoll_tfd(descriptor, set.pid, slot)
    }

    /// `None` if the descriptor is closed, rather than that of the set.
    fn probe(&self, task: &Task, descriptor: Descriptor) -> io::Result<Option<Ordering>> {
        match self.ask(task, descriptor) {
            Ok(order) => Ok(Some(order)),
            Err(error) if order::is_gone(&error) => {
                let set = self.sets[task.set].descriptors[0];
                self.kernel.files(set, set).map(|_| None)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks about the number that it was added by.
    fn ask_number(&mut self, task: &mut Task) -> Result<(), Failure> {
        let fd = task.target.tfd as RawFd;
        for &home in &self.sets[task.set].homes {
            let table = &self.tables[home];
            let pid = table.pids[0];
            let descriptor = Descriptor { pid, fd };
            // Most closed ones need no call.
            let link = || proc::link(pid, fd);
            if !table.links.contains_key(&fd) && link().is_err() {
                continue;
            }
            match self.probe(task, descriptor)? {
                Some(Ordering::Equal) => {
                    task.owner = Some(Owner::SameNumber(descriptor));
                    task.number = Number::Target;
                    break;
                }
                // The first process's word, if not the target itself.
                Some(_) if task.number == Number::Closed => {
                    task.number = link().map_or(Number::Closed, Number::Other);
                }
                // Or closed meanwhile.
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// Asks about sockets and pipes that have the target's inode, in tables from
    /// the one of number `first`.
    fn ask_hints(&self, task: &mut Task, first: usize) -> Result<(), Failure> {
        let Some(inode) = task.target.inode.filter(|_| task.owner.is_none()) else {
            return Ok(());
        };
        let Some(candidates) = self.by_inode.get(&inode.ino) else {
            return Ok(());
        };
        let homes = &self.sets[task.set].homes;
        let (near, far): (Vec<Descriptor>, Vec<Descriptor>) = candidates
            .iter()
            .filter(|d| self.table_of[&d.pid] >= first)
            .partition(|d| homes.contains(&self.table_of[&d.pid]));
        let mut owners: Vec<Descriptor> = Vec::new();
        for candidate in near.into_iter().chain(far).take(HINTS) {
            let order = match owners.first() {
                Some(&owner) => self.kernel.files(owner, candidate).ok(),
                None => self.probe(task, candidate)?,
            };
            if order == Some(Ordering::Equal) {
                owners.push(candidate);
            }
        }
        if !owners.is_empty() {
            task.owner = Some(Owner::Others(owners));
        }
        Ok(())
    }

    fn search(&self, task: &mut Task, files: &mut Vec<File>) -> Result<(), Failure> {
        let compare = |a, b| self.kernel.files(a, b);
        let found = order::search(files, |d| self.probe(task, d))?;
        let index = match found {
            Found::At(index) => index,
            Found::Nothing => return Ok(()),
            Found::Astray => {
                let all: Vec<_> = files.iter().flatten().copied().collect();
                return self.ask_each(task, &all);
            }
        };
        // The kernel has just named the first one. The others were the same file
        // when they were sorted.
        let first = files[index][0];
        let mut owners = vec![first];
        for &other in files[index][1..].iter().take(OWNERS - 1) {
            if compare(first, other).is_ok_and(Ordering::is_eq) {
                owners.push(other);
            }
        }
        let homes = &self.sets[task.set].homes;
        owners.sort_by_key(|d| (!homes.contains(&self.table_of[&d.pid]), *d));
        task.owner = Some(Owner::Others(owners));
        Ok(())
    }

    // All that may be searched.

    /// Whether it has just been made.
    fn make_pool(&mut self) -> io::Result<bool> {
        if self.pool.is_some() {
            return Ok(false);
        }
        let mut lists = Vec::new();
        for table in &self.tables {
            match &table.sorted {
                Some(sorted) => lists.push(sorted.clone()),
                None => lists.extend(table.descriptors().map(|d| vec![vec![d]])),
            }
        }
        let total = self.tables.iter().map(|table| table.links.len()).sum();
        let compare = |a, b| self.kernel.files(a, b);
        let sort = || order::merge_all(lists, &compare);
        self.pool = Some(self.kernel.sorting(total, sort)?);
        Ok(true)
    }

    /// Checks the pool, and brings it up to date but for a few descriptors.
    fn check_pool(&mut self) -> io::Result<State> {
        let (mut now, unchanged) = self.reload()?;
        let mut all: Vec<_> = now.iter().copied().collect();
        all.sort_unstable();
        let files = self.pool.take().unwrap_or_default();
        self.loose.retain(|descriptor| now.remove(descriptor));
        let compare = |a, b| self.kernel.files(a, b);
        let checked = order::check(files, now, &compare)?;
        let (mut files, new) = (checked.files, checked.rest);
        let mut held = !checked.broken;
        let still = held && unchanged && self.loose.is_empty() && new.is_empty();
        if new.len() <= FEW {
            self.loose.extend(new);
        } else {
            let sort = || order::sort(new.iter().copied(), &compare);
            let sorted = self.kernel.sorting(new.len(), sort)?;
            files = order::merge_all([files, sorted], &compare)?;
            held = false;
        }
        self.pool = Some(files);
        Ok(State {
            held,
            still,
            loose: self.loose.clone(),
            all,
        })
    }

    fn search_pool(&mut self, task: &mut Task) -> Result<(), Failure> {
        if task.owner.is_some() {
            return Ok(());
        }
        let mut files = self.pool.take().unwrap_or_default();
        let found = self.search(task, &mut files);
        self.pool = Some(files);
        found
    }

    /// Asks about these descriptors.
    fn ask_each(&self, task: &mut Task, descriptors: &[Descriptor]) -> Result<(), Failure> {
        if task.owner.is_some() {
            return Ok(());
        }
        for &descriptor in descriptors {
            if self.probe(task, descriptor)? == Some(Ordering::Equal) {
                task.owner = Some(Owner::Others(vec![descriptor]));
                break;
            }
        }
        Ok(())
    }
}

impl Task {
    fn new(set: usize, target: Target) -> Self {
        Self {
            set,
            target,
            owner: None,
            number: Number::Closed,
        }
    }

    fn done(self, changed: bool) -> Resolved {
        Resolved {
            target: self.target,
            owner: self.owner.unwrap_or(Owner::Unknown),
            number: self.number,
            changed,
        }
    }
}

/// Puts what was found before to the targets that there are now.
///
/// If those of one number are not what they were, any of them may be another.
fn matched(mut before: Vec<Task>, now: Vec<Target>) -> Vec<(Target, Option<(Owner, Number)>)> {
    let key = |target: &Target| (target.tfd, target.toff);
    let identity = |target: &Target| (target.inode, target.data);
    before.sort_unstable_by_key(|task| key(&task.target));
    let mut order: Vec<usize> = (0..now.len()).collect();
    order.sort_unstable_by_key(|&index| key(&now[index]));

    let mut found: Vec<_> = now.iter().map(|_| None).collect();
    let mut before = &mut before[..];
    for group in order.chunk_by(|&a, &b| now[a].tfd == now[b].tfd) {
        let tfd = now[group[0]].tfd;
        before = {
            let start = before.partition_point(|task| task.target.tfd < tfd);
            &mut before[start..]
        };
        let end = before.partition_point(|task| task.target.tfd == tfd);
        let tasks = &mut before[..end];
        let old = tasks.iter().map(|task| identity(&task.target));
        if !old.eq(group.iter().map(|&index| identity(&now[index]))) {
            continue;
        }
        for (task, &index) in tasks.iter_mut().zip(group) {
            let owner = task.owner.take().filter(|owner| *owner != Owner::Unknown);
            let number = std::mem::replace(&mut task.number, Number::Unknown);
            found[index] = owner.map(|owner| (owner, number));
        }
    }
    now.into_iter().zip(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdinfo::{Events, Inode};

    fn target(tfd: u32, toff: u32, ino: u64) -> Target {
        Target {
            tfd,
            toff,
            events: Events(1),
            data: 0,
            pos: Some(0),
            inode: Some(Inode {
                ino,
                major: 0,
                minor: 8,
            }),
        }
    }

    #[test]
    fn what_was_found_is_kept_unless_others_of_the_number_have_changed() {
        let tasks = [(5, 0, 50), (5, 1, 51), (3, 0, 30), (7, 0, 70), (9, 0, 90)];
        let before = tasks.map(|(tfd, toff, ino)| Task {
            owner: Some(match tfd {
                9 => Owner::Unknown,
                fd => Owner::SameNumber(Descriptor {
                    pid: ino as i32,
                    fd: fd as i32,
                }),
            }),
            number: Number::Target,
            ..Task::new(0, target(tfd, toff, ino))
        });
        let kept = |now: &[(u32, u32, u64)]| {
            let now = now.iter().map(|&(tfd, toff, ino)| target(tfd, toff, ino));
            let before = before.each_ref().map(|task| Task {
                set: 0,
                target: task.target,
                owner: task.owner.clone(),
                number: task.number.clone(),
            });
            matched(before.into(), now.collect())
                .into_iter()
                .map(|(target, found)| {
                    found.map(|(owner, number)| {
                        let (pid, fd) = (target.inode.unwrap().ino as i32, target.tfd as i32);
                        assert_eq!(owner, Owner::SameNumber(Descriptor { pid, fd }));
                        assert_eq!(number, Number::Target);
                    })
                })
                .map(|found| found.is_some())
                .collect::<Vec<_>>()
        };
        // All there, in another order; what was unknown is asked about again.
        let all = [(3, 0, 30), (5, 0, 50), (5, 1, 51), (7, 0, 70), (9, 0, 90)];
        assert_eq!(kept(&all), [true, true, true, true, false]);
        // One of two went: which?
        assert_eq!(kept(&[(3, 0, 30), (5, 0, 51)]), [true, false]);
        // One came, one was replaced.
        assert_eq!(
            kept(&[(3, 0, 30), (4, 0, 40), (7, 0, 71)]),
            [true, false, false]
        );
        assert_eq!(kept(&[(7, 0, 70), (7, 1, 71)]), [false, false]);
        assert_eq!(kept(&[]), [false; 0]);
    }
}
