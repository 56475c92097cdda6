// SPDX-License-Identifier: GPL-2.0

//! `EPOLL_CR_FILES`: the descriptor table of a process.

use crate::{
    defs::{
        self,
        Fd, //
    },
    user::Array, //
};
use core::ops::ControlFlow;
use kernel::{
    epoll::{
        pause_killable,
        Eventpoll, //
    },
    fs::{
        fd_table::FdTable,
        identity::IdentityKey,
        RemoteFile, //
    },
    pid::get_task_by_pidfd,
    prelude::*,
    ptrace::Attach,
    task::Task,
    uapi, //
};

/// The number of descriptors to copy while the table is locked.
const BATCH: usize = 64;

/// The number of descriptors to compare while the table is locked.
const COMPARE_BATCH: usize = 1024;

/// Returns why looking up a descriptor of a task has failed.
pub(crate) fn no_such_fd(attach: &Attach<'_>) -> Error {
    match FdTable::lock(attach) {
        Some(_) => EBADF,
        None => ESRCH,
    }
}

/// Returns whether a process has a file open, under any descriptor.
pub(crate) fn has_open(task: &Task, file: &RemoteFile) -> Result<bool> {
    let mut from = Some(0);

    while let Some(first) = from {
        pause_killable()?;

        let attach = Attach::new(task)?;
        let table = FdTable::lock(&attach).ok_or(ESRCH)?;
        let mut left = COMPARE_BATCH;
        let mut found = false;

        from = table.visit(first, |open| {
            left -= 1;
            found = open.file.identity() == file.identity();

            if found || left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if found {
            return Ok(true);
        }
    }

    Ok(false)
}

/// Copies descriptors of a table, from `*from` on, and advances `*from`. Returns their number.
///
/// If `count_only` is set, does the same without writing to `fds`.
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

    *from = table.visit(first, |open| {
        if !count_only {
            let mut flags = 0;
            if open.cloexec {
                flags |= uapi::EPOLL_CR_FD_CLOEXEC;
            }
            if Eventpoll::from_file(open.file).is_ok() {
                flags |= uapi::EPOLL_CR_FD_EPOLL;
            }
            fds[count] = Fd {
                fd: open.fd,
                flags,
                file: key.file(open.file.identity()),
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
        pause_killable()?;

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
