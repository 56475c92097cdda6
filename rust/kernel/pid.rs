// SPDX-License-Identifier: GPL-2.0

//! Finding tasks by their number.
//!
//! C header: [`include/linux/pid.h`](srctree/include/linux/pid.h).

use crate::{
    bindings,
    sync::aref::ARef,
    task::{
        Pid,
        Task, //
    }, //
};
use core::ptr::NonNull;

/// Takes a reference to the task that has the number `nr` in the PID namespace of the current task.
///
/// # Examples
///
/// ```
/// use kernel::pid::find_get_task;
///
/// assert!(find_get_task(1).is_some_and(|task| task.pid() == 1));
/// assert!(find_get_task(-1).is_none());
/// ```
#[doc(alias = "find_get_pid")]
#[doc(alias = "get_pid_task")]
pub fn find_get_task(nr: Pid) -> Option<ARef<Task>> {
    // SAFETY: There are no requirements on `nr`.
    let pid = unsafe { bindings::find_get_pid(nr) };

    // SAFETY: `pid` is `NULL`, which is allowed, or a valid `struct pid` that we own a reference
    // to.
    let task = unsafe { bindings::get_pid_task(pid, bindings::pid_type_PIDTYPE_PID) };

    // SAFETY: `pid` is `NULL`, which is allowed, or we give up the reference that `find_get_pid`
    // took. It is not used after this.
    unsafe { bindings::put_pid(pid) };

    // SAFETY: A task that `get_pid_task` returns comes with a reference, which the `ARef` owns from
    // here on. The cast is okay because `Task` is `repr(transparent)`.
    NonNull::new(task).map(|task| unsafe { ARef::from_raw(task.cast()) })
}
