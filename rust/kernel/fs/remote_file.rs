// SPDX-License-Identifier: GPL-2.0

//! Files of other tasks.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h) and
//! [`include/linux/fdtable.h`](srctree/include/linux/fdtable.h)

use crate::{
    bindings,
    fs::file::BadFdError,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    task::Task,
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// Wraps the kernel's `struct file`. Makes no assumption about who uses its position.
///
/// This is what one gets from the descriptor table of another task, or from a kernel object that
/// such a task has put the file into. That task may be inside an `fdget_pos` that did not take the
/// `f_pos_lock`, because the file was not shared when it looked. So this is neither a [`File`],
/// which has no such call, nor a [`LocalFile`], where it could only be on the current thread, and
/// there is no way to turn it into one of them: nothing here writes the position or relies on it,
/// and nothing that is added here may do so. To look at it, as fdinfo does, disturbs nobody.
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

// SAFETY: A reference to a file can be put by any thread.
unsafe impl Send for RemoteFile {}

// SAFETY: Nothing that can be done with a shared reference depends on the thread: taking and
// putting references is atomic, and so are the reads.
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
    /// Takes a reference to the file behind descriptor `fd` of `task`.
    ///
    /// `O_PATH` descriptors count as open. A task that is exiting has no descriptors any more.
    ///
    /// Whether the caller may know about the files of `task` is for the caller to have checked.
    ///
    /// Context: takes `task_lock` of `task`; does not sleep.
    #[inline]
    pub fn fget_task(task: &Task, fd: u32) -> Result<ARef<RemoteFile>, BadFdError> {
        // SAFETY: `task` is valid since we have a reference to it. There are no requirements on
        // `fd`.
        let file = unsafe { bindings::fget_task(task.as_ptr(), fd) };
        let file = NonNull::new(file).ok_or(BadFdError)?;

        // SAFETY: `fget_task` took a reference, and we pass ownership of it to the `ARef`. The
        // cast is okay because `RemoteFile` is `repr(transparent)`.
        Ok(unsafe { ARef::from_raw(file.cast()) })
    }

    /// Returns a raw pointer to the inner C struct.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::file {
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
        // This `read_volatile` is intended to correspond to a READ_ONCE call.
        //
        // SAFETY: The file is valid because the shared reference guarantees a nonzero refcount.
        unsafe { (&raw const (*self.as_ptr()).f_flags).read_volatile() }
    }
}

/// Which open file something is.
///
/// Two identities are equal exactly if they are of the same open file. The memory of a `struct
/// file` is reused as soon as the file is freed, so its address says this only while both files
/// exist. That is what the lifetime is for: an identity borrows from whatever keeps its file from
/// being freed (a reference to it, or the lock of a structure that it is removed from before), and
/// two identities can only be compared while both borrows last. To compare files one after the
/// other, as an address that is kept past its reference invites to, does not compile.
///
/// The last reference to the file may be gone already: an identity is no permission to use the
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
        // INVARIANT: This is what the caller guarantees.
        Self {
            file,
            _not_freed: PhantomData,
        }
    }

    /// Returns the raw pointer, for C functions that look at nothing but the address.
    ///
    /// Whoever could print it, or keep it, would undo what this type is for.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::file {
        self.file.as_ptr()
    }
}
