// SPDX-License-Identifier: GPL-2.0

//! The descriptors of all tasks, and who has the files of targets.

use super::agree::Candidate;
use super::programs::{File, Listing, Seen, Switches, Table, TableId};
use super::{OWNERS, View};
use crate::descriptor::Descriptor;
use crate::proc;
use crate::resolve::{Owner, Resolved, Scope, TfdState};
use std::collections::{HashMap, HashSet};
use std::os::fd::RawFd;

/// The threads, and the newest of them, at some time.
pub(super) struct Moment {
    pub(super) newest: Option<u64>,
    pub(super) switches: Switches,
}

/// The tables of a listing, by number, with what is needed of them.
pub(super) struct Places {
    /// What was there before the listing.
    pub(super) before: Moment,
    /// All tables that were listed.
    pub(super) listed: Vec<TableId>,
    pub(super) tables: Vec<Table>,
    /// The ids by which each table is known, the first of which stands for all.
    pub(super) names: Vec<Vec<i32>>,
    /// Whether a process that has the table was asked for.
    pub(super) given: Vec<bool>,
    /// A process that helps to read, and is left out.
    pub(super) reader: Option<i32>,
}

impl Places {
    pub(super) fn new(
        before: Moment,
        listing: Listing,
        scope: &Scope,
        without: Option<i32>,
    ) -> Self {
        let mut tables = listing.tables;
        let listed = tables.iter().map(|table| table.id).collect();
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
            before,
            listed,
            tables,
            names,
            given,
            reader: without,
        }
    }

    pub(super) fn name(&self, table: usize) -> i32 {
        self.names[table][0]
    }

    /// A task that can be asked about the table's descriptors.
    pub(super) fn task(&self, table: usize) -> i32 {
        self.tables[table].tasks[0].tid
    }

    /// The descriptors of each instance.
    pub(super) fn instances(&self) -> HashMap<File, Vec<(usize, RawFd)>> {
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
pub(super) struct Holders<'a> {
    places: &'a Places,
    /// By file.
    hits: Vec<(File, usize, RawFd)>,
    /// The files of the tables that have instances, by descriptor.
    dense: HashMap<usize, Vec<Option<File>>>,
}

impl<'a> Holders<'a> {
    pub(super) fn new(places: &'a Places, views: &[View], files: &HashSet<File>) -> Self {
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
    pub(super) fn settle(&self, candidate: &mut Candidate, homes: &[usize], search_all: bool) {
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
        // Each process that has the table has the descriptor.
        let names = |table: usize| &self.places.names[table];
        candidate.owners_total = Some(hits.iter().map(|&(_, t, _)| names(t).len()).sum());
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
        let owners = owners.into_iter().flat_map(|(table, fd)| {
            let names = names(table).iter();
            names.map(move |&pid| Descriptor { pid, fd })
        });
        let owners: Vec<_> = owners.take(OWNERS).collect();
        // That nobody has it takes more than one look.
        if !owners.is_empty() {
            candidate.owner = Owner::Others(owners);
        }
    }
}
