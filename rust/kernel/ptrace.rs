// SPDX-License-Identifier: GPL-2.0

//! Permission to inspect other tasks.
//!
//! C header: [`include/linux/ptrace.h`](srctree/include/linux/ptrace.h).

use crate::{
    bindings,
    error::{
        code::*,
        to_result,
        Result, //
    },
    sync::atomic::{
        atomic_load,
        Relaxed, //
    },
    task::Task,
    types::NotThreadSafe, //
};
use core::ptr;

/// Proof that the current task may attach to another one.
///
/// While it exists, the task cannot change its privileges by executing another program: whatever is
/// taken from the task belongs to the program that access was granted to. Since `execve(2)` waits
/// for it to be dropped, and later readers of the lock wait for `execve(2)`, do not keep it for
/// long: drop it before anything is waited for that a program can hold up, such as the mutex of an
/// epoll instance, or user memory.
///
/// # Invariants
///
/// The current task holds the `exec_update_lock` of `task` for reading, and this value is what
/// releases it. `ptrace_may_access` has granted access since the lock was taken.
#[must_use = "permission ends as soon as this is dropped"]
pub struct Attach<'a> {
    task: &'a Task,
    /// A lock has to be released by the task that took it.
    _not_send: NotThreadSafe,
}

impl<'a> Attach<'a> {
    /// Checks whether the current task may attach to `task`, using its real credentials.
    ///
    /// This is the check of `pidfd_getfd(2)`. Fails with [`EPERM`] if access is denied, with
    /// [`ESRCH`] if the task is exiting, and with [`EINTR`] if the current task is killed while it
    /// waits for the lock.
    ///
    /// Context: may sleep.
    #[doc(alias = "ptrace_may_access")]
    pub fn new(task: &'a Task) -> Result<Self> {
        // SAFETY: `task` is valid since we have a reference to it. Its `signal` is set before the
        // task is published, lives as long as the task, and contains an initialized lock.
        to_result(unsafe {
            bindings::down_read_killable(&raw mut (*(*task.as_ptr()).signal).exec_update_lock)
        })?;

        // INVARIANT: We have just taken the lock, and leave it to this value to release it. If
        // access is not granted, the value is dropped below.
        let attach = Self {
            task,
            _not_send: NotThreadSafe,
        };

        // SAFETY: `task` is valid since we have a reference to it.
        if !unsafe {
            bindings::ptrace_may_access(task.as_ptr(), bindings::PTRACE_MODE_ATTACH_REALCREDS)
        } {
            return Err(EPERM);
        }

        // As in `__pidfd_fget`. The task may set the flag concurrently.
        //
        // SAFETY: As above.
        let flags = unsafe { atomic_load(&raw mut (*task.as_ptr()).flags, Relaxed) };
        if flags & bindings::PF_EXITING != 0 {
            return Err(ESRCH);
        }

        Ok(attach)
    }

    /// Returns the task that may be attached to.
    #[inline]
    pub fn task(&self) -> &'a Task {
        self.task
    }
}

impl Drop for Attach<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the current task holds the lock for reading, and we are
        // responsible for releasing it.
        unsafe { bindings::up_read(&raw mut (*(*self.task.as_ptr()).signal).exec_update_lock) };
    }
}

/// Returns whether the current task may have files that no task which it may attach to has open.
///
/// An epoll instance can be passed on without the files that it watches, so access to a task that
/// has the instance does not give access to these. Their opener, which may not exist any more, can
/// have been any task of the system. So this requires a capability over the whole system,
/// `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_PTRACE` in the initial user namespace, and that the current
/// task is in the initial PID namespace: a container can have the capability, but not the host's
/// files.
#[doc(alias = "capable")]
pub fn may_have_any_file() -> bool {
    // SAFETY: The current task is valid, and has a PID namespace as long as it runs. Only addresses
    // are compared.
    let is_in_initial_ns = unsafe {
        ptr::eq(
            bindings::task_active_pid_ns(Task::current_raw()),
            &raw const bindings::init_pid_ns,
        )
    };

    // SAFETY: `capable` can be called for any capability.
    let capable = |capability: u32| unsafe { bindings::capable(capability as i32) };

    is_in_initial_ns
        && (capable(bindings::CAP_CHECKPOINT_RESTORE) || capable(bindings::CAP_SYS_PTRACE))
}
