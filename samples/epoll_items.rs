// SPDX-License-Identifier: GPL-2.0

//! Lists the entries of an epoll set when it is loaded, as a sample of `kernel::epoll`.
//!
//! `insmod epoll_items.ko pid=PID efd=EFD` writes a line to the kernel log for each entry of the
//! set that is descriptor `EFD` of task `PID`, and stays loaded without doing anything.

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
    description: "Lists the entries of an epoll set",
    license: "GPL",
    params: {
        pid: i32 {
            default: 0,
            description: "Number of the task that has the epoll set",
        },
        efd: u32 {
            default: 0,
            description: "Descriptor of the epoll set",
        },
    },
}

/// What is printed of an entry.
#[derive(Clone, Copy, Default)]
struct Item {
    tfd: i32,
    events: u32,
    data: u64,
    ready: bool,
    /// Flags of the file, unless its last reference is gone.
    flags: Option<u32>,
}

/// Copies the entries behind `cursor` into `items`, as many as fit.
///
/// Returns how many there were, and the place behind them. The log can be slow, so the entries are
/// copied while the mutex is held and printed when it is not.
fn copy_items(ep: &Eventpoll, cursor: Cursor, items: &mut [Item]) -> Result<(usize, Cursor)> {
    let guard = ep.lock_killable()?;
    let mut behind = cursor;
    let mut count = 0;

    for (item, epi) in items.iter_mut().zip(guard.items_after(cursor)) {
        *item = Item {
            tfd: epi.fd(),
            events: epi.events(),
            data: epi.data(),
            ready: epi.is_ready(),
            flags: epi.pin().map(|file| file.flags()),
        };
        behind = epi.cursor();
        count += 1;
    }

    Ok((count, behind))
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
            let (count, behind) = copy_items(ep, cursor, &mut items)?;
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
            cursor = behind;
        }
        pr_info!("{total} entries\n");

        Ok(Self)
    }
}
