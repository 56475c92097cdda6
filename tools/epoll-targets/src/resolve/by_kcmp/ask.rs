// SPDX-License-Identifier: GPL-2.0

//! Asking the kernel about a target.

use super::ByKcmp;
use crate::descriptor::Descriptor;
use crate::kcmp::Slot;
use crate::order::{self, File, Found};
use crate::proc;
use crate::resolve::task::Task;
use crate::resolve::{HINTS, OWNERS, Owner, TfdState};
use std::cmp::Ordering;
use std::io;
use std::os::fd::RawFd;

/// Why a target could not be asked about.
pub(super) enum Failure {
    /// It, or its set, has gone.
    Gone,
    Error(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::EBADF | libc::EINVAL | libc::ESRCH | libc::EPERM) => {
                Self::Gone
            }
            _ => Self::Error(error),
        }
    }
}

impl ByKcmp<'_> {
    /// Asks about what the processes of the set have.
    pub(super) fn near(&mut self, task: &mut Task) -> Result<(), Failure> {
        self.ask_tfd(task)?;
        self.ask_hints(task, 0)?;
        if task.owner.is_some() {
            return Ok(());
        }
        // Others that have inherited the set come with all the rest.
        let home = self.instances[task.instance].homes[0];
        let mut files = match self.tables[home].open.sorted.take() {
            Some(files) => files,
            None => {
                let table = &self.tables[home];
                let compare = |a, b| self.kernel.files(a, b);
                let sort = || order::sort(table.descriptors(), &compare);
                self.kernel.sorting(table.open.links.len(), sort)?
            }
        };
        let found = self.search(task, &mut files);
        self.tables[home].open.sorted = Some(files);
        found
    }

    /// Whether this process has the instance of a target.
    fn is_home(&self, task: &Task, pid: i32) -> bool {
        let homes = &self.instances[task.instance].homes;
        let table = self.tables.of(pid);
        table.is_some_and(|table| homes.contains(&table))
    }

    fn ask(&self, task: &Task, descriptor: Descriptor) -> io::Result<Ordering> {
        let set = self.instances[task.instance].descriptors[0];
        let slot = Slot {
            efd: set.fd as u32,
            tfd: task.target.tfd,
            toff: task.target.toff,
        };
        self.kernel.epoll_tfd(descriptor, set.pid, slot)
    }

    /// `None` if the descriptor is closed, rather than that of the set.
    fn probe(&self, task: &Task, descriptor: Descriptor) -> io::Result<Option<Ordering>> {
        match self.ask(task, descriptor) {
            Ok(order) => Ok(Some(order)),
            Err(error) if order::is_gone(&error) => {
                let set = self.instances[task.instance].descriptors[0];
                self.kernel.files(set, set).map(|_| None)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks about the number that it was added by.
    fn ask_tfd(&mut self, task: &mut Task) -> Result<(), Failure> {
        let fd = task.target.tfd as RawFd;
        for &home in &self.instances[task.instance].homes {
            let table = &self.tables[home];
            let pid = table.pid();
            let descriptor = Descriptor { pid, fd };
            // Most closed ones need no call.
            let link = || proc::link(pid, fd);
            if !table.open.links.contains_key(&fd) && link().is_err() {
                continue;
            }
            match self.probe(task, descriptor)? {
                Some(Ordering::Equal) => {
                    task.owner = Some(Owner::Tfd(descriptor));
                    task.tfd_state = TfdState::Target;
                    break;
                }
                // The first process's word, if not the target itself.
                Some(_) if task.tfd_state == TfdState::Closed => {
                    task.tfd_state = link().map_or(TfdState::Closed, TfdState::Other);
                }
                // Or closed meanwhile.
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// Asks about sockets and pipes that have the target's inode, in tables from
    /// the one of number `first`.
    pub(super) fn ask_hints(&self, task: &mut Task, first: usize) -> Result<(), Failure> {
        let Some(inode) = task.target.inode.filter(|_| task.owner.is_none()) else {
            return Ok(());
        };
        let Some(candidates) = self.by_inode.get(&inode.ino) else {
            return Ok(());
        };
        let (near, far): (Vec<Descriptor>, Vec<Descriptor>) = candidates
            .iter()
            .filter(|d| self.tables.of(d.pid) >= Some(first))
            .partition(|d| self.is_home(task, d.pid));
        let mut owners: Vec<Descriptor> = Vec::new();
        for candidate in near.into_iter().chain(far).take(HINTS) {
            let order = match owners.first() {
                Some(&owner) => self.kernel.files(owner, candidate).ok(),
                None => self.probe(task, candidate)?,
            };
            if order == Some(Ordering::Equal) {
                owners.push(candidate);
            }
        }
        if !owners.is_empty() {
            task.owner = Some(Owner::Others(owners));
        }
        Ok(())
    }

    pub(super) fn search(&self, task: &mut Task, files: &mut Vec<File>) -> Result<(), Failure> {
        let compare = |a, b| self.kernel.files(a, b);
        let found = order::search(files, |d| self.probe(task, d))?;
        let index = match found {
            Found::At(index) => index,
            Found::Nothing => return Ok(()),
            Found::Astray => {
                let all: Vec<_> = files.iter().flatten().copied().collect();
                return self.ask_each(task, &all);
            }
        };
        // The kernel has just named the first one. The others were the same file
        // when they were sorted.
        let first = files[index][0];
        let mut owners = vec![first];
        for &other in files[index][1..].iter().take(OWNERS - 1) {
            if compare(first, other).is_ok_and(Ordering::is_eq) {
                owners.push(other);
            }
        }
        owners.sort_by_key(|d| (!self.is_home(task, d.pid), *d));
        task.owner = Some(Owner::Others(owners));
        Ok(())
    }

    /// Asks about these descriptors.
    pub(super) fn ask_each(
        &self,
        task: &mut Task,
        descriptors: &[Descriptor],
    ) -> Result<(), Failure> {
        if task.owner.is_some() {
            return Ok(());
        }
        for &descriptor in descriptors {
            if self.probe(task, descriptor)? == Some(Ordering::Equal) {
                task.owner = Some(Owner::Others(vec![descriptor]));
                break;
            }
        }
        Ok(())
    }
}
