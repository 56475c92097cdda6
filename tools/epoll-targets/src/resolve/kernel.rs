// SPDX-License-Identifier: GPL-2.0

//! kcmp(2), with its calls counted.

use super::{Calls, Progress};
use crate::descriptor::Descriptor;
use crate::kcmp::{self, Resource, Slot};
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::io;

/// Calls kcmp(2), counts the calls, and reports progress.
pub(super) struct Kernel<'a> {
    calls: Cell<Calls>,
    progress: RefCell<&'a mut dyn FnMut(Progress)>,
    /// Calls when sorting began, and how many more it can take.
    sorting: Cell<(u64, u64)>,
    /// The threads that stand for processes whose first thread has ended.
    heirs: RefCell<HashMap<i32, i32>>,
}

impl<'a> Kernel<'a> {
    pub(super) fn new(progress: &'a mut dyn FnMut(Progress)) -> Self {
        Self {
            calls: Cell::default(),
            progress: RefCell::new(progress),
            sorting: Cell::default(),
            heirs: RefCell::default(),
        }
    }

    /// The first thread of a process has ended, and another one has its table.
    pub(super) fn inherit(&self, pid: i32, tid: i32) {
        self.heirs.borrow_mut().insert(pid, tid);
    }

    /// The task that is asked about a process.
    pub(super) fn task(&self, pid: i32) -> i32 {
        self.heirs.borrow().get(&pid).copied().unwrap_or(pid)
    }

    fn place(&self, Descriptor { pid, fd }: Descriptor) -> Descriptor {
        let pid = self.task(pid);
        Descriptor { pid, fd }
    }

    pub(super) fn calls(&self) -> Calls {
        self.calls.get()
    }

    fn count(&self, which: impl FnOnce(&mut Calls)) {
        let mut calls = self.calls.get();
        which(&mut calls);
        self.calls.set(calls);
    }

    pub(super) fn tell(&self, progress: Progress) {
        self.progress.borrow_mut()(progress);
    }

    pub(super) fn files(&self, a: Descriptor, b: Descriptor) -> io::Result<Ordering> {
        self.count(|calls| calls.file += 1);
        let (began, total) = self.sorting.get();
        let done = self.calls.get().file - began;
        if done % 4096 == 0 && total > 0 {
            self.tell(Progress::Sorting { done, total });
        }
        kcmp::files(self.place(a), self.place(b))
    }

    pub(super) fn epoll_tfd(
        &self,
        descriptor: Descriptor,
        pid: i32,
        slot: Slot,
    ) -> io::Result<Ordering> {
        self.count(|calls| calls.epoll_tfd += 1);
        kcmp::epoll_tfd(self.place(descriptor), self.task(pid), slot)
    }

    pub(super) fn compare_tables(&self, pid1: i32, pid2: i32) -> io::Result<Ordering> {
        self.count(|calls| calls.tables += 1);
        kcmp::compare(Resource::Files, self.task(pid1), self.task(pid2))
    }

    /// Whether kcmp(2) may be asked about a process.
    pub(super) fn may_compare(&self, pid: i32) -> io::Result<()> {
        let own = rustix::process::getpid().as_raw_pid();
        self.compare_tables(own, pid).map(drop)
    }

    /// Runs what sorts `n` descriptors.
    pub(super) fn sorting<T>(&self, n: usize, sort: impl FnOnce() -> T) -> T {
        let total = n as u64 * u64::from(n.next_power_of_two().trailing_zeros());
        self.sorting.set((self.calls.get().file, total));
        let sorted = sort();
        self.sorting.set((0, 0));
        sorted
    }
}
