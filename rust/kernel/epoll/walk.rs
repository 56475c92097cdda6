// SPDX-License-Identifier: GPL-2.0

//! Walking an interest list without holding the mutex for long.

use super::{
    Cursor,
    Epitem,
    Eventpoll,
    Wait, //
};
use crate::{
    bindings,
    error::{
        code::*,
        Result, //
    },
    processor::cpu_relax,
    task::Task, //
};
use core::ops::ControlFlow;

/// The number of epitems that [`Eventpoll::walk`] passes before it drops the mutex.
///
/// Resuming takes O(log n), so the batch is large enough to make that cost vanish. It is small
/// enough not to delay a task that waits for the mutex noticeably.
pub const WALK_BATCH: usize = 256;

/// How often [`Eventpoll::yield_to_waiters`] checks whether a waiter has taken the mutex.
///
/// A waiter that spins notices within a few cache misses that the mutex is free. That is little,
/// compared with passing [`WALK_BATCH`] epitems.
const SPINS: usize = 32;

/// Fails with [`EINTR`] if the current task has been killed.
///
/// Taking an uncontended mutex killably does not check this.
#[inline]
fn check_killed() -> Result {
    // SAFETY: The current task is valid.
    if unsafe { bindings::fatal_signal_pending(Task::current_raw()) } != 0 {
        return Err(EINTR);
    }

    Ok(())
}

/// Reschedules between two batches of a long operation.
///
/// Fails with [`EINTR`] if the current task has been killed.
///
/// Context: may sleep.
///
/// # Examples
///
/// ```
/// use kernel::epoll::pause_killable;
///
/// fn in_batches(mut batch: impl FnMut() -> Result<bool>) -> Result {
///     while batch()? {
///         pause_killable()?;
///     }
///
///     Ok(())
/// }
/// # let mut left = 3;
/// # in_batches(|| {
/// #     left -= 1;
/// #     Ok(left != 0)
/// # })?;
/// # assert_eq!(left, 0);
/// # Ok::<(), Error>(())
/// ```
#[doc(alias = "fatal_signal_pending")]
#[doc(alias = "cond_resched")]
pub fn pause_killable() -> Result {
    check_killed()?;

    // SAFETY: The caller may sleep, as required by the documentation.
    unsafe { bindings::cond_resched() };

    Ok(())
}

impl Eventpoll {
    /// Calls `visit` on each epitem after `cursor`, in order, until it breaks.
    ///
    /// Returns the value that `visit` broke with, or `None` at the end of the interest list.
    ///
    /// Fails with [`EINTR`] if the current task is killed, and as [`Eventpoll::lock`] does. With
    /// [`Wait::Never`] it may fail after some epitems have been visited; the walk then has to be
    /// restarted.
    ///
    /// The mutex is held while `visit` runs and dropped after at most [`WALK_BATCH`] epitems.
    /// `visit` must therefore be quick and should not allocate: another program may be waiting for
    /// the mutex. Epitems can be added and removed while the mutex is not held. An epitem that is
    /// present throughout is visited exactly once, one that is added or removed during the walk at
    /// most once.
    ///
    /// Context: may sleep. See the [module documentation](super#locking) for what `visit` may do.
    ///
    /// # Examples
    ///
    /// Count the epitems of one descriptor that wait for certain events:
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
    /// # use kernel::epoll::kunit::TestInstance;
    /// # let mut instance = TestInstance::new(&[(3, 0), (4, 0), (4, 1), (4, 2), (5, 0)])?;
    /// # assert!(instance.set_event(3, 0, 1, 0) && instance.set_event(5, 0, 1, 0));
    /// # assert!(instance.set_event(4, 0, 1, 0) && instance.set_event(4, 2, 3, 0));
    /// # assert_eq!(count_waiting(instance.eventpoll(), 4, 1)?, 2);
    /// # assert_eq!(count_waiting(instance.eventpoll(), 4, 2)?, 1);
    /// # assert_eq!(count_waiting(instance.eventpoll(), 4, 4)?, 0);
    /// # assert_eq!(count_waiting(instance.eventpoll(), 6, 1)?, 0);
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

            self.yield_to_waiters()?;
        }
    }

    /// Reschedules, and lets a waiter take the mutex, which the caller has just dropped.
    ///
    /// Fails with [`EINTR`] if the current task has been killed.
    ///
    /// Context: may sleep.
    #[cold]
    pub(super) fn yield_to_waiters(&self) -> Result {
        pause_killable()?;

        // A waiter that sleeps requests a handoff once it has been passed over. One that spins on
        // another processor has to see that the mutex is free, and would miss the short time until
        // it is taken again. Whether there is one is known to the mutex only, so leave it free a
        // little longer in any case.
        if cfg!(CONFIG_SMP) {
            for _ in 0..SPINS {
                // SAFETY: By the type invariants, the mutex is initialized.
                if unsafe { bindings::mutex_is_locked(&raw mut (*self.0.get()).mtx) } {
                    break;
                }
                cpu_relax();
            }
        }

        Ok(())
    }
}
