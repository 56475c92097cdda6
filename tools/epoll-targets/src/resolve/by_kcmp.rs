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

/// How many new descriptors are compared one by one, rather than sorted; and how many
/// targets are compared with all descriptors.
const FEW: usize = 64;

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
        for instance in 0..self.instances.len() {
            let targets = self.read_instance(instance).into_iter().flatten();
            tasks.extend(targets.map(|target| Task::new(instance, target)));
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
            let instances = links.filter(|(_, link)| *link == proc::EPOLL_LINK);
            let pid = table.pid();
            descriptors.extend(instances.map(|(&fd, _)| Descriptor { pid, fd }));
        }
        let instances = order::sort(descriptors, &|a, b| self.kernel.files(a, b))?;
        self.instances = Watched::all(instances, &self.tables);
        Ok(())
    }

    /// Reads the targets of an instance, or notes why it cannot be read.
    fn read_instance(&mut self, instance: usize) -> Option<Vec<Target>> {
        let watched = &mut self.instances[instance];
        let Descriptor { pid, fd } = watched.descriptors[0];
        let read = fdinfo::read(pid, fd).and_then(|mut targets| {
            let all = targets.by_ref().collect();
            watched.id = targets.id();
            all
        });
        read.map_err(|error| watched.gone = Some(error)).ok()
    }

    // The targets.

    /// Finds the owners of targets.
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
            // If there is only one table, it has been searched already.
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
