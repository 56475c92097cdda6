// SPDX-License-Identifier: GPL-2.0

//! A sample of `kernel::epoll` that lists the epitems of an epoll instance when it is loaded.
//!
//! `insmod epoll_items.ko pid=PID efd=EFD` logs a line for each epitem of the epoll instance that
//! descriptor `EFD` of task `PID` refers to. Afterwards the module stays loaded and does nothing.

use kernel::{
    epoll::{
        Cursor,
        Eventpoll, //
    },
    fs::RemoteFile,
    pid::find_get_task,
    prelude::*, //
};

module! {
    type: EpollItems,
    name: "epoll_items",
    authors: ["The rust-epoll developers"],
    description: "Lists the epitems of an epoll instance",
    license: "GPL",
    params: {
        pid: i32 {
            default: 0,
            description: "PID of a task that has the epoll instance open",
        },
        efd: u32 {
            default: 0,
            description: "Descriptor of the epoll instance",
        },
    },
}

/// The part of an epitem to print.
#[derive(Clone, Copy, Default)]
struct Item {
    tfd: i32,
    events: u32,
    data: u64,
    ready: bool,
    /// The status flags of the file, unless its last reference is gone.
    flags: Option<u32>,
}

/// Copies epitems after `cursor` into `items`, as many as fit.
///
/// Returns their number, and the position after the last one. Logging can be slow, so the epitems
/// are copied while the mutex is held, and printed afterwards.
fn copy_items(ep: &Eventpoll, cursor: Cursor, items: &mut [Item]) -> Result<(usize, Cursor)> {
    let guard = ep.lock_killable()?;
    let mut last = cursor;
    let mut count = 0;

    for (item, epi) in items.iter_mut().zip(guard.items_after(cursor)) {
        *item = Item {
            tfd: epi.fd(),
            events: epi.events(),
            data: epi.data(),
            ready: epi.is_ready(),
            flags: epi.pin().map(|file| file.flags()),
        };
        last = epi.cursor();
        count += 1;
    }

    Ok((count, last))
}

struct EpollItems;

impl kernel::Module for EpollItems {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let task = find_get_task(module_parameters::pid.value()).ok_or(ESRCH)?;
        let file = RemoteFile::fget_task(&task, module_parameters::efd.value())?;
        let ep = Eventpoll::from_file(&file)?;

        let mut items = [Item::default(); 16];
        let mut cursor = Cursor::START;
        let mut total = 0;

        loop {
            let (count, last) = copy_items(ep, cursor, &mut items)?;
            for item in &items[..count] {
                pr_info!(
                    "tfd: {} events: {:x} data: {:x} ready: {} flags: {:x?}\n",
                    item.tfd,
                    item.events,
                    item.data,
                    item.ready,
                    item.flags
                );
            }
            total += count;
            if count < items.len() {
                break;
            }
            cursor = last;
        }
        pr_info!("{total} epitems\n");

        Ok(Self)
    }
}
