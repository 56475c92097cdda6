// SPDX-License-Identifier: GPL-2.0

//! Epoll instances.
//!
//! An epoll instance does not watch descriptors. Each entry of its interest list, an epitem, pairs
//! an open file with the descriptor that it was added under. That descriptor may since have been
//! closed or reused for another file. The epitem stays until it is deleted or the last reference to
//! the file is gone. This module makes epitems accessible outside of epoll itself: by descriptor,
//! in order, or in batches that drop the lock in between.
//!
//! - [`Eventpoll`] is an epoll instance, borrowed from its file.
//! - [`Guard`] proves that the mutex of an instance is held. Nothing that the mutex protects can be
//!   reached without it.
//! - [`Epitem`] is an entry of the interest list, borrowed from the guard.
//! - [`Cursor`] is a position in the order of the epitems. It is a plain value that holds no
//!   reference and can be kept while the mutex is not held.
//!
//! # Locking
//!
//! The mutex of an instance is `ep->mtx` in the [locking rules of `fs/eventpoll.c`]. The watched
//! program needs it for each `epoll_wait(2)`. It can also hold it indefinitely, by having
//! `epoll_wait(2)` fault on memory that a userspace server provides. Reading epitems therefore
//! either waits for the mutex killably or does not wait at all, and should hold it for a bounded
//! number of epitems only, as [`Eventpoll::walk`] does. A kernel thread cannot be killed, and never
//! waits: it may well be running for a program, as the workqueues of BPF do. While it waits, it
//! must not hold anything that others wait for, such as the `exec_update_lock` of a task. Adding
//! and removing epitems waits killably, too.
//!
//! While it is held, do not take the mutex of another instance, nor call anything that does: epoll
//! itself nests these mutexes in the order in which the instances are nested. Dropping the last
//! reference to a file is fine, since [`fput`] defers the release.
//!
//! [locking rules of `fs/eventpoll.c`]: srctree/fs/eventpoll.c
//! [`fput`]: srctree/fs/file_table.c
//!
//! C headers: [`include/linux/eventpoll.h`](srctree/include/linux/eventpoll.h) and
//! [`fs/eventpoll.h`](srctree/fs/eventpoll.h)

use crate::{
    bindings,
    error::{
        code::*,
        to_result,
        Error,
        Result, //
    },
    fmt,
    fs::{
        FileIdentity,
        RemoteFile, //
    },
    interop::rbtree::{
        crbtree_create,
        CRbTree,
        CRbTreeIter, //
    },
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
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    cmp::Ordering,
    iter::FusedIterator,
    mem::offset_of,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};

#[cfg(CONFIG_BPF_SYSCALL)]
mod bpf;
mod id;
#[cfg(CONFIG_KUNIT)]
pub mod kunit;
pub mod restore;
mod visit;
mod walk;

pub use self::visit::Visit;
pub use self::walk::{
    pause_killable,
    WALK_BATCH, //
};

/// Whether to wait for the mutex of an epoll instance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Do not wait. Fail with [`EAGAIN`] if the mutex is taken.
    Never,
    /// Wait, and fail with [`EINTR`] if the current task is killed. A kernel thread cannot be
    /// killed, so it does not wait.
    Killable,
}

/// An epoll instance.
///
/// # Invariants
///
/// Instances of this type are `struct eventpoll`s whose mutex and tree are initialized.
#[repr(transparent)]
pub struct Eventpoll(Opaque<bindings::eventpoll>);

impl Eventpoll {
    /// Returns the epoll instance of an open file, if it is an epoll file.
    ///
    /// The instance lives as long as its file, hence the lifetime of the result.
    //
    // Modules cannot use `eventpoll_fops`, so this must not be compiled into them.
    #[doc(alias = "is_file_epoll")]
    #[inline(never)]
    pub fn from_file(file: &RemoteFile) -> Result<&Eventpoll, NotEpollError> {
        // SAFETY: `file` is valid since we have a reference to it. `f_op` is set before the file is
        // published. That of an epoll file never changes; other files replace the whole pointer.
        let f_op = unsafe { atomic_load(&raw mut (*file.as_ptr()).f_op, Relaxed) };
        if !ptr::eq(f_op, &raw const bindings::eventpoll_fops) {
            return Err(NotEpollError);
        }

        // SAFETY: As above. The `private_data` of an epoll file is set before the file is published
        // and never changes.
        let ep = unsafe { (*file.as_ptr()).private_data };

        // SAFETY: The `private_data` of an epoll file is its `struct eventpoll`, which the file
        // keeps alive until its refcount drops to zero. `file` has a reference for as long as it is
        // borrowed. The cast is okay because `Eventpoll` is `repr(transparent)`.
        Ok(unsafe { &*ep.cast() })
    }

    /// Locks the mutex of the instance.
    ///
    /// Fails with [`EINTR`] if the current task is killed while it waits, and with [`EAGAIN`] if it
    /// is a kernel thread and the mutex is taken: nothing could end the wait if the program that
    /// has the mutex does not.
    ///
    /// Context: may sleep. See the [module documentation](self#locking) for the locking rules.
    #[inline]
    pub fn lock_killable(&self) -> Result<Guard<'_>> {
        // SAFETY: The current task is valid. What kind of task it is does not change.
        if unsafe { (*Task::current_raw()).flags } & bindings::PF_KTHREAD != 0 {
            return self.try_lock().ok_or(EAGAIN);
        }

        // SAFETY: By the type invariants, the mutex is initialized.
        to_result(unsafe { bindings::mutex_lock_killable(&raw mut (*self.0.get()).mtx) })?;

        // INVARIANT: We have just locked the mutex, and leave it to the guard to unlock it.
        Ok(Guard {
            ep: self,
            _not_send: NotThreadSafe,
        })
    }

    /// Locks the mutex of the instance if it is free.
    ///
    /// Context: does not sleep, but requires task context.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_>> {
        // SAFETY: By the type invariants, the mutex is initialized.
        if unsafe { bindings::mutex_trylock(&raw mut (*self.0.get()).mtx) } == 0 {
            return None;
        }

        // INVARIANT: As in `lock_killable`.
        Some(Guard {
            ep: self,
            _not_send: NotThreadSafe,
        })
    }

    /// Locks the mutex of the instance, waiting for it as specified by `wait`.
    ///
    /// Context: as for [`Eventpoll::lock_killable`] or [`Eventpoll::try_lock`].
    #[inline]
    pub fn lock(&self, wait: Wait) -> Result<Guard<'_>> {
        match wait {
            Wait::Never => self.try_lock().ok_or(EAGAIN),
            Wait::Killable => self.lock_killable(),
        }
    }
}

/// Proof that the mutex of an epoll instance is held.
///
/// Dropping it unlocks the mutex.
///
/// # Invariants
///
/// The current task holds the mutex of `ep`, and this value is what unlocks it.
#[must_use = "the mutex is unlocked as soon as the guard is dropped"]
pub struct Guard<'a> {
    ep: &'a Eventpoll,
    /// A mutex has to be unlocked by the task that locked it.
    _not_send: NotThreadSafe,
}

const RBN: usize = offset_of!(bindings::epitem, __bindgen_anon_1.rbn);

impl Guard<'_> {
    #[inline]
    fn tree(&self) -> &CRbTree<Epitem, RBN> {
        // SAFETY: By the type invariants of `Eventpoll`, the tree is initialized; its nodes are
        // the `rbn` of `struct epitem`s, which `Epitem` is a transparent wrapper of. By the type
        // invariants, the mutex is held as long as `self` is borrowed, so the tree is not modified
        // and its epitems may be referenced.
        unsafe {
            crbtree_create!(
                &raw const (*self.ep.0.get()).rbr.rb_root,
                Epitem,
                bindings::epitem,
                __bindgen_anon_1.rbn
            )
        }
    }

    /// Iterates over all epitems, ordered by descriptor, then by file.
    ///
    /// The order of files is fixed as long as they exist and otherwise unspecified.
    #[inline]
    pub fn items(&self) -> Items<'_> {
        self.items_after(Cursor::START)
    }

    /// Iterates over the epitems after `cursor`.
    ///
    /// Finding the first takes O(log n).
    #[inline]
    pub fn items_after(&self, cursor: Cursor) -> Items<'_> {
        Items(
            self.tree()
                .lower_bound(|epi| epi.cursor().order(cursor).is_le()),
        )
    }

    /// Returns the epitem for a file that was added under descriptor `fd`.
    ///
    /// Takes O(log n).
    #[doc(alias = "ep_find")]
    #[inline]
    pub fn find(&self, fd: i32, file: FileIdentity<'_>) -> Option<&Epitem> {
        let key = Cursor {
            fd,
            file: file.as_ptr().addr(),
        };

        self.tree().find(|epi| epi.cursor().order(key))
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the current task holds the mutex, and we are responsible
        // for unlocking it.
        unsafe { bindings::mutex_unlock(&raw mut (*self.ep.0.get()).mtx) };
    }
}

/// An iterator over the epitems of an epoll instance, in order.
pub struct Items<'a>(CRbTreeIter<'a, Epitem, RBN>);

impl<'a> Iterator for Items<'a> {
    type Item = &'a Epitem;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl FusedIterator for Items<'_> {}

/// An entry of the interest list of an epoll instance.
///
/// # Invariants
///
/// - Instances of this type are `struct epitem`s that are linked in the tree of an epoll instance.
/// - The current task holds the mutex of that epoll instance while there is a reference to one.
#[repr(transparent)]
pub struct Epitem(Opaque<bindings::epitem>);

impl Epitem {
    #[inline]
    fn key(&self) -> bindings::epoll_key {
        // SAFETY: By the type invariants, this is a valid epitem; its key never changes. The key is
        // packed, so it may be unaligned.
        unsafe { (&raw const (*self.0.get()).ffd).read_unaligned() }
    }

    #[inline]
    fn event(&self) -> bindings::epoll_event {
        // SAFETY: By the type invariants, this is a valid epitem and the mutex is held, which
        // protects `event`. It is packed on some architectures, so it may be unaligned.
        unsafe { (&raw const (*self.0.get()).event).read_unaligned() }
    }

    /// Returns the descriptor that the file was added under.
    ///
    /// It may have been closed or reused for another file since.
    #[inline]
    pub fn fd(&self) -> i32 {
        self.key().fd
    }

    /// Returns the identity of the watched file.
    ///
    /// The last reference to the file may be gone already, see [`Epitem::pin`].
    #[inline]
    pub fn file(&self) -> FileIdentity<'_> {
        let file = self.key().file;

        // SAFETY: An epitem always has a file. Before `__fput` frees that file it removes the
        // epitem, for which it needs the mutex of the instance. By the type invariants, the epitem
        // is in the tree and the mutex is held as long as `self` is borrowed, so the file is not
        // freed meanwhile.
        unsafe { FileIdentity::from_raw(NonNull::new_unchecked(file)) }
    }

    /// Takes a reference to the watched file, unless its last reference is gone already.
    ///
    /// Do not keep the result across a return to userspace, but a [`Cursor`]. The file may itself
    /// hold a reference to whatever keeps the result, and nothing collects such cycles.
    #[doc(alias = "epi_fget")]
    #[inline]
    pub fn pin(&self) -> Option<ARef<RemoteFile>> {
        let file = NonNull::new(self.key().file)?;

        // SAFETY: As in `file`, the file is not freed as long as `self` is borrowed.
        if !unsafe { bindings::file_ref_get(&raw mut (*file.as_ptr()).f_ref) } {
            return None;
        }

        // SAFETY: We have just taken the reference that the `ARef` owns from here on. The cast is
        // okay because `RemoteFile` is `repr(transparent)`.
        Some(unsafe { ARef::from_raw(file.cast()) })
    }

    /// Returns whether the last reference to the watched file is gone, so that [`Epitem::pin`]
    /// fails and the epitem is about to be removed.
    #[doc(alias = "file_ref_read")]
    #[inline]
    pub fn is_closing(&self) -> bool {
        let file = self.key().file;

        // The count excludes the first reference and is negative if there is none.
        //
        // SAFETY: As in `file`, the file is not freed as long as `self` is borrowed. The count is
        // accessed atomically.
        unsafe {
            atomic_load(
                (&raw mut (*file).f_ref.refcnt.counter).cast::<isize>(),
                Relaxed,
            ) < 0
        }
    }

    /// Returns the requested events and flags, as last added or modified.
    ///
    /// `EPOLLERR` and `EPOLLHUP` are always included, except that only flags are left of an
    /// `EPOLLONESHOT` epitem that has fired.
    #[inline]
    pub fn events(&self) -> u32 {
        self.event().events
    }

    /// Returns the user data, as last added or modified.
    #[inline]
    pub fn data(&self) -> u64 {
        self.event().data
    }

    /// Returns whether the epitem is on the ready list.
    ///
    /// The events that put it there may be gone by the time `epoll_wait(2)` polls the file, and the
    /// epitem may be added to the list at any time.
    #[doc(alias = "ep_is_linked")]
    #[inline]
    pub fn is_ready(&self) -> bool {
        // SAFETY: By the type invariants, this is a valid epitem.
        let rdllink = unsafe { &raw mut (*self.0.get()).rdllink };

        // As in `list_empty`. The overflow list is empty: it is used only during a scan, which
        // holds the mutex.
        //
        // SAFETY: `rdllink` is always initialized. It is written under the lock of the instance,
        // which we do not hold, but always as a whole pointer.
        let next = unsafe { atomic_load(&raw mut (*rdllink).next, Relaxed) };

        next != rdllink
    }

    /// Returns the position of this epitem.
    #[inline]
    pub fn cursor(&self) -> Cursor {
        let key = self.key();

        Cursor {
            fd: key.fd,
            file: key.file.addr(),
        }
    }
}

/// A position in the order of the epitems of an epoll instance.
///
/// The epitem that a cursor was created from may be removed and added again; this does not change
/// which epitems are after the cursor. If a new file is allocated at the address of an old one and
/// added under the same descriptor, it takes the old position.
///
/// The file address is compared only with those of an instance whose mutex is held, and cannot be
/// extracted. Cursors cannot even be compared with each other: this would tell whether two files
/// have the same address, but not whether they are the same file.
#[derive(Clone, Copy)]
pub struct Cursor {
    fd: i32,
    file: usize,
}

impl Cursor {
    /// The position before all epitems.
    pub const START: Cursor = Cursor::before_fd(i32::MIN);

    /// Returns the position before all epitems of descriptor `fd`.
    #[inline]
    pub const fn before_fd(fd: i32) -> Cursor {
        // No file is at address 0.
        Cursor { fd, file: 0 }
    }

    /// Compares two positions.
    #[doc(alias = "ep_cmp_ffd")]
    #[inline]
    fn order(self, other: Cursor) -> Ordering {
        (self.fd, self.file).cmp(&(other.fd, other.file))
    }
}

/// An epoll file.
///
/// A reference to it, an [`ARef<EpollFile>`], keeps the epoll instance alive.
///
/// # Invariants
///
/// Instances of this type are epoll files.
#[repr(transparent)]
pub struct EpollFile(RemoteFile);

// SAFETY: As for `RemoteFile`, which this is a transparent wrapper of.
unsafe impl AlwaysRefCounted for EpollFile {
    #[inline]
    fn inc_ref(&self) {
        self.0.inc_ref();
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller passes us ownership of a reference. The cast is okay because
        // `EpollFile` is `repr(transparent)`.
        unsafe { RemoteFile::dec_ref(obj.cast()) };
    }
}

// Make all `RemoteFile` methods available on `EpollFile`.
impl Deref for EpollFile {
    type Target = RemoteFile;

    #[inline]
    fn deref(&self) -> &RemoteFile {
        &self.0
    }
}

impl EpollFile {
    /// Converts a reference to a file, if it is an epoll file.
    #[inline]
    pub fn new(file: ARef<RemoteFile>) -> Result<ARef<Self>, NotEpollError> {
        Eventpoll::from_file(&file)?;

        // INVARIANT: This is an epoll file, and remains one.
        //
        // SAFETY: The reference is the one that `file` owned. The cast is okay because `EpollFile`
        // is `repr(transparent)`.
        Ok(unsafe { ARef::from_raw(ARef::into_raw(file).cast()) })
    }

    /// Returns the epoll instance.
    #[inline]
    pub fn eventpoll(&self) -> &Eventpoll {
        // SAFETY: By the type invariants, this is an epoll file. It has a reference for as long as
        // it is borrowed. See `Eventpoll::from_file` for the rest.
        unsafe { &*(*self.0.as_ptr()).private_data.cast() }
    }
}

/// Represents the [`EINVAL`] error code.
///
/// Used for methods that fail if a file is not an epoll file.
#[derive(Copy, Clone, Eq, PartialEq)]
pub struct NotEpollError;

impl From<NotEpollError> for Error {
    #[inline]
    fn from(_: NotEpollError) -> Error {
        EINVAL
    }
}

impl fmt::Debug for NotEpollError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("EINVAL")
    }
}
