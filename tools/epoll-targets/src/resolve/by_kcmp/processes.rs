// SPDX-License-Identifier: GPL-2.0

//! The descriptors of the processes.

use super::ByKcmp;
use crate::descriptor::Descriptor;
use crate::order::File;
use crate::proc::{self, is_no_process};
use crate::resolve::tables::Table;
use crate::resolve::task;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::RawFd;

/// Each descriptor of a table, with what its link says.
type Links = BTreeMap<RawFd, OsString>;

/// What is known of a table of descriptors.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) links: Links,
    /// Its files in their order, once that was needed.
    pub(super) sorted: Option<Vec<File>>,
}

impl Table<Listed> {
    pub(super) fn descriptors(&self) -> impl Iterator<Item = Descriptor> {
        let pid = self.pid();
        self.open
            .links
            .keys()
            .map(move |&fd| Descriptor { pid, fd })
    }
}

/// Lists the descriptors of a process.
fn list(pid: i32) -> io::Result<Links> {
    let mut links = Links::new();
    for fd in proc::fds(pid)? {
        match proc::link(pid, fd) {
            Ok(link) => drop(links.insert(fd, link)),
            // Closed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(links)
}

impl ByKcmp<'_> {
    /// Lists the descriptors of processes that have not been listed.
    ///
    /// `quiet`: one that does not exist any more is no reason to say so.
    pub(super) fn load(&mut self, pids: Vec<i32>, quiet: bool) -> io::Result<()> {
        let pids: BTreeSet<i32> = pids.into_iter().collect();
        let skipped: HashSet<i32> = self.skipped.iter().map(|s| s.pid).collect();
        for pid in pids {
            if self.tables.of(pid).is_some() || skipped.contains(&pid) {
                continue;
            }
            match self.load_one(pid) {
                Ok(()) => {}
                Err(error) if quiet && is_no_process(&error) => {}
                Err(error) => task::skip(&mut self.skipped, pid, error),
            }
        }
        Ok(())
    }

    pub(super) fn load_all(&mut self) -> io::Result<()> {
        self.searched_all = true;
        let mut pids = proc::pids()?;
        // One that has gone is sorted out when it is listed.
        pids.retain(|&pid| !proc::is_kernel_thread(pid).unwrap_or(false));
        self.load(pids, true)
    }

    fn load_one(&mut self, pid: i32) -> io::Result<()> {
        let links = list(pid)?;
        // What /proc shows is not all that kcmp(2) asks for. Without this,
        // descriptors that may not be compared would look as if they had gone.
        self.kernel.may_compare(pid)?;

        // Tables that are one look the same, unless they change at that time:
        // then its owners are told twice.
        let mut hasher = DefaultHasher::new();
        links.hash(&mut hasher);
        let alike = self.alike.entry(hasher.finish()).or_default();
        let compare = |&number: &usize| {
            let twin = self.tables[number].pid();
            let order = self.kernel.compare_tables(twin, pid);
            // It has gone: one side is as good as the other.
            order.unwrap_or(Ordering::Less)
        };
        match alike.binary_search_by(compare) {
            Ok(place) => {
                self.tables.share(alike[place], pid);
                return Ok(());
            }
            Err(place) => alike.insert(place, self.tables.len()),
        }
        for (&fd, link) in &links {
            if let Some(inode) = proc::linked_inode(link) {
                let of_inode = self.by_inode.entry(inode).or_default();
                of_inode.push(Descriptor { pid, fd });
            }
        }
        let sorted = None;
        self.tables.add(pid, Listed { links, sorted });
        self.pool = None;
        Ok(())
    }

    /// Lists the descriptors of all processes anew. Returns whether what is there
    /// looks as it did before, too.
    pub(super) fn reload(&mut self) -> io::Result<(HashSet<Descriptor>, bool)> {
        let mut now = HashSet::new();
        let mut unchanged = true;
        for table in self.tables.iter_mut() {
            let links = loop {
                let pid = table.pid();
                match list(pid) {
                    Ok(links) => break links,
                    // Others have the table still.
                    Err(_) if table.pids.len() > 1 => drop(table.pids.remove(0)),
                    Err(error) => {
                        if !is_no_process(&error) {
                            task::skip(&mut self.skipped, pid, error);
                        }
                        break Links::new();
                    }
                }
            };
            unchanged &= table.open.links == links;
            table.open.links = links;
            now.extend(table.descriptors());
        }
        if self.search_all {
            let pool = self.pool.take();
            let known = self.tables.len();
            self.load_all()?;
            self.pool = pool;
            now.extend(self.tables.iter().skip(known).flat_map(Table::descriptors));
        }
        Ok((now, unchanged))
    }
}
