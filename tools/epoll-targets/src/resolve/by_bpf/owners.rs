// SPDX-License-Identifier: GPL-2.0

//! Finds the owners of targets among the descriptors that were listed.

use super::programs::{Kind, MAX_HOMES};
use super::{ByBpf, Candidate};
use crate::descriptor::Descriptor;
use crate::resolve::task::Watched;
use crate::resolve::{HINTS, OWNERS, Owner, TfdState};
use std::cmp::Ordering;
use std::collections::HashMap;

/// The descriptors that are of interest, by file and by inode, each with its table.
#[derive(Default)]
struct Index {
    files: HashMap<u32, Vec<(usize, Descriptor)>>,
    inodes: HashMap<u64, Vec<(usize, Descriptor, u32)>>,
}

impl ByBpf<'_> {
    /// The targets whose owners are not known.
    fn open_targets(&self) -> impl Iterator<Item = (&Watched, &Candidate)> {
        self.instances.iter().flat_map(|view| {
            let targets = view.targets.iter().filter(|t| t.task.owner.is_none());
            targets.map(move |target| (&view.watched, target))
        })
    }

    /// The descriptors that can be owners of these targets.
    fn index<'b>(&'b self, targets: impl Iterator<Item = &'b Candidate>) -> Index {
        let mut index = Index::default();
        for target in targets {
            index.files.entry(target.file).or_default();
            index.inodes.entry(target.ino()).or_default();
        }
        if index.files.is_empty() {
            return index;
        }
        for (number, table) in self.tables.iter().enumerate() {
            let pid = table.pid();
            for open in &table.open {
                let descriptor = Descriptor { pid, fd: open.fd };
                if let Some(of_file) = index.files.get_mut(&open.file) {
                    of_file.push((number, descriptor));
                }
                let Kind::Inode(ino) = open.kind() else {
                    continue;
                };
                if let Some(of_inode) = index.inodes.get_mut(&ino) {
                    of_inode.push((number, descriptor, open.file));
                }
            }
        }
        index
    }

    /// Finds the owners of targets that tfd does not mean any more.
    pub(super) fn settle(&mut self, after_all: bool) {
        let index = self.index(self.open_targets().map(|(_, target)| target));
        let mut found = Vec::new();
        let after_all = after_all && self.sees_all();
        for (watched, target) in self.open_targets() {
            if let Some(at_tfd) = Self::at_tfd(watched, target, &index) {
                let (same, asked) = self.verified(target, vec![at_tfd]);
                if let Some(&descriptor) = same.first() {
                    let owner = Owner::Tfd(descriptor);
                    found.push((Some(owner), asked));
                    continue;
                }
            }
            let named = self.named(watched, target, &index);
            found.push(if !named.is_empty() {
                let (same, asked) = self.verified(target, named);
                ((!same.is_empty()).then_some(Owner::Others(same)), asked)
            } else {
                let lost = &self.instances[target.task.instance].lost;
                let is_lost = after_all && lost.contains(&target.identity());
                (is_lost.then_some(Owner::Orphaned), false)
            });
        }
        let targets = self.instances.iter_mut().flat_map(|view| &mut view.targets);
        let open = targets.filter(|target| target.task.owner.is_none());
        for (target, (owner, asked)) in open.zip(found) {
            if matches!(owner, Some(Owner::Tfd(_))) {
                target.task.tfd_state = TfdState::Target;
            }
            (target.task.owner, target.asked) = (owner, asked);
        }
    }

    /// Notes which targets have no owner among the descriptors that were listed after
    /// the targets were read.
    pub(super) fn find_lost(&mut self, after_all: bool) {
        let is_nobodys =
            |target: &&Candidate| matches!(target.task.owner, None | Some(Owner::Orphaned));
        let targets = self.instances.iter().flat_map(|view| &view.targets);
        let index = self.index(targets.filter(is_nobodys));
        for view in &mut self.instances {
            let lost = view.targets.iter().filter(is_nobodys).filter(|target| {
                let of_file = index.files.get(&target.file);
                after_all && of_file.is_none_or(Vec::is_empty)
            });
            view.lost = lost.map(Candidate::identity).collect();
        }
    }

    /// The descriptors that have the inode and the file of a target, of the first few
    /// that have the inode.
    fn hinted(
        &self,
        watched: &Watched,
        target: &Candidate,
        index: &Index,
        is_meant: impl Fn(usize) -> bool,
    ) -> Vec<Descriptor> {
        let of_inode = index.inodes.get(&target.ino());
        let candidates = of_inode.into_iter().flatten();
        let candidates = candidates.filter(|(table, ..)| is_meant(*table));
        let is_near = |(table, ..): &&(usize, Descriptor, u32)| watched.homes.contains(table);
        let (near, far): (Vec<_>, Vec<_>) = candidates.partition(is_near);
        let first = near.iter().chain(&far).take(HINTS);
        let same = first.filter(|(_, _, file)| *file == target.file);
        same.map(|(_, descriptor, _)| *descriptor).collect()
    }

    /// The descriptors to be named as owners, according to the list.
    fn named(&self, watched: &Watched, target: &Candidate, index: &Index) -> Vec<Descriptor> {
        let hinted = self.hinted(watched, target, index, |table| table < self.near);
        if !hinted.is_empty() {
            return hinted;
        }
        let of_file = index.files.get(&target.file);
        let of_file = of_file.map_or(&[][..], Vec::as_slice);
        let home = of_file
            .iter()
            .filter(|(table, _)| watched.homes.first() == Some(table));
        let home: Vec<_> = home.map(|(_, descriptor)| *descriptor).collect();
        if !home.is_empty() {
            return home.into_iter().take(OWNERS).collect();
        }
        let hinted = self.hinted(watched, target, index, |table| table >= self.near);
        if !hinted.is_empty() {
            return hinted;
        }
        let mut all: Vec<_> = of_file.iter().take(OWNERS).collect();
        all.sort_by_key(|(table, descriptor)| (!watched.homes.contains(table), *descriptor));
        all.into_iter().map(|(_, descriptor)| *descriptor).collect()
    }

    /// Descriptor tfd of a home beyond those that the BPF program checked, if it has
    /// the file.
    fn at_tfd(watched: &Watched, target: &Candidate, index: &Index) -> Option<Descriptor> {
        let further = watched.homes.get(MAX_HOMES..)?;
        let of_file = index.files.get(&target.file)?.iter();
        let at_tfd = of_file.filter(|(_, open)| open.fd == target.task.target.tfd);
        let place = |table| further.iter().position(|home| *home == table);
        let first = at_tfd.filter_map(|(table, open)| Some((place(*table)?, *open)));
        first.min().map(|(_, descriptor)| descriptor)
    }

    /// The descriptors that still have the file, and whether kcmp(2) was needed.
    fn verified(&self, target: &Candidate, mut named: Vec<Descriptor>) -> (Vec<Descriptor>, bool) {
        let Some(owner) = target.seen_owner else {
            return (Vec::new(), false);
        };
        // A process of the same table is checked too: it may have another one by now,
        // or have ended.
        named.retain(|&other| {
            other == owner || self.kernel.files(owner, other).is_ok_and(Ordering::is_eq)
        });
        let asked = named.iter().any(|&other| other != owner);
        (named, asked)
    }
}
