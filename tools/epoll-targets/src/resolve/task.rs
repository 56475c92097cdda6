// SPDX-License-Identifier: GPL-2.0

//! Epoll instances and targets while they are resolved.

use super::tables::Tables;
use super::{Instance, Owner, Report, Resolved, Skipped, TfdState};
use crate::descriptor::Descriptor;
use crate::fdinfo::Target;
use std::io;

/// An epoll instance while its targets are resolved.
pub(super) struct Watched {
    /// Its descriptors, the one that is used first.
    pub(super) descriptors: Vec<Descriptor>,
    /// The tables that these are in.
    pub(super) homes: Vec<usize>,
    /// Its id, once it was read, if the kernel has one.
    pub(super) id: Option<u64>,
    /// Why it cannot be read.
    pub(super) gone: Option<io::Error>,
}

impl Watched {
    /// Instances by their descriptors.
    pub(super) fn all<D>(mut instances: Vec<Vec<Descriptor>>, tables: &Tables<D>) -> Vec<Self> {
        for descriptors in &mut instances {
            descriptors.sort_unstable();
        }
        instances.sort_unstable();
        let watched = instances.into_iter().map(|descriptors| {
            let mut watched = Self {
                descriptors,
                homes: Vec::new(),
                id: None,
                gone: None,
            };
            watched.find_homes(tables);
            watched
        });
        watched.collect()
    }

    /// Finds out which tables its descriptors are in, among those listed now.
    pub(super) fn find_homes<D>(&mut self, tables: &Tables<D>) {
        let homes = self.descriptors.iter().map(|d| tables.of(d.pid));
        self.homes = homes.flatten().collect();
        self.homes.dedup();
    }
}

/// A target while it is resolved.
#[derive(Clone)]
pub(super) struct Task {
    /// The index of its instance.
    pub(super) instance: usize,
    pub(super) target: Target,
    /// `None` as long as it is not known.
    pub(super) owner: Option<Owner>,
    pub(super) tfd_state: TfdState,
    /// See [`Resolved`].
    pub(super) owners_total: Option<usize>,
    pub(super) stale_at: Vec<Descriptor>,
}

impl Task {
    pub(super) fn new(instance: usize, target: Target) -> Self {
        Self {
            instance,
            target,
            owner: None,
            tfd_state: TfdState::Closed,
            owners_total: None,
            stale_at: Vec::new(),
        }
    }

    pub(super) fn done(mut self, changed: bool) -> Resolved {
        let stale_total = self.stale_at.len();
        self.stale_at.truncate(Resolved::STALE);
        let owners_total = match self.owner {
            Some(Owner::Orphaned) => Some(0),
            _ => self.owners_total,
        };
        Resolved {
            target: self.target,
            owner: self.owner.unwrap_or(Owner::Unknown),
            tfd_state: self.tfd_state,
            owners_total,
            stale_at: self.stale_at,
            stale_total,
            changed,
            on_ready_list: None,
            guessed: false,
            holders: Vec::new(),
        }
    }
}

/// Notes once that a process cannot be inspected.
pub(super) fn skip(skipped: &mut Vec<Skipped>, pid: i32, error: io::Error) {
    let efd = None;
    if !skipped.iter().any(|s| s.pid == pid && s.efd.is_none()) {
        skipped.push(Skipped { pid, efd, error });
    }
}

/// Reports instances and their targets, or that they could not be read.
pub(super) fn report(
    watched: impl IntoIterator<Item = (Watched, Vec<Resolved>)>,
    mut skipped: Vec<Skipped>,
) -> Report {
    let mut report = Report::default();
    for (watched, targets) in watched {
        let Descriptor { pid, fd: efd } = watched.descriptors[0];
        if let Some(error) = watched.gone {
            let efd = Some(efd);
            skipped.push(Skipped { pid, efd, error });
            continue;
        }
        report.instances.push(Instance {
            pid,
            efd,
            id: watched.id,
            also: watched.descriptors[1..].to_vec(),
            targets,
            unconfirmed: None,
        });
    }
    Report { skipped, ..report }
}
