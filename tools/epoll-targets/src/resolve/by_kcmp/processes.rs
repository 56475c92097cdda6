// SPDX-License-Identifier: GPL-2.0

//! The descriptors of the processes.

use super::ByKcmp;
use crate::descriptor::Descriptor;
use crate::order::{self, File, Found};
use crate::proc;
use crate::resolve::tables::Table;
use crate::resolve::{task, visible};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::RawFd;

/// The descriptors of a table and their links in `/proc`.
type Links = BTreeMap<RawFd, OsString>;

/// The content of a descriptor table.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) links: Links,
    /// Its files in the order of kcmp(2), once that was needed.
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
pub(super) fn list(pid: i32) -> io::Result<Links> {
    let mut links = Links::new();
    for fd in proc::fds(pid)? {
        match proc::link(pid, fd) {
            Ok(mut link) => {
                // It has the inode of a socket, which is another file.
                if proc::is_socket(&link) && proc::is_path_only(pid, fd) {
                    link.push(" (O_PATH)");
                }
                links.insert(fd, link);
            }
            // Closed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(links)
}

/// Whether an error means that a process has ended. If it ends while its links are read,
/// the kernel says that they may not be.
fn has_ended(pid: i32, error: &io::Error) -> bool {
    visible::is_ended(error) || visible::why_nothing(pid).is_some()
}

impl ByKcmp<'_> {
    /// Lists the descriptors of processes that have not been listed.
    ///
    /// `quiet`: a process that does not exist, or has ended, is not reported as skipped.
    pub(super) fn load(&mut self, pids: Vec<i32>, quiet: bool) -> io::Result<()> {
        let pids: BTreeSet<i32> = pids.into_iter().collect();
        let skipped: HashSet<i32> = self.skipped.iter().map(|s| s.pid).collect();
        for pid in pids {
            if self.tables.of(pid).is_some() || skipped.contains(&pid) {
                continue;
            }
            match self.load_one(pid) {
                Ok(()) => {}
                Err(error) if quiet && has_ended(pid, &error) => {}
                Err(error) => task::skip(&mut self.skipped, pid, error),
            }
        }
        Ok(())
    }

    pub(super) fn load_all(&mut self) -> io::Result<()> {
        self.searched_all = true;
        let mut pids = proc::pids()?;
        // A process that has ended is left out when it is listed.
        pids.retain(|&pid| !proc::is_kernel_thread(pid).unwrap_or(false));
        self.load(pids, true)
    }

    /// Lists the descriptors of a process, and those of its threads that have others.
    fn load_one(&mut self, pid: i32) -> io::Result<()> {
        if proc::tgid(pid)? != pid {
            return self.load_table(pid);
        }
        if let Some(tid) = proc::heir(pid) {
            if self.tables.of(tid).is_some() {
                return Ok(());
            }
            // Only if all have one table, that is the table of the process.
            let tasks = proc::tasks(pid).unwrap_or_default().into_iter();
            let mut others = tasks.filter(|&other| other != pid && other != tid);
            if others.any(|other| self.differ(tid, other)) {
                self.load_table(tid)?;
                self.load_threads(tid, Some(pid));
                return Ok(());
            }
            self.kernel.inherit(pid, tid);
        } else if let Some(error) = visible::why_nothing(pid) {
            return Err(error);
        }
        self.load_table(pid)?;
        self.load_threads(pid, None);
        Ok(())
    }

    /// Whether two tasks have different tables.
    fn differ(&self, one: i32, other: i32) -> bool {
        let order = self.kernel.compare_tables(one, other);
        order.is_ok_and(Ordering::is_ne)
    }

    /// Whether two tasks have one table.
    fn share(&self, one: i32, other: i32) -> bool {
        let order = self.kernel.compare_tables(one, other);
        order.is_ok_and(Ordering::is_eq)
    }

    /// Lists the descriptors of threads that have another table than this one, but for the
    /// first thread if that has ended. Of several that share such a table, the first names it.
    fn load_threads(&mut self, pid: i32, ended: Option<i32>) {
        let first = self.kernel.task(pid);
        let tasks = proc::tasks(pid).unwrap_or_default().into_iter();
        let mut named = Vec::new();
        for tid in tasks.filter(|&tid| tid != pid && tid != first && Some(tid) != ended) {
            if self.tables.of(tid).is_none() {
                if !self.differ(pid, tid) || named.iter().any(|&one| self.share(one, tid)) {
                    continue;
                }
                // It can end at any time.
                let _ = self.load_table(tid);
            }
            named.push(tid);
        }
    }

    fn load_table(&mut self, pid: i32) -> io::Result<()> {
        let links = list(self.kernel.task(pid))?;
        // kcmp(2) needs more than read access to /proc. Without this check, descriptors
        // that may not be compared would look closed.
        self.kernel.may_compare(pid)?;

        // A shared table looks the same in each process, unless it changes meanwhile:
        // then its descriptors are named twice.
        let mut hasher = DefaultHasher::new();
        links.hash(&mut hasher);
        let alike = self.alike.entry(hasher.finish()).or_default();
        let compare = |&number: &usize| {
            let twin = self.tables[number].pid();
            let order = self.kernel.compare_tables(twin, pid);
            // It has ended: either side will do.
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

    /// Finds other processes that have these instances, which are in the order of
    /// kcmp(2), and lists their descriptors.
    pub(super) fn find_holders(&mut self, instances: &mut [File]) -> io::Result<()> {
        let mut found = Vec::new();
        let mut files = instances.to_vec();
        for pid in proc::pids()? {
            if self.tables.of(pid).is_some() {
                continue;
            }
            let task = proc::heir(pid).unwrap_or(pid);
            if self.tables.of(task).is_some() {
                continue;
            }
            // If it may not be looked into, it will be in the report.
            for fd in proc::epoll_fds(task).unwrap_or_default() {
                let descriptor = Descriptor { pid: task, fd };
                let probe = |of_instance| Ok(self.kernel.files(of_instance, descriptor).ok());
                if let Found::At(index) = order::search(&mut files, probe)? {
                    let first = files[index].first().copied();
                    found.push((first, [pid, task], fd));
                }
            }
        }
        for (first, [pid, task], fd) in found {
            self.load(vec![pid], true)?;
            // By the thread, if others of the process have other tables.
            let mut names = [pid, task].into_iter();
            let name = names.find(|&name| self.tables.of(name).is_some());
            let mut instances = instances.iter_mut();
            let instance = instances.find(|i| first.is_some_and(|first| i.contains(&first)));
            if let (Some(instance), Some(pid)) = (instance, name) {
                instance.push(Descriptor { pid, fd });
            }
        }
        Ok(())
    }

    /// Lists the descriptors of all processes again. Returns them, and the links of those
    /// that were opened, closed or replaced.
    pub(super) fn reload(&mut self) -> io::Result<(HashSet<Descriptor>, HashSet<OsString>)> {
        let mut now = HashSet::new();
        let mut changed = HashSet::new();
        for table in self.tables.iter_mut() {
            let links = loop {
                let pid = table.pid();
                match list(self.kernel.task(pid)) {
                    Ok(links) => break links,
                    // Other processes still have the table.
                    Err(_) if table.pids.len() > 1 => drop(table.pids.remove(0)),
                    Err(error) => {
                        if !has_ended(pid, &error) {
                            task::skip(&mut self.skipped, pid, error);
                        }
                        break Links::new();
                    }
                }
            };
            let before = &table.open.links;
            let differ = |a: &Links, b: &Links| {
                let of_a = a.iter().filter(|(fd, link)| b.get(fd) != Some(link));
                of_a.map(|(_, link)| link.clone()).collect::<Vec<_>>()
            };
            changed.extend(differ(before, &links));
            changed.extend(differ(&links, before));
            table.open.links = links;
            now.extend(table.descriptors());
        }
        let pool = self.pool.take();
        let known = self.tables.len();
        let pids: Vec<i32> = self.tables.iter().flat_map(|t| t.pids.clone()).collect();
        for pid in pids {
            // One that has ended has another table as well: none.
            let ended = proc::tgid(pid)
                .ok()
                .filter(|&first| proc::heir(first).is_some());
            self.load_threads(pid, ended);
        }
        self.load_all()?;
        self.pool = pool;
        let new = self.tables.iter().skip(known);
        now.extend(new.clone().flat_map(Table::descriptors));
        changed.extend(new.flat_map(|table| table.open.links.values().cloned()));
        Ok((now, changed))
    }
}
