// SPDX-License-Identifier: GPL-2.0

//! Which targets without an owner are orphaned.

use super::agree::Candidate;
use super::holders::{Finder, Held};
use super::places::Places;
use super::programs::{File, Identity, Place, Seen, Switches, TableId, Threads};
use super::{ByWalk, View};
use crate::descriptor::Descriptor;
use crate::resolve::{Owner, ROUNDS, still};
use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

/// How often descriptors are looked at in a row without finding any of a file, if processes
/// run all the time. A file that is moved from one descriptor to the other can escape a look,
/// and if it is moved as fast as they are looked at, all of them.
const LOOKS: u32 = 32;

/// How often descriptors are looked at for that at all.
const MOST_LOOKS: u32 = 256;

/// How long to wait for tasks that are giving up their descriptors.
const EXITING: Duration = Duration::from_millis(500);

impl Candidate {
    /// Whether it was there all the time, and nobody was found to have its file.
    fn is_suspect(&self) -> bool {
        self.seen.is_some() && self.owner == Owner::Unknown
    }
}

impl View {
    pub(super) fn has_suspects(&self) -> bool {
        self.targets.iter().any(Candidate::is_suspect)
    }
}

impl ByWalk<'_> {
    /// Finds out which targets without an owner are orphaned. If there are processes whose
    /// descriptors are `unseen`, one of these may be the owner.
    pub(super) fn find_orphans(
        &mut self,
        places: &Places,
        views: &mut Vec<View>,
        unseen: bool,
    ) -> io::Result<()> {
        let suspects = views.iter().flat_map(|view| &view.targets);
        let suspects = suspects.filter(|c| c.is_suspect()).filter_map(|c| c.seen);
        let mut found: HashMap<File, Option<Place>> =
            suspects.map(|seen| (seen.file, None)).collect();
        if found.is_empty() {
            return Ok(());
        }
        let was_quiet = self.search(places, &mut found)? && !unseen;
        let mut held = Held::default();
        if self.partial.is_none() && (self.wants_holders || !was_quiet) {
            // Without, there are still the owners.
            held = self.find_holders(&found, was_quiet).unwrap_or_default();
        }
        if self.wants_holders && self.partial.is_none() {
            self.holders = Some(held.is_complete);
        }
        // The addresses mean something only if the targets are still there.
        for view in views.iter_mut() {
            view.settled = !view.has_suspects();
        }
        let mut there = self.still_there(places, views)?;
        for view in views.iter_mut().filter(|view| !view.settled) {
            let still = there.remove(&view.file).unwrap_or_default();
            for candidate in view.targets.iter_mut().filter(|c| c.is_suspect()) {
                let seen = candidate.seen.filter(|s| still.contains(&s.identity()));
                let place = seen.map(|seen| found.get(&seen.file).copied().flatten());
                let proof = |seen: &Seen| was_quiet || held.alone.contains(&seen.file);
                let proven = seen.filter(|_| self.partial.is_none()).filter(proof);
                if let (Some(seen), Some(None)) = (proven, place) {
                    candidate.owner = Owner::Orphaned;
                    if self.wants_holders {
                        // Several targets can have one file.
                        let holders = held.by.get(&seen.file).cloned();
                        candidate.holders = holders.unwrap_or_default();
                    }
                    continue;
                }
                candidate.owners_total = None;
                if let Some(Some(place)) = place {
                    let Place { pid, tid, fd, .. } = place;
                    let is_known = |pid| places.names.iter().flatten().any(|&n| n == pid);
                    let is_own = tid != pid && (place.is_own || is_known(tid));
                    let pid = if is_own { tid } else { pid };
                    candidate.owner = Owner::Others(vec![Descriptor { pid, fd }]);
                }
            }
        }
        Ok(())
    }

    /// Finds what has files without a descriptor. Unless it `was_quiet`, this is repeated if
    /// something is not alone in having one: epoll_wait(2) takes a reference for a while.
    fn find_holders(
        &mut self,
        found: &HashMap<File, Option<Place>>,
        was_quiet: bool,
    ) -> io::Result<Held> {
        let mut finder = self.finder.take().map_or_else(Finder::load, Ok)?;
        let mut held = Held::default();
        let files = found.iter().filter(|(_, place)| place.is_none());
        let files: HashSet<File> = files.map(|(file, _)| *file).collect();
        for _ in 0..ROUNDS {
            let now = finder.find(&files)?;
            held.alone.extend(now.alone);
            (held.by, held.is_complete) = (now.by, now.is_complete);
            if was_quiet || held.by.keys().all(|file| held.alone.contains(file)) {
                break;
            }
        }
        Ok(held)
    }

    /// Looks for descriptors of files. Returns whether those that have none were nobody's
    /// at some moment since descriptors were listed.
    ///
    /// A table of descriptors is only changed by the threads that have it. So if none of
    /// them has run since it was listed, it is not looked at again; and if that is true
    /// of all tables at one moment, that is the moment.
    ///
    /// Nothing else is proof, however often one looks: see the test
    /// `a_file_that_is_never_where_one_looks`. If threads run all the time, it takes
    /// [`Held::alone`].
    fn search(
        &mut self,
        places: &Places,
        found: &mut HashMap<File, Option<Place>>,
    ) -> io::Result<bool> {
        let begin = Instant::now();
        // The threads of tables in which nothing was found, when they were not running.
        let mut calm: HashMap<TableId, Threads> = HashMap::new();
        let take = |calm: &mut HashMap<_, _>, tables: &[TableId], at: &Switches| {
            for &table in tables {
                let threads = at.tables.get(&table).filter(|threads| !threads.run);
                calm.extend(threads.map(|threads| (table, threads.clone())));
            }
        };
        take(&mut calm, &places.listed, &places.before.switches);
        let mut before = None;
        let (mut quiet, mut known) = (0, 0);
        for _ in 0..MOST_LOOKS {
            let now = self.moment()?;
            calm.retain(|table, threads| now.switches.tables.get(table) == Some(threads));
            let start = before.as_ref().unwrap_or(&places.before);
            let mut all = start.switches.tables.keys();
            // Otherwise a task could have had a file and handed it to a new one.
            let none_new = start.newest.is_some() && start.newest == still::newest_task();
            let exiting = now.switches.exiting > 0;
            if none_new && !exiting && all.all(|table| calm.contains_key(table)) {
                return Ok(true);
            }
            let waits = exiting && begin.elapsed() < EXITING;
            if quiet >= LOOKS && !waits {
                return Ok(false);
            }
            let tables = now.switches.tables.keys().copied();
            let others: Vec<_> = tables.filter(|table| !calm.contains_key(table)).collect();
            self.programs.find(found, &others)?;
            let seen = found.values().flatten().count();
            quiet = if seen > known { 0 } else { quiet + 1 };
            known = seen;
            take(&mut calm, &others, &now.switches);
            before = Some(now);
        }
        Ok(false)
    }

    /// The targets of the instances that are not settled. A walk can miss one while
    /// others come and go, so it is repeated until it has seen all suspects.
    fn still_there(
        &mut self,
        places: &Places,
        views: &mut Vec<View>,
    ) -> io::Result<HashMap<File, HashSet<Identity>>> {
        let mut there: HashMap<File, HashSet<Identity>> = HashMap::new();
        for _ in 0..ROUNDS {
            for (file, walk) in self.read_lists(places, views)?.walks {
                let seen = walk.targets.iter().map(Seen::identity);
                there.entry(file).or_default().extend(seen);
            }
            let mut views = views.iter().filter(|view| !view.settled);
            let all = views.all(|view| {
                let there = there.get(&view.file);
                let mut suspects = view.targets.iter().filter(|c| c.is_suspect());
                let is_there = |seen: Seen| there.is_some_and(|t| t.contains(&seen.identity()));
                suspects.all(|c| c.seen.is_some_and(is_there))
            });
            if all {
                break;
            }
        }
        Ok(there)
    }
}
