// SPDX-License-Identifier: GPL-2.0

//! Handlers for `kcmp(2)`.
//!
//! kcmp looks up the two tasks, checks the caller's access to them, copies the slot from userspace,
//! takes references to the two files and traces the result. A module can register a handler that
//! finds the file that an epoll instance watches and compares it.
//!
//! C header: [`include/linux/kcmp.h`](srctree/include/linux/kcmp.h)

use crate::{
    bindings,
    epoll::Wait,
    error::to_result,
    fs::{
        FileIdentity,
        RemoteFile, //
    },
    module::this_module,
    prelude::*, //
};
use core::{
    cmp::Ordering,
    marker::PhantomData, //
};

/// The order of two open files, as returned by [`file_order`].
///
/// # Invariants
///
/// This is a return value of `kcmp_file`: 0, 1 or 2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FileOrder(c_int);

impl FileOrder {
    /// Returns whether the two files are the same.
    #[inline]
    pub fn is_eq(self) -> bool {
        self.0 == 0
    }
}

impl From<FileOrder> for Ordering {
    #[inline]
    fn from(order: FileOrder) -> Self {
        match order.0 {
            0 => Self::Equal,
            1 => Self::Less,
            _ => Self::Greater,
        }
    }
}

/// Compares two open files, as `KCMP_FILE` does.
///
/// This is a total order, fixed from boot to shutdown, that does not reveal the order of addresses.
///
/// # Examples
///
/// ```
/// use kernel::{fs::RemoteFile, kcmp::file_order, task::Task};
///
/// fn same_file(task: &Task, fd1: u32, fd2: u32) -> Result<bool> {
///     let file1 = RemoteFile::fget_task(task, fd1)?;
///     let file2 = RemoteFile::fget_task(task, fd2)?;
///
///     Ok(file_order(file1.identity(), file2.identity()).is_eq())
/// }
/// # assert_eq!(same_file(current!(), u32::MAX, 0), Err(EBADF));
/// ```
///
/// An identity cannot be compared after the reference that kept its file from being freed is gone:
///
/// ```ignore
/// let identity = RemoteFile::fget_task(task, fd1)?.identity();
/// // error[E0716]: temporary value dropped while borrowed
/// file_order(identity, file2.identity());
/// ```
#[doc(alias = "kcmp_file")]
#[inline]
pub fn file_order(file1: FileIdentity<'_>, file2: FileIdentity<'_>) -> FileOrder {
    // INVARIANT: This is a return value of `kcmp_file`.
    //
    // SAFETY: Neither file is freed as long as its identity exists. `kcmp_file` uses their
    // addresses only.
    FileOrder(unsafe { bindings::kcmp_file(file1.as_ptr(), file2.as_ptr()) })
}

/// A `KCMP_EPOLL_TFD` query.
///
/// It compares `file` with the file of the `toff`-th epitem of descriptor `tfd` in the epoll
/// instance of `epoll_file`.
///
/// The descriptor and the offset come from userspace and have not been checked.
pub struct EpollQuery<'a> {
    /// The file that the first task has open.
    pub file: &'a RemoteFile,
    /// The file that the second task has open, which need not be an epoll file.
    pub epoll_file: &'a RemoteFile,
    /// The descriptor that the epitem was added under.
    pub tfd: u32,
    /// The number of epitems of that descriptor to skip.
    pub toff: u32,
    /// Whether to wait for the mutex of the instance, see [`EpollHandler::compare`].
    pub wait: Wait,
}

/// A handler for `KCMP_EPOLL_TFD`.
///
/// # Examples
///
/// ```
/// use kernel::kcmp::{EpollHandler, EpollQuery, EpollRegistration, FileOrder};
///
/// struct NothingThere;
///
/// #[vtable]
/// impl EpollHandler for NothingThere {
///     fn compare(_query: &EpollQuery<'_>) -> Result<FileOrder> {
///         Err(ENOENT)
///     }
/// }
///
/// // A module registers its handler with `module_epoll_handler!`.
/// //
/// // SAFETY: The handler is part of this crate. The registration is dropped below.
/// let registration = unsafe { EpollRegistration::<NothingThere>::new()? };
///
/// // Only one handler can be registered at a time.
/// //
/// // SAFETY: As above, should this succeed.
/// assert_eq!(unsafe { EpollRegistration::<NothingThere>::new() }.err(), Some(EBUSY));
///
/// drop(registration);
/// // SAFETY: As above; the registration is dropped immediately.
/// drop(unsafe { EpollRegistration::<NothingThere>::new()? });
/// # Ok::<(), Error>(())
/// ```
#[vtable]
pub trait EpollHandler {
    /// Compares the file with the one that the epoll instance watches.
    ///
    /// Errors must be those documented for `kcmp(2)`: [`EINVAL`] if `epoll_file` is not an epoll
    /// file, and [`ENOENT`] if there is no such epitem.
    ///
    /// The first call for a query has [`Wait::Never`]; unregistering the handler waits for it to
    /// return. If the mutex of the instance is taken, which may last as long as its owner wants,
    /// the handler must fail with [`EAGAIN`]. It is then called again with [`Wait::Killable`],
    /// while a reference to its module is held, unless the module is being loaded or unloaded. The
    /// second call must not fail with [`EAGAIN`].
    ///
    /// Context: may sleep. No lock is held: however long the second call waits, nothing waits for
    /// it. The caller had access to the tasks when the files were taken.
    fn compare(query: &EpollQuery<'_>) -> Result<FileOrder>;
}

/// The registration of an [`EpollHandler`], see [`module_epoll_handler!`].
///
/// [`module_epoll_handler!`]: crate::module_epoll_handler
///
/// Dropping it leaves queries to the C handler until another one is registered. Calls that are
/// waiting for a mutex continue, each with a reference to the handler's module.
///
/// # Invariants
///
/// `OPS` is registered.
pub struct EpollRegistration<T: EpollHandler>(PhantomData<T>);

// SAFETY: `kcmp_unregister_epoll_ops` may be called by any task.
unsafe impl<T: EpollHandler> Send for EpollRegistration<T> {}

// SAFETY: There are no operations on a shared reference.
unsafe impl<T: EpollHandler> Sync for EpollRegistration<T> {}

impl<T: EpollHandler> EpollRegistration<T> {
    const OPS: bindings::kcmp_epoll_ops = bindings::kcmp_epoll_ops {
        owner: this_module::<T::OwnerModule>().as_ptr(),
        target: Some(Self::target),
    };

    /// Registers the handler.
    ///
    /// It may be called before this returns, and thus before the init function of its module does.
    /// Fails with [`EBUSY`] if a handler is registered already.
    ///
    /// # Safety
    ///
    /// - `T::OwnerModule` must be the calling module.
    /// - The registration must be dropped before that module is unloaded, and must not be leaked.
    pub unsafe fn new() -> Result<Self> {
        let ops: &'static bindings::kcmp_epoll_ops = &Self::OPS;

        // SAFETY: `ops` is valid while the module is loaded. Per the safety requirements, it is
        // unregistered before the module is unloaded, and `target`, which is compiled into the
        // calling module, is part of `owner`.
        to_result(unsafe { bindings::kcmp_register_epoll_ops(ops) })?;

        // INVARIANT: `ops` has just been registered.
        Ok(Self(PhantomData))
    }

    /// # Safety
    ///
    /// There must be references to `file` and `epoll_file`, and `slot` must be a valid slot, until
    /// this returns.
    unsafe extern "C" fn target(
        file: *mut bindings::file,
        epoll_file: *mut bindings::file,
        slot: *const bindings::kcmp_epoll_slot,
        wait: bool,
    ) -> c_int {
        // SAFETY: The caller guarantees that `slot` is valid.
        let slot = unsafe { &*slot };
        let query = EpollQuery {
            // SAFETY: The caller guarantees that there is a reference. The cast is okay because
            // `RemoteFile` is `repr(transparent)`.
            file: unsafe { &*file.cast() },
            // SAFETY: As for `file`.
            epoll_file: unsafe { &*epoll_file.cast() },
            tfd: slot.tfd,
            toff: slot.toff,
            wait: if wait { Wait::Killable } else { Wait::Never },
        };

        match T::compare(&query) {
            Ok(order) => order.0,
            Err(e) => e.to_errno(),
        }
    }
}

impl<T: EpollHandler> Drop for EpollRegistration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, a handler is registered, and it is this one.
        unsafe { bindings::kcmp_unregister_epoll_ops() };
    }
}

/// Declares a kernel module that handles `KCMP_EPOLL_TFD` while it is loaded.
///
/// The `type` argument is a type that implements [`EpollHandler`]. The other arguments are those of
/// [`module!`].
///
/// # Examples
///
/// ```ignore
/// kernel::module_epoll_handler! {
///     type: MyHandler,
///     name: "my_handler",
///     authors: ["Author name"],
///     description: "Description",
///     license: "GPL v2",
/// }
/// ```
#[macro_export]
macro_rules! module_epoll_handler {
    (type: $type:ty, $($f:tt)*) => {
        struct EpollHandlerModule {
            _registration: $crate::kcmp::EpollRegistration<$type>,
        }

        impl $crate::Module for EpollHandlerModule
        where
            $type: $crate::kcmp::EpollHandler<OwnerModule = EpollHandlerModule>,
        {
            fn init(_module: &'static $crate::ThisModule) -> $crate::error::Result<Self> {
                Ok(Self {
                    // SAFETY: The `where` clause requires `OwnerModule` to be this module. The
                    // module owns the registration and is dropped when it is unloaded. If init
                    // fails, the registration is dropped here.
                    _registration: unsafe { $crate::kcmp::EpollRegistration::new() }?,
                })
            }
        }

        $crate::prelude::module! {
            type: EpollHandlerModule,
            $($f)*
        }
    }
}
