// SPDX-License-Identifier: GPL-2.0

//! The descriptor table of another process.

use crate::{
    defs::{
        self,
        Fd, //
    },
    user::Array, //
};
use core::ops::ControlFlow;
use kernel::{
    epoll::Eventpoll,
    fs::{
        fd_table::FdTable,
        identity::IdentityKey, //
    },
    pid::get_task_by_pidfd,
    prelude::*,
    ptrace::Attach,
    uapi, //
};

/// How many descriptors are copied while a table is locked.
const BATCH: usize = 64;

/// Says why a task does not have a descriptor.
pub(crate) fn no_such_fd(attach: &Attach<'_>) -> Error {
    match FdTable::lock(attach) {
        Some(_) => EBADF,
        None => ESRCH,
    }
}

/// Copies descriptors of a table from `*from` on. Returns how many.
///
/// If `count_only`, leaves `fds` as they are, but goes on as far.
fn copy(
    key: &IdentityKey,
    table: &FdTable<'_>,
    from: &mut Option<u32>,
    fds: &mut [Fd],
    count_only: bool,
) -> usize {
    let Some(first) = *from else {
        return 0;
    };
    let mut count = 0;

    *from = table.visit(first, |entry| {
        if !count_only {
            let mut flags = 0;
            if entry.cloexec {
                flags |= uapi::EPOLL_CR_FD_CLOEXEC;
            }
            if Eventpoll::from_file(entry.file).is_ok() {
                flags |= uapi::EPOLL_CR_FD_EPOLL;
            }
            fds[count] = Fd {
                fd: entry.fd,
                flags,
                file: key.file(entry.file.identity()),
            };
        }
        count += 1;

        if count < fds.len() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });

    count
}

pub(crate) fn files(key: &IdentityKey, args: &mut defs::Files) -> Result {
    args.count = 0;
    args.table = 0;
    if args.flags != 0 {
        return Err(EINVAL);
    }

    let out = Array::<Fd>::new(args.fds, args.fd_size, args.capacity)?;
    let task = get_task_by_pidfd(args.pidfd)?;
    let mut fds = KVec::from_elem(Fd::default(), BATCH, GFP_KERNEL)?;
    let mut from = Some(0);

    while from.is_some() {
        let count = {
            let attach = Attach::new(&task)?;
            let table = FdTable::lock(&attach).ok_or(ESRCH)?;
            let identity = key.table(&table);
            if args.table == 0 {
                args.table = identity;
            } else if args.table != identity {
                return Err(ESTALE);
            }

            copy(key, &table, &mut from, &mut fds, args.count >= out.len())
        };

        out.write(args.count, &fds[..count])?;
        args.count += count as u64;
    }

    if args.count > out.len() {
        return Err(ENOSPC);
    }

    Ok(())
}
