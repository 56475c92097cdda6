// SPDX-License-Identifier: GPL-2.0

//! A handler for `kcmp(KCMP_EPOLL_TFD)`.
//!
//! An epoll instance watches open files, each under the descriptor that it had when it was added.
//! `kcmp(pid1, pid2, KCMP_EPOLL_TFD, fd, &slot)` compares such a watched file with one that a
//! process has open. See `kcmp(2)` for the interface.
//!
//! The handler is a port of `kcmp_epoll_target()` in `kernel/kcmp.c` and of the functions of
//! `fs/eventpoll.c` that it calls, which are found here by the same names. The results are the
//! same. The handler drops the mutex of the instance every few epitems, where C holds it until it
//! has counted them.

use core::ops::ControlFlow;
use kernel::{
    epoll::{
        Cursor,
        Epitem,
        Eventpoll,
        Wait, //
    },
    fs::{
        FileIdentity,
        RemoteFile, //
    },
    kcmp::{
        file_order,
        EpollHandler,
        EpollQuery,
        FileOrder, //
    },
    prelude::*, //
};

kernel::module_epoll_handler! {
    type: Handler,
    name: "kcmp_epoll",
    authors: ["The rust-epoll developers"],
    description: "kcmp(KCMP_EPOLL_TFD) handler",
    license: "GPL",
}

/// Finds the `toff`-th epitem of `ep` that was added under descriptor `tfd`, and calls `found` on
/// it while the mutex is held.
///
/// Epitems of one descriptor are counted in the order of the instance. If epitems are added or
/// removed meanwhile, those that are present when they are passed count.
///
/// Fails with [`ENOENT`] if there is no such epitem, and as [`Eventpoll::lock`] does.
fn ep_find_tfd<R>(
    ep: &Eventpoll,
    wait: Wait,
    tfd: i32,
    toff: u32,
    found: impl Fn(&Epitem) -> R,
) -> Result<R> {
    // Nearly all descriptors have one epitem. Keeping the counting loop out of line makes this as
    // fast as the C handler even for an instance with a single epitem.
    if toff != 0 {
        return ep_count_tfd(ep, wait, tfd, toff, found);
    }

    let guard = ep.lock(wait)?;
    let epi = guard.items_after(Cursor::before_fd(tfd)).next();

    epi.filter(|epi| epi.fd() == tfd).map(found).ok_or(ENOENT)
}

/// Implements [`ep_find_tfd`] for a `toff` other than 0.
#[cold]
fn ep_count_tfd<R>(
    ep: &Eventpoll,
    wait: Wait,
    tfd: i32,
    mut toff: u32,
    found: impl Fn(&Epitem) -> R,
) -> Result<R> {
    let mut result = Err(ENOENT);

    ep.walk(wait, Cursor::before_fd(tfd), |epi| {
        if epi.fd() != tfd {
            return ControlFlow::Break(());
        }
        if toff == 0 {
            result = Ok(found(epi));
            return ControlFlow::Break(());
        }
        toff -= 1;

        ControlFlow::Continue(())
    })?;

    result
}

/// Finds the file that `file`, an epoll file, watches as the `toff`-th epitem of descriptor `tfd`,
/// and calls `found` with its identity while the mutex is held.
///
/// The C function is called `get_epoll_tfile` since it takes a reference to the file. Here none is
/// needed: the identity borrows from the epitem and cannot leave `found`.
///
/// Fails with [`EINVAL`] if `file` is not an epoll file, with [`ENOENT`] if there is no such
/// epitem or its file is being closed, and as [`Eventpoll::lock`] does.
fn get_epoll_tfile_raw_ptr<R>(
    file: &RemoteFile,
    wait: Wait,
    tfd: i32,
    toff: u32,
    found: impl Fn(FileIdentity<'_>) -> R,
) -> Result<R> {
    let ep = Eventpoll::from_file(file)?;

    ep_find_tfd(ep, wait, tfd, toff, |epi| {
        // As in C, where no reference can be taken any more.
        if epi.is_closing() {
            return Err(ENOENT);
        }

        Ok(found(epi.file()))
    })?
}

/// Compares a file with the one watched by an epoll instance.
///
/// `kernel/kcmp.c` has taken both files, and fails with [`EBADF`] if one is not open. This fails as
/// [`get_epoll_tfile_raw_ptr`] does.
#[inline]
fn kcmp_epoll_target(query: &EpollQuery<'_>) -> Result<FileOrder> {
    let filp = query.file;

    // As in C, a value that is not a valid descriptor is one that no epitem was added under.
    let tfd = query.tfd as i32;

    // The target cannot be freed because the mutex is held, and `filp` because it is referenced.
    get_epoll_tfile_raw_ptr(query.epoll_file, query.wait, tfd, query.toff, |filp_tgt| {
        file_order(filp.identity(), filp_tgt)
    })
}

struct Handler;

#[vtable]
impl EpollHandler for Handler {
    #[inline]
    fn compare(query: &EpollQuery<'_>) -> Result<FileOrder> {
        kcmp_epoll_target(query)
    }
}

#[kernel::macros::kunit_tests(kcmp_epoll)]
mod tests {
    use super::*;
    use kernel::{
        epoll::{
            kunit::TestInstance,
            WALK_BATCH, //
        },
        sync::aref::ARef, //
    };

    /// Returns whether the `toff`-th epitem of `tfd` is the one for `file`.
    fn finds(instance: &TestInstance, tfd: i32, toff: u32, file: usize) -> bool {
        ep_find_tfd(instance.eventpoll(), Wait::Never, tfd, toff, |epi| {
            epi.fd() == tfd && epi.file() == instance.file(file)
        }) == Ok(true)
    }

    fn finds_nothing(instance: &TestInstance, tfd: i32, toff: u32) -> bool {
        ep_find_tfd(instance.eventpoll(), Wait::Killable, tfd, toff, |_| ()) == Err(ENOENT)
    }

    #[test]
    fn empty() -> Result {
        let instance = TestInstance::new(&[])?;

        for tfd in [i32::MIN, -1, 0, 1, i32::MAX] {
            assert!(finds_nothing(&instance, tfd, 0));
        }
        let guard = instance.eventpoll().lock_killable()?;
        assert!(guard.items().next().is_none());

        Ok(())
    }

    #[test]
    fn one() -> Result {
        let instance = TestInstance::new(&[(5, 0)])?;

        assert!(finds(&instance, 5, 0, 0));
        assert!(finds_nothing(&instance, 5, 1));
        assert!(finds_nothing(&instance, 5, u32::MAX));
        assert!(finds_nothing(&instance, 4, 0));
        assert!(finds_nothing(&instance, 6, 0));

        Ok(())
    }

    #[test]
    fn many() -> Result {
        // Odd descriptors only, added in an unsorted order, with files in the opposite order.
        let mut instance = TestInstance::new(&[(1, 999)])?;
        for i in 1..1000 {
            let i = (i * 7) % 1000;
            if i != 0 {
                instance.insert(2 * i as i32 + 1, 999 - i)?;
            }
        }

        for i in 0..1000 {
            assert!(finds(&instance, 2 * i as i32 + 1, 0, 999 - i));
            assert!(finds_nothing(&instance, 2 * i as i32 + 1, 1));
            assert!(finds_nothing(&instance, 2 * i as i32, 0));
        }

        Ok(())
    }

    #[test]
    fn duplicates() -> Result {
        // With this count, the walk drops the mutex just before, at and just after an epitem.
        let count = 3 * WALK_BATCH + 1;
        let mut instance = TestInstance::with_duplicates(702, count)?;
        instance.insert(701, 3)?;
        instance.insert(703, 4)?;

        for toff in 0..count {
            assert!(finds(&instance, 702, toff as u32, toff));
        }
        assert!(finds_nothing(&instance, 702, count as u32));
        assert!(finds_nothing(&instance, 702, u32::MAX));
        assert!(finds(&instance, 701, 0, 3));
        assert!(finds_nothing(&instance, 701, 1));
        assert!(finds(&instance, 703, 0, 4));
        assert!(finds_nothing(&instance, 703, 1));

        Ok(())
    }

    #[test]
    fn number_at_both_ends() -> Result {
        let instance = TestInstance::new(&[(0, 1), (i32::MAX, 0), (0, 2), (17, 1)])?;

        assert!(finds(&instance, 0, 0, 1));
        assert!(finds(&instance, 0, 1, 2));
        assert!(finds_nothing(&instance, 0, 2));
        assert!(finds(&instance, i32::MAX, 0, 0));
        assert!(finds_nothing(&instance, i32::MAX, 1));

        // Values that are not descriptors, which `u32::MAX` and the like are converted to.
        assert!(finds_nothing(&instance, -1, 0));
        assert!(finds_nothing(&instance, i32::MIN, 0));

        Ok(())
    }

    #[test]
    fn held_by_somebody_else() -> Result {
        let instance = TestInstance::new(&[(5, 0)])?;
        let guard = instance.eventpoll().lock(Wait::Killable)?;

        assert!(ep_find_tfd(instance.eventpoll(), Wait::Never, 5, 0, |_| ()) == Err(EAGAIN));
        drop(guard);
        assert!(finds(&instance, 5, 0, 0));

        Ok(())
    }

    #[test]
    fn entry_of_a_file_that_is_being_closed() -> Result {
        let mut instance = TestInstance::new(&[(3, 0), (3, 1), (3, 2)])?;
        assert!(instance.release_file(1));

        // The epitem counts until it is removed, but its file is not the answer any more.
        assert!(gets(&instance, 3, 0, 0) == Ok(true));
        assert!(gets(&instance, 3, 1, 1) == Err(ENOENT));
        assert!(gets(&instance, 3, 2, 2) == Ok(true));
        assert!(finds(&instance, 3, 1, 1));
        assert!(finds(&instance, 3, 2, 2));
        let guard = instance.eventpoll().lock_killable()?;
        let mut pinned = guard.items().map(|epi| epi.pin().is_some());
        assert!(pinned.next() == Some(true));
        assert!(pinned.next() == Some(false));
        assert!(pinned.next() == Some(true));

        Ok(())
    }

    /// Returns whether [`get_epoll_tfile_raw_ptr`] returns `file`.
    fn gets(instance: &TestInstance, tfd: i32, toff: u32, file: usize) -> Result<bool> {
        get_epoll_tfile_raw_ptr(instance.epoll_file(), Wait::Never, tfd, toff, |target| {
            target == instance.file(file)
        })
    }

    #[test]
    fn target_of_one() -> Result {
        let instance = TestInstance::new(&[(3, 1), (4, 0), (5, 1)])?;

        // The same file under two descriptors, and another one in between.
        assert!(gets(&instance, 3, 0, 1) == Ok(true));
        assert!(gets(&instance, 4, 0, 0) == Ok(true));
        assert!(gets(&instance, 4, 0, 1) == Ok(false));
        assert!(gets(&instance, 5, 0, 1) == Ok(true));

        Ok(())
    }

    #[test]
    fn target_of_several() -> Result {
        let mut instance = TestInstance::new(&[(7, 0), (8, 1), (8, 3), (8, 0), (9, 2)])?;

        assert!(gets(&instance, 8, 0, 0) == Ok(true));
        assert!(gets(&instance, 8, 1, 1) == Ok(true));
        assert!(gets(&instance, 8, 2, 3) == Ok(true));

        // An epitem in between shifts those after it, one of a file that is being closed counts.
        instance.insert(8, 2)?;
        assert!(instance.release_file(1));
        assert!(gets(&instance, 8, 0, 0) == Ok(true));
        assert!(gets(&instance, 8, 1, 1) == Err(ENOENT));
        assert!(gets(&instance, 8, 2, 2) == Ok(true));
        assert!(gets(&instance, 8, 3, 3) == Ok(true));

        Ok(())
    }

    #[test]
    fn no_such_target() -> Result {
        let instance = TestInstance::new(&[(7, 0), (8, 1), (8, 0), (9, 2)])?;

        // No such descriptor.
        assert!(gets(&instance, 6, 0, 0) == Err(ENOENT));
        assert!(gets(&instance, 10, 0, 0) == Err(ENOENT));
        assert!(gets(&instance, -1, 0, 0) == Err(ENOENT));
        // Past the last epitem of the descriptor, with others after it.
        assert!(gets(&instance, 7, 1, 0) == Err(ENOENT));
        assert!(gets(&instance, 8, 2, 0) == Err(ENOENT));
        assert!(gets(&instance, 8, u32::MAX, 0) == Err(ENOENT));

        Ok(())
    }

    #[test]
    fn target_of_no_epoll_file() -> Result {
        let instance = TestInstance::new(&[(7, 0)])?;
        let pin = || -> Result<ARef<RemoteFile>> {
            let guard = instance.eventpoll().lock_killable()?;
            let epi = guard.items().next().ok_or(ENOENT)?;

            epi.pin().ok_or(ENOENT)
        };

        // A watched file is not an epoll file itself. This precedes the search.
        let file = pin()?;
        for tfd in [7, 8] {
            assert!(get_epoll_tfile_raw_ptr(&file, Wait::Never, tfd, 0, |_| ()) == Err(EINVAL));
        }

        Ok(())
    }

    #[test]
    fn target_while_held_by_somebody_else() -> Result {
        let instance = TestInstance::new(&[(5, 0), (5, 1)])?;
        let guard = instance.eventpoll().lock(Wait::Killable)?;

        assert!(gets(&instance, 5, 0, 0) == Err(EAGAIN));
        assert!(gets(&instance, 5, 1, 1) == Err(EAGAIN));
        assert!(gets(&instance, 6, 0, 0) == Err(EAGAIN));
        drop(guard);
        assert!(gets(&instance, 5, 1, 1) == Ok(true));

        Ok(())
    }
}
