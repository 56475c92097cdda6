// SPDX-License-Identifier: GPL-2.0

//! Resolving targets with BPF: with programs that walk the interest lists, or with the
//! iterator of a module.
//!
//! The programs see lists that may change while they are read. So each list is read
//! twice, and what fdinfo shows in between has to agree: a target that was in both, at
//! one place with one file, was there all the time. The descriptors are listed between
//! the two, so that one with the address of the target's file has that file.
//!
//! The iterator shows only targets that exist, as it takes the mutex; but the list may
//! change before the descriptors are listed, so that it is read twice, too.

mod agree;
mod holders;
mod items;
mod lists;
mod orphans;
mod places;
mod programs;
mod runner;

use super::kernel::Kernel;
use super::{
    Descriptor, Instance, Method, OWNERS, Progress, ROUNDS, Report, Resolver, Scope, Skipped,
    still, task, visible,
};
use crate::fdinfo::Target;
use crate::proc::{self, Stat};
use crate::reader::Reader;
use agree::{Candidate, agree};
use holders::Finder;
use items::Items;
use lists::Lists;
use places::{Holders, Moment, Places};
use programs::{File, Programs, Walk};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::RawFd;

/// An epoll instance.
struct View {
    file: File,
    /// The descriptors of it, by table: see [`Places`].
    holders: Vec<(usize, RawFd)>,
    walk: Option<Walk>,
    id: Option<u64>,
    targets: Vec<Candidate>,
    unconfirmed: Option<String>,
    settled: bool,
}

pub(super) struct ByWalk<'a> {
    scope: Scope,
    search_all: bool,
    wants_holders: bool,
    programs: Programs,
    lists: Lists,
    reader: Reader,
    kernel: Kernel<'a>,
    partial: Option<String>,
    skipped: Vec<Skipped>,
    /// What finds the holders of orphans, once there may be some.
    finder: Option<Finder>,
    /// See [`Report::holders`].
    holders: Option<bool>,
}

impl<'a> ByWalk<'a> {
    /// With programs that walk the lists.
    pub(super) fn new(resolver: &'a mut Resolver<'_>) -> io::Result<Self> {
        let mut programs = Programs::load()?;
        programs.try_walk()?;
        Self::with(resolver, programs, Lists::Walk)
    }

    /// With the iterator of the module.
    pub(super) fn with_items(resolver: &'a mut Resolver<'_>) -> io::Result<Self> {
        let items = Items::load()?;
        let mut programs = Programs::load()?;
        let walk = programs.try_walk().is_ok();
        Self::with(resolver, programs, Lists::Items { items, walk })
    }

    fn with(resolver: &'a mut Resolver<'_>, programs: Programs, lists: Lists) -> io::Result<Self> {
        Ok(Self {
            programs,
            lists,
            reader: Reader::start()?,
            search_all: resolver.searches_all(),
            wants_holders: resolver.holders,
            scope: resolver.scope.clone(),
            kernel: Kernel::new(&mut *resolver.progress),
            partial: visible::namespace(),
            skipped: Vec::new(),
            finder: None,
            holders: None,
        })
    }

    pub(super) fn run(mut self) -> io::Result<Report> {
        // Those that are there before descriptors are listed, so that they have to be found.
        let pids = proc::pids().unwrap_or_default();
        let mut places = self.list()?;
        let mut views = self.find_instances(&places);
        for round in 1..=ROUNDS {
            if round == 1 {
                let walks = self.read_lists(&places, &mut views)?.walks;
                take(&mut views, walks, |view, walk| view.walk = Some(walk));
            }
            let mut shown = match self.lists {
                Lists::Walk => self.read_fdinfo(&places, &mut views),
                Lists::Items { .. } => HashMap::new(),
            };
            places = self.list()?;
            let holders = places.instances();
            views.retain_mut(|view| {
                view.holders = holders.get(&view.file).cloned().unwrap_or_default();
                // Closed meanwhile.
                !view.holders.is_empty()
            });
            let read = self.read_lists(&places, &mut views)?;
            shown.extend(read.shown);
            self.join(&places, &mut views, shown, read.walks);
            if views.iter().all(|view| view.settled) {
                break;
            }
        }
        let named = match &self.scope {
            Scope::These(pids) => pids.clone(),
            Scope::All => Vec::new(),
        };
        let is_named = |pid: &i32| named.contains(pid);
        let has_suspects = views.iter().any(View::has_suspects);
        // Of the others, only what they may have counts.
        let mut asked = named.clone();
        if has_suspects || matches!(self.scope, Scope::All) {
            asked.extend(pids.into_iter().filter(|pid| !is_named(pid)));
        }
        let mut unseen = unseen(&places, &asked);
        self.find_orphans(&places, &mut views, !unseen.is_empty())?;
        let tells_all = self.search_all || matches!(self.scope, Scope::All);
        unseen.retain(|pid| tells_all || is_named(pid));
        for pid in unseen {
            let error = io::Error::other("the BPF programs do not see its descriptors");
            task::skip(&mut self.skipped, pid, error);
        }
        Ok(self.report(places, views))
    }

    fn list(&mut self) -> io::Result<Places> {
        let before = self.moment()?;
        let listing = self.programs.list(true)?;
        Ok(Places::new(before, listing, &self.scope, self.reader.pid()))
    }

    fn moment(&mut self) -> io::Result<Moment> {
        // First, so that there is none that was not seen as long as it is the same.
        let newest = still::newest_task();
        let switches = self.programs.switches()?;
        Ok(Moment { newest, switches })
    }

    fn find_instances(&self, places: &Places) -> Vec<View> {
        let instances = places.instances().into_iter();
        let asked_for = instances.filter(|(_, holders)| places.given[holders[0].0]);
        let views = asked_for.map(|(file, holders)| View {
            file,
            holders,
            walk: None,
            id: None,
            targets: Vec::new(),
            unconfirmed: None,
            settled: false,
        });
        views.collect()
    }

    /// Puts together what was seen of the instances that are not settled.
    fn join(
        &self,
        places: &Places,
        views: &mut [View],
        mut shown: HashMap<File, Vec<Target>>,
        mut walks: HashMap<File, Walk>,
    ) {
        let mut joined = Vec::new();
        let mut files = HashSet::new();
        for (index, view) in views
            .iter_mut()
            .enumerate()
            .filter(|(_, view)| !view.settled)
        {
            let (before, after) = (view.walk.take(), walks.remove(&view.file));
            if let (Some(before), Some(after)) = (&before, &after) {
                let shown = shown.remove(&view.file);
                let targets = agree(before, after, shown, view.unconfirmed.is_some());
                view.settled = before.whole && after.whole;
                view.settled &= targets.iter().all(|target| target.seen.is_some());
                let seen = targets.iter().filter_map(|target| target.seen);
                files.extend(seen.map(|seen| seen.file));
                joined.push((index, targets));
            }
            view.walk = after;
        }
        let holders = Holders::new(places, views, &files);
        for (index, mut targets) in joined {
            let mut homes: Vec<_> = views[index].holders.iter().map(|h| h.0).collect();
            homes.dedup();
            for target in &mut targets {
                holders.settle(target, &homes, self.search_all);
            }
            views[index].targets = targets;
        }
        let total = views.iter().map(|view| view.targets.len()).sum();
        if total > 0 {
            let done = total;
            self.kernel.tell(Progress::Targets { done, total });
        }
    }

    fn report(self, places: Places, views: Vec<View>) -> Report {
        let instances = views.into_iter().map(|view| {
            let mut all: Vec<(bool, Descriptor)> = Vec::new();
            for (table, fd) in view.holders {
                let given = places.given[table];
                let names = places.names[table].iter();
                all.extend(names.map(|&pid| (!given, Descriptor { pid, fd })));
            }
            all.sort_unstable();
            let mut all = all.into_iter().map(|(_, descriptor)| descriptor);
            // There is at least one: an instance without any was left out.
            let first = all.next().unwrap_or(Descriptor { pid: 0, fd: -1 });
            Instance {
                pid: first.pid,
                efd: first.fd,
                id: view.id,
                also: all.collect(),
                targets: view.targets.into_iter().map(Candidate::done).collect(),
                unconfirmed: view.unconfirmed,
            }
        });
        let mut instances: Vec<_> = instances.collect();
        instances.sort_by_key(|instance| (instance.pid, instance.efd));
        let tables = places.tables.iter().zip(&places.given);
        let searched = tables.filter(|(_, given)| **given || self.search_all);
        let searched: Vec<usize> = searched.map(|(table, _)| table.open.len()).collect();
        Report {
            instances,
            skipped: self.skipped,
            tables: searched.len(),
            descriptors: searched.iter().sum(),
            calls: self.kernel.calls(),
            method: match self.lists {
                Lists::Walk => Method::Walk,
                Lists::Items { .. } => Method::Bpf,
            },
            partial: self.partial,
            holders: self.holders,
            ..Report::default()
        }
    }
}

/// The processes and threads of these that go on and have no table, which cannot be.
fn unseen(places: &Places, pids: &[i32]) -> Vec<i32> {
    let tasks = places.tables.iter().flat_map(|table| &table.tasks);
    let tasks: HashSet<i32> = tasks.flat_map(|task| [task.pid, task.tid]).collect();
    let goes_on = |pid: &i32| {
        *pid != places.reader.unwrap_or_default()
            && Stat::of(*pid).is_ok_and(|stat| !stat.is_kernel_thread())
            && visible::why_nothing(*pid).is_none()
    };
    let without = pids.iter().filter(|pid| !tasks.contains(pid));
    without.copied().filter(goes_on).collect()
}

/// Gives each view what was found for it.
fn take(views: &mut [View], mut walks: HashMap<File, Walk>, put: impl Fn(&mut View, Walk)) {
    for view in views {
        if let Some(walk) = walks.remove(&view.file) {
            put(view, walk);
        }
    }
}
