// SPDX-License-Identifier: GPL-2.0

//! The target of `iter/epoll` programs.

use crate::fget_epoll;
use kernel::{
    bpf::iter::{
        Items,
        LinkConfig,
        LinkInfo,
        Target, //
    },
    epoll::{
        Cursor,
        Epitem,
        EpollFile,
        Eventpoll,
        Visit, //
    },
    prelude::*,
    seq_file::{
        seq_print,
        SeqFile, //
    },
    sync::aref::ARef, //
};

extern "C" {
    fn epoll_iter_register_kfuncs() -> c_int;
}

pub(crate) struct EpollTarget;

#[vtable]
// SAFETY: `bpf_iter_epoll()` in `epoll_iter_bpf.c` takes a `struct eventpoll *`, which is never
// `NULL`, and a `struct epitem *` with the suffix `__nullable`. `Args` has a reference to the one
// and an optional one to the other. `epoll_iter_register_kfuncs()` stands there, too, has the type
// that is declared above, and only registers kfuncs of this module.
unsafe impl Target for EpollTarget {
    const NAME: &'static CStr = c"epoll";
    const REGISTER_KFUNCS: Option<unsafe extern "C" fn() -> c_int> =
        Some(epoll_iter_register_kfuncs);

    type Link = ARef<EpollFile>;
    type Items = EpollItems;

    fn attach(config: &LinkConfig) -> Result<ARef<EpollFile>> {
        fget_epoll(current!(), config.epoll_fd().ok_or(EBADF)?)
    }

    fn show_fdinfo(file: &EpollFile, m: &SeqFile) {
        seq_print!(m, "epoll-id:\t{}\n", file.eventpoll().id());
    }

    fn fill_link_info(file: &EpollFile, info: &mut LinkInfo) {
        info.set_epoll_id(file.eventpoll().id());
    }

    fn open(file: &EpollFile) -> Result<EpollItems> {
        Ok(EpollItems::new(file.into()))
    }
}

/// An open iterator over an epoll instance.
///
/// It holds no reference to a watched file, which could close a cycle: a watched socket may have
/// the iterator's own descriptor in its queue.
pub(crate) struct EpollItems {
    file: ARef<EpollFile>,
    /// The position after the epitems that the program has seen.
    cursor: Cursor,
}

impl EpollItems {
    pub(crate) fn new(file: ARef<EpollFile>) -> Self {
        Self {
            file,
            cursor: Cursor::START,
        }
    }
}

impl Items for EpollItems {
    type Visit = Visit;
    type Args<'a> = (&'a Eventpoll, Option<&'a Epitem>);

    fn start(&mut self) -> Result<Option<Visit>> {
        Visit::first(self.file.clone(), self.cursor)
    }

    #[inline]
    fn next(&mut self, visit: Visit) -> Result<Option<Visit>> {
        self.cursor = visit.epitem().cursor();

        visit.next()
    }

    #[inline]
    fn args<'a>(&'a self, visit: Option<&'a Visit>) -> Self::Args<'a> {
        (self.file.eventpoll(), visit.map(Visit::epitem))
    }
}
