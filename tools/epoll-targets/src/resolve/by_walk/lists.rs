// SPDX-License-Identifier: GPL-2.0

//! How interest lists are read.

use super::holders::Finder;
use super::items::{Items, List};
use super::places::Places;
use super::programs::{File, Walk};
use super::{ByWalk, Skipped, View};
use crate::fdinfo::{Target, Targets};
use crate::pidfd::PidFd;
use crate::reader;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};

/// The way to read interest lists.
pub(super) enum Lists {
    /// With programs that walk them.
    Walk,
    /// With the iterator of the module `epoll_iter`.
    Items {
        items: Items,
        /// Whether the programs that walk work as well.
        walk: bool,
    },
}

/// Interest lists, and as fdinfo shows them if that is known.
#[derive(Default)]
pub(super) struct Read {
    pub(super) walks: HashMap<File, Walk>,
    pub(super) shown: HashMap<File, Vec<Target>>,
}

impl ByWalk<'_> {
    /// Reads the lists of the instances that are not settled.
    pub(super) fn read_lists(
        &mut self,
        places: &Places,
        views: &mut Vec<View>,
    ) -> io::Result<Read> {
        let Lists::Items { walk, .. } = self.lists else {
            let walks = self.walk(places, views, |_| true)?;
            return Ok(Read {
                walks,
                ..Read::default()
            });
        };
        let mut read = Read::default();
        let mut held = HashSet::new();
        let mut index = 0;
        while let Some(view) = views.get_mut(index) {
            index += 1;
            if view.settled {
                continue;
            }
            let list = match view.unconfirmed {
                None => self.read_items(places, view),
                Some(_) => Ok(None),
            };
            match list {
                Ok(Some(list)) => {
                    // Otherwise its descriptor means another one by now.
                    if *view.id.get_or_insert(list.id) == list.id {
                        read.walks.insert(view.file, list.walk);
                        read.shown.insert(view.file, list.shown);
                    }
                }
                Ok(None) => {}
                Err(error) if reader::is_held(&error) && walk => {
                    view.unconfirmed = Some(error.to_string());
                }
                Err(error) if reader::is_held(&error) || is_refused(&error) => {
                    index -= 1;
                    let (table, fd) = views.remove(index).holders[0];
                    let (pid, efd) = (places.name(table), Some(fd));
                    self.skipped.push(Skipped { pid, efd, error });
                    continue;
                }
                Err(error) => return Err(error),
            }
            if view.unconfirmed.is_some() {
                held.insert(view.file);
            }
        }
        // Who has the mutex does not change the list.
        let walks = self.walk(places, views, |view| held.contains(&view.file))?;
        read.walks.extend(walks);
        Ok(read)
    }

    /// Reads the list of an instance with the iterator; `None` if it was closed.
    fn read_items(&mut self, places: &Places, view: &View) -> io::Result<Option<List>> {
        let Lists::Items { items, .. } = &self.lists else {
            return Ok(None);
        };
        for &(table, fd) in &view.holders {
            let instance = match getfd(places.task(table), fd) {
                Ok(instance) => instance,
                // A security module forbids it.
                Err(error) if is_refused(&error) => return Err(error),
                // Closed, perhaps; another one may be open.
                Err(_) => continue,
            };
            match items.read(&mut self.reader, instance.as_fd()) {
                Ok(list) => return Ok(Some(list)),
                // Its number was reused.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Walks the instances that are not settled.
    fn walk(
        &mut self,
        places: &Places,
        views: &[View],
        is_meant: impl Fn(&View) -> bool,
    ) -> io::Result<HashMap<File, Walk>> {
        let mut instances: HashMap<i32, Vec<File>> = HashMap::new();
        for view in views.iter().filter(|view| !view.settled && is_meant(view)) {
            // The iterator begins at the lowest descriptor.
            let Some(&(table, _)) = view.holders.iter().min_by_key(|holder| holder.1) else {
                continue;
            };
            let process = places.tables[table].tasks[0].pid;
            instances.entry(process).or_default().push(view.file);
        }
        if instances.is_empty() {
            return Ok(HashMap::new());
        }
        self.programs.walk(&instances)
    }

    /// What fdinfo shows of the instances that are not settled. This takes time in which
    /// there is nothing else to do: programs are loaded then that find holders of orphans, if
    /// there may be some.
    pub(super) fn read_fdinfo(
        &mut self,
        places: &Places,
        views: &mut [View],
    ) -> HashMap<File, Vec<Target>> {
        let mut shown = HashMap::new();
        let Self {
            reader,
            finder,
            wants_holders,
            ..
        } = self;
        let mut open = None;
        for view in views.iter_mut().filter(|view| !view.settled) {
            if view.unconfirmed.is_some() {
                continue;
            }
            for &(table, fd) in &view.holders {
                let path = format!("/proc/{}/fdinfo/{fd}", places.task(table));
                let meanwhile = || {
                    let walk = view.walk.as_ref().filter(|_| *wants_holders);
                    if walk.is_some_and(|walk| {
                        finder.is_none() && lacks(places, walk, table, &mut open)
                    }) {
                        // If it fails, so does it later.
                        *finder = Finder::load().ok();
                    }
                };
                let content = match reader.read_while(&path, meanwhile) {
                    Ok(content) => content,
                    Err(error) if reader::is_held(&error) => {
                        view.unconfirmed = Some(error.to_string());
                        break;
                    }
                    // Closed, perhaps; another one may be open.
                    Err(_) => continue,
                };
                let mut targets = Targets::new(&content[..]);
                if let Ok(all) = targets.by_ref().collect() {
                    view.id = targets.id();
                    shown.insert(view.file, all);
                    break;
                }
            }
        }
        shown
    }
}

/// Whether no descriptor has the file of some target of an instance that this table has.
/// `open` are the files of all descriptors, once they were needed.
fn lacks(places: &Places, walk: &Walk, table: usize, open: &mut Option<HashSet<File>>) -> bool {
    let table = &places.tables[table];
    let mut targets = walk.targets.iter();
    targets.any(|seen| {
        let all = || places.tables.iter().flat_map(|table| &table.open);
        let all = || all().map(|&(_, file)| file).collect();
        table.file(seen.tfd) != Some(seen.file)
            && !open.get_or_insert_with(all).contains(&seen.file)
    })
}

/// Duplicates a descriptor of a task.
fn getfd(task: i32, fd: RawFd) -> io::Result<OwnedFd> {
    PidFd::open_task(task)?.getfd(fd)
}

fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}
