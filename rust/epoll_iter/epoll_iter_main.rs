// SPDX-License-Identifier: GPL-2.0

//! BPF iterators over the epitems of an epoll instance.
//!
//! - [`target`] is for programs in section `iter/epoll`. Reading from the iterator runs the program
//!   on each epitem.
//! - [`items`] is for loops in other programs.
//!
//! The declarations that BPF has to find in the BTF of this module, and what programs may rely on,
//! are in `epoll_iter_bpf.c`.

use kernel::{
    epoll::EpollFile,
    fs::RemoteFile,
    prelude::*,
    sync::aref::ARef,
    task::Task, //
};

mod items;
mod target;

kernel::module_bpf_iter! {
    type: target::EpollTarget,
    name: "epoll_iter",
    authors: ["The rust-epoll developers"],
    description: "BPF iterators over the epitems of an epoll instance",
    license: "GPL",
}

/// Takes a reference to the epoll instance that descriptor `efd` of `task` refers to.
fn fget_epoll(task: &Task, efd: u32) -> Result<ARef<EpollFile>> {
    let file = RemoteFile::fget_task(task, efd)?;

    EpollFile::new(file).map_err(|_| EOPNOTSUPP)
}

#[kernel::macros::kunit_tests(epoll_iter)]
mod tests {
    use crate::target::EpollItems;
    use kernel::{
        bpf::iter::Items,
        epoll::{
            kunit::TestInstance,
            WALK_BATCH, //
        },
        prelude::*, //
    };

    /// Returns the data of the epitem for `file` that was added under `fd`.
    fn data(fd: i32, file: usize) -> u64 {
        (u64::from(fd as u32) << 32) | file as u64
    }

    /// Creates an instance whose epitems have their [`data`].
    fn instance_of(epitems: &[(i32, usize)]) -> Result<TestInstance> {
        let mut instance = TestInstance::new(epitems)?;
        for &(fd, file) in epitems {
            instance.set_event(fd, file, 1, data(fd, file));
        }

        Ok(instance)
    }

    /// Returns what a program sees in one read that shows `count` epitems. The epitem after the
    /// last one is visited, too, but not shown.
    fn read(items: &mut EpollItems, count: usize) -> Result<KVec<u64>> {
        let mut seen = KVec::new();
        let mut visit = items.start()?;

        while let Some(shown) = visit {
            let (_, epi) = items.args(Some(&shown));
            seen.push(epi.ok_or(EINVAL)?.data(), GFP_KERNEL)?;
            visit = items.next(shown)?;
            if seen.len() == count {
                break;
            }
        }

        Ok(seen)
    }

    #[test]
    fn empty() -> Result {
        let instance = instance_of(&[])?;
        let mut items = EpollItems::new(instance.epoll_file().into());

        assert!(items.start()?.is_none());
        assert!(items.args(None).1.is_none());
        assert_eq!(items.args(None).0.id(), instance.eventpoll().id());

        Ok(())
    }

    #[test]
    fn one_by_one() -> Result {
        let instance = instance_of(&[(7, 0), (3, 1), (7, 1), (7, 2), (9, 0)])?;
        let mut items = EpollItems::new(instance.epoll_file().into());

        for (fd, file) in [(3, 1), (7, 0), (7, 1), (7, 2), (9, 0)] {
            assert_eq!(read(&mut items, 1)?[..], [data(fd, file)]);
        }
        assert!(read(&mut items, 1)?.is_empty());

        Ok(())
    }

    #[test]
    fn not_shown_yet() -> Result {
        let instance = instance_of(&[(3, 0), (4, 0)])?;
        let mut items = EpollItems::new(instance.epoll_file().into());

        // If the buffer was full before the first epitem, the next read starts with it again.
        for _ in 0..3 {
            let visit = items.start()?.ok_or(EINVAL)?;
            assert_eq!(visit.epitem().fd(), 3);
        }
        assert_eq!(read(&mut items, 2)?[..], [data(3, 0), data(4, 0)]);

        Ok(())
    }

    #[test]
    fn deleted_at_the_cursor() -> Result {
        let mut instance = instance_of(&[(3, 0), (4, 0), (4, 1), (4, 2), (5, 0)])?;
        let mut items = EpollItems::new(instance.epoll_file().into());

        // Remove the last one shown, and the next one.
        assert_eq!(read(&mut items, 2)?[..], [data(3, 0), data(4, 0)]);
        assert!(instance.remove(4, 0) && instance.remove(4, 1));
        assert_eq!(read(&mut items, 1)?[..], [data(4, 2)]);

        // Add them again: only epitems that have not been shown are after the cursor.
        instance.insert(4, 0)?;
        instance.insert(4, 1)?;
        assert_eq!(read(&mut items, 9)?[..], [data(5, 0)]);

        Ok(())
    }

    #[test]
    fn all_deleted() -> Result {
        let mut instance = instance_of(&[(3, 0), (4, 0)])?;
        let mut items = EpollItems::new(instance.epoll_file().into());

        assert_eq!(read(&mut items, 1)?[..], [data(3, 0)]);
        assert!(instance.remove(3, 0) && instance.remove(4, 0));
        assert!(items.start()?.is_none());

        Ok(())
    }

    #[test]
    fn added_behind_the_cursor() -> Result {
        let mut instance = instance_of(&[(3, 0), (9, 0)])?;
        let mut items = EpollItems::new(instance.epoll_file().into());

        assert_eq!(read(&mut items, 1)?[..], [data(3, 0)]);
        instance.insert(2, 0)?;
        instance.insert(5, 0)?;
        instance.set_event(5, 0, 1, data(5, 0));
        assert_eq!(read(&mut items, 9)?[..], [data(5, 0), data(9, 0)]);

        Ok(())
    }

    #[test]
    fn dying_files() -> Result {
        let mut instance = instance_of(&[(3, 0), (4, 1), (5, 2), (6, 3)])?;

        assert!(instance.release_file(0) && instance.release_file(2) && instance.release_file(3));
        let mut items = EpollItems::new(instance.epoll_file().into());
        assert_eq!(read(&mut items, 9)?[..], [data(4, 1)]);

        Ok(())
    }

    #[test]
    fn pinned_while_visited() -> Result {
        let mut instance = instance_of(&[(3, 0)])?;
        let mut items = EpollItems::new(instance.epoll_file().into());

        let visit = items.start()?.ok_or(EINVAL)?;
        assert!(visit.target().identity() == instance.file(0));
        assert!(!instance.release_file(0));
        drop(visit);
        assert!(instance.release_file(0));
        assert!(items.start()?.is_none());

        Ok(())
    }

    /// Covers each boundary of a batch, with epitems of one descriptor and released files around
    /// it.
    #[test]
    fn batches() -> Result {
        const COUNT: usize = 3 * WALK_BATCH + 2;

        let mut instance = TestInstance::new(&[(7, COUNT - 1)])?;
        for file in 0..COUNT {
            if file != COUNT - 1 {
                instance.insert(7, file)?;
            }
            instance.set_event(7, file, 1, data(7, file));
        }
        let gone = |file: usize| file % WALK_BATCH <= 1 || file % WALK_BATCH == WALK_BATCH - 1;
        for file in (0..COUNT).filter(|&file| gone(file)) {
            assert!(instance.release_file(file));
        }

        for count in [1, 2, WALK_BATCH - 1, WALK_BATCH, WALK_BATCH + 1, COUNT] {
            let mut items = EpollItems::new(instance.epoll_file().into());
            let mut expected = (0..COUNT).filter(|&file| !gone(file));
            loop {
                let seen = read(&mut items, count)?;
                if seen.is_empty() {
                    break;
                }
                for seen in seen {
                    assert_eq!(Some(seen), expected.next().map(|file| data(7, file)));
                }
            }
            assert!(expected.next().is_none());
        }

        Ok(())
    }

    #[test]
    fn not_an_epoll_file() {
        assert_eq!(crate::fget_epoll(current!(), u32::MAX).err(), Some(EBADF));
    }
}
