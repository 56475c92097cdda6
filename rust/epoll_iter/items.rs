// SPDX-License-Identifier: GPL-2.0

//! The iterator for loops in programs.

use crate::fget_epoll;
use core::mem::offset_of;
use kernel::{
    bpf::iter::OpenCoded,
    epoll::{
        Cursor,
        EpollFile,
        Visit, //
    },
    fs::RemoteFile,
    prelude::*,
    sync::aref::ARef,
    task::Task, //
};

/// What a program gets for an entry, `union bpf_epoll_item` in C.
///
/// `data` goes first so that no architecture has padding in between.
#[repr(C)]
pub(crate) struct Item {
    data: u64,
    file: ARef<RemoteFile>,
    fd: c_int,
    events: u32,
}

const _: () = assert!(
    size_of::<ARef<RemoteFile>>() == size_of::<usize>()
        && offset_of!(Item, data) == 0
        && offset_of!(Item, file) == 8
        && offset_of!(Item, fd) == 8 + size_of::<usize>()
        && offset_of!(Item, events) == 12 + size_of::<usize>()
);

/// An iteration: a set, and a place in it.
///
/// The mutex is not held between two entries, since a program may have several iterators, and do
/// what it likes meanwhile. It gets a copy of the entry, with a reference to the file.
pub(crate) struct EpollLoop {
    file: ARef<EpollFile>,
    cursor: Cursor,
    /// Why there are no more items, if so.
    end: Option<Result>,
    item: Option<Item>,
}

impl EpollLoop {
    fn new(task: &Task, efd: c_int) -> Result<Self> {
        Ok(Self {
            file: fget_epoll(task, efd as u32)?,
            cursor: Cursor::START,
            end: None,
            item: None,
        })
    }
}

impl OpenCoded for EpollLoop {
    type Item = Item;

    fn next(&mut self) -> Option<&Item> {
        // Its reference goes first: there is only ever one.
        self.item = None;
        if self.end.is_some() {
            return None;
        }

        // Who calls this may be in a section that must not last as long as a stranger likes, and
        // may hold a lock that the holder of the mutex waits for.
        let visit = match Visit::try_first(self.file.clone(), self.cursor) {
            Ok(Some(visit)) => visit,
            end => {
                self.end = Some(end.map(drop));
                return None;
            }
        };
        let epi = visit.epitem();
        self.cursor = epi.cursor();

        Some(self.item.insert(Item {
            data: epi.data(),
            file: visit.target().into(),
            fd: epi.fd(),
            events: epi.events(),
        }))
    }

    fn status(&self) -> Result {
        self.end.unwrap_or(Ok(()))
    }
}

kernel::bpf_open_coded_iter! {
    type: EpollLoop,
    new: epoll_items_new(task: &Task, efd: c_int),
    next: epoll_items_next,
    status: epoll_items_status,
    destroy: epoll_items_destroy,
}
