// SPDX-License-Identifier: GPL-2.0

//! Resolving targets with kcmp(2).

mod again;
mod ask;
mod pool;
mod processes;

use super::kernel::Kernel;
use super::tables::Tables;
use super::task::{self, Task, Watched};
use super::{
    Descriptor, Method, Owner, Progress, ROUNDS, Report, Resolver, Scope, Skipped, TfdState,
};
use crate::fdinfo::{self, Target};
use crate::order::{self, File};
use crate::proc;
use ask::Failure;
use processes::Listed;
use std::collections::HashMap;
use std::io;

/// How many descriptors are asked about one by one, rather than sorted; and for
/// how many targets that is done with all descriptors.
const FEW: usize = 64;

pub(super) struct ByKcmp<'a> {
    scope: Scope,
    search_all: bool,
    kernel: Kernel<'a>,
    tables: Tables<Listed>,
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
    instances: Vec<Watched>,
    skipped: Vec<Skipped>,
}

impl<'a> ByKcmp<'a> {
    pub(super) fn new(resolver: &'a mut Resolver<'_>) -> Self {
        Self {
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
        }
    }

    pub(super) fn run(mut self) -> io::Result<Report> {
        match self.scope.clone() {
            Scope::These(pids) => self.load(pids, false)?,
            Scope::All => self.load_all()?,
        }
        self.find_instances()?;

        let mut tasks = Vec::new();
        for set in 0..self.instances.len() {
            let targets = self.read_instance(set).into_iter().flatten();
            tasks.extend(targets.map(|target| Task::new(set, target)));
        }
        self.work(&mut tasks)?;
        let resolved = self.look_again(tasks)?;
        Ok(Report {
            tables: self.tables.len(),
            descriptors: self.tables.iter().map(|t| t.open.links.len()).sum(),
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
            let sets = links.filter(|(_, link)| *link == proc::EPOLL_LINK);
            let pid = table.pid();
            descriptors.extend(sets.map(|(&fd, _)| Descriptor { pid, fd }));
        }
        let sets = order::sort(descriptors, &|a, b| self.kernel.files(a, b))?;
        self.instances = Watched::all(sets, &self.tables);
        Ok(())
    }

    /// Reads the targets of an instance; notes why if that cannot be done.
    fn read_instance(&mut self, set: usize) -> Option<Vec<Target>> {
        let watched = &mut self.instances[set];
        let Descriptor { pid, fd } = watched.descriptors[0];
        let read = fdinfo::read(pid, fd).and_then(|mut targets| {
            let all = targets.by_ref().collect();
            watched.id = targets.id();
            all
        });
        read.map_err(|error| watched.gone = Some(error)).ok()
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
                    task.owner.get_or_insert(Owner::Orphaned);
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
                task.tfd_state = TfdState::Unknown;
                Ok(())
            }
            Err(Failure::Error(error)) => Err(error),
        }
    }
}
