// SPDX-License-Identifier: GPL-2.0

//! Adding epitems in the state that they had in another epoll instance.
//!
//! `epoll_ctl(2)` adds epitems that wait for an event, and reports events that are already pending.
//! An epitem of a program that is being restored may have fired (`EPOLLONESHOT`), or may already
//! have reported the pending events (`EPOLLET`).

use super::{
    pause_killable,
    Cursor,
    Epitem,
    Eventpoll,
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
    sync::atomic::{
        atomic_load,
        Relaxed, //
    },
    task::Task,
    types::NotThreadSafe, //
};
use core::num::NonZeroU32;

/// The flags, which are all that is left of the events of an epitem that has fired.
#[doc(alias = "EP_PRIVATE_BITS")]
const FLAGS: u32 =
    bindings::EPOLLWAKEUP | bindings::EPOLLONESHOT | bindings::EPOLLET | bindings::EPOLLEXCLUSIVE;

/// The events that every epitem waits for unless it has fired.
const ALWAYS: u32 = bindings::EPOLLERR | bindings::EPOLLHUP;

/// The events and flags that can be combined with `EPOLLEXCLUSIVE`.
#[doc(alias = "EPOLLEXCLUSIVE_OK_BITS")]
const EXCLUSIVE_OK: u32 = ALWAYS
    | bindings::EPOLLIN
    | bindings::EPOLLOUT
    | bindings::EPOLLWAKEUP
    | bindings::EPOLLET
    | bindings::EPOLLEXCLUSIVE;

/// Returns whether [`Epitem::events`] can return these events.
pub const fn are_valid_events(events: u32) -> bool {
    if events & bindings::EPOLLEXCLUSIVE != 0 && events & !EXCLUSIVE_OK != 0 {
        return false;
    }
    if events & !FLAGS == 0 {
        return events & bindings::EPOLLONESHOT != 0;
    }

    events & ALWAYS == ALWAYS
}

/// Checks whether the current task could have this descriptor, and so add an epitem by it with
/// `epoll_ctl(2)`.
///
/// Each descriptor is one more epitem that a file can have, and each of these is visited when the
/// file becomes ready, so more of them must not be possible than there. The limit is the hard one,
/// which the task may raise its limit to. With `CAP_SYS_RESOURCE`, it may raise that, too.
///
/// Fails with [`EINVAL`] if no task can have such a descriptor, and with [`EMFILE`] if this one
/// cannot.
fn check_fd(fd: i32) -> Result {
    if !is_possible_fd(fd) {
        return Err(EINVAL);
    }

    // SAFETY: The current task has a `signal` as long as it runs. Limits are always written as
    // whole words.
    let limit = unsafe {
        let signal = (*Task::current_raw()).signal;
        let limit = &raw mut (*signal).rlim[bindings::RLIMIT_NOFILE as usize].rlim_max;

        atomic_load(limit.cast::<usize>(), Relaxed)
    };
    if fd as usize >= limit {
        // SAFETY: `capable` can be called for any capability.
        let is_capable = unsafe { bindings::capable(bindings::CAP_SYS_RESOURCE as i32) };
        if !is_capable {
            return Err(EMFILE);
        }
    }

    Ok(())
}

/// Returns whether a task can have this descriptor.
#[doc(alias = "sysctl_nr_open")]
fn is_possible_fd(fd: i32) -> bool {
    // SAFETY: The variable is valid, and always written as a whole.
    let nr_open = unsafe { atomic_load(&raw mut bindings::sysctl_nr_open, Relaxed) };

    u32::try_from(fd).is_ok_and(|fd| fd < nr_open)
}

/// The state of an epitem.
#[derive(Clone, Copy)]
pub struct EpitemState {
    /// The descriptor that the file was added under.
    pub fd: i32,
    /// The events, as [`Epitem::events`] returned them.
    pub events: u32,
    /// The user data.
    pub data: u64,
    /// Whether the epitem was on the ready list.
    pub ready: bool,
}

impl EpitemState {
    /// Returns whether events that are pending when the epitem is added must not be reported.
    ///
    /// With `EPOLLET` they have been reported before, and with `EPOLLEXCLUSIVE` to another
    /// instance. Without either flag, an epitem stays on the ready list while events are pending,
    /// and would never be put there again if they were skipped.
    fn is_quiet(&self) -> bool {
        self.events & (bindings::EPOLLET | bindings::EPOLLEXCLUSIVE) != 0 && !self.ready
    }
}

/// A transaction that adds epitems to an epoll instance.
///
/// Unless it is [committed](Restore::commit), dropping it removes the epitems that it has added. If
/// the current task has been killed, and another one holds the mutex of the instance, some stay.
/// They are found by a mark, so no list of them is kept.
///
/// # Invariants
///
/// - `ep` is the epoll instance of `file`.
/// - No epitem of `ep` has `mark` unless [`Restore::add`] on this value has added it.
#[must_use = "the added epitems are removed when this is dropped"]
pub struct Restore<'a> {
    file: &'a RemoteFile,
    ep: &'a Eventpoll,
    mark: NonZeroU32,
    /// Whether any epitems have to be removed on drop.
    has_added: bool,
    _not_send: NotThreadSafe,
}

impl<'a> Restore<'a> {
    /// Prepares to add `count` epitems to the epoll instance of `file`.
    ///
    /// An instance can be restored 2^32 - 1 times, and this counts even if nothing is added.
    ///
    /// Fails with
    ///
    /// - [`EINVAL`] if `file` is not an epoll file,
    /// - [`ENOSPC`] if the user who created the instance would exceed the limit on watches,
    /// - [`EOVERFLOW`] if the instance has been restored too often, and
    /// - as [`Eventpoll::lock_killable`] does.
    ///
    /// Context: may sleep, and takes the mutex of the instance, as all operations on the result do.
    #[doc(alias = "eventpoll_may_watch")]
    pub fn new(file: &'a RemoteFile, count: u64) -> Result<Self> {
        let ep = Eventpoll::from_file(file)?;

        // SAFETY: By the type invariants of `Eventpoll`, this is a valid epoll instance.
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

        // INVARIANT: The mark has never been used before, since `restores` only grows.
        Ok(Self {
            file,
            ep,
            mark,
            has_added: false,
            _not_send: NotThreadSafe,
        })
    }

    /// Checks whether an epitem for `target` can be added, as far as this can be known in advance.
    ///
    /// Fails with
    ///
    /// - [`EINVAL`] if no epitem can be in this state, or its descriptor is one that no task can
    ///   have,
    /// - [`EMFILE`] if its descriptor is one that the current task cannot have, and
    /// - [`EPERM`] if `target` cannot be polled, or the epitem would block suspend and the current
    ///   task may not do that.
    pub fn check(&self, target: &RemoteFile, state: &EpitemState) -> Result {
        let is_exclusive = state.events & bindings::EPOLLEXCLUSIVE != 0;

        check_fd(state.fd)?;
        if !are_valid_events(state.events)
            || target.identity() == self.file.identity()
            || (is_exclusive && Eventpoll::from_file(target).is_ok())
        {
            return Err(EINVAL);
        }
        if !target.can_poll() {
            return Err(EPERM);
        }
        // `eventpoll_restore` does not check this.
        if state.events & bindings::EPOLLWAKEUP != 0
            && !(cfg!(CONFIG_PM_SLEEP)
                // SAFETY: `capable` can be called for any capability.
                && unsafe { bindings::capable(bindings::CAP_BLOCK_SUSPEND as i32) })
        {
            return Err(EPERM);
        }

        Ok(())
    }

    /// Adds an epitem for `target`.
    ///
    /// Fails as [`Restore::check`] does, and with
    ///
    /// - [`EEXIST`] if there is an epitem for this file and descriptor,
    /// - [`ELOOP`] or [`EINVAL`] if `target` is an epoll file and adding it would create a cycle,
    ///   or too deep or too many nested paths,
    /// - [`ENOSPC`] as [`Restore::new`] does,
    /// - [`ENOMEM`], and
    /// - [`EINTR`] if the current task is killed.
    #[doc(alias = "eventpoll_restore")]
    pub fn add(&mut self, target: &RemoteFile, state: &EpitemState) -> Result {
        self.check(target, state)?;

        pause_killable()?;

        let mut key = bindings::epoll_key {
            file: target.as_ptr(),
            fd: state.fd,
        };
        let event = bindings::epoll_event {
            events: state.events,
            data: state.data,
        };

        // SAFETY: Both files are valid since there are references to them. By the type invariants,
        // the first is an epoll file, and the mark is not 0. `check` has made the checks that
        // `EPOLL_CTL_ADD` makes before it locks the instance, among them that the second file is
        // another one.
        to_result(unsafe {
            bindings::eventpoll_restore(
                self.file.as_ptr(),
                &mut key,
                &event,
                state.is_quiet(),
                self.mark.get(),
            )
        })?;
        self.has_added = true;

        Ok(())
    }

    /// Keeps the added epitems.
    pub fn commit(mut self) {
        self.has_added = false;
    }

    /// Removes the added epitems.
    ///
    /// If the current task is killed while another one holds the mutex, those that are left stay.
    /// The other one could hold it as long as it likes, and a task that has been killed must end.
    #[cold]
    fn undo(&self) {
        let mut cursor = Some(Cursor::START);

        while let Some(from) = cursor {
            let Ok(next) = self.undo_batch(from) else {
                break;
            };
            cursor = next;

            // SAFETY: This may sleep, as documented at `new`.
            unsafe { bindings::cond_resched() };
        }
    }

    /// Removes the added epitems among the next [`WALK_BATCH`] after `cursor`.
    ///
    /// Returns the position to continue from, or `None` at the end of the interest list. Fails with
    /// [`EINTR`] if the current task is killed while it waits for the mutex.
    #[doc(alias = "eventpoll_remove")]
    fn undo_batch(&self, mut cursor: Cursor) -> Result<Option<Cursor>> {
        let guard = self.ep.lock_killable()?;

        for _ in 0..WALK_BATCH {
            // Removing an epitem modifies the tree, so look up the next one by its position.
            let Some(epi) = guard.items_after(cursor).next() else {
                return Ok(None);
            };
            cursor = epi.cursor();
            if epi.restored_by() != self.mark.get() {
                continue;
            }
            let epi = epi.0.get();

            // The mutex has been held since the mark was read, so nobody can have replaced the
            // epitem.
            //
            // An epitem whose file has lost its last reference is left to the release of that file.
            //
            // SAFETY: The instance is valid by its type invariants, and `self.file` is a reference
            // to it for as long as this runs. `epi` is one of its epitems, and `guard` holds its
            // mutex. No reference to the epitem or to anything else in the tree is used afterwards:
            // `epi` is a raw pointer and `cursor` a value.
            unsafe { bindings::eventpoll_remove(self.ep.0.get(), epi) };
        }

        Ok(Some(cursor))
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
    /// Returns the mark that the epitem was added with, or 0.
    fn restored_by(&self) -> u32 {
        // SAFETY: By the type invariants, this is a valid epitem; its mark never changes.
        unsafe { (&raw const (*self.0.get()).restore).read() }
    }
}

#[macros::kunit_tests(rust_epoll_restore)]
mod tests {
    use super::*;
    use crate::{
        epoll::kunit::TestInstance,
        sync::aref::ARef, //
    };
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
    fn descriptors() {
        assert!(is_possible_fd(0));
        assert!(is_possible_fd(63));
        for fd in [-1, i32::MIN, i32::MAX] {
            assert!(!is_possible_fd(fd));
        }
    }

    fn target(instance: &TestInstance) -> Result<ARef<RemoteFile>> {
        let guard = instance.eventpoll().lock_killable()?;

        guard.items().next().and_then(Epitem::pin).ok_or(ENOENT)
    }

    fn has(instance: &TestInstance, fds: &[i32]) -> Result<bool> {
        let guard = instance.eventpoll().lock_killable()?;

        Ok(guard.items().map(Epitem::fd).eq(fds.iter().copied()))
    }

    /// What is added, and stays or is removed again, is that of this restore.
    #[test]
    fn commit_and_undo() -> Result {
        let instance = TestInstance::new(&[(3, 0), (5, 0)])?;
        let file = target(&instance)?;
        let state = |fd| EpitemState {
            fd,
            events: ALWAYS | EPOLLIN,
            data: 0,
            ready: false,
        };

        let mut restore = Restore::new(instance.epoll_file(), 2)?;
        restore.add(&file, &state(4))?;
        restore.add(&file, &state(6))?;
        assert!(restore.add(&file, &state(5)) == Err(EEXIST));
        assert!(has(&instance, &[3, 4, 5, 6])?);
        drop(restore);
        assert!(has(&instance, &[3, 5])?);

        let mut restore = Restore::new(instance.epoll_file(), 1)?;
        restore.add(&file, &state(4))?;
        restore.commit();
        assert!(has(&instance, &[3, 4, 5])?);

        Ok(())
    }

    /// An instance of a test is one that another instance can watch.
    #[test]
    fn nested_instance() -> Result {
        let outer = TestInstance::new(&[])?;
        let inner = TestInstance::new(&[(3, 0)])?;
        let state = EpitemState {
            fd: 7,
            events: ALWAYS | EPOLLIN,
            data: 0,
            ready: false,
        };

        let mut restore = Restore::new(outer.epoll_file(), 1)?;
        restore.add(inner.epoll_file(), &state)?;
        restore.commit();
        let mut restore = Restore::new(inner.epoll_file(), 1)?;
        assert!(restore.add(outer.epoll_file(), &state) == Err(ELOOP));
        assert!(restore.add(inner.epoll_file(), &state) == Err(EINVAL));

        Ok(())
    }

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
        let state = |events, ready| EpitemState {
            fd: 0,
            events,
            data: 0,
            ready,
        };

        assert!(state(ALWAYS | EPOLLIN | EPOLLET, false).is_quiet());
        assert!(!state(ALWAYS | EPOLLIN | EPOLLET, true).is_quiet());
        assert!(state(ALWAYS | EPOLLIN | EPOLLEXCLUSIVE, false).is_quiet());
        assert!(!state(ALWAYS | EPOLLIN | EPOLLEXCLUSIVE, true).is_quiet());
        assert!(!state(ALWAYS | EPOLLIN, false).is_quiet());
        assert!(!state(ALWAYS | EPOLLIN, true).is_quiet());
    }
}
