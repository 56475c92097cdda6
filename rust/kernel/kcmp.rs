// SPDX-License-Identifier: GPL-2.0

//! Handlers for `kcmp(2)`.
//!
//! kcmp finds the two tasks, checks that the caller may look at them, copies what it needs from
//! userspace, and traces the answer. What `KCMP_EPOLL_TFD` compares is for a handler to find out,
//! which a module may register.
//!
//! C header: [`include/linux/kcmp.h`](srctree/include/linux/kcmp.h)

use crate::{
    bindings,
    epoll::Wait,
    error::to_result,
    fs::FileIdentity,
    module::this_module,
    prelude::*,
    task::Task, //
};
use core::{
    cmp::Ordering,
    marker::PhantomData, //
};

/// How two open files compare in the order of `KCMP_FILE`, as only [`file_order`] can tell.
///
/// # Invariants
///
/// It is what `kcmp_file` returned: 0, 1 or 2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FileOrder(c_int);

impl FileOrder {
    /// Whether the two files are the same.
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

/// Compares two open files, in the order of `KCMP_FILE`.
///
/// It is a total order that says nothing about addresses, fixed from boot to shutdown.
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
/// An identity that has outlived what kept its file from being freed cannot be compared:
///
/// ```ignore
/// let identity = RemoteFile::fget_task(task, fd1)?.identity();
/// // error[E0716]: temporary value dropped while borrowed
/// file_order(identity, file2.identity());
/// ```
#[doc(alias = "kcmp_file")]
#[inline]
pub fn file_order(file1: FileIdentity<'_>, file2: FileIdentity<'_>) -> FileOrder {
    // INVARIANT: It is what `kcmp_file` returns.
    //
    // SAFETY: Neither file is freed as long as its identity exists. `kcmp_file` looks at nothing
    // but their addresses.
    FileOrder(unsafe { bindings::kcmp_file(file1.as_ptr(), file2.as_ptr()) })
}

/// The question of `KCMP_EPOLL_TFD`: how does the file behind descriptor `fd` of `task1` compare to
/// the `toff`-th entry numbered `tfd` of the epoll set `efd` of `task2`?
///
/// All numbers are the caller's, unchecked.
pub struct EpollQuestion<'a> {
    /// The task whose file is asked for.
    pub task1: &'a Task,
    /// The descriptor of that file.
    pub fd: u32,
    /// The task that has the epoll set.
    pub task2: &'a Task,
    /// The descriptor of the epoll set.
    pub efd: u32,
    /// The number that the entry was added by.
    pub tfd: u32,
    /// How many entries of that number to skip.
    pub toff: u32,
    /// Whether to wait for the set, see [`EpollHandler::compare`].
    pub wait: Wait,
}

/// A handler for `KCMP_EPOLL_TFD`.
///
/// # Examples
///
/// ```
/// use kernel::kcmp::{EpollHandler, EpollQuestion, EpollRegistration, FileOrder};
///
/// struct NothingThere;
///
/// #[vtable]
/// impl EpollHandler for NothingThere {
///     fn compare(_question: &EpollQuestion<'_>) -> Result<FileOrder> {
///         Err(ENOENT)
///     }
/// }
///
/// // A module registers its handler by `module_epoll_handler!`.
/// //
/// // SAFETY: The handler is of this crate. The registration is dropped below.
/// let registration = unsafe { EpollRegistration::<NothingThere>::new()? };
///
/// // There is only one at a time.
/// //
/// // SAFETY: As above, if there is one.
/// assert_eq!(unsafe { EpollRegistration::<NothingThere>::new() }.err(), Some(EBUSY));
///
/// drop(registration);
/// // SAFETY: The registration is dropped at once.
/// drop(unsafe { EpollRegistration::<NothingThere>::new()? });
/// # Ok::<(), Error>(())
/// ```
#[vtable]
pub trait EpollHandler {
    /// Answers a question: how does the file of `task1` compare to the entry?
    ///
    /// The errors have to be those of `kcmp(2)`.
    ///
    /// A question is first asked with [`Wait::Never`], and the removal of the handler waits for the
    /// answer. A handler that would have to wait for the set, which may be for as long as its owner
    /// likes, fails with [`EAGAIN`]; then it is asked again with [`Wait::Killable`] and a reference
    /// to its module, unless that is being loaded or unloaded. It must not fail so a second time.
    ///
    /// Context: may sleep. The `exec_update_lock` of both tasks is held for reading: since
    /// the caller's access was checked, neither of them has become another program by `execve(2)`,
    /// and neither can as long as this runs.
    fn compare(question: &EpollQuestion<'_>) -> Result<FileOrder>;
}

/// The registration of an [`EpollHandler`], see [`module_epoll_handler!`].
///
/// [`module_epoll_handler!`]: crate::module_epoll_handler
///
/// Dropping it leaves the questions to the next handler that registers, or to the one in C. Calls
/// that wait for a set go on, each with a reference to the handler's module.
///
/// # Invariants
///
/// `ops` is registered.
pub struct EpollRegistration<T: EpollHandler> {
    ops: &'static bindings::kcmp_epoll_ops,
    _handler: PhantomData<T>,
}

// SAFETY: `kcmp_unregister_epoll_ops` may be called by any task.
unsafe impl<T: EpollHandler> Send for EpollRegistration<T> {}

// SAFETY: There is nothing that can be done with a shared reference.
unsafe impl<T: EpollHandler> Sync for EpollRegistration<T> {}

impl<T: EpollHandler> EpollRegistration<T> {
    const OPS: bindings::kcmp_epoll_ops = bindings::kcmp_epoll_ops {
        owner: this_module::<T::OwnerModule>().as_ptr(),
        target: Some(Self::target),
    };

    /// Registers the handler.
    ///
    /// It is called from then on, even before the init of its module has returned. Fails with
    /// [`EBUSY`] if there is a handler already.
    ///
    /// # Safety
    ///
    /// `T::OwnerModule` must be the module that calls this. The registration must be dropped before
    /// that module is unloaded, and must not be leaked.
    pub unsafe fn new() -> Result<Self> {
        let ops: &'static bindings::kcmp_epoll_ops = &Self::OPS;

        // SAFETY: `ops` is valid as long as the module is loaded, which is longer than it is
        // registered per the safety requirements. `target` is compiled into the module that calls
        // this, which is `owner` per the same.
        to_result(unsafe { bindings::kcmp_register_epoll_ops(ops) })?;

        // INVARIANT: It has just been registered.
        Ok(Self {
            ops,
            _handler: PhantomData,
        })
    }

    /// # Safety
    ///
    /// `task1` and `task2` must be valid tasks, and `slot` a valid slot, until this returns.
    unsafe extern "C" fn target(
        task1: *mut bindings::task_struct,
        task2: *mut bindings::task_struct,
        fd: c_uint,
        slot: *const bindings::kcmp_epoll_slot,
        wait: bool,
    ) -> c_int {
        // SAFETY: The caller guarantees that `slot` is valid.
        let slot = unsafe { &*slot };
        let question = EpollQuestion {
            // SAFETY: The caller guarantees that the task is valid. The cast is okay because `Task`
            // is `repr(transparent)`.
            task1: unsafe { &*task1.cast() },
            fd,
            // SAFETY: As for `task1`.
            task2: unsafe { &*task2.cast() },
            efd: slot.efd,
            tfd: slot.tfd,
            toff: slot.toff,
            wait: if wait { Wait::Killable } else { Wait::Never },
        };

        match T::compare(&question) {
            Ok(order) => order.0,
            Err(e) => e.to_errno(),
        }
    }
}

impl<T: EpollHandler> Drop for EpollRegistration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, `ops` is registered.
        unsafe { bindings::kcmp_unregister_epoll_ops(self.ops) };
    }
}

/// Declares a kernel module that answers `KCMP_EPOLL_TFD` as long as it is loaded.
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
                    // SAFETY: The handler is this module's, see above. The module owns the
                    // registration, and is dropped when it is unloaded. Should it not get that far,
                    // the registration is dropped here.
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
