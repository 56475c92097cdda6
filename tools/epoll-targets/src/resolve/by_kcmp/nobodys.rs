// SPDX-License-Identifier: GPL-2.0

//! The proof that nobody has a file.
//!
//! kcmp(2) looks at one descriptor at a time, so that a file that is always open can
//! escape it. It cannot if no process has run: then each has had, all the time, the
//! descriptors that were compared.

use super::ByKcmp;
use super::ask::Failure;
use super::kinds::Kind;
use super::processes::list;
use crate::descriptor::Descriptor;
use crate::order::{self, File};
use crate::proc;
use crate::resolve::still::{self, Still};
use crate::resolve::task::Task;
use crate::resolve::{OWNERS, Owner};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

/// How long to wait for a time in which no process runs.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many descriptors are compared one by one, rather than sorted.
const FEW: usize = 4;

/// Descriptors by the kinds of their links.
#[derive(Default)]
struct Candidates {
    sockets: HashMap<u64, Vec<Descriptor>>,
    pipes: HashMap<u64, Vec<Descriptor>>,
    anonymous: Sorted,
    others: Sorted,
}

/// Descriptors, and their files in the order of kcmp(2) once that was needed.
#[derive(Default)]
struct Sorted {
    all: Vec<Descriptor>,
    files: Option<Vec<File>>,
}

impl Candidates {
    fn add(&mut self, descriptor: Descriptor, link: &OsStr) {
        let bytes = link.as_bytes();
        match proc::linked_inode(link) {
            Some(ino) if bytes.starts_with(b"socket:[") => {
                self.sockets.entry(ino).or_default().push(descriptor);
            }
            Some(ino) => self.pipes.entry(ino).or_default().push(descriptor),
            None if bytes.starts_with(b"anon_inode:") => self.anonymous.all.push(descriptor),
            None => self.others.all.push(descriptor),
        }
    }
}

impl ByKcmp<'_> {
    /// Finds out whether the files of these targets are nobody's. The others keep an
    /// owner that is not known, or get the one that was found.
    pub(super) fn find_nobodys(&mut self, suspects: &mut Vec<&mut Task>) -> io::Result<()> {
        let until = *self
            .patience
            .get_or_insert_with(|| Instant::now() + PATIENCE);
        // Those that have not run since they were found to have none of the files.
        let mut quiet: HashMap<i32, Still> = HashMap::new();
        loop {
            let newest = still::newest_task();
            let pids = still::processes()?;
            for &pid in &pids {
                if quiet.contains_key(&pid) {
                    continue;
                }
                let Some(still) = still::still(pid) else {
                    continue;
                };
                if self.compare_process(pid, suspects)? {
                    quiet.insert(pid, still);
                }
            }
            suspects.retain(|task| task.owner.is_none());
            if suspects.is_empty() {
                return Ok(());
            }
            // At this moment, the processes that are quiet have none of the files, and
            // if there is no new one, there are no others.
            quiet.retain(|&pid, before| still::still(pid).as_ref() == Some(before));
            let is_all = pids.iter().all(|pid| quiet.contains_key(pid));
            if is_all && newest.is_some() && newest == still::newest_task() {
                for task in suspects {
                    task.owner = Some(Owner::Orphaned);
                }
                return Ok(());
            }
            if Instant::now() >= until {
                return Ok(());
            }
            // Others may have something to finish.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Compares targets with the descriptors of a process. Returns whether all could be
    /// seen.
    fn compare_process(&mut self, pid: i32, suspects: &mut [&mut Task]) -> io::Result<bool> {
        let Ok(tasks) = proc::tasks(pid) else {
            return Ok(false);
        };
        if let Some(tid) = proc::heir(pid) {
            self.kernel.inherit(pid, tid);
        }
        let first = self.kernel.task(pid);
        let mut tables = vec![pid];
        for tid in tasks.into_iter().filter(|&tid| tid != first && tid != pid) {
            match self.kernel.compare_tables(pid, tid) {
                Ok(Ordering::Equal) => {}
                Ok(_) => tables.push(tid),
                Err(_) => return Ok(false),
            }
        }
        for pid in tables {
            // Otherwise its descriptors would seem to be closed.
            if self.kernel.may_compare(pid).is_err() {
                return Ok(false);
            }
            let Ok(links) = list(self.kernel.task(pid)) else {
                return Ok(false);
            };
            let mut candidates = Candidates::default();
            for (&fd, link) in &links {
                candidates.add(Descriptor { pid, fd }, link);
            }
            for task in &mut *suspects {
                self.step(task, |this, task| this.compare_table(task, &mut candidates))?;
            }
        }
        Ok(true)
    }

    /// Compares a target with the descriptors of a table that can be it.
    fn compare_table(&self, task: &mut Task, candidates: &mut Candidates) -> Result<(), Failure> {
        if task.owner.is_some() {
            return Ok(());
        }
        match self.kinds.of(&task.target) {
            // The inode says it all.
            Kind::Socket(ino) => {
                let owners = candidates.sockets.get(&ino);
                let owners = owners.map(|all| all.iter().take(OWNERS).copied().collect());
                task.owner = owners.map(Owner::Others);
                Ok(())
            }
            Kind::Pipe(ino) => {
                let ends = candidates.pipes.get(&ino);
                self.ask_each(task, ends.map_or(&[], Vec::as_slice))
            }
            Kind::Anonymous => self.compare_sorted(task, &mut candidates.anonymous),
            Kind::Other => {
                self.compare_sorted(task, &mut candidates.anonymous)?;
                self.compare_sorted(task, &mut candidates.others)
            }
            Kind::Unknown => {
                let Candidates { sockets, pipes, .. } = candidates;
                for some in sockets.values().chain(pipes.values()) {
                    self.ask_each(task, some)?;
                }
                self.compare_sorted(task, &mut candidates.anonymous)?;
                self.compare_sorted(task, &mut candidates.others)
            }
        }
    }

    fn compare_sorted(&self, task: &mut Task, among: &mut Sorted) -> Result<(), Failure> {
        if among.all.len() <= FEW {
            return self.ask_each(task, &among.all);
        }
        if task.owner.is_some() {
            return Ok(());
        }
        let files = match &mut among.files {
            Some(files) => files,
            none => {
                let compare = |a, b| self.kernel.files(a, b);
                none.insert(order::sort(among.all.iter().copied(), &compare)?)
            }
        };
        self.search(task, files)?;
        // Other processes may have it as well.
        task.owners_total = None;
        Ok(())
    }
}
