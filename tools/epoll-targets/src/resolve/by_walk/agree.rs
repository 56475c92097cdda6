// SPDX-License-Identifier: GPL-2.0

//! What two walks of an interest list and its fdinfo say together.

use super::programs::{Seen, Walk};
use crate::descriptor::Descriptor;
use crate::fdinfo::{Events, Target};
use crate::holder::Holder;
use crate::resolve::{Owner, Resolved, TfdState};
use std::collections::{HashMap, HashSet};
use std::os::fd::RawFd;

/// A target, and what was found for it.
pub(super) struct Candidate {
    pub(super) target: Target,
    /// `None` if it changed.
    pub(super) seen: Option<Seen>,
    pub(super) owner: Owner,
    pub(super) owners_total: Option<usize>,
    pub(super) tfd_state: TfdState,
    pub(super) stale_at: Vec<Descriptor>,
    pub(super) stale_total: usize,
    pub(super) holders: Vec<Holder>,
}

impl Candidate {
    pub(super) fn new(target: Target, seen: Option<Seen>) -> Self {
        Self {
            target,
            seen,
            owner: Owner::Unknown,
            owners_total: None,
            tfd_state: TfdState::Unknown,
            stale_at: Vec::new(),
            stale_total: 0,
            holders: Vec::new(),
        }
    }

    pub(super) fn done(self) -> Resolved {
        Resolved {
            target: self.target,
            changed: self.seen.is_none(),
            on_ready_list: self.seen.and_then(|seen| seen.ready),
            owner: self.owner,
            tfd_state: self.tfd_state,
            owners_total: self.owners_total,
            stale_at: self.stale_at,
            stale_total: self.stale_total,
            guessed: false,
            holders: self.holders,
        }
    }
}

/// The targets that fdinfo showed between two walks, each with what both walks saw.
///
/// Those of one tfd are in one order everywhere. A target that both walks saw was there
/// in between: if there are as many as fdinfo shows, they are these.
///
/// Events are not compared. They do not tell targets apart: EPOLL_CTL_MOD changes them, as
/// servers do that wait to write only at times, and with `EPOLLONESHOT` so does each event
/// that is reported. A target would seem to be another one whenever that happened. What is
/// shown is what fdinfo says.
pub(super) fn agree(
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
