// SPDX-License-Identifier: GPL-2.0

//! Looking up tasks by PID or pidfd.
//!
//! C header: [`include/linux/pid.h`](srctree/include/linux/pid.h).

use crate::{
    bindings,
    error::{
        code::*,
        from_err_ptr,
        Result, //
    },
    sync::aref::ARef,
    task::{
        Pid,
        Task, //
    }, //
};
use core::ptr::NonNull;

/// Takes a reference to the task with the PID `nr` in the PID namespace of the current task.
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

    // SAFETY: `pid` is `NULL`, which is allowed, or we drop the reference that `find_get_pid` took.
    // It is not used afterwards.
    unsafe { bindings::put_pid(pid) };

    // SAFETY: `get_pid_task` took a reference to the task that it returned, and we pass ownership
    // of it to the `ARef`. The cast is okay because `Task` is `repr(transparent)`.
    NonNull::new(task).map(|task| unsafe { ARef::from_raw(task.cast()) })
}

/// Takes a reference to the task that a pidfd of the current task refers to.
///
/// `PIDFD_SELF` refers to the current task and `PIDFD_SELF_PROCESS` to its thread-group leader. A
/// pidfd refers to a thread-group leader, or to any thread if it was opened with `PIDFD_THREAD`.
///
/// Fails with [`EBADF`] if `pidfd` is not open or not a pidfd, and with [`ESRCH`] if the task has
/// been reaped.
///
/// Context: may sleep.
#[doc(alias = "pidfd_get_pid")]
pub fn get_task_by_pidfd(pidfd: i32) -> Result<ARef<Task>> {
    let own = |pid_type| {
        // SAFETY: The current task is valid.
        Ok(unsafe { bindings::get_task_pid(Task::current_raw(), pid_type) })
    };
    let pid = match pidfd {
        bindings::PIDFD_SELF_THREAD => own(bindings::pid_type_PIDTYPE_PID),
        bindings::PIDFD_SELF_THREAD_GROUP => own(bindings::pid_type_PIDTYPE_TGID),
        _ => {
            let mut flags = 0;

            // SAFETY: There are no requirements on the descriptor, and `flags` is valid for writes.
            from_err_ptr(unsafe { bindings::pidfd_get_pid(pidfd as u32, &mut flags) })
        }
    }?;

    // SAFETY: `pid` is a valid `struct pid` that we own a reference to.
    let task = unsafe { bindings::get_pid_task(pid, bindings::pid_type_PIDTYPE_PID) };

    // SAFETY: We drop that reference, and do not use `pid` afterwards.
    unsafe { bindings::put_pid(pid) };

    let task = NonNull::new(task).ok_or(ESRCH)?;

    // SAFETY: As in `find_get_task`.
    Ok(unsafe { ARef::from_raw(task.cast()) })
}
