// SPDX-License-Identifier: GPL-2.0

//! Tables of descriptors: processes and threads that share one count as one.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};

/// A table of descriptors; `D` is what is known of them.
pub(super) struct Table<D> {
    /// The processes that have it.
    pub(super) pids: Vec<i32>,
    pub(super) open: D,
}

impl<D> Table<D> {
    /// The process that stands for all that have the table.
    pub(super) fn pid(&self) -> i32 {
        self.pids[0]
    }
}

/// Tables by index, and the index of each process's table.
pub(super) struct Tables<D> {
    list: Vec<Table<D>>,
    of: HashMap<i32, usize>,
}

impl<D> Default for Tables<D> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            of: HashMap::new(),
        }
    }
}

impl<D> Tables<D> {
    /// Adds the table of a process.
    pub(super) fn add(&mut self, pid: i32, open: D) -> usize {
        let index = self.list.len();
        let pids = vec![pid];
        self.list.push(Table { pids, open });
        self.of.insert(pid, index);
        index
    }

    /// Adds a process to those that have a table.
    pub(super) fn share(&mut self, index: usize, pid: i32) {
        self.list[index].pids.push(pid);
        self.of.insert(pid, index);
    }

    /// The table of a process.
    pub(super) fn of(&self, pid: i32) -> Option<usize> {
        self.of.get(&pid).copied()
    }

    /// The processes that have the table of this one, which is among them.
    pub(super) fn sharers(&self, pid: i32) -> &[i32] {
        let table = self.of(pid).map(|index| &self.list[index]);
        table.map_or(&[], |table| &table.pids)
    }

    /// Whether any table has several.
    pub(super) fn are_shared(&self) -> bool {
        self.list.iter().any(|table| table.pids.len() > 1)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Table<D>> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Table<D>> {
        self.list.iter_mut()
    }
}

impl<D> Index<usize> for Tables<D> {
    type Output = Table<D>;

    fn index(&self, index: usize) -> &Table<D> {
        &self.list[index]
    }
}

impl<D> IndexMut<usize> for Tables<D> {
    fn index_mut(&mut self, index: usize) -> &mut Table<D> {
        &mut self.list[index]
    }
}
