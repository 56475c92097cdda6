// SPDX-License-Identifier: GPL-2.0

//! The open-coded iterator.

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

/// A copy of an epitem, `union bpf_epoll_item` in C.
///
/// `data` goes first to avoid padding on all architectures.
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

/// An iteration over an epoll instance.
///
/// The mutex is not held between two epitems, since a program may use several iterators and call
/// arbitrary functions meanwhile. It gets a copy of the epitem, with a reference to the file.
pub(crate) struct EpollLoop {
    file: ARef<EpollFile>,
    cursor: Cursor,
    /// The status of the iteration, once it has ended.
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
        // Drop the previous reference first, so that there is at most one.
        self.item = None;
        if self.end.is_some() {
            return None;
        }

        // The filter of the kfuncs ensures that the program holds no lock.
        let visit = match Visit::first(self.file.clone(), self.cursor) {
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
    // SAFETY: Nothing else in the kernel has names that begin with `epoll_items_`.
    // `epoll_iter_bpf.h` declares the functions with the same arguments, and `Item` as `union
    // bpf_epoll_item`, whose layout is asserted above and in `epoll_iter_bpf.c`. They are only
    // called there, each by one kfunc, to which the verifier passes the iterator of the program,
    // and trusted pointers only, as to all kfuncs: so the task is valid.
    unsafe extern "C" for EpollLoop {
        new: epoll_items_new(task: &Task, efd: c_int),
        next: epoll_items_next,
        status: epoll_items_status,
        destroy: epoll_items_destroy,
    }
}
