// SPDX-License-Identifier: GPL-2.0

//! Which targets without an owner are orphaned.

use super::agree::Candidate;
use super::places::Places;
use super::programs::{File, Identity, Place, Seen};
use super::{ByWalk, View};
use crate::descriptor::Descriptor;
use crate::resolve::{Owner, ROUNDS};
use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

/// How often in a row no descriptor of a file must be found for it to be orphaned. A
/// file that is moved from one descriptor to the other can escape a single look.
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

impl ByWalk<'_> {
    /// Finds out which targets without an owner are orphaned.
    pub(super) fn find_orphans(&mut self, places: &Places, views: &mut [View]) -> io::Result<()> {
        let suspects = views.iter().flat_map(|view| &view.targets);
        let suspects = suspects.filter(|c| c.is_suspect()).filter_map(|c| c.seen);
        let mut found: HashMap<File, Option<Place>> =
            suspects.map(|seen| (seen.file, None)).collect();
        if found.is_empty() {
            return Ok(());
        }
        let certain = self.search(&mut found)?;
        // The addresses mean something only if the targets are still there.
        for view in &mut *views {
            view.settled = !view.targets.iter().any(Candidate::is_suspect);
        }
        let mut there = self.still_there(places, views)?;
        for view in views.iter_mut().filter(|view| !view.settled) {
            let still = there.remove(&view.file).unwrap_or_default();
            for candidate in view.targets.iter_mut().filter(|c| c.is_suspect()) {
                let seen = candidate.seen.filter(|s| still.contains(&s.identity()));
                let place = seen.map(|seen| found.get(&seen.file).copied().flatten());
                if certain && place == Some(None) {
                    candidate.owner = Owner::Orphaned;
                    continue;
                }
                candidate.owners_total = None;
                if let Some(Some(Place { pid, tid, fd })) = place {
                    let is_known = |pid| places.names.iter().flatten().any(|&n| n == pid);
                    let pid = if tid != pid && is_known(tid) {
                        tid
                    } else {
                        pid
                    };
                    candidate.owner = Owner::Others(vec![Descriptor { pid, fd }]);
                }
            }
        }
        Ok(())
    }

    /// Looks for descriptors of files until no more are found. Returns whether all
    /// descriptors could be seen.
    fn search(&mut self, found: &mut HashMap<File, Option<Place>>) -> io::Result<bool> {
        let begin = Instant::now();
        let (mut quiet, mut known, mut exiting) = (0, 0, 0);
        for _ in 0..MOST_LOOKS {
            exiting = self.programs.find(found)?;
            let now = found.values().flatten().count();
            quiet = if now > known { 0 } else { quiet + 1 };
            known = now;
            let waits = exiting > 0 && begin.elapsed() < EXITING;
            if quiet >= LOOKS && !waits {
                break;
            }
        }
        Ok(quiet >= LOOKS && exiting == 0 && self.partial.is_none())
    }

    /// The targets of the instances that are not settled. A walk can miss one while
    /// others come and go, so it is repeated until it has seen all suspects.
    fn still_there(
        &mut self,
        places: &Places,
        views: &[View],
    ) -> io::Result<HashMap<File, HashSet<Identity>>> {
        let mut there: HashMap<File, HashSet<Identity>> = HashMap::new();
        for _ in 0..ROUNDS {
            for (file, walk) in self.walk(places, views)? {
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
