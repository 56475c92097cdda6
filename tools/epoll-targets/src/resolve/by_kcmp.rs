// SPDX-License-Identifier: GPL-2.0

//! Resolving targets with kcmp(2).

mod again;
mod ask;
mod kinds;
mod nobodys;
mod pool;
mod processes;

use super::kernel::Kernel;
use super::report::Moved;
use super::tables::Tables;
use super::task::{self, Task, Watched};
use super::{
    Descriptor, Early, Method, OWNERS, Owner, Progress, ROUNDS, Report, Resolved, Resolver, Scope,
    Skipped, TfdState, visible,
};
use crate::fdinfo::{Target, Targets};
use crate::order::{self, File};
use crate::proc;
use crate::reader::Reader;
use ask::Failure;
use kinds::Kinds;
use processes::Listed;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

/// How many new descriptors are compared one by one, rather than sorted; and how many
/// targets are compared with all descriptors.
const FEW: usize = 64;

/// What takes longer than this is announced.
const LONG: Duration = Duration::from_secs(2);

/// How long searches may take before the time of the others is estimated.
const TRIAL: Duration = Duration::from_millis(200);

/// Which of the targets that are left are searched first to estimate the time of all: these
/// eighths. The kernel walks the interest list for each query, so that those at its end take
/// longest.
const SAMPLES: [usize; 7] = [4, 2, 6, 1, 5, 3, 7];

pub(super) struct ByKcmp<'a> {
    scope: Scope,
    search_all: bool,
    kernel: Kernel<'a>,
    tables: Tables<Listed>,
    /// Descriptors of sockets and pipes, by inode.
    by_inode: HashMap<u64, Vec<Descriptor>>,
    /// Indices of tables by the hash of their links, in the order of kcmp(2).
    alike: HashMap<u64, Vec<usize>>,
    /// Whether all processes that may be searched are in `tables`.
    searched_all: bool,
    /// The files of all tables in the order of kcmp(2), once that was needed.
    pool: Option<Vec<File>>,
    /// Descriptors that are not in the pool, as they changed.
    loose: Vec<Descriptor>,
    instances: Vec<Watched>,
    skipped: Vec<Skipped>,
    /// How many of the tables are those of the processes in `scope`.
    near: usize,
    reader: Reader,
    kinds: Kinds,
    /// Why not all processes can be seen.
    partial: Option<String>,
    /// Until when to wait for processes that run.
    patience: Option<Instant>,
    early: RefCell<&'a mut dyn FnMut(&Early<'_>)>,
    /// It was said that the search takes long.
    is_long: bool,
}

impl<'a> ByKcmp<'a> {
    pub(super) fn new(resolver: &'a mut Resolver<'_>) -> io::Result<Self> {
        Ok(Self {
            search_all: resolver.searches_all(),
            scope: resolver.scope.clone(),
            kernel: Kernel::new(&mut *resolver.progress),
            tables: Tables::default(),
            by_inode: HashMap::new(),
            alike: HashMap::new(),
            searched_all: false,
            pool: None,
            loose: Vec::new(),
            instances: Vec::new(),
            skipped: Vec::new(),
            near: 0,
            reader: Reader::start()?,
            kinds: Kinds::of_this_system()?,
            partial: visible::proc(),
            patience: None,
            early: RefCell::new(&mut *resolver.early),
            is_long: false,
        })
    }

    pub(super) fn run(mut self) -> io::Result<Report> {
        match self.scope.clone() {
            Scope::These(pids) => self.load(pids, false)?,
            Scope::All => self.load_all()?,
        }
        self.near = self.tables.len();
        self.find_instances()?;

        let mut tasks = Vec::new();
        for instance in 0..self.instances.len() {
            let targets = self.read_instance(instance).into_iter().flatten();
            tasks.extend(targets.map(|target| Task::new(instance, target)));
        }
        self.work(&mut tasks)?;
        let mut resolved = self.look_again(tasks)?;
        if self.tables.are_shared() {
            for resolved in resolved.iter_mut().flatten() {
                self.name_sharers(resolved);
            }
        }
        let searched = if self.search_all {
            self.tables.len()
        } else {
            self.near
        };
        let searched = self.tables.iter().take(searched);
        Ok(Report {
            tables: searched.len(),
            descriptors: searched.map(|t| t.open.links.len()).sum(),
            partial: self.partial,
            calls: self.kernel.calls(),
            method: Method::Kcmp,
            ..task::report(self.instances.into_iter().zip(resolved), self.skipped)
        })
    }

    // The instances.

    fn find_instances(&mut self) -> io::Result<()> {
        let mut descriptors = Vec::new();
        for table in self.tables.iter() {
            let links = table.open.links.iter();
            let pid = table.pid();
            let task = self.kernel.task(pid);
            let instances = links
                .filter(|&(&fd, link)| link == proc::EPOLL_LINK && !proc::is_path_only(task, fd));
            descriptors.extend(instances.map(|(&fd, _)| Descriptor { pid, fd }));
        }
        let mut instances = order::sort(descriptors, &|a, b| self.kernel.files(a, b))?;
        if self.scope != Scope::All && !instances.is_empty() {
            self.find_holders(&mut instances)?;
        }
        if self.tables.are_shared() {
            for descriptors in &mut instances {
                let all = descriptors.iter().flat_map(|&d| self.same(d));
                let all: BTreeSet<Descriptor> = all.chain(descriptors.iter().copied()).collect();
                *descriptors = all.into_iter().collect();
            }
        }
        self.instances = Watched::all(instances, &self.tables);
        for watched in &mut self.instances {
            let is_far = |d: &Descriptor| self.tables.of(d.pid) >= Some(self.near);
            watched.descriptors.sort_by_key(|d| (is_far(d), *d));
            watched.find_homes(&self.tables);
        }
        Ok(())
    }

    /// Reads the targets of an instance, or notes why it cannot be read.
    fn read_instance(&mut self, instance: usize) -> Option<Vec<Target>> {
        let watched = &mut self.instances[instance];
        let Descriptor { pid, fd } = watched.descriptors[0];
        let path = format!("/proc/{}/fdinfo/{fd}", self.kernel.task(pid));
        let read = self.reader.read(&path).and_then(|content| {
            let mut targets = Targets::new(&content[..]);
            let all = targets.by_ref().collect();
            watched.id = targets.id();
            all
        });
        let error = match read {
            Ok(targets) => return Some(targets),
            Err(error) => error,
        };
        // The instance may be there by another descriptor, which a list of them misses if it
        // moves on meanwhile.
        let is_closed = error.kind() == io::ErrorKind::NotFound;
        let error = match is_closed && visible::why_nothing(pid).is_none() {
            true => io::Error::other(Moved),
            false => error,
        };
        self.instances[instance].gone = Some(error);
        None
    }

    // The targets.

    /// The same descriptor in each process that has the table.
    fn same(&self, Descriptor { pid, fd }: Descriptor) -> impl Iterator<Item = Descriptor> + '_ {
        let pids = self.tables.sharers(pid).iter();
        pids.map(move |&pid| Descriptor { pid, fd })
    }

    /// Names the processes that share the tables of owners, of which one was found each.
    fn name_sharers(&self, resolved: &mut Resolved) {
        let Owner::Others(owners) = &mut resolved.owner else {
            return;
        };
        // Those that are not named may be shared, too.
        let are_all = resolved.owners_total == Some(owners.len());
        let of = |owner: &Descriptor| self.tables.sharers(owner.pid).len().max(1);
        resolved.owners_total = are_all.then(|| owners.iter().map(of).sum());
        let first = |owner: &Descriptor| {
            let owner = *owner;
            let others = self.same(owner).filter(move |other| *other != owner);
            [owner].into_iter().chain(others)
        };
        *owners = owners.iter().flat_map(first).take(OWNERS).collect();
    }

    /// Finds the owners of targets.
    fn work(&mut self, tasks: &mut [Task]) -> io::Result<()> {
        let begin = Instant::now();
        let total = tasks.len();
        self.search_near(tasks)?;
        let is_left = |task: &&mut Task| task.owner.is_none();
        let count = tasks.iter_mut().filter(is_left).count();
        if count == 0 {
            return Ok(());
        }
        let calls = self.kernel.calls().epoll_tfd;
        self.announce(self.estimate(count, begin.elapsed(), calls), tasks);
        let mut left: Vec<&mut Task> = tasks.iter_mut().filter(is_left).collect();
        self.search_far(&mut left)?;
        self.search_changes(&mut left)?;
        left.retain(|task| task.owner.is_none());
        if !left.is_empty() && self.sees_all() {
            self.find_nobodys(&mut left)?;
        }
        for task in left {
            task.owner.get_or_insert(Owner::Unknown);
        }
        self.kernel.tell(Progress::Targets { done: total, total });
        Ok(())
    }

    /// Asks about likely owners, then about all descriptors of the processes in `scope`.
    fn search_near(&mut self, tasks: &mut [Task]) -> io::Result<()> {
        let total = tasks.len();
        let mut done = 0;
        let mut progress = |kernel: &Kernel<'_>, found: usize| {
            done += found;
            if done % 1024 == 0 || done == total {
                kernel.tell(Progress::Targets { done, total });
            }
        };
        for task in &mut *tasks {
            self.step(task, Self::likely)?;
            progress(&self.kernel, usize::from(task.owner.is_some()));
        }
        // The end of the first search, which also sorts the descriptors.
        let mut begin = None;
        let mut is_estimated = false;
        for index in 0..total {
            let task = &mut tasks[index];
            if task.owner.is_some() {
                continue;
            }
            self.step(task, Self::near)?;
            progress(&self.kernel, usize::from(task.owner.is_some()));
            self.tell_early(task);
            let begin = *begin.get_or_insert_with(Instant::now);
            if !is_estimated && !self.is_long && begin.elapsed() >= TRIAL {
                is_estimated = true;
                let (rest, found) = self.sample(&mut tasks[index + 1..])?;
                progress(&self.kernel, found);
                self.announce(rest, tasks);
            }
        }
        Ok(())
    }

    /// How long it takes to search for all of these. Searches for a few, and returns also how
    /// many it has found.
    fn sample(&mut self, tasks: &mut [Task]) -> io::Result<(Duration, usize)> {
        let is_left = |&index: &usize| tasks[index].owner.is_none();
        let left: Vec<usize> = (0..tasks.len()).filter(is_left).collect();
        let (begin, calls) = (Instant::now(), self.kernel.calls().epoll_tfd);
        let mut searched = HashSet::new();
        for eighth in SAMPLES {
            let Some(&index) = left.get(left.len() * eighth / 8) else {
                return Ok((Duration::ZERO, 0));
            };
            if searched.insert(index) {
                self.step(&mut tasks[index], Self::near)?;
            }
            // The first of these have the average of all.
            if begin.elapsed() > LONG {
                break;
            }
        }
        let elapsed = begin.elapsed();
        let calls = self.kernel.calls().epoll_tfd - calls;
        let is_found = |&&index: &&usize| tasks[index].owner.is_some();
        let found = searched.iter().filter(is_found).count();
        let times = left.len() as f64 / searched.len() as f64;
        // Other processes are searched for what is not found.
        let without = (searched.len() - found) as f64 * times;
        let far = self.estimate(without as usize, elapsed, calls);
        let near = Duration::try_from_secs_f64(elapsed.as_secs_f64() * times);
        let all = near.map_or(Duration::MAX, |near| near.saturating_add(far));
        Ok((all, found))
    }

    /// Searches the descriptors of all processes.
    fn search_far(&mut self, left: &mut [&mut Task]) -> io::Result<()> {
        let hinted = self.tables.len();
        // Even if not all are to be named: that nobody has it is said of all.
        if !self.searched_all {
            self.load_all()?;
        }
        let made = self.make_pool()?;
        for task in left {
            self.step(task, |this, task| this.ask_hints(task, hinted))?;
            // If there is only one table, it has been searched already.
            if !(made && self.tables.len() == 1) {
                self.step(task, Self::search_pool)?;
            }
            self.tell_early(task);
        }
        Ok(())
    }

    /// Searches again, as long as descriptors change meanwhile.
    fn search_changes(&mut self, left: &mut Vec<&mut Task>) -> io::Result<()> {
        let mut each = FEW;
        // Links that were there in one look and not in another.
        let mut changed = HashSet::new();
        for _ in 0..ROUNDS {
            left.retain(|task| task.owner.is_none());
            if left.is_empty() || !self.sees_all() {
                break;
            }
            let state = self.check_pool()?;
            changed.extend(state.changed);
            let mut is_over = state.held;
            for task in &mut *left {
                self.step(task, |this, task| this.ask_each(task, &state.loose))?;
                if !state.held {
                    self.step(task, Self::search_pool)?;
                } else if self.kinds.may_be_among(&task.target, &changed) {
                    is_over = false;
                    if each > 0 {
                        each -= 1;
                        self.step(task, |this, task| this.ask_each(task, &state.all))?;
                    }
                }
                self.tell_early(task);
            }
            if is_over {
                break;
            }
        }
        Ok(())
    }

    /// Tells what was found, if the search takes long.
    fn tell_early(&self, task: &Task) {
        let is_known = task.owner.as_ref().is_some_and(|o| *o != Owner::Unknown);
        if !self.is_long || !is_known {
            return;
        }
        let descriptors = &self.instances[task.instance].descriptors;
        (self.early.borrow_mut())(&Early {
            instance: descriptors[0],
            also: &descriptors[1..],
            target: task.clone().done(false),
        });
    }

    /// Says once how long the search takes, if it is long, and tells what was found.
    fn announce(&mut self, time: Duration, tasks: &[Task]) {
        if self.is_long || time < LONG {
            return;
        }
        self.is_long = true;
        self.kernel.tell(Progress::Long(time));
        tasks.iter().for_each(|task| self.tell_early(task));
    }

    /// Whether no process can have escaped.
    fn sees_all(&self) -> bool {
        let mut skipped = self.skipped.iter();
        self.partial.is_none() && skipped.all(|s| s.efd.is_some() || s.has_ended())
    }

    /// How long it takes at most to search all processes for these targets, if so many calls
    /// took so long.
    fn estimate(&self, targets: usize, elapsed: Duration, calls: u64) -> Duration {
        let descriptors: usize = self.tables.iter().map(|t| t.open.links.len()).sum();
        let each = descriptors.checked_ilog2().unwrap_or(0) + 1;
        let queries = (targets as u64).saturating_mul(each.into());
        let seconds = elapsed.as_secs_f64() / calls.max(1) as f64 * queries as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Runs one step for a target. If the target is gone, its owner is unknown.
    fn step(
        &mut self,
        task: &mut Task,
        step: impl FnOnce(&mut Self, &mut Task) -> Result<(), Failure>,
    ) -> io::Result<()> {
        match step(self, task) {
            Ok(()) => Ok(()),
            Err(Failure::Gone) => {
                task.owner = Some(Owner::Unknown);
                task.tfd_state = TfdState::Unknown;
                Ok(())
            }
            Err(Failure::Error(error)) => Err(error),
        }
    }
}
