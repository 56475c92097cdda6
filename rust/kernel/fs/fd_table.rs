// SPDX-License-Identifier: GPL-2.0

//! Descriptor tables.
//!
//! C header: [`include/linux/fdtable.h`](srctree/include/linux/fdtable.h)

use super::RemoteFile;
use crate::{
    bindings,
    ptrace::Attach,
    types::NotThreadSafe, //
};
use core::{
    ops::ControlFlow,
    ptr::NonNull, //
};

/// How many numbers [`FdTable::visit`] looks at, open or not, before it stops.
///
/// To see that nothing is open takes a bit each. A table can be large and empty.
const SCAN: u32 = 1 << 16;

/// The descriptor table of a task, locked.
///
/// This is a spinlock that those who open and close files need. Nothing that sleeps may be called
/// until it is dropped.
///
/// # Invariants
///
/// - `files` is the table of the task of `attach`.
/// - The current task holds the `alloc_lock` of that task and the `file_lock` of `files`, and this
///   value is what unlocks them.
#[must_use = "the table is unlocked as soon as this is dropped"]
pub struct FdTable<'a> {
    files: NonNull<bindings::files_struct>,
    attach: &'a Attach<'a>,
    _not_send: NotThreadSafe,
}

/// An open descriptor of a table that is locked.
pub struct FdEntry<'a> {
    /// The number.
    pub fd: u32,
    /// Whether it is closed by `execve(2)`.
    pub cloexec: bool,
    /// The file.
    pub file: &'a RemoteFile,
}

impl<'a> FdTable<'a> {
    /// Locks the descriptor table of a task. Returns `None` if it has none, as it is exiting.
    ///
    /// Context: does not sleep, nor may the caller until the table is dropped.
    pub fn lock(attach: &'a Attach<'a>) -> Option<Self> {
        let task = attach.task().as_ptr();

        // SAFETY: The task is valid as long as `attach` is borrowed.
        unsafe { bindings::task_lock(task) };

        // SAFETY: As above; we hold the lock that protects `files`.
        let Some(files) = NonNull::new(unsafe { (*task).files }) else {
            // SAFETY: We have just locked it.
            unsafe { bindings::task_unlock(task) };
            return None;
        };

        // SAFETY: A table is not freed as long as a task has it, and the task keeps it while its
        // `alloc_lock` is held. `update_classid_task` takes the two locks in the same order.
        unsafe { bindings::spin_lock(&raw mut (*files.as_ptr()).file_lock) };

        // INVARIANT: We have just taken both locks, and leave it to this value to unlock them.
        Some(Self {
            files,
            attach,
            _not_send: NotThreadSafe,
        })
    }

    /// Returns a pointer to the table, for those who look at nothing but the address.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::files_struct {
        self.files.as_ptr()
    }

    /// Calls `visit` on each open descriptor from the number `fd` on, in order, until it breaks.
    ///
    /// Returns the number to go on from, if there may be more. That can be so before `visit`
    /// breaks, as the time that the table is locked is bounded.
    pub fn visit(
        &self,
        fd: u32,
        mut visit: impl FnMut(FdEntry<'_>) -> ControlFlow<()>,
    ) -> Option<u32> {
        // SAFETY: By the type invariants, the table is valid. The `file_lock` is held, without
        // which nobody replaces the arrays. Those have room for `max_fds` descriptors.
        let fdt = unsafe { &*(*self.as_ptr()).fdt };
        let end = fd.saturating_add(SCAN).min(fdt.max_fds);
        let mut next = fd;

        while next < end {
            // SAFETY: The bitmap has `max_fds` bits, which is not less than `end`. That others
            // do not write to it is as above.
            let fd = unsafe {
                bindings::_find_next_bit(fdt.open_fds, end as usize, next as usize) as u32
            };
            if fd >= end {
                break;
            }
            next = fd + 1;

            // SAFETY: `fd` is less than `max_fds`. It can be `NULL`, if the number is only reserved
            // yet; that is changed with the lock held or, by those who have reserved it, without.
            let file = unsafe { fdt.fd.add(fd as usize).read_volatile() };
            let Some(file) = NonNull::new(file) else {
                continue;
            };

            let bits = usize::BITS;
            // SAFETY: As for `open_fds`.
            let word = unsafe { fdt.close_on_exec.add((fd / bits) as usize).read_volatile() };
            let entry = FdEntry {
                fd,
                cloexec: word >> (fd % bits) & 1 == 1,
                // SAFETY: The table has a reference to the file, which is only given up after it
                // was taken out, for which the `file_lock` is needed. By the type invariants, that
                // is held as long as `self` is borrowed. The cast is okay because `RemoteFile` is
                // `repr(transparent)`.
                file: unsafe { file.cast().as_ref() },
            };
            if visit(entry).is_break() {
                return Some(next);
            }
        }

        (end < fdt.max_fds).then_some(end)
    }
}

impl Drop for FdTable<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, we hold both locks, and it is for us to unlock them.
        unsafe {
            bindings::spin_unlock(&raw mut (*self.as_ptr()).file_lock);
            bindings::task_unlock(self.attach.task().as_ptr());
        }
    }
}
