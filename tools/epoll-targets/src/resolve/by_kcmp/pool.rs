// SPDX-License-Identifier: GPL-2.0

//! The pool: all descriptors that may be searched, in the order of their files.

use super::ask::Failure;
use super::{ByKcmp, FEW};
use crate::descriptor::Descriptor;
use crate::order;
use crate::resolve::task::Task;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io;

/// What [`ByKcmp::check_pool`] found.
pub(super) struct State {
    /// The pool stayed in order since it was made or checked last, and has all
    /// descriptors that are not loose.
    pub(super) held: bool,
    /// The links of descriptors that changed since then.
    pub(super) changed: HashSet<OsString>,
    pub(super) loose: Vec<Descriptor>,
    pub(super) all: Vec<Descriptor>,
}

impl ByKcmp<'_> {
    /// Makes the pool if there is none; returns whether it did.
    pub(super) fn make_pool(&mut self) -> io::Result<bool> {
        if self.pool.is_some() {
            return Ok(false);
        }
        let mut lists = Vec::new();
        for table in self.tables.iter() {
            match &table.open.sorted {
                Some(sorted) => lists.push(sorted.clone()),
                None => lists.extend(table.descriptors().map(|d| vec![vec![d]])),
            }
        }
        let total = self.tables.iter().map(|t| t.open.links.len()).sum();
        let compare = |a, b| self.kernel.files(a, b);
        let sort = || order::merge_all(lists, &compare);
        self.pool = Some(self.kernel.sorting(total, sort)?);
        Ok(true)
    }

    /// Checks the pool and updates it. A few new descriptors stay loose.
    pub(super) fn check_pool(&mut self) -> io::Result<State> {
        let (mut now, changed) = self.reload()?;
        let mut all: Vec<_> = now.iter().copied().collect();
        all.sort_unstable();
        let files = self.pool.take().unwrap_or_default();
        self.loose.retain(|descriptor| now.remove(descriptor));
        let compare = |a, b| self.kernel.files(a, b);
        let checked = order::check(files, now, &compare)?;
        let (mut files, new) = (checked.files, checked.rest);
        let mut held = !checked.broken;
        if new.len() <= FEW {
            self.loose.extend(new);
        } else {
            let sort = || order::sort(new.iter().copied(), &compare);
            let sorted = self.kernel.sorting(new.len(), sort)?;
            files = order::merge_all([files, sorted], &compare)?;
            held = false;
        }
        self.pool = Some(files);
        Ok(State {
            held,
            changed,
            loose: self.loose.clone(),
            all,
        })
    }

    pub(super) fn search_pool(&mut self, task: &mut Task) -> Result<(), Failure> {
        if task.owner.is_some() {
            return Ok(());
        }
        let mut files = self.pool.take().unwrap_or_default();
        let found = self.search(task, &mut files);
        self.pool = Some(files);
        found
    }
}
