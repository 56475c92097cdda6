// SPDX-License-Identifier: GPL-2.0

//! Epoll sets.
//!
//! An epoll set does not watch descriptors. It watches pairs of an open file and the number that
//! its descriptor had when it was added. The number may since have been closed, or mean another
//! file; the pair stays until it is deleted, or nothing holds the file any more. This module lets
//! code other than epoll itself see these pairs: by number, one after the other, or in steps that
//! let go of the lock.
//!
//! - [`Eventpoll`] is a set, borrowed from its file.
//! - [`Guard`] is the evidence that the mutex of the set is held. Nothing of what that mutex
//!   protects can be reached without it.
//! - [`Epitem`] is an entry, borrowed from the guard.
//! - [`Cursor`] is a place in the order of the entries. It is a value: it holds no reference and
//!   can be kept while the mutex is not held.
//! - [`Visit`] is a guard and an entry in one, together with what keeps them: for code that C calls
//!   once for each entry, and that has nothing to borrow from in between.
//!
//! # Locking
//!
//! The mutex of a set is the `mtx` of the [locking rules of `fs/eventpoll.c`]: the watched program
//! needs it for each `epoll_wait(2)`, and it may be held for as long as a program likes, by one
//! that lets its `epoll_wait(2)` fault on memory that somebody else serves. Hence to look at
//! entries it is only ever waited for killably, or not at all, and should be held for a bounded
//! number of them; [`Eventpoll::walk`] does so. To add and to remove entries waits as
//! `epoll_ctl(2)` does.
//!
//! While it is held one must not take the mutex of another set, nor call what does: the order in
//! which epoll itself takes two of them is that of the nesting of sets. To let go of the last
//! reference to a file is fine, as [`fput`] leaves the work for later.
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
    processor::cpu_relax,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    task::Task,
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    cmp::Ordering,
    iter::FusedIterator,
    mem::{
        offset_of,
        transmute, //
    },
    ops::ControlFlow,
    ptr::{
        self,
        NonNull, //
    }, //
};

#[cfg(CONFIG_BPF_SYSCALL)]
mod bpf;
#[cfg(CONFIG_KUNIT)]
pub mod kunit;
pub mod restore;

/// How many entries [`Eventpoll::walk`] and [`Visit::next`] pass before they let go of the mutex
/// for a moment.
///
/// To get back to the place costs O(log n), so this is large enough to make that cost vanish. It is
/// small enough that to look at that many entries delays nobody who waits for the mutex by much.
pub const WALK_BATCH: usize = 256;

/// How often [`Eventpoll::walk`] looks whether one who spins for the mutex has got it.
///
/// It takes well under a microsecond to see that it is free, for one who is running.
const SPINS: usize = 128;

/// Whether to wait for the mutex of a set that somebody else holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Fail with [`EAGAIN`] instead.
    Never,
    /// Until the current task is killed. Fail with [`EINTR`] then.
    Killable,
}

/// An epoll set.
///
/// # Invariants
///
/// Instances of this type are `struct eventpoll`s whose mutex and tree are initialized.
#[repr(transparent)]
pub struct Eventpoll(Opaque<bindings::eventpoll>);

impl Eventpoll {
    /// Returns the set that is behind an open file, if it is an epoll file.
    ///
    /// The set lives as long as its file, hence the lifetime of the result.
    #[doc(alias = "is_file_epoll")]
    #[inline]
    pub fn from_file(file: &RemoteFile) -> Result<&Eventpoll, NotEpollError> {
        // SAFETY: `file` is valid since we have a reference to it. Its `f_op` is set before it is
        // published, and that of an epoll file never changes; others change theirs as a whole.
        let f_op = unsafe { (&raw const (*file.as_ptr()).f_op).read_volatile() };
        if !ptr::eq(f_op, &raw const bindings::eventpoll_fops) {
            return Err(NotEpollError);
        }

        // SAFETY: As above; `private_data` of an epoll file is set before the file is published and
        // never changes.
        let ep = unsafe { (*file.as_ptr()).private_data };

        // SAFETY: The `private_data` of an epoll file is its `struct eventpoll`, in which the file
        // has a share until its refcount is zero. `file` has a reference for as long as it is
        // borrowed. The cast is okay because `Eventpoll` is `repr(transparent)`.
        Ok(unsafe { &*ep.cast() })
    }

    /// Returns the number of the set, which no other set is given as long as the system runs.
    ///
    /// It is the `epoll-id` in the fdinfo of each descriptor of the set.
    #[inline]
    pub fn id(&self) -> u64 {
        // SAFETY: By the type invariants, this is a valid set. Nobody writes to `id` once the set
        // is there.
        unsafe { (*self.0.get()).id }
    }

    /// Locks the mutex of the set.
    ///
    /// Fails with [`EINTR`] if the current task is killed while it waits.
    ///
    /// Context: may sleep. See the [module documentation](self#locking) for the locking rules.
    #[inline]
    pub fn lock_killable(&self) -> Result<Guard<'_>> {
        // SAFETY: By the type invariants, the mutex is initialized.
        to_result(unsafe { bindings::mutex_lock_killable(&raw mut (*self.0.get()).mtx) })?;

        // INVARIANT: We have just locked the mutex, and leave it to the guard to unlock it.
        Ok(Guard {
            ep: self,
            _not_send: NotThreadSafe,
        })
    }

    /// Locks the mutex of the set, unless somebody else holds it.
    ///
    /// Context: does not sleep, but has to be a task's.
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

    /// Locks the mutex of the set, and waits for it as `wait` says.
    ///
    /// Context: as for [`Eventpoll::lock_killable`] or [`Eventpoll::try_lock`].
    #[inline]
    pub fn lock(&self, wait: Wait) -> Result<Guard<'_>> {
        match wait {
            Wait::Never => self.try_lock().ok_or(EAGAIN),
            Wait::Killable => self.lock_killable(),
        }
    }

    /// Calls `visit` on each entry behind `cursor`, in order, until it breaks.
    ///
    /// Returns the value that `visit` broke with, or `None` at the end of the set. Fails with
    /// [`EINTR`] if the current task is killed meanwhile, and as [`Eventpoll::lock`] does: with
    /// [`Wait::Never`] that can be after some entries were visited, so begin anew then.
    ///
    /// The mutex is held while `visit` runs, and is let go of after at most [`WALK_BATCH`] entries.
    /// So `visit` must be quick, and should not allocate: the mutex may be a stranger's. Entries
    /// can come and go when it is not held. Each entry that is in the set throughout is visited
    /// exactly once; one that comes or goes meanwhile is visited once or not at all.
    ///
    /// Context: may sleep. See the [module documentation](self#locking) for what `visit` may do.
    ///
    /// # Examples
    ///
    /// How many entries of one number wait for some event:
    ///
    /// ```
    /// use core::ops::ControlFlow;
    /// use kernel::epoll::{Cursor, Eventpoll, Wait};
    ///
    /// fn count_waiting(ep: &Eventpoll, tfd: i32, events: u32) -> Result<usize> {
    ///     let mut count = 0;
    ///
    ///     ep.walk(Wait::Killable, Cursor::before_fd(tfd), |epi| {
    ///         if epi.fd() != tfd {
    ///             return ControlFlow::Break(());
    ///         }
    ///         if epi.events() & events != 0 {
    ///             count += 1;
    ///         }
    ///         ControlFlow::Continue(())
    ///     })?;
    ///
    ///     Ok(count)
    /// }
    /// # #[cfg(CONFIG_KUNIT)] {
    /// # use kernel::epoll::kunit::TestSet;
    /// # let mut set = TestSet::new(&[(3, 0), (4, 0), (4, 1), (4, 2), (5, 0)])?;
    /// # assert!(set.set_event(3, 0, 1, 0) && set.set_event(5, 0, 1, 0));
    /// # assert!(set.set_event(4, 0, 1, 0) && set.set_event(4, 2, 3, 0));
    /// # assert_eq!(count_waiting(set.eventpoll(), 4, 1)?, 2);
    /// # assert_eq!(count_waiting(set.eventpoll(), 4, 2)?, 1);
    /// # assert_eq!(count_waiting(set.eventpoll(), 4, 4)?, 0);
    /// # assert_eq!(count_waiting(set.eventpoll(), 6, 1)?, 0);
    /// # }
    /// # Ok::<(), Error>(())
    /// ```
    #[inline]
    pub fn walk<B>(
        &self,
        wait: Wait,
        mut cursor: Cursor,
        mut visit: impl FnMut(&Epitem) -> ControlFlow<B>,
    ) -> Result<Option<B>> {
        loop {
            let guard = self.lock(wait)?;
            let mut items = guard.items_after(cursor);
            let mut last = None;

            for epi in items.by_ref().take(WALK_BATCH) {
                if let ControlFlow::Break(value) = visit(epi) {
                    return Ok(Some(value));
                }
                last = Some(epi);
            }

            match (last, items.next()) {
                (Some(epi), Some(_)) => cursor = epi.cursor(),
                _ => return Ok(None),
            }
            drop(guard);

            self.let_others_in()?;
        }
    }

    /// What is to be done between two batches of a walk, when the mutex is not held.
    ///
    /// Context: may sleep.
    #[cold]
    fn let_others_in(&self) -> Result {
        Task::pause_killable()?;

        // The first of those who sleep until the mutex is free asks for it to be handed over as
        // soon as it runs. Whoever spins has to see that it is free, which it would not be for long
        // enough.
        for _ in 0..SPINS {
            if !self.has_spinner() {
                break;
            }
            cpu_relax();
        }

        Ok(())
    }

    /// Returns whether somebody spins until the mutex is free, and it is.
    #[cfg(all(CONFIG_MUTEX_SPIN_ON_OWNER, not(CONFIG_PREEMPT_RT)))]
    fn has_spinner(&self) -> bool {
        // SAFETY: By the type invariants, the mutex is initialized.
        if unsafe { bindings::mutex_is_locked(&raw mut (*self.0.get()).mtx) } {
            return false;
        }

        // This `read_volatile` is intended to correspond to the `atomic_read` in `osq_is_locked`.
        //
        // SAFETY: As above. It is only ever written to by atomic operations.
        unsafe { (&raw const (*self.0.get()).mtx.osq.tail.counter).read_volatile() != 0 }
    }

    #[cfg(not(all(CONFIG_MUTEX_SPIN_ON_OWNER, not(CONFIG_PREEMPT_RT))))]
    fn has_spinner(&self) -> bool {
        false
    }
}

/// Evidence that the mutex of an epoll set is held.
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
        // invariants, the mutex is held as long as `self` is borrowed, so that the tree is not
        // modified and its items may be referred to.
        unsafe {
            crbtree_create!(
                &raw const (*self.ep.0.get()).rbr.rb_root,
                Epitem,
                bindings::epitem,
                __bindgen_anon_1.rbn
            )
        }
    }

    /// Iterates over all entries, ordered by number and, within a number, by file.
    ///
    /// The order of files is fixed as long as they exist, and is otherwise unspecified.
    #[inline]
    pub fn items(&self) -> Items<'_> {
        self.items_after(Cursor::START)
    }

    /// Iterates over the entries behind a place in the order.
    ///
    /// Takes time O(log n) to find the first.
    #[inline]
    pub fn items_after(&self, cursor: Cursor) -> Items<'_> {
        Items(
            self.tree()
                .lower_bound(|epi| epi.cursor().order(cursor).is_le()),
        )
    }

    /// Returns the entry for a file that was added as descriptor `fd`.
    ///
    /// Takes time O(log n).
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
        // SAFETY: By the type invariants, the current task holds the mutex, and it is for us to
        // unlock it.
        unsafe { bindings::mutex_unlock(&raw mut (*self.ep.0.get()).mtx) };
    }
}

/// An iterator over the entries of an epoll set, in their order.
pub struct Items<'a>(CRbTreeIter<'a, Epitem, RBN>);

impl<'a> Iterator for Items<'a> {
    type Item = &'a Epitem;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl FusedIterator for Items<'_> {}

/// An entry of an epoll set.
///
/// # Invariants
///
/// - Instances of this type are `struct epitem`s that are linked in the tree of an epoll set.
/// - The current task holds the mutex of that set as long as there is a reference to one.
#[repr(transparent)]
pub struct Epitem(Opaque<bindings::epitem>);

impl Epitem {
    #[inline]
    fn key(&self) -> bindings::epoll_key {
        // SAFETY: By the type invariants, this is a valid entry; its key never changes. The key is
        // packed, so it may not be aligned.
        unsafe { (&raw const (*self.0.get()).ffd).read_unaligned() }
    }

    #[inline]
    fn event(&self) -> bindings::epoll_event {
        // SAFETY: By the type invariants, this is a valid entry, and the mutex is held, without
        // which nobody writes to `event`. That is packed on some architectures, so it may not be
        // aligned.
        unsafe { (&raw const (*self.0.get()).event).read_unaligned() }
    }

    /// Returns the number of the descriptor that the entry was added by.
    ///
    /// It may be closed, or mean another file by now.
    #[inline]
    pub fn fd(&self) -> i32 {
        self.key().fd
    }

    /// Returns the identity of the file that is watched.
    ///
    /// The file may be about to be closed, see [`Epitem::pin`].
    #[inline]
    pub fn file(&self) -> FileIdentity<'_> {
        let file = self.key().file;

        // SAFETY: An entry always has a file. When that file is closed, `__fput` needs the mutex
        // of the set to remove the entry before it frees the file. By the type invariants, the
        // entry is in the tree and the mutex is held as long as `self` is borrowed, so the file is
        // not freed meanwhile.
        unsafe { FileIdentity::from_raw(NonNull::new_unchecked(file)) }
    }

    /// Takes a reference to the file that is watched, unless its last one is gone already.
    ///
    /// To keep the result past a return to userspace can close a cycle of references that nothing
    /// collects, since the file may hold one to whoever keeps it: keep a [`Cursor`] instead.
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

    /// Returns the events that are waited for, with the flags, as they were last added or modified.
    ///
    /// `EPOLLERR` and `EPOLLHUP` are always among them, except that an `EPOLLONESHOT` entry that has
    /// fired has nothing but flags left.
    #[inline]
    pub fn events(&self) -> u32 {
        self.event().events
    }

    /// Returns the data that the owner of the set gave to the entry.
    #[inline]
    pub fn data(&self) -> u64 {
        self.event().data
    }

    /// Returns whether the entry is on the list of those that are ready.
    ///
    /// The events that put it there may be gone by the time `epoll_wait(2)` looks, and more entries
    /// may become ready at any time.
    #[doc(alias = "ep_is_linked")]
    #[inline]
    pub fn is_ready(&self) -> bool {
        // SAFETY: By the type invariants, this is a valid entry.
        let rdllink = unsafe { &raw mut (*self.0.get()).rdllink };

        // Nothing is on the overflow list instead: that is in use only during a scan, which takes
        // the mutex that we hold.
        //
        // This `read_volatile` is intended to correspond to the READ_ONCE in `list_empty`.
        //
        // SAFETY: `rdllink` is always initialized. Others write to it under the lock of the set,
        // but always a whole pointer.
        let next = unsafe { (&raw const (*rdllink).next).read_volatile() };

        next != rdllink
    }

    /// Returns the place of this entry in the order.
    #[inline]
    pub fn cursor(&self) -> Cursor {
        let key = self.key();

        Cursor {
            fd: key.fd,
            file: key.file.addr(),
        }
    }
}

/// A place in the order of the entries of an epoll set.
///
/// The entry that a cursor was made from may come and go meanwhile: what is behind it remains so.
/// Should a new file be given the memory of an old one and be added under the same number, then it
/// takes the place of the old one.
///
/// The address of the file is only ever compared with those in a set whose mutex is held, and there
/// is no way to get it out: not even to compare two cursors, which would tell that two files are at
/// the same address, but not that they are the same.
#[derive(Clone, Copy)]
pub struct Cursor {
    fd: i32,
    file: usize,
}

impl Cursor {
    /// The place before all entries.
    pub const START: Cursor = Cursor::before_fd(i32::MIN);

    /// Returns the place before all entries of the number `fd`.
    #[inline]
    pub const fn before_fd(fd: i32) -> Cursor {
        // No file is at address 0.
        Cursor { fd, file: 0 }
    }

    /// Compares two places, as `ep_cmp_ffd` does.
    #[inline]
    fn order(self, other: Cursor) -> Ordering {
        (self.fd, self.file).cmp(&(other.fd, other.file))
    }
}

/// The file of an epoll set.
///
/// Whoever has a reference to it, an [`ARef<EpollFile>`], has the set.
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

impl EpollFile {
    /// Takes over a reference to a file, if it is an epoll file.
    #[inline]
    pub fn new(file: ARef<RemoteFile>) -> Result<ARef<Self>, NotEpollError> {
        Eventpoll::from_file(&file)?;

        // INVARIANT: It is an epoll file, which it remains.
        //
        // SAFETY: The reference is the one that `file` has owned. The cast is okay because
        // `EpollFile` is `repr(transparent)`.
        Ok(unsafe { ARef::from_raw(ARef::into_raw(file).cast()) })
    }

    /// Returns the set.
    #[inline]
    pub fn eventpoll(&self) -> &Eventpoll {
        // SAFETY: By the type invariants this is an epoll file. It has a reference for as long as
        // it is borrowed. See `Eventpoll::from_file` for the rest.
        unsafe { &*(*self.0.as_ptr()).private_data.cast() }
    }
}

/// A set whose mutex is held, and those of its entries that are still to come.
///
/// # Invariants
///
/// - `guard` is for the set of `file`, `items` iterates over its entries.
/// - Each is used only as long as the next field is there, which is dropped after it.
struct Locked {
    items: Items<'static>,
    guard: Guard<'static>,
    file: ARef<EpollFile>,
    wait: Wait,
}

impl Locked {
    /// Locks the set behind `file`, and begins behind `cursor`.
    #[inline]
    fn new(file: ARef<EpollFile>, cursor: Cursor, wait: Wait) -> Result<Self> {
        let guard = file.eventpoll().lock(wait)?;

        // SAFETY: By the type invariants, `items` is used only as long as the mutex is held. The
        // tree is in the set, not in `guard`, which may be moved.
        let items = unsafe { transmute::<Items<'_>, Items<'static>>(guard.items_after(cursor)) };
        // SAFETY: By the type invariants, `guard` is used only as long as we have the reference to
        // `file`, and so is the set, which is not in `file` itself.
        let guard = unsafe { transmute::<Guard<'_>, Guard<'static>>(guard) };

        // INVARIANT: They are for the set of `file`.
        Ok(Self {
            items,
            guard,
            file,
            wait,
        })
    }

    /// Lets go of the mutex for a moment, and goes on behind `cursor`.
    #[cold]
    fn breathe(self, cursor: Cursor) -> Result<Self> {
        let Self {
            items,
            guard,
            file,
            wait,
        } = self;

        let _ = items;
        drop(guard);
        if wait == Wait::Killable {
            file.eventpoll().let_others_in()?;
        }

        Self::new(file, cursor, wait)
    }
}

/// A visit to an entry of a set: the mutex is held, and the file that the entry watches is there.
///
/// This is for code that C calls once for each entry. Others better use [`Eventpoll::walk`], which
/// takes no references. Keep the [`Cursor`] of the entry, not the visit, while userspace runs.
///
/// # Examples
///
/// ```
/// # #[cfg(CONFIG_KUNIT)] {
/// use kernel::epoll::{kunit::TestSet, Cursor, Visit};
///
/// # let set = TestSet::new(&[(3, 0), (4, 0), (4, 1)])?;
/// # let file = set.epoll_file();
/// let first = Visit::first(file.into(), Cursor::START)?.ok_or(ENOENT)?;
/// assert_eq!(first.epitem().fd(), 3);
///
/// let second = first.next()?.ok_or(ENOENT)?;
/// assert_eq!(second.epitem().fd(), 4);
///
/// // It can be interrupted here.
/// let cursor = second.epitem().cursor();
/// drop(second);
///
/// let third = Visit::first(file.into(), cursor)?.ok_or(ENOENT)?;
/// assert_eq!(third.epitem().fd(), 4);
/// assert!(third.next()?.is_none());
/// # }
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `epi` is an entry of the set that `locked` holds the mutex of.
#[must_use = "the mutex is unlocked as soon as the visit is dropped"]
pub struct Visit {
    target: ARef<RemoteFile>,
    epi: NonNull<Epitem>,
    /// How many entries may be passed before others are let in.
    left: usize,
    locked: Locked,
}

impl Visit {
    /// Visits the first entry behind `after` whose file is not about to be closed.
    ///
    /// Returns `None`, and holds nothing, if there is none. Fails with [`EINTR`] if the current
    /// task is killed.
    ///
    /// Context: may sleep. See the [module documentation](self#locking) for the locking rules.
    #[inline]
    pub fn first(file: ARef<EpollFile>, after: Cursor) -> Result<Option<Self>> {
        Self::find(Locked::new(file, after, Wait::Killable)?, after, WALK_BATCH)
    }

    /// As [`Visit::first`], for those who must not wait as long as a stranger likes.
    ///
    /// Fails with [`EBUSY`] if the mutex is held for more than a millisecond, which is longer than
    /// the calls of epoll hold it, unless they have to wait for memory themselves. [`Visit::next`]
    /// does not wait for it at all then, and fails with [`EAGAIN`].
    ///
    /// Context: does not sleep, but has to be a task's.
    pub fn try_first(file: ARef<EpollFile>, after: Cursor) -> Result<Option<Self>> {
        let start = Instant::<Monotonic>::now();

        // SAFETY: The current task is valid.
        if unsafe { bindings::fatal_signal_pending(Task::current_raw()) } != 0 {
            return Err(EINTR);
        }

        loop {
            let found = Locked::new(file.clone(), after, Wait::Never)
                .and_then(|locked| Self::find(locked, after, WALK_BATCH));

            match found {
                Err(e) if e == EAGAIN => (),
                _ => return found,
            }
            if start.elapsed() > Delta::from_millis(1) {
                return Err(EBUSY);
            }
            cpu_relax();
        }
    }

    /// Goes on to the next entry whose file is not about to be closed.
    ///
    /// The mutex is let go of after [`WALK_BATCH`] entries, and taken again. What is said of
    /// entries that come and go at [`Eventpoll::walk`] holds here, too.
    ///
    /// Returns `None`, and holds nothing any more, if there is none, and on errors, which are those
    /// of [`Visit::first`].
    ///
    /// Context: as for [`Visit::first`].
    #[inline]
    pub fn next(self) -> Result<Option<Self>> {
        let last = self.epitem().cursor();
        let Self {
            target,
            left,
            locked,
            ..
        } = self;

        drop(target);

        Self::find(locked, last, left)
    }

    #[inline]
    fn find(mut locked: Locked, mut last: Cursor, mut left: usize) -> Result<Option<Self>> {
        loop {
            if left == 0 {
                locked = locked.breathe(last)?;
                left = WALK_BATCH;
            }

            let Some(epi) = locked.items.next() else {
                return Ok(None);
            };
            last = epi.cursor();
            left -= 1;

            if let Some(target) = epi.pin() {
                // INVARIANT: `epi` is an entry of the set, whose mutex is held.
                return Ok(Some(Self {
                    target,
                    epi: NonNull::from(epi),
                    left,
                    locked,
                }));
            }
        }
    }

    /// Returns the entry.
    #[inline]
    pub fn epitem(&self) -> &Epitem {
        // SAFETY: By the type invariants, it is an entry of a set whose mutex is held for as long
        // as `self` is borrowed.
        unsafe { self.epi.as_ref() }
    }

    /// Returns the file that the entry watches.
    ///
    /// It may be kept longer than the visit, but see [`Epitem::pin`].
    #[inline]
    pub fn target(&self) -> &RemoteFile {
        &self.target
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
