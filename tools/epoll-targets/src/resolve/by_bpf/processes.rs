// SPDX-License-Identifier: GPL-2.0

//! The descriptors of the processes.

use super::ByBpf;
use super::programs::Open;
use crate::proc::{self, is_no_process};
use crate::resolve::tables::Tables;
use crate::resolve::{Scope, task};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;

impl ByBpf<'_> {
    /// Whether a process may be looked into. BPF does not ask, so we do.
    fn check(&self, pid: i32) -> io::Result<()> {
        fs::read_dir(format!("/proc/{pid}/fd"))?;
        self.kernel.may_compare(pid)
    }

    /// Lists the descriptors of these processes.
    ///
    /// `quiet`: one that does not exist any more is no reason to say so.
    pub(super) fn list(
        &mut self,
        pids: Vec<i32>,
        quiet: bool,
    ) -> io::Result<BTreeMap<i32, Vec<Open>>> {
        let pids: BTreeSet<i32> = pids.into_iter().collect();
        let mut open = BTreeMap::new();
        for pid in pids {
            match self.check(pid) {
                Ok(()) => {
                    open.insert(pid, self.programs.descriptors(Some(pid))?);
                }
                Err(error) if quiet && is_no_process(&error) => {}
                Err(error) => task::skip(&mut self.skipped, pid, error),
            }
        }
        Ok(open)
    }

    /// Lists the descriptors of all processes.
    pub(super) fn list_all(&mut self) -> io::Result<BTreeMap<i32, Vec<Open>>> {
        let mut open: BTreeMap<i32, Vec<Open>> = BTreeMap::new();
        for descriptor in self.programs.descriptors(None)? {
            open.entry(descriptor.pid).or_default().push(descriptor);
        }
        // Those that have none are listed all the same, if they may be.
        for pid in proc::pids()? {
            // One that has gone is sorted out by what follows.
            if !proc::is_kernel_thread(pid).unwrap_or(false) {
                open.entry(pid).or_default();
            }
        }
        let pids: Vec<i32> = open.keys().copied().collect();
        for pid in pids {
            if let Err(error) = self.check(pid) {
                open.remove(&pid);
                if !is_no_process(&error) {
                    task::skip(&mut self.skipped, pid, error);
                }
            }
        }
        self.listed_all = true;
        Ok(open)
    }

    pub(super) fn list_again(&mut self) -> io::Result<()> {
        let mut named = match &self.scope {
            Scope::These(pids) => pids.clone(),
            Scope::All => Vec::new(),
        };
        let mut open = BTreeMap::new();
        if self.search_all {
            // Threads are not among all processes, but can have been named.
            let processes = proc::pids()?;
            named.retain(|pid| processes.binary_search(pid).is_err());
            open = self.list_all()?;
        }
        open.extend(self.list(named, true)?);

        // Those that shared a table need not do so any more, or may have ended.
        let before = std::mem::take(&mut self.tables);
        self.take_in(open);
        for set in &mut self.instances {
            for descriptor in &mut set.watched.descriptors {
                if self.tables.of(descriptor.pid).is_some() {
                    continue;
                }
                let table = before.iter().find(|t| t.pids.contains(&descriptor.pid));
                let mut heirs = table.iter().flat_map(|table| &table.pids);
                if let Some(heir) = heirs.find(|pid| self.tables.of(**pid).is_some()) {
                    descriptor.pid = *heir;
                }
            }
            set.watched.find_homes(&self.tables);
        }
        Ok(())
    }

    /// Whether this is one of the processes whose sets are looked at.
    fn is_named(&self, pid: i32) -> bool {
        match &self.scope {
            Scope::These(pids) => pids.contains(&pid),
            Scope::All => true,
        }
    }

    /// Puts all descriptors into their tables: those of the processes that were
    /// named first.
    pub(super) fn take_in(&mut self, open: BTreeMap<i32, Vec<Open>>) {
        self.tables = Tables::default();
        // By the number of the table.
        let mut last = HashMap::new();
        let (near, far): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|(pid, _)| self.is_named(*pid));
        for (pid, open) in near {
            self.take_in_one(pid, open, &mut last);
        }
        self.near = self.tables.len();
        for (pid, open) in far {
            self.take_in_one(pid, open, &mut last);
        }
    }

    fn take_in_one(&mut self, pid: i32, open: Vec<Open>, last: &mut HashMap<u32, usize>) {
        let number = open.first().map(|descriptor| descriptor.table);
        let twin = number.and_then(|number| last.get(&number).copied());
        // The number alone could be that of one that has gone.
        let twin = twin.filter(|&twin| {
            let order = self.kernel.compare_tables(self.tables[twin].pid(), pid);
            order.is_ok_and(Ordering::is_eq)
        });
        let table = match twin {
            Some(twin) => {
                self.tables.share(twin, pid);
                twin
            }
            None => self.tables.add(pid, open),
        };
        if let Some(number) = number {
            last.insert(number, table);
        }
    }
}
