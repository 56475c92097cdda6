// SPDX-License-Identifier: GPL-2.0

//! Permission to look at other tasks.
//!
//! C header: [`include/linux/ptrace.h`](srctree/include/linux/ptrace.h).

use crate::{
    bindings,
    error::{
        code::*,
        to_result,
        Result, //
    },
    task::Task,
    types::NotThreadSafe, //
};

/// Evidence that the current task may attach to another one.
///
/// That a task executes a program, and gets its privileges, waits for this to be dropped: what is
/// taken from the task meanwhile belongs to the program that permission was given for. So it should
/// not be held for long, and not while memory of a program is accessed.
///
/// # Invariants
///
/// The current task holds the `exec_update_lock` of `task` for reading, and this value is what lets
/// go of it. Since then, `ptrace_may_access` has granted access.
#[must_use = "permission ends as soon as this is dropped"]
pub struct Attach<'a> {
    task: &'a Task,
    /// A lock has to be let go of by the task that took it.
    _not_send: NotThreadSafe,
}

impl<'a> Attach<'a> {
    /// Asks for permission to attach to `task`, by the real credentials of the current task.
    ///
    /// That is what `pidfd_getfd(2)` asks for. Fails with [`EPERM`] if it is denied, with [`ESRCH`]
    /// if the task is exiting, and with [`EINTR`] if the current task is killed, before or while it
    /// waits.
    ///
    /// Context: may sleep, and lets others run.
    #[doc(alias = "ptrace_may_access")]
    pub fn new(task: &'a Task) -> Result<Self> {
        // Who asks again and again is not to go on when killed.
        Task::pause_killable()?;

        // SAFETY: `task` is valid since we have a reference to it. Its `signal` is set before it is
        // published, and lives as long as the task. The lock in it is initialized.
        to_result(unsafe {
            bindings::down_read_killable(&raw mut (*(*task.as_ptr()).signal).exec_update_lock)
        })?;

        // INVARIANT: We have just taken the lock, and leave it to this value to let go of it. It is
        // dropped below if access is not granted.
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

        // This `read_volatile` is intended to correspond to the plain read in `__pidfd_fget`: the
        // task may be about to set it.
        //
        // SAFETY: As above.
        let flags = unsafe { (&raw const (*task.as_ptr()).flags).read_volatile() };
        if flags & bindings::PF_EXITING != 0 {
            return Err(ESRCH);
        }

        Ok(attach)
    }

    /// Returns the task that this is about.
    #[inline]
    pub fn task(&self) -> &'a Task {
        self.task
    }
}

impl Drop for Attach<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the current task holds the lock for reading, and it is
        // for us to let go of it.
        unsafe { bindings::up_read(&raw mut (*(*self.task.as_ptr()).signal).exec_update_lock) };
    }
}
