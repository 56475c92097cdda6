// SPDX-License-Identifier: GPL-2.0

//! `EPOLL_CR_SNAPSHOT` and `EPOLL_CR_FETCH`: the targets of an epoll instance of a process.

use crate::{
    defs::{
        self,
        Item, //
    },
    files::{
        has_open,
        no_such_fd, //
    },
    user::Array, //
};
use kernel::{
    bindings,
    epoll::{
        pause_killable,
        Cursor,
        Epitem,
        Eventpoll,
        WALK_BATCH, //
    },
    fs::{
        identity::IdentityKey,
        RemoteFile, //
    },
    pid::get_task_by_pidfd,
    prelude::*,
    ptrace::{
        may_have_any_file,
        Attach, //
    },
    sync::aref::ARef,
    task::Task,
    uapi, //
};

/// The number of epitems to copy while the mutex of the instance is held.
const BATCH: usize = 128;
const _: () = assert!(BATCH <= WALK_BATCH);

/// The progress of a snapshot.
struct Place {
    cursor: Cursor,
    /// The descriptor of the last epitem.
    tfd: i32,
    /// The number of epitems of that descriptor so far.
    count: u32,
}

impl Place {
    const START: Self = Self {
        cursor: Cursor::START,
        tfd: i32::MIN,
        count: 0,
    };

    /// Advances past an epitem, and returns its `toff`.
    fn pass(&mut self, epi: &Epitem) -> u32 {
        if epi.fd() != self.tfd {
            self.tfd = epi.fd();
            self.count = 0;
        }
        self.cursor = epi.cursor();
        self.count += 1;

        self.count - 1
    }
}

fn item(key: &IdentityKey, epi: &Epitem, toff: u32) -> Item {
    Item {
        tfd: epi.fd(),
        toff,
        events: epi.events(),
        flags: if epi.is_ready() {
            uapi::EPOLL_CR_ITEM_READY
        } else {
            0
        },
        data: epi.data(),
        file: key.file(epi.file()),
    }
}

/// Takes a reference to the epoll file that a descriptor of the task refers to, if the current task
/// may attach to it.
///
/// The permission ends when this returns, so that waiting for the instance, which can take as long
/// as its owner likes, does not make anybody else wait. What the instance contains by then is not
/// more than a caller could see who has duplicated the descriptor by pidfd_getfd(2).
fn get_instance(task: &Task, efd: u32) -> Result<ARef<RemoteFile>> {
    let attach = Attach::new(task)?;
    let file = RemoteFile::fget_task(task, efd).map_err(|_| no_such_fd(&attach))?;
    if Eventpoll::from_file(&file).is_err() {
        return Err(EOPNOTSUPP);
    }

    Ok(file)
}

/// Like [`get_instance`], but ensures that the descriptor refers to the same instance each time.
///
/// `id` must be 0 for the first call, and is the id of the instance afterwards.
fn get_same_instance(task: &Task, efd: u32, id: &mut u64) -> Result<ARef<RemoteFile>> {
    let file = match get_instance(task, efd) {
        Err(EBADF | EOPNOTSUPP) if *id != 0 => return Err(ESTALE),
        result => result?,
    };
    let found = Eventpoll::from_file(&file)?.id();
    if *id == 0 {
        *id = found;
    } else if *id != found {
        return Err(ESTALE);
    }

    Ok(file)
}

/// Copies epitems, from `place` on, and advances `place`. Returns their number, and whether the end
/// has been reached.
///
/// If `count_only` is set, does the same without writing to `items`.
fn copy(
    key: &IdentityKey,
    ep: &Eventpoll,
    place: &mut Place,
    items: &mut [Item],
    count_only: bool,
) -> Result<(usize, bool)> {
    let guard = ep.lock_killable()?;
    let mut epitems = guard.items_after(place.cursor);
    let mut count = 0;

    for (to, epi) in items.iter_mut().zip(epitems.by_ref()) {
        let toff = place.pass(epi);
        if !count_only {
            *to = item(key, epi, toff);
        }
        count += 1;
    }

    // If `items` is full, the loop has ended before advancing `epitems`.
    Ok((count, count < items.len() || epitems.next().is_none()))
}

pub(crate) fn snapshot(key: &IdentityKey, args: &mut defs::Snapshot) -> Result {
    args.count = 0;
    args.epoll_id = 0;
    if args.flags != 0 || args.reserved != 0 {
        return Err(EINVAL);
    }

    let out = Array::<Item>::new(args.items, args.item_size, args.capacity)?;
    let task = get_task_by_pidfd(args.pidfd)?;
    let mut items = KVec::from_elem(Item::default(), BATCH, GFP_KERNEL)?;
    let mut place = Place::START;

    loop {
        pause_killable()?;

        let file = get_same_instance(&task, args.efd, &mut args.epoll_id)?;
        let (count, is_end) = copy(
            key,
            Eventpoll::from_file(&file)?,
            &mut place,
            &mut items,
            args.count >= out.len(),
        )?;
        drop(file);

        out.write(args.count, &items[..count])?;
        args.count += count as u64;

        if is_end {
            break;
        }
    }

    if args.count > out.len() {
        return Err(ENOSPC);
    }

    Ok(())
}

/// A search for an epitem by `tfd` and `toff`.
struct Search {
    cursor: Cursor,
    tfd: i32,
    /// The number of epitems of `tfd` that remain to be skipped.
    toff: u32,
    /// The required identity of the file, or 0.
    identity: u64,
}

impl Search {
    fn new(tfd: i32, toff: u32, identity: u64) -> Self {
        Self {
            cursor: Cursor::before_fd(tfd),
            tfd,
            toff,
            identity,
        }
    }

    /// Examines the next `count` epitems. If the wanted one is among them, returns a reference to
    /// its file.
    ///
    /// Fails with [`ENOENT`] if the instance has no such epitem.
    fn go_on(
        &mut self,
        key: &IdentityKey,
        ep: &Eventpoll,
        count: usize,
    ) -> Result<Option<ARef<RemoteFile>>> {
        let guard = ep.lock_killable()?;
        let mut epitems = guard.items_after(self.cursor);

        for _ in 0..count {
            let epi = epitems
                .next()
                .filter(|epi| epi.fd() == self.tfd)
                .ok_or(ENOENT)?;
            self.cursor = epi.cursor();
            if self.toff != 0 {
                self.toff -= 1;
                continue;
            }
            if self.identity != 0 && self.identity != key.file(epi.file()) {
                return Err(ESTALE);
            }

            return epi.pin().ok_or(ENOENT).map(Some);
        }

        Ok(None)
    }
}

pub(crate) fn fetch(key: &IdentityKey, args: &defs::Fetch) -> Result<isize> {
    if args.flags != 0 {
        return Err(EINVAL);
    }

    let task = get_task_by_pidfd(args.pidfd)?;
    let mut search = Search::new(args.tfd, args.toff, args.file);
    let mut id = 0;

    let target = loop {
        pause_killable()?;

        let file = get_same_instance(&task, args.efd, &mut id)?;
        if let Some(target) = search.go_on(key, Eventpoll::from_file(&file)?, WALK_BATCH)? {
            break target;
        }
    };
    if !may_have_any_file() && !has_open(&task, &target)? {
        return Err(EPERM);
    }

    Ok(target.receive_fd(bindings::O_CLOEXEC)? as isize)
}

#[kernel::macros::kunit_tests(epoll_cr_set)]
mod tests {
    use super::*;
    use kernel::epoll::kunit::TestInstance;

    fn all(instance: &TestInstance, key: &IdentityKey, batch: usize) -> Result<KVec<Item>> {
        let mut items = KVec::from_elem(Item::default(), batch, GFP_KERNEL)?;
        let mut place = Place::START;
        let mut result = KVec::new();

        loop {
            let (count, is_end) = copy(key, instance.eventpoll(), &mut place, &mut items, false)?;
            result.extend_from_slice(&items[..count], GFP_KERNEL)?;
            if is_end {
                return Ok(result);
            }
        }
    }

    #[test]
    fn batches_join_without_a_seam() -> Result {
        let key = IdentityKey::random();
        let instance = TestInstance::new(&[(3, 0), (4, 0), (4, 1), (4, 2), (4, 3), (9, 1)])?;

        for batch in 1..8 {
            let items = all(&instance, &key, batch)?;

            assert!(items.iter().map(|item| (item.tfd, item.toff)).eq([
                (3, 0),
                (4, 0),
                (4, 1),
                (4, 2),
                (4, 3),
                (9, 0)
            ]));
            assert_eq!(items[0].file, items[1].file);
            assert_eq!(items[2].file, items[5].file);
            assert_ne!(items[1].file, items[2].file);
        }

        Ok(())
    }

    #[test]
    fn empty() -> Result {
        let instance = TestInstance::new(&[])?;

        assert!(all(&instance, &IdentityKey::random(), 1)?.is_empty());

        Ok(())
    }

    #[test]
    fn contents() -> Result {
        let mut instance = TestInstance::new(&[(3, 0), (4, 0)])?;
        assert!(instance.set_event(4, 0, 0x8000_0019, u64::MAX - 1));
        assert!(instance.set_ready(4, 0));
        let items = all(&instance, &IdentityKey::random(), 2)?;

        assert_eq!(items[0].flags, 0);
        assert_eq!(items[1].flags, uapi::EPOLL_CR_ITEM_READY);
        assert_eq!(items[1].events, 0x8000_0019);
        assert_eq!(items[1].data, u64::MAX - 1);

        Ok(())
    }

    fn find_in_batches(
        key: &IdentityKey,
        instance: &TestInstance,
        (tfd, toff, identity): (i32, u32, u64),
        batch: usize,
    ) -> Result<u64> {
        let mut search = Search::new(tfd, toff, identity);

        loop {
            if let Some(file) = search.go_on(key, instance.eventpoll(), batch)? {
                return Ok(key.file(file.identity()));
            }
        }
    }

    #[test]
    fn find() -> Result {
        let key = IdentityKey::random();
        let mut instance = TestInstance::new(&[(3, 0), (4, 0), (4, 1)])?;
        let identity = key.file(instance.file(1));
        let find = |instance: &TestInstance, tfd, toff, identity| {
            let one_by_one = find_in_batches(&key, instance, (tfd, toff, identity), 1);
            assert!(one_by_one == find_in_batches(&key, instance, (tfd, toff, identity), 8));

            one_by_one
        };

        assert!(find(&instance, 4, 1, 0) == Ok(identity));
        assert!(find(&instance, 4, 1, identity) == Ok(identity));
        assert!(find(&instance, 4, 0, identity) == Err(ESTALE));
        assert!(find(&instance, 4, 2, 0) == Err(ENOENT));
        assert!(find(&instance, 5, 0, 0) == Err(ENOENT));
        assert!(find(&instance, -1, 0, 0) == Err(ENOENT));
        assert!(instance.release_file(1));
        assert!(find(&instance, 4, 1, 0) == Err(ENOENT));

        Ok(())
    }
}
