// SPDX-License-Identifier: GPL-2.0

//! Answers `kcmp(KCMP_EPOLL_TFD)` in Rust.
//!
//! An epoll set watches pairs of an open file and the number that its descriptor had when it was
//! added. `kcmp(pid1, pid2, KCMP_EPOLL_TFD, fd, &slot)` tells which file is behind an entry, by
//! comparing it with one that has a descriptor. See `Documentation/kcmp_epoll.2` for the interface.
//!
//! This handler gives the answers of the one in `kernel/kcmp.c`, except that
//!
//! - it finds the entry in O(log n + toff), where that one visits all entries up to it;
//! - it lets go of the set's mutex every few entries, and its caller can be killed while it waits;
//! - it compares two files that both exist, so that 'equal' means that they are the same. The other
//!   compares an address with that of a file which it has let go of before.

use core::ops::ControlFlow;
use kernel::{
    epoll::{
        Cursor,
        Epitem,
        Eventpoll,
        Wait, //
    },
    fs::RemoteFile,
    kcmp::{
        file_order,
        EpollHandler,
        EpollQuestion,
        FileOrder, //
    },
    prelude::*,
    sync::aref::ARef, //
};

kernel::module_epoll_handler! {
    type: Handler,
    name: "kcmp_epoll",
    authors: ["The rust-epoll developers"],
    description: "kcmp(KCMP_EPOLL_TFD) handler",
    license: "GPL",
}

/// Finds the `toff`-th entry of `ep` that was added as number `tfd`, and calls `found` on it.
///
/// Entries of one number are counted in the order of the set. If some come or go meanwhile, then
/// those count that are there when they are passed.
fn ep_find_tfd<R>(
    ep: &Eventpoll,
    wait: Wait,
    tfd: i32,
    toff: u32,
    found: impl Fn(&Epitem) -> R,
) -> Result<R> {
    // Nearly all numbers have one entry. To keep what counts out of the way makes this as fast as
    // the handler in C, even in a set that has no other entry.
    if toff != 0 {
        return ep_count_tfd(ep, wait, tfd, toff, found);
    }

    let guard = ep.lock(wait)?;
    let epi = guard.items_after(Cursor::before_fd(tfd)).next();

    epi.filter(|epi| epi.fd() == tfd).map(found).ok_or(ENOENT)
}

#[cold]
fn ep_count_tfd<R>(
    ep: &Eventpoll,
    wait: Wait,
    tfd: i32,
    mut toff: u32,
    found: impl Fn(&Epitem) -> R,
) -> Result<R> {
    let mut answer = Err(ENOENT);

    ep.walk(wait, Cursor::before_fd(tfd), |epi| {
        if epi.fd() != tfd {
            return ControlFlow::Break(());
        }
        if toff == 0 {
            answer = Ok(found(epi));
            return ControlFlow::Break(());
        }
        toff -= 1;

        ControlFlow::Continue(())
    })?;

    answer
}

struct Handler;

#[vtable]
impl EpollHandler for Handler {
    #[inline]
    fn compare(question: &EpollQuestion<'_>) -> Result<FileOrder> {
        let file: ARef<RemoteFile> = RemoteFile::fget_task(question.task1, question.fd)?;
        let epoll_file = RemoteFile::fget_task(question.task2, question.efd)?;
        let ep = Eventpoll::from_file(&epoll_file)?;

        // As in C, a number that no descriptor can have is one that no entry has.
        let tfd = question.tfd as i32;

        // Compared under the mutex of the set, so that the target cannot be freed, and with a
        // reference to the other file.
        ep_find_tfd(ep, question.wait, tfd, question.toff, |epi| {
            file_order(file.identity(), epi.file())
        })
    }
}

#[kernel::macros::kunit_tests(kcmp_epoll)]
mod tests {
    use super::*;
    use kernel::epoll::{
        kunit::TestInstance,
        WALK_BATCH, //
    };

    /// Whether the `toff`-th entry numbered `tfd` is the one for `file`.
    fn finds(set: &TestInstance, tfd: i32, toff: u32, file: usize) -> bool {
        ep_find_tfd(set.eventpoll(), Wait::Never, tfd, toff, |epi| {
            epi.fd() == tfd && epi.file() == set.file(file)
        }) == Ok(true)
    }

    fn finds_nothing(set: &TestInstance, tfd: i32, toff: u32) -> bool {
        ep_find_tfd(set.eventpoll(), Wait::Killable, tfd, toff, |_| ()) == Err(ENOENT)
    }

    #[test]
    fn empty() -> Result {
        let set = TestInstance::new(&[])?;

        for tfd in [i32::MIN, -1, 0, 1, i32::MAX] {
            assert!(finds_nothing(&set, tfd, 0));
        }
        assert!(set.eventpoll().lock_killable()?.items().next().is_none());

        Ok(())
    }

    #[test]
    fn one() -> Result {
        let set = TestInstance::new(&[(5, 0)])?;

        assert!(finds(&set, 5, 0, 0));
        assert!(finds_nothing(&set, 5, 1));
        assert!(finds_nothing(&set, 5, u32::MAX));
        assert!(finds_nothing(&set, 4, 0));
        assert!(finds_nothing(&set, 6, 0));

        Ok(())
    }

    #[test]
    fn many() -> Result {
        // Odd numbers only, added in an order that is not sorted, files in the opposite order.
        let mut set = TestInstance::new(&[(1, 999)])?;
        for i in 1..1000 {
            let i = (i * 7) % 1000;
            if i != 0 {
                set.insert(2 * i as i32 + 1, 999 - i)?;
            }
        }

        for i in 0..1000 {
            assert!(finds(&set, 2 * i as i32 + 1, 0, 999 - i));
            assert!(finds_nothing(&set, 2 * i as i32 + 1, 1));
            assert!(finds_nothing(&set, 2 * i as i32, 0));
        }

        Ok(())
    }

    #[test]
    fn duplicates() -> Result {
        // The number of entries is such that the walk stops before, at and behind an entry.
        let count = 3 * WALK_BATCH + 1;
        let mut set = TestInstance::with_duplicates(702, count)?;
        set.insert(701, 3)?;
        set.insert(703, 4)?;

        for toff in 0..count {
            assert!(finds(&set, 702, toff as u32, toff));
        }
        assert!(finds_nothing(&set, 702, count as u32));
        assert!(finds_nothing(&set, 702, u32::MAX));
        assert!(finds(&set, 701, 0, 3));
        assert!(finds_nothing(&set, 701, 1));
        assert!(finds(&set, 703, 0, 4));
        assert!(finds_nothing(&set, 703, 1));

        Ok(())
    }

    #[test]
    fn number_at_both_ends() -> Result {
        let set = TestInstance::new(&[(0, 1), (i32::MAX, 0), (0, 2), (17, 1)])?;

        assert!(finds(&set, 0, 0, 1));
        assert!(finds(&set, 0, 1, 2));
        assert!(finds_nothing(&set, 0, 2));
        assert!(finds(&set, i32::MAX, 0, 0));
        assert!(finds_nothing(&set, i32::MAX, 1));

        // Numbers that no descriptor has, as `u32::MAX` and the like are taken for.
        assert!(finds_nothing(&set, -1, 0));
        assert!(finds_nothing(&set, i32::MIN, 0));

        Ok(())
    }

    #[test]
    fn held_by_somebody_else() -> Result {
        let set = TestInstance::new(&[(5, 0)])?;
        let guard = set.eventpoll().lock(Wait::Killable)?;

        assert!(ep_find_tfd(set.eventpoll(), Wait::Never, 5, 0, |_| ()) == Err(EAGAIN));
        drop(guard);
        assert!(finds(&set, 5, 0, 0));

        Ok(())
    }

    #[test]
    fn entry_of_a_file_that_is_being_closed() -> Result {
        let mut set = TestInstance::new(&[(3, 0), (3, 1), (3, 2)])?;
        assert!(set.release_file(1));

        // It counts until it is removed, but there is no way to get at the file.
        assert!(finds(&set, 3, 1, 1));
        assert!(finds(&set, 3, 2, 2));
        let guard = set.eventpoll().lock_killable()?;
        let mut pinned = guard.items().map(|epi| epi.pin().is_some());
        assert!(pinned.next() == Some(true));
        assert!(pinned.next() == Some(false));
        assert!(pinned.next() == Some(true));

        Ok(())
    }
}
