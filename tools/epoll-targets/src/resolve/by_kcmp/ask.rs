// SPDX-License-Identifier: GPL-2.0

//! Queries about one target.

use super::ByKcmp;
use crate::descriptor::Descriptor;
use crate::kcmp::Slot;
use crate::order::{self, File, Found};
use crate::proc;
use crate::resolve::task::Task;
use crate::resolve::{HINTS, OWNERS, Owner, TfdState};
use std::cmp::Ordering;
use std::io;

/// Why a query about a target failed.
pub(super) enum Failure {
    /// The target or its instance is gone.
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
    /// Compares the target with what it is most likely to be.
    pub(super) fn likely(&mut self, task: &mut Task) -> Result<(), Failure> {
        self.ask_tfd(task)?;
        self.ask_hints(task, 0)
    }

    /// Compares the target with descriptors of the process that has the instance.
    pub(super) fn near(&mut self, task: &mut Task) -> Result<(), Failure> {
        // Other processes that inherited the instance are searched with all the rest.
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
        let instance = self.instances[task.instance].descriptors[0];
        let slot = Slot {
            efd: instance.fd,
            tfd: task.target.tfd,
            toff: task.target.toff,
        };
        self.kernel.epoll_tfd(descriptor, instance.pid, slot)
    }

    /// Compares the target with a descriptor; `None` if that is closed, and the
    /// descriptor of the instance is not.
    fn probe(&self, task: &Task, descriptor: Descriptor) -> io::Result<Option<Ordering>> {
        match self.ask(task, descriptor) {
            Ok(order) => Ok(Some(order)),
            Err(error) if order::is_gone(&error) => {
                let instance = self.instances[task.instance].descriptors[0];
                self.kernel.files(instance, instance).map(|_| None)
            }
            Err(error) => Err(error),
        }
    }

    /// Compares the target with descriptor tfd of each process that has the instance.
    fn ask_tfd(&mut self, task: &mut Task) -> Result<(), Failure> {
        let fd = task.target.tfd;
        let socket = self.kinds.socket(&task.target);
        for &home in &self.instances[task.instance].homes {
            let table = &self.tables[home];
            let pid = table.pid();
            let descriptor = Descriptor { pid, fd };
            // Saves the call for most closed descriptors.
            let link = || proc::link(pid, fd);
            let listed = table.open.links.get(&fd);
            if listed.is_none() && link().is_err() {
                continue;
            }
            let is_same = match (socket, listed, &task.owner) {
                (Some(ino), Some(link), _) => Some(proc::linked_inode(link) == Some(ino)),
                // It needs no mutex.
                (.., Some(Owner::Tfd(owner))) => {
                    let order = self.kernel.files(*owner, descriptor).ok();
                    order.map(Ordering::is_eq)
                }
                _ => self.probe(task, descriptor)?.map(Ordering::is_eq),
            };
            match is_same {
                Some(true) if task.owner.is_none() => {
                    task.owner = Some(Owner::Tfd(descriptor));
                    task.tfd_state = TfdState::Target;
                }
                Some(true) => {}
                Some(false) => {
                    let Ok(link) = link() else { continue };
                    task.stale_at.push(descriptor);
                    // What tfd means in the first process that has it open.
                    if task.tfd_state == TfdState::Closed {
                        task.tfd_state = TfdState::Other(link);
                    }
                }
                // Closed meanwhile.
                None => {}
            }
        }
        Ok(())
    }

    /// Compares the target with sockets and pipes that have its inode, in tables from
    /// index `first`.
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
        if self.kinds.socket(&task.target).is_some() {
            // The inode says it all.
            let owners: Vec<_> = near.into_iter().chain(far).collect();
            if !owners.is_empty() {
                task.owners_total = self.searched_all.then_some(owners.len());
                let owners = owners.into_iter().take(OWNERS).collect();
                task.owner = Some(Owner::Others(owners));
            }
            return Ok(());
        }
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
        // The first was just compared with the target. The others had the same file
        // when they were sorted.
        let first = files[index][0];
        let mut owners = vec![first];
        for &other in files[index][1..].iter().take(OWNERS - 1) {
            if compare(first, other).is_ok_and(Ordering::is_eq) {
                owners.push(other);
            }
        }
        owners.sort_by_key(|d| (!self.is_home(task, d.pid), *d));
        let all = self.searched_all && owners.len() == files[index].len().min(OWNERS);
        task.owners_total = all.then_some(files[index].len());
        task.owner = Some(Owner::Others(owners));
        Ok(())
    }

    /// Compares the target with each of these descriptors.
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
