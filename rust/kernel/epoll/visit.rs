// SPDX-License-Identifier: GPL-2.0

//! Visiting epitems one C call at a time.

use super::{
    Cursor,
    Epitem,
    EpollFile,
    Guard,
    Items,
    WALK_BATCH, //
};
use crate::{
    error::Result,
    fs::RemoteFile,
    sync::aref::ARef, //
};
use core::{
    mem::transmute,
    ptr::NonNull, //
};

/// An epoll instance whose mutex is held, and an iterator over its remaining epitems.
///
/// # Invariants
///
/// - `guard` is a guard of the instance of `file`; `items` iterates over its epitems.
/// - Each field is used only while the next one exists. Fields are dropped in this order.
struct Locked {
    items: Items<'static>,
    guard: Guard<'static>,
    file: ARef<EpollFile>,
}

impl Locked {
    /// Locks the instance of `file` and positions the iterator after `cursor`.
    #[inline]
    fn new(file: ARef<EpollFile>, cursor: Cursor) -> Result<Self> {
        let guard = file.eventpoll().lock_killable()?;

        // SAFETY: By the type invariants, `items` is used only while the mutex is held. The tree
        // is part of the instance, not of `guard`, which may be moved.
        let items = unsafe { transmute::<Items<'_>, Items<'static>>(guard.items_after(cursor)) };
        // SAFETY: By the type invariants, `guard` is used only while we hold a reference to `file`,
        // which keeps the instance alive. The instance is not part of the `ARef` itself.
        let guard = unsafe { transmute::<Guard<'_>, Guard<'static>>(guard) };

        // INVARIANT: Both are for the instance of `file`.
        Ok(Self { items, guard, file })
    }

    /// Drops the mutex, lets waiters take it, and locks the instance again after `cursor`.
    #[cold]
    fn relock(self, cursor: Cursor) -> Result<Self> {
        let Self { items, guard, file } = self;

        let _ = items;
        drop(guard);
        file.eventpoll().yield_to_waiters()?;

        Self::new(file, cursor)
    }
}

/// A visit to an epitem, during which the mutex is held and the watched file is pinned.
///
/// This is for code that C calls once per epitem and that cannot borrow anything between calls.
/// Other code should use [`Eventpoll::walk`], which takes no references. To continue after a return
/// to userspace, keep the [`Cursor`] of the epitem, not the visit.
///
/// [`Eventpoll::walk`]: super::Eventpoll::walk
///
/// # Examples
///
/// ```
/// # #[cfg(CONFIG_KUNIT)] {
/// use kernel::epoll::{kunit::TestInstance, Cursor, Visit};
///
/// # let instance = TestInstance::new(&[(3, 0), (4, 0), (4, 1)])?;
/// # let file = instance.epoll_file();
/// let first = Visit::first(file.into(), Cursor::START)?.ok_or(ENOENT)?;
/// assert_eq!(first.epitem().fd(), 3);
///
/// let second = first.next()?.ok_or(ENOENT)?;
/// assert_eq!(second.epitem().fd(), 4);
///
/// // Interrupt the walk here, and resume it below.
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
/// `epi` is an epitem of the instance whose mutex `locked` holds.
#[must_use = "the mutex is unlocked as soon as the visit is dropped"]
pub struct Visit {
    target: ARef<RemoteFile>,
    epi: NonNull<Epitem>,
    /// The number of epitems to pass before the mutex is dropped.
    left: usize,
    locked: Locked,
}

impl Visit {
    /// Visits the first epitem after `after` whose file can be pinned.
    ///
    /// Returns `None` if there is none; nothing is held then. Fails with [`EINTR`] if the current
    /// task is killed, and as [`Eventpoll::lock_killable`] does.
    ///
    /// Context: may sleep. See the [module documentation](super#locking) for the locking rules.
    ///
    /// [`EINTR`]: crate::error::code::EINTR
    /// [`Eventpoll::lock_killable`]: super::Eventpoll::lock_killable
    #[inline]
    pub fn first(file: ARef<EpollFile>, after: Cursor) -> Result<Option<Self>> {
        Self::find(Locked::new(file, after)?, after, WALK_BATCH)
    }

    /// Advances to the next epitem whose file can be pinned.
    ///
    /// The mutex is dropped after [`WALK_BATCH`] epitems and taken again. Epitems that are added or
    /// removed meanwhile are treated as by [`Eventpoll::walk`].
    ///
    /// Returns `None` at the end of the interest list. Fails as [`Visit::first`] does. Nothing is
    /// held in either case.
    ///
    /// Context: as for [`Visit::first`].
    ///
    /// [`Eventpoll::walk`]: super::Eventpoll::walk
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
                locked = locked.relock(last)?;
                left = WALK_BATCH;
            }

            let Some(epi) = locked.items.next() else {
                return Ok(None);
            };
            last = epi.cursor();
            left -= 1;

            if let Some(target) = epi.pin() {
                // INVARIANT: `epi` is an epitem of the instance, whose mutex is held.
                return Ok(Some(Self {
                    target,
                    epi: NonNull::from(epi),
                    left,
                    locked,
                }));
            }
        }
    }

    /// Returns the epitem.
    #[inline]
    pub fn epitem(&self) -> &Epitem {
        // SAFETY: By the type invariants, this is an epitem of an instance whose mutex is held for
        // as long as `self` is borrowed.
        unsafe { self.epi.as_ref() }
    }

    /// Returns the watched file.
    ///
    /// A reference may outlive the visit, with the restriction described at [`Epitem::pin`].
    #[inline]
    pub fn target(&self) -> &RemoteFile {
        &self.target
    }
}
