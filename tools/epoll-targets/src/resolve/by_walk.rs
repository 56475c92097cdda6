// SPDX-License-Identifier: GPL-2.0

//! Resolving targets with BPF programs that walk the interest lists.
//!
//! The programs see lists that may change while they are read. So each list is read
//! twice, and what fdinfo shows in between has to agree: a target that was in both, at
//! one place with one file, was there all the time. The descriptors are listed between
//! the two, so that one with the address of the target's file has that file.

mod programs;

use super::kernel::Kernel;
use super::{
    Descriptor, Instance, Method, OWNERS, Owner, Progress, ROUNDS, Report, Resolved, Resolver,
    Scope, Skipped, TfdState, task, visible,
};
use crate::fdinfo::{Events, Target, Targets};
use crate::kcmp::{self, Slot, Support};
use crate::proc;
use crate::reader::{self, Reader};
use programs::{File, Listing, Place, Programs, Seen, Table, Walk};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// How often in a row no descriptor of a file must be found for it to be orphaned. A
/// file that is moved from one descriptor to the other can escape a single look.
const LOOKS: u32 = 32;

/// How often descriptors are looked at for that at all.
const MOST_LOOKS: u32 = 256;

/// How long to wait for tasks that are giving up their descriptors.
const EXITING: Duration = Duration::from_millis(500);

/// How many targets that kept changing are compared with kcmp(2).
const FEW: usize = 64;

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

/// A target, and what was found for it.
struct Candidate {
    target: Target,
    /// `None` if it changed.
    seen: Option<Seen>,
    owner: Owner,
    owners_total: Option<usize>,
    tfd_state: TfdState,
    stale_at: Vec<Descriptor>,
    stale_total: usize,
}

impl Candidate {
    fn new(target: Target, seen: Option<Seen>) -> Self {
        Self {
            target,
            seen,
            owner: Owner::Unknown,
            owners_total: None,
            tfd_state: TfdState::Unknown,
            stale_at: Vec::new(),
            stale_total: 0,
        }
    }

    fn done(self) -> Resolved {
        Resolved {
            target: self.target,
            changed: self.seen.is_none(),
            owner: self.owner,
            tfd_state: self.tfd_state,
            owners_total: self.owners_total,
            stale_at: self.stale_at,
            stale_total: self.stale_total,
            guessed: false,
        }
    }
}

/// The tables of a listing, by number, with what is needed of them.
struct Places {
    tables: Vec<Table>,
    /// The ids by which each table is known, the first of which stands for all.
    names: Vec<Vec<i32>>,
    /// Whether a process that has the table was asked for.
    given: Vec<bool>,
}

impl Places {
    fn new(listing: Listing, scope: &Scope, without: Option<i32>) -> Self {
        let mut tables = listing.tables;
        tables.retain(|t| !t.tasks.is_empty() && !t.tasks.iter().all(|t| Some(t.pid) == without));
        let mut tables_of: HashMap<i32, usize> = HashMap::new();
        let mut leaders = HashSet::new();
        for table in &mut tables {
            table.tasks.sort_unstable();
            let mut pids: Vec<i32> = table.tasks.iter().map(|task| task.pid).collect();
            pids.dedup();
            for pid in pids {
                *tables_of.entry(pid).or_default() += 1;
            }
            let tasks = table.tasks.iter();
            leaders.extend(tasks.filter(|t| t.tid == t.pid).map(|t| t.pid));
        }
        // A process is known by its id, and a thread that has another table by its own.
        // If the first thread has ended, the others have the table of the process.
        let names = tables.iter().map(|table| {
            let mut names: Vec<i32> = Vec::new();
            for tasks in table.tasks.chunk_by(|a, b| a.pid == b.pid) {
                let (pid, tid) = (tasks[0].pid, tasks[0].tid);
                let leads = tasks.iter().any(|task| task.tid == pid);
                let alone = !leaders.contains(&pid) && tables_of[&pid] == 1;
                names.push(if leads || alone { pid } else { tid });
            }
            names
        });
        let names = names.collect();
        let given = tables.iter().map(|table| match scope {
            Scope::All => true,
            Scope::These(pids) => {
                let mut tasks = table.tasks.iter();
                tasks.any(|t| pids.contains(&t.pid) || pids.contains(&t.tid))
            }
        });
        let given = given.collect();
        Self {
            tables,
            names,
            given,
        }
    }

    fn name(&self, table: usize) -> i32 {
        self.names[table][0]
    }

    /// A task that can be asked about the table's descriptors.
    fn task(&self, table: usize) -> i32 {
        self.tables[table].tasks[0].tid
    }

    /// The descriptors of each instance.
    fn instances(&self) -> HashMap<File, Vec<(usize, RawFd)>> {
        let mut found: HashMap<File, Vec<(usize, RawFd)>> = HashMap::new();
        for (index, table) in self.tables.iter().enumerate() {
            for &(fd, file) in &table.instances {
                found.entry(file).or_default().push((index, fd));
            }
        }
        for holders in found.values_mut() {
            holders.sort_by_key(|&(table, fd)| (!self.given[table], self.name(table), fd));
        }
        found
    }
}

/// The descriptors that have files of targets.
struct Holders<'a> {
    places: &'a Places,
    /// By file.
    hits: Vec<(File, usize, RawFd)>,
    /// The files of the tables that have instances, by descriptor.
    dense: HashMap<usize, Vec<Option<File>>>,
}

impl<'a> Holders<'a> {
    fn new(places: &'a Places, views: &[View], files: &HashSet<File>) -> Self {
        let mut hits = Vec::new();
        for (index, table) in places.tables.iter().enumerate() {
            let open = table.open.iter().filter(|(_, file)| files.contains(file));
            hits.extend(open.map(|&(fd, file)| (file, index, fd)));
        }
        hits.sort_unstable();
        let mut dense = HashMap::new();
        for &(table, _) in views.iter().flat_map(|view| &view.holders) {
            dense.entry(table).or_insert_with(|| {
                let open = &places.tables[table].open;
                let len = open.last().map_or(0, |&(fd, _)| fd as usize + 1);
                let mut files = vec![None; len];
                for &(fd, file) in open {
                    files[fd as usize] = Some(file);
                }
                files
            });
        }
        Self {
            places,
            hits,
            dense,
        }
    }

    fn file(&self, table: usize, fd: RawFd) -> Option<File> {
        *self.dense.get(&table)?.get(fd as usize)?
    }

    /// The descriptors that have a file.
    fn of(&self, file: File) -> &[(File, usize, RawFd)] {
        let from = self.hits.partition_point(|hit| hit.0 < file);
        let hits = &self.hits[from..];
        let len = hits.iter().take_while(|hit| hit.0 == file).count();
        &hits[..len]
    }

    /// Finds the owners of a target.
    fn settle(&self, candidate: &mut Candidate, homes: &[usize], search_all: bool) {
        let Some(Seen { tfd, file, .. }) = candidate.seen else {
            return;
        };
        let fd = tfd;
        let mut owner = None;
        for &table in homes {
            let pid = self.places.name(table);
            match self.file(table, tfd) {
                Some(other) if other == file => {
                    owner.get_or_insert(Descriptor { pid, fd });
                }
                Some(_) => {
                    candidate.stale_total += 1;
                    if candidate.stale_at.len() < Resolved::STALE {
                        candidate.stale_at.push(Descriptor { pid, fd });
                    }
                }
                None => {}
            }
        }
        let hits = self.of(file);
        candidate.owners_total = Some(hits.len());
        if let Some(descriptor) = owner {
            candidate.owner = Owner::Tfd(descriptor);
            candidate.tfd_state = TfdState::Target;
            return;
        }
        let stale = candidate.stale_at.first();
        let link = stale.and_then(|stale| proc::link(stale.pid, stale.fd).ok());
        candidate.tfd_state = match (stale, link) {
            (None, _) => TfdState::Closed,
            (_, Some(link)) => TfdState::Other(link),
            (Some(_), None) => TfdState::Unknown,
        };
        let mut owners: Vec<_> = hits.iter().map(|&(_, table, fd)| (table, fd)).collect();
        let given = |&(table, _): &(usize, RawFd)| self.places.given[table];
        if !search_all && owners.iter().any(given) {
            owners.retain(given);
        }
        owners.sort_by_key(|&(table, fd)| (!homes.contains(&table), self.places.name(table), fd));
        owners.truncate(OWNERS);
        let owners = owners.into_iter().map(|(table, fd)| Descriptor {
            pid: self.places.name(table),
            fd,
        });
        let owners: Vec<_> = owners.collect();
        // That nobody has it takes more than one look.
        if !owners.is_empty() {
            candidate.owner = Owner::Others(owners);
        }
    }
}

pub(super) struct ByWalk<'a> {
    scope: Scope,
    search_all: bool,
    programs: Programs,
    reader: Reader,
    kernel: Kernel<'a>,
    partial: Option<String>,
}

impl<'a> ByWalk<'a> {
    pub(super) fn new(resolver: &'a mut Resolver<'_>) -> io::Result<Self> {
        Ok(Self {
            programs: Programs::load()?,
            reader: Reader::start()?,
            search_all: resolver.searches_all(),
            scope: resolver.scope.clone(),
            kernel: Kernel::new(&mut *resolver.progress),
            partial: visible::namespace(),
        })
    }

    pub(super) fn run(mut self) -> io::Result<Report> {
        let mut places = self.list()?;
        let skipped = self.skipped(&places);
        let mut views = self.find_instances(&places);
        for round in 1..=ROUNDS {
            if round == 1 {
                let walks = self.walk(&places, &views)?;
                take(&mut views, walks, |view, walk| view.walk = Some(walk));
            }
            let shown = self.read_fdinfo(&places, &mut views);
            places = self.list()?;
            let holders = places.instances();
            views.retain_mut(|view| {
                view.holders = holders.get(&view.file).cloned().unwrap_or_default();
                // Closed meanwhile.
                !view.holders.is_empty()
            });
            let walks = self.walk(&places, &views)?;
            self.join(&places, &mut views, shown, walks);
            if views.iter().all(|view| view.settled) {
                break;
            }
        }
        self.compare_few(&places, &mut views);
        self.find_orphans(&places, &mut views)?;
        Ok(self.report(places, views, skipped))
    }

    fn list(&mut self) -> io::Result<Places> {
        let listing = self.programs.list(true)?;
        Ok(Places::new(listing, &self.scope, self.reader.pid()))
    }

    /// The processes that were asked for and have no table.
    fn skipped(&self, places: &Places) -> Vec<Skipped> {
        let mut skipped = Vec::new();
        let Scope::These(pids) = &self.scope else {
            return skipped;
        };
        let tasks = places.tables.iter().flat_map(|table| &table.tasks);
        let tasks: HashSet<i32> = tasks.flat_map(|task| [task.pid, task.tid]).collect();
        for &pid in pids.iter().filter(|pid| !tasks.contains(pid)) {
            if let Some(error) = visible::why_nothing(pid) {
                task::skip(&mut skipped, pid, error);
            }
        }
        skipped
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

    /// Walks the instances that are not settled.
    fn walk(&mut self, places: &Places, views: &[View]) -> io::Result<HashMap<File, Walk>> {
        let mut instances: HashMap<i32, Vec<File>> = HashMap::new();
        for view in views.iter().filter(|view| !view.settled) {
            // The iterator begins at the lowest descriptor.
            let Some(&(table, _)) = view.holders.iter().min_by_key(|holder| holder.1) else {
                continue;
            };
            let process = places.tables[table].tasks[0].pid;
            instances.entry(process).or_default().push(view.file);
        }
        if instances.is_empty() {
            return Ok(HashMap::new());
        }
        self.programs.walk(&instances)
    }

    /// What fdinfo shows of the instances that are not settled.
    fn read_fdinfo(&mut self, places: &Places, views: &mut [View]) -> HashMap<File, Vec<Target>> {
        let mut shown = HashMap::new();
        for view in views.iter_mut().filter(|view| !view.settled) {
            if view.unconfirmed.is_some() {
                continue;
            }
            for &(table, fd) in &view.holders {
                let path = format!("/proc/{}/fdinfo/{fd}", places.task(table));
                let content = match self.reader.read(&path) {
                    Ok(content) => content,
                    Err(error) if reader::is_held(&error) => {
                        view.unconfirmed = Some(error.to_string());
                        break;
                    }
                    // Closed, perhaps; another one may be open.
                    Err(_) => continue,
                };
                let mut targets = Targets::new(&content[..]);
                if let Ok(all) = targets.by_ref().collect() {
                    view.id = targets.id();
                    shown.insert(view.file, all);
                    break;
                }
            }
        }
        shown
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

    /// Compares targets that kept changing with what their descriptors mean.
    fn compare_few(&self, places: &Places, views: &mut [View]) {
        if kcmp::support() != Support::Epoll {
            return;
        }
        let confirmed = views.iter_mut().filter(|view| view.unconfirmed.is_none());
        let changed = confirmed.flat_map(|view| {
            let holders = &view.holders;
            let targets = view.targets.iter_mut().filter(|t| t.seen.is_none());
            targets.map(move |target| (holders, target))
        });
        for (holders, candidate) in changed.take(FEW) {
            let target = candidate.target;
            for &(table, efd) in holders {
                let (pid, fd) = (places.task(table), target.tfd);
                let slot = Slot {
                    efd,
                    tfd: target.tfd,
                    toff: target.toff,
                };
                let order = self.kernel.epoll_tfd(Descriptor { pid, fd }, pid, slot);
                if order.is_ok_and(|order| order.is_eq()) {
                    let pid = places.name(table);
                    candidate.owner = Owner::Tfd(Descriptor { pid, fd });
                    candidate.tfd_state = TfdState::Target;
                    break;
                }
            }
        }
    }

    /// Finds out which targets without an owner are orphaned.
    fn find_orphans(&mut self, places: &Places, views: &mut [View]) -> io::Result<()> {
        let is_suspect =
            |candidate: &Candidate| candidate.seen.is_some() && candidate.owner == Owner::Unknown;
        let suspects = views.iter().flat_map(|view| &view.targets);
        let suspects = suspects.filter(|c| is_suspect(c)).filter_map(|c| c.seen);
        let mut found: HashMap<File, Option<Place>> =
            suspects.map(|seen| (seen.file, None)).collect();
        if found.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        let (mut quiet, mut known, mut exiting) = (0, 0, 0);
        for _ in 0..MOST_LOOKS {
            exiting = self.programs.find(&mut found)?;
            let now = found.values().flatten().count();
            quiet = if now > known { 0 } else { quiet + 1 };
            known = now;
            let waits = exiting > 0 && begin.elapsed() < EXITING;
            if quiet >= LOOKS && !waits {
                break;
            }
        }
        let certain = quiet >= LOOKS && exiting == 0 && self.partial.is_none();

        // The addresses mean something only if the targets are still there.
        for view in &mut *views {
            view.settled = !view.targets.iter().any(is_suspect);
        }
        let mut there: HashMap<File, HashSet<_>> = HashMap::new();
        for _ in 0..ROUNDS {
            // A walk can miss one while others come and go.
            for (file, walk) in self.walk(places, views)? {
                let seen = walk.targets.iter().map(Seen::identity);
                there.entry(file).or_default().extend(seen);
            }
            let is_there = |view: &View| {
                let there = there.get(&view.file);
                let mut seen = view.targets.iter().filter(|c| is_suspect(c));
                seen.all(|c| {
                    c.seen
                        .is_some_and(|s| there.is_some_and(|t| t.contains(&s.identity())))
                })
            };
            if views.iter().filter(|view| !view.settled).all(is_there) {
                break;
            }
        }
        for view in views.iter_mut().filter(|view| !view.settled) {
            let still = there.remove(&view.file).unwrap_or_default();
            for candidate in view.targets.iter_mut().filter(|c| is_suspect(c)) {
                let Some(seen) = candidate.seen.filter(|s| still.contains(&s.identity())) else {
                    candidate.owners_total = None;
                    continue;
                };
                match found.get(&seen.file).copied().flatten() {
                    Some(Place { pid, tid, fd }) => {
                        let is_known = |pid| places.names.iter().flatten().any(|&n| n == pid);
                        let pid = if tid != pid && is_known(tid) {
                            tid
                        } else {
                            pid
                        };
                        candidate.owner = Owner::Others(vec![Descriptor { pid, fd }]);
                        candidate.owners_total = None;
                    }
                    None if certain => candidate.owner = Owner::Orphaned,
                    None => candidate.owners_total = None,
                }
            }
        }
        Ok(())
    }

    fn report(self, places: Places, views: Vec<View>, skipped: Vec<Skipped>) -> Report {
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
            skipped,
            tables: searched.len(),
            descriptors: searched.iter().sum(),
            calls: self.kernel.calls(),
            method: Method::Walk,
            partial: self.partial,
            ..Report::default()
        }
    }
}

/// Gives each view what was found for it.
fn take(views: &mut [View], mut walks: HashMap<File, Walk>, put: impl Fn(&mut View, Walk)) {
    for view in views {
        if let Some(walk) = walks.remove(&view.file) {
            put(view, walk);
        }
    }
}

/// The targets that fdinfo showed between two walks, each with what both walks saw.
///
/// Those of one tfd are in one order everywhere. A target that both walks saw was there
/// in between: if there are as many as fdinfo shows, they are these.
fn agree(
    before: &Walk,
    after: &Walk,
    shown: Option<Vec<Target>>,
    unconfirmed: bool,
) -> Vec<Candidate> {
    let same = before.targets.len() == after.targets.len()
        && before
            .targets
            .iter()
            .zip(&after.targets)
            .all(|(a, b)| a.identity() == b.identity());
    let stayed: HashSet<_> = match same {
        true => HashSet::new(),
        false => before.targets.iter().map(Seen::identity).collect(),
    };
    let mut stable: HashMap<RawFd, Vec<Option<Seen>>> = HashMap::new();
    let Some(shown) = shown else {
        // Without fdinfo: what was there twice.
        let mut toffs = HashMap::new();
        let targets = after.targets.iter().map(|seen| {
            let toff = toffs.entry(seen.tfd).or_insert(0);
            let target = Target {
                tfd: seen.tfd,
                toff: *toff,
                events: Events(seen.events),
                data: seen.data,
                pos: None,
                inode: None,
            };
            *toff += 1;
            let stayed = same || stayed.contains(&seen.identity());
            Candidate::new(target, (unconfirmed && stayed).then_some(*seen))
        });
        return targets.collect();
    };
    let alike =
        |(seen, target): (&Seen, &Target)| (seen.tfd, seen.data) == (target.tfd, target.data);
    if same && shown.len() == after.targets.len() && after.targets.iter().zip(&shown).all(alike) {
        let targets = shown.into_iter().zip(&after.targets);
        return targets
            .map(|(target, &seen)| Candidate::new(target, Some(seen)))
            .collect();
    }
    for seen in &after.targets {
        if same || stayed.contains(&seen.identity()) {
            stable.entry(seen.tfd).or_default().push(Some(*seen));
        }
    }
    let mut counts: HashMap<RawFd, usize> = HashMap::new();
    for target in &shown {
        *counts.entry(target.tfd).or_default() += 1;
    }
    let targets = shown.into_iter().map(|target| {
        let seen = stable.get(&target.tfd);
        let seen = seen.filter(|all| all.len() == counts[&target.tfd]);
        let seen = seen.and_then(|all| all[target.toff as usize]);
        // It was given other data meanwhile: another one, perhaps.
        let seen = seen.filter(|seen| seen.data == target.data);
        Candidate::new(target, seen)
    });
    targets.collect()
}

#[cfg(test)]
mod tests;
