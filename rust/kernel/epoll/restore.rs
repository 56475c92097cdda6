// SPDX-License-Identifier: GPL-2.0

//! Adding entries to an epoll set as they were in another one.
//!
//! `epoll_ctl(2)` adds entries that wait for something, and reports what is there already. An entry
//! of a program that is restored may have fired (`EPOLLONESHOT`), or may have reported before what
//! is there (`EPOLLET`).

use super::{
    Cursor,
    Epitem,
    Eventpoll,
    Guard,
    WALK_BATCH, //
};
use crate::{
    bindings,
    error::{
        code::*,
        to_result,
        Result, //
    },
    fs::RemoteFile,
    task::Task,
    types::NotThreadSafe, //
};
use core::num::NonZeroU32;

/// What is left of the events of an entry that has fired.
#[doc(alias = "EP_PRIVATE_BITS")]
const FLAGS: u32 =
    bindings::EPOLLWAKEUP | bindings::EPOLLONESHOT | bindings::EPOLLET | bindings::EPOLLEXCLUSIVE;

/// What every entry that has not fired waits for.
const ALWAYS: u32 = bindings::EPOLLERR | bindings::EPOLLHUP;

/// What may be asked for together with `EPOLLEXCLUSIVE`.
#[doc(alias = "EPOLLEXCLUSIVE_OK_BITS")]
const EXCLUSIVE_OK: u32 = ALWAYS
    | bindings::EPOLLIN
    | bindings::EPOLLOUT
    | bindings::EPOLLWAKEUP
    | bindings::EPOLLET
    | bindings::EPOLLEXCLUSIVE;

/// Returns whether an entry can have these events, as [`Epitem::events`] returns them.
pub const fn are_valid_events(events: u32) -> bool {
    if events & bindings::EPOLLEXCLUSIVE != 0 && events & !EXCLUSIVE_OK != 0 {
        return false;
    }
    if events & !FLAGS == 0 {
        return events & bindings::EPOLLONESHOT != 0;
    }

    events & ALWAYS == ALWAYS
}

/// An entry as it was.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The number that the file had.
    pub fd: i32,
    /// The events as [`Epitem::events`] returned them.
    pub events: u32,
    /// The data that the owner of the set gave to it.
    pub data: u64,
    /// Whether it was on the list of those that are ready.
    pub ready: bool,
}

impl Entry {
    /// Returns whether what is there when the entry is added is to be left unseen.
    ///
    /// With `EPOLLET` it has been reported before, and with `EPOLLEXCLUSIVE` it was another set that
    /// was told. Without both, an entry is on the list as long as something is there, and would not
    /// be put there again if it was left out.
    fn is_quiet(&self) -> bool {
        self.events & (bindings::EPOLLET | bindings::EPOLLEXCLUSIVE) != 0 && !self.ready
    }
}

/// A number of entries that are added to a set: all of them, or none.
///
/// What was added is removed when this is dropped, unless it was [committed](Restore::commit).
/// Nothing is kept of the entries for that: they are marked.
///
/// # Invariants
///
/// - `ep` is the set of `file`.
/// - No entry of `ep` that was not added by [`Restore::add`] on this value has `mark`.
#[must_use = "what was added is removed when this is dropped"]
pub struct Restore<'a> {
    file: &'a RemoteFile,
    ep: &'a Eventpoll,
    mark: NonZeroU32,
    /// Whether there is anything to remove when this is dropped.
    has_added: bool,
    _not_send: NotThreadSafe,
}

impl<'a> Restore<'a> {
    /// Prepares to add `count` entries to the set that is behind `file`. That uses up one of the
    /// 2^32 - 1 times that a set can be restored, also if nothing is added then.
    ///
    /// Fails with [`EINVAL`] if `file` is not an epoll file, with [`ENOSPC`] if the user who has
    /// made the set would watch too many files then, with [`EOVERFLOW`] if the set was restored too
    /// often, and with [`EINTR`] if the current task is killed while it waits for the set.
    ///
    /// Context: may sleep, and takes the mutex of the set, as all that is done with the result.
    #[doc(alias = "eventpoll_may_watch")]
    pub fn new(file: &'a RemoteFile, count: u64) -> Result<Self> {
        let ep = Eventpoll::from_file(file)?;

        // SAFETY: By the type invariants of `Eventpoll`, this is a valid set.
        if !unsafe { bindings::eventpoll_may_watch(ep.0.get(), count) } {
            return Err(ENOSPC);
        }

        let mark = {
            let guard = ep.lock_killable()?;

            // SAFETY: As above. The mutex is held, which protects `restores`.
            let restores = unsafe { &mut (*guard.ep.0.get()).restores };
            *restores = restores.checked_add(1).ok_or(EOVERFLOW)?;

            NonZeroU32::new(*restores).ok_or(EOVERFLOW)?
        };

        // INVARIANT: The mark was not given to anybody before, as `restores` only grows.
        Ok(Self {
            file,
            ep,
            mark,
            has_added: false,
            _not_send: NotThreadSafe,
        })
    }

    /// Looks whether an entry could be added for `target`, as far as that can be seen.
    ///
    /// Fails with [`EPERM`] if `target` cannot be polled, or the entry would keep the system awake
    /// and the current task must not do that, and with [`EINVAL`] if no entry is like this.
    pub fn check(&self, target: &RemoteFile, entry: &Entry) -> Result {
        let is_exclusive = entry.events & bindings::EPOLLEXCLUSIVE != 0;

        if entry.fd < 0
            || !are_valid_events(entry.events)
            || target.identity() == self.file.identity()
            || (is_exclusive && Eventpoll::from_file(target).is_ok())
        {
            return Err(EINVAL);
        }
        if !target.can_poll() {
            return Err(EPERM);
        }
        // As `eventpoll_restore` does.
        if entry.events & bindings::EPOLLWAKEUP != 0
            && !(cfg!(CONFIG_PM_SLEEP)
                // SAFETY: This can be asked about any capability.
                && unsafe { bindings::capable(bindings::CAP_BLOCK_SUSPEND as i32) })
        {
            return Err(EPERM);
        }

        Ok(())
    }

    /// Adds an entry for `target`.
    ///
    /// Fails as [`Restore::check`] does, with [`EEXIST`] if there is an entry for this file and
    /// number, with [`ELOOP`] and [`EINVAL`] if `target` is an epoll file and sets would contain
    /// each other or be nested in too many ways, with [`ENOSPC`] as [`Restore::new`] does, with
    /// [`ENOMEM`], and with [`EINTR`] if the current task was killed before. It waits for the mutex
    /// of the set as `epoll_ctl(2)` does, even if killed.
    #[doc(alias = "eventpoll_restore")]
    pub fn add(&mut self, target: &RemoteFile, entry: &Entry) -> Result {
        self.check(target, entry)?;

        Task::pause_killable()?;

        let mut key = bindings::epoll_key {
            file: target.as_ptr(),
            fd: entry.fd,
        };
        let mut event = bindings::epoll_event {
            events: entry.events,
            data: entry.data,
        };

        // SAFETY: Both files are valid since there are references to them. That the first is an
        // epoll file is looked at by `eventpoll_restore`, as by our invariants.
        to_result(unsafe {
            bindings::eventpoll_restore(
                self.file.as_ptr(),
                &mut key,
                &mut event,
                entry.is_quiet(),
                self.mark.get(),
            )
        })?;
        self.has_added = true;

        Ok(())
    }

    /// Leaves what was added where it is.
    pub fn commit(mut self) {
        self.has_added = false;
    }

    /// Removes what was added.
    ///
    /// This waits for the set even if the current task is killed, as to close a file does.
    #[cold]
    fn undo(&self) {
        let mut cursor = Some(Cursor::START);

        while let Some(from) = cursor {
            cursor = self.undo_batch(from);

            // SAFETY: This may sleep, as the documentation of `new` says.
            unsafe { bindings::cond_resched() };
        }
    }

    /// Removes what was added and is among some entries behind a place in the order.
    ///
    /// Returns the place to go on from, if there may be more.
    #[doc(alias = "eventpoll_unrestore")]
    fn undo_batch(&self, mut cursor: Cursor) -> Option<Cursor> {
        // SAFETY: By the type invariants, the mutex is initialized.
        unsafe { bindings::mutex_lock(&raw mut (*self.ep.0.get()).mtx) };
        // INVARIANT: We have just locked the mutex, and leave it to the guard to unlock it.
        let guard = Guard {
            ep: self.ep,
            _not_send: NotThreadSafe,
        };

        for _ in 0..WALK_BATCH {
            // The tree changes when one is removed. So each is looked for anew, behind the place of
            // the one before it.
            let epi = guard.items_after(cursor).next()?;
            cursor = epi.cursor();
            if epi.restored_by() != self.mark.get() {
                continue;
            }
            let epi = epi.0.get();

            // Nobody else can have taken the entry away and put another one in its place, as the
            // mutex is held since its mark was looked at.
            //
            // SAFETY: The set is valid by its type invariants, and `self.file` is a reference to it
            // for as long as this runs. `epi` is an entry of it, and the mutex of the set is held
            // by `guard`. There is no reference to the entry, or to anything else in the tree, that
            // is used after this: `epi` is a raw pointer, and `cursor` a value.
            unsafe { bindings::eventpoll_unrestore(self.ep.0.get(), epi) };
        }

        Some(cursor)
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        if self.has_added {
            self.undo();
        }
    }
}

impl Epitem {
    /// Returns the mark that the entry was added with, or 0.
    fn restored_by(&self) -> u32 {
        // SAFETY: By the type invariants, this is a valid entry; its mark never changes.
        unsafe { (&raw const (*self.0.get()).restore).read() }
    }
}

#[macros::kunit_tests(rust_epoll_restore)]
mod tests {
    use super::*;
    use bindings::{
        EPOLLERR,
        EPOLLET,
        EPOLLEXCLUSIVE,
        EPOLLHUP,
        EPOLLIN,
        EPOLLONESHOT,
        EPOLLOUT,
        EPOLLWAKEUP, //
    };

    const EPOLLPRI: u32 = 2;

    #[test]
    fn events_of_entries() {
        for events in [
            ALWAYS,
            ALWAYS | EPOLLIN,
            ALWAYS | EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLET | EPOLLWAKEUP,
            ALWAYS | EPOLLIN | EPOLLONESHOT,
            ALWAYS | EPOLLIN | EPOLLEXCLUSIVE,
            ALWAYS | EPOLLOUT | EPOLLET | EPOLLWAKEUP | EPOLLEXCLUSIVE,
            ALWAYS | 1 << 20,
        ] {
            assert!(are_valid_events(events));
        }
    }

    #[test]
    fn events_of_entries_that_have_fired() {
        for events in [
            EPOLLONESHOT,
            EPOLLONESHOT | EPOLLET,
            EPOLLONESHOT | EPOLLET | EPOLLWAKEUP,
        ] {
            assert!(are_valid_events(events));
        }
    }

    #[test]
    fn events_of_no_entry() {
        for events in [
            0,
            EPOLLET,
            EPOLLWAKEUP,
            EPOLLIN,
            EPOLLIN | EPOLLERR,
            EPOLLIN | EPOLLHUP,
            EPOLLIN | EPOLLONESHOT,
            EPOLLERR | EPOLLONESHOT,
            EPOLLONESHOT | EPOLLEXCLUSIVE,
            EPOLLEXCLUSIVE,
            ALWAYS | EPOLLIN | EPOLLONESHOT | EPOLLEXCLUSIVE,
            ALWAYS | EPOLLPRI | EPOLLEXCLUSIVE,
        ] {
            assert!(!are_valid_events(events));
        }
    }

    #[test]
    fn what_was_reported_stays_unseen() {
        let entry = |events, ready| Entry {
            fd: 0,
            events,
            data: 0,
            ready,
        };

        assert!(entry(ALWAYS | EPOLLIN | EPOLLET, false).is_quiet());
        assert!(!entry(ALWAYS | EPOLLIN | EPOLLET, true).is_quiet());
        assert!(entry(ALWAYS | EPOLLIN | EPOLLEXCLUSIVE, false).is_quiet());
        assert!(!entry(ALWAYS | EPOLLIN | EPOLLEXCLUSIVE, true).is_quiet());
        assert!(!entry(ALWAYS | EPOLLIN, false).is_quiet());
        assert!(!entry(ALWAYS | EPOLLIN, true).is_quiet());
    }
}
