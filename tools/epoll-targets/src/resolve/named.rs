// SPDX-License-Identifier: GPL-2.0

//! Which table of descriptors is meant by an id.

use crate::kcmp::{self, Resource};
use crate::proc;

/// The id by which the table of a task is known: that of its process, unless the thread
/// has another table. Of several threads that share such a table, the first names it.
pub(super) fn table(id: i32) -> i32 {
    let pid = match proc::tgid(id) {
        Ok(pid) if pid != id => pid,
        // If there is no such task, the resolver says so.
        _ => return id,
    };
    let others = proc::tasks(pid).unwrap_or_default().into_iter();
    let mut others = others.filter(|&tid| tid != pid);
    let is_of_process = match proc::heir(pid) {
        None => share(pid, id),
        // Only if all have one table, that is the table of the process.
        Some(_) => others.clone().all(|tid| share(tid, id)),
    };
    if is_of_process {
        return pid;
    }
    others.find(|&tid| share(tid, id)).unwrap_or(id)
}

/// Whether two tasks of a process have one table, as far as one may know.
fn share(one: i32, other: i32) -> bool {
    one == other
        || match kcmp::compare(Resource::Files, one, other) {
            Ok(order) => order.is_eq(),
            Err(_) => proc::fds(one).ok() == proc::fds(other).ok(),
        }
}
