// SPDX-License-Identifier: GPL-2.0

//! Files of other tasks.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h) and
//! [`include/linux/fdtable.h`](srctree/include/linux/fdtable.h)

use crate::{
    bindings,
    fs::file::BadFdError,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            atomic_load,
            Relaxed, //
        }, //
    },
    task::Task,
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// Wraps the kernel's `struct file`. Makes no assumption about the use of the file position.
///
/// This type is for files that come from the descriptor table of another task, or from a kernel
/// object that another task has added them to. That task may be in an `fdget_pos` section that did
/// not take the `f_pos_lock`, because the file was not shared when the section began. Hence the
/// file is neither a [`File`], for which no such section exists, nor a [`LocalFile`], for which it
/// can only be on the current thread, and cannot be converted into one. No method may write the
/// file position or rely on its value. Reading it, as fdinfo does, is fine.
///
/// [`File`]: crate::fs::File
/// [`LocalFile`]: crate::fs::LocalFile
///
/// # Invariants
///
/// All instances of this type are refcounted using the `f_ref` field.
#[repr(transparent)]
pub struct RemoteFile {
    inner: Opaque<bindings::file>,
}

// SAFETY: A reference to a file can be dropped by any thread.
unsafe impl Send for RemoteFile {}

// SAFETY: No operation on a shared reference depends on the thread: taking and dropping references
// is atomic, and so are the reads.
unsafe impl Sync for RemoteFile {}

// SAFETY: The type invariants guarantee that `RemoteFile` is always ref-counted. This
// implementation makes `ARef<RemoteFile>` own a normal refcount.
unsafe impl AlwaysRefCounted for RemoteFile {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: The existence of a shared reference means that the refcount is nonzero.
        unsafe { bindings::get_file(self.as_ptr()) };
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<RemoteFile>) {
        // SAFETY: To call this method, the caller passes us ownership of a normal refcount, so we
        // may drop it. The cast is okay since `RemoteFile` has the same representation as `struct
        // file`.
        unsafe { bindings::fput(obj.cast().as_ptr()) }
    }
}

impl RemoteFile {
    /// Takes a reference to the file that descriptor `fd` of `task` refers to.
    ///
    /// `O_PATH` descriptors count as open. An exiting task may have no descriptors left.
    ///
    /// The caller is responsible for access checks.
    ///
    /// Context: takes `task_lock` of `task`; does not sleep.
    //
    // Modules cannot use the C function, so this must not be compiled into them.
    #[inline(never)]
    pub fn fget_task(task: &Task, fd: u32) -> Result<ARef<RemoteFile>, BadFdError> {
        // SAFETY: `task` is valid since we have a reference to it. There are no requirements on
        // `fd`.
        let file = unsafe { bindings::fget_task(task.as_ptr(), fd) };
        let file = NonNull::new(file).ok_or(BadFdError)?;

        // SAFETY: `fget_task` took a reference, and we pass ownership of it to the `ARef`. The
        // cast is okay because `RemoteFile` is `repr(transparent)`.
        Ok(unsafe { ARef::from_raw(file.cast()) })
    }

    /// Returns a raw pointer to the inner C struct, for the abstractions. Modules have no use for
    /// it that is safe, and must not show it to anybody.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::file {
        self.inner.get()
    }

    /// Returns the identity of this file, valid as long as the reference to it.
    #[inline]
    pub fn identity(&self) -> FileIdentity<'_> {
        // SAFETY: `self` is a valid file for as long as it is borrowed, thus not freed.
        unsafe { FileIdentity::from_raw(NonNull::from(&self.inner).cast()) }
    }

    /// Returns the flags associated with the file.
    ///
    /// The flags are a combination of the constants in [`flags`].
    ///
    /// [`flags`]: crate::fs::file::flags
    #[inline]
    pub fn flags(&self) -> u32 {
        // SAFETY: The file is valid because the shared reference guarantees a nonzero refcount.
        unsafe { atomic_load(&raw mut (*self.as_ptr()).f_flags, Relaxed) }
    }
}

/// The identity of an open file.
///
/// Two identities are equal exactly if they belong to the same open file. Since the memory of a
/// `struct file` may be reused as soon as the file is freed, comparing addresses is meaningful only
/// while both files exist. The lifetime ensures this: an identity borrows from whatever keeps its
/// file from being freed, be it a reference to the file or the lock of a structure that the file is
/// removed from before. Comparing the address of a file whose reference has already been dropped
/// does not compile.
///
/// The last reference to the file may be gone already, so an identity does not give access to the
/// file.
///
/// # Invariants
///
/// `file` points at a `struct file` that is not freed during `'a`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity<'a> {
    file: NonNull<bindings::file>,
    _not_freed: PhantomData<&'a RemoteFile>,
}

impl FileIdentity<'_> {
    /// Creates an identity from a pointer.
    ///
    /// # Safety
    ///
    /// `file` must point at a `struct file` whose memory is not freed or reused during the
    /// lifetime of the returned value. Its refcount may be zero.
    #[inline]
    pub unsafe fn from_raw(file: NonNull<bindings::file>) -> Self {
        // INVARIANT: Guaranteed by the caller.
        Self {
            file,
            _not_freed: PhantomData,
        }
    }

    /// Returns the raw pointer, for C functions that use the address only.
    ///
    /// This is private to the crate because code that prints or keeps the address defeats the
    /// purpose of this type.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::file {
        self.file.as_ptr()
    }
}
