// SPDX-License-Identifier: GPL-2.0

//! Descriptor tables.
//!
//! C header: [`include/linux/fdtable.h`](srctree/include/linux/fdtable.h)

use super::RemoteFile;
use crate::{
    bindings,
    ptrace::Attach,
    sync::atomic::{
        atomic_load,
        Relaxed, //
    },
    types::NotThreadSafe, //
};
use core::{
    ops::ControlFlow,
    ptr::NonNull, //
};

/// The number of descriptors, open or not, that [`FdTable::visit`] scans before it returns.
///
/// A table can be large and sparse; skipping a closed descriptor costs one bit of a bitmap.
const SCAN: u32 = 1 << 16;

/// The locked descriptor table of a task.
///
/// The lock is a spinlock that is needed to open and close files. The caller must not sleep until
/// this is dropped.
///
/// # Invariants
///
/// - `files` is the table of the task of `attach`.
/// - The current task holds the `alloc_lock` of that task and the `file_lock` of `files`, and this
///   value is what releases them.
#[must_use = "the table is unlocked as soon as this is dropped"]
pub struct FdTable<'a> {
    files: NonNull<bindings::files_struct>,
    attach: &'a Attach<'a>,
    _not_send: NotThreadSafe,
}

/// An open descriptor in a locked table.
pub struct OpenFd<'a> {
    /// The descriptor.
    pub fd: u32,
    /// Whether `execve(2)` closes it.
    pub cloexec: bool,
    /// The open file.
    pub file: &'a RemoteFile,
}

impl<'a> FdTable<'a> {
    /// Locks the descriptor table of a task. Returns `None` if the task is exiting and has none.
    ///
    /// Context: does not sleep, and the caller must not sleep until the table is dropped.
    pub fn lock(attach: &'a Attach<'a>) -> Option<Self> {
        let task = attach.task().as_ptr();

        // SAFETY: The task is valid as long as `attach` is borrowed.
        unsafe { bindings::task_lock(task) };

        // SAFETY: As above. We hold the lock that protects `files`.
        let Some(files) = NonNull::new(unsafe { (*task).files }) else {
            // SAFETY: We have just locked it.
            unsafe { bindings::task_unlock(task) };
            return None;
        };

        // SAFETY: The table is not freed while a task uses it, and the task cannot replace it while
        // its `alloc_lock` is held. `update_classid_task` takes the two locks in the same order.
        unsafe { bindings::spin_lock(&raw mut (*files.as_ptr()).file_lock) };

        // INVARIANT: We have just taken both locks, and leave it to this value to release them.
        Some(Self {
            files,
            attach,
            _not_send: NotThreadSafe,
        })
    }

    /// Returns a pointer to the table, for callers that use the address only.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::files_struct {
        self.files.as_ptr()
    }

    /// Calls `visit` on each open descriptor from `fd` on, in order, until it breaks.
    ///
    /// Returns the descriptor to continue from, or `None` at the end of the table. This may return
    /// before `visit` breaks, because the time that the table is locked is bounded.
    pub fn visit(
        &self,
        fd: u32,
        mut visit: impl FnMut(OpenFd<'_>) -> ControlFlow<()>,
    ) -> Option<u32> {
        // SAFETY: By the type invariants, the table is valid and the `file_lock` is held, which
        // protects the arrays from being replaced. They have room for `max_fds` descriptors.
        let fdt = unsafe { &*(*self.as_ptr()).fdt };
        let end = fd.saturating_add(SCAN).min(fdt.max_fds);
        let mut next = fd;

        while next < end {
            // SAFETY: The bitmap has `max_fds` bits, which is at least `end`. It is only written
            // with the `file_lock` held.
            let fd = unsafe {
                bindings::_find_next_bit(fdt.open_fds, end as usize, next as usize) as u32
            };
            if fd >= end {
                break;
            }
            next = fd + 1;

            // SAFETY: `fd` is less than `max_fds`. The pointer is `NULL` if the descriptor has only
            // been reserved so far. Installing the file does not take the lock.
            let file = unsafe { atomic_load(fdt.fd.add(fd as usize), Relaxed) };
            let Some(file) = NonNull::new(file) else {
                continue;
            };

            let bits = usize::BITS;
            // SAFETY: As for `open_fds`.
            let word = unsafe { *fdt.close_on_exec.add((fd / bits) as usize) };
            let open = OpenFd {
                fd,
                cloexec: word >> (fd % bits) & 1 == 1,
                // SAFETY: The table has a reference to the file, which is only dropped after the
                // file has been removed from the table with the `file_lock` held. By the type
                // invariants, we hold that lock as long as `self` is borrowed. The cast is okay
                // because `RemoteFile` is `repr(transparent)`.
                file: unsafe { file.cast().as_ref() },
            };
            if visit(open).is_break() {
                return Some(next);
            }
        }

        (end < fdt.max_fds).then_some(end)
    }
}

impl Drop for FdTable<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, we hold both locks and are responsible for releasing
        // them.
        unsafe {
            bindings::spin_unlock(&raw mut (*self.as_ptr()).file_lock);
            bindings::task_unlock(self.attach.task().as_ptr());
        }
    }
}
