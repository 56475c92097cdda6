// SPDX-License-Identifier: GPL-2.0

//! What a set of another process has in it.

use crate::{
    defs::{
        self,
        Item, //
    },
    files::no_such_fd,
    user::Array, //
};
use kernel::{
    bindings,
    epoll::{
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
    ptrace::Attach,
    sync::aref::ARef,
    uapi, //
};

/// How many entries are copied while the mutex of a set is held.
const BATCH: usize = 128;
const _: () = assert!(BATCH <= WALK_BATCH);

/// How far a snapshot is.
struct Place {
    cursor: Cursor,
    /// Number of the last entry, and how many there were with it.
    tfd: i32,
    count: u32,
}

impl Place {
    const START: Self = Self {
        cursor: Cursor::START,
        tfd: i32::MIN,
        count: 0,
    };

    /// Goes past an entry, and returns how many there were with its number.
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

/// Takes a reference to a file that is to be an epoll file.
fn get_set(attach: &Attach<'_>, efd: u32) -> Result<ARef<RemoteFile>> {
    let file = RemoteFile::fget_task(attach.task(), efd).map_err(|_| no_such_fd(attach))?;
    if Eventpoll::from_file(&file).is_err() {
        return Err(EOPNOTSUPP);
    }

    Ok(file)
}

/// The same, for one who looks at the same set each time.
///
/// `id` is 0 at the first time, and the number of the set from then on.
fn get_same_set(attach: &Attach<'_>, efd: u32, id: &mut u64) -> Result<ARef<RemoteFile>> {
    let file = match get_set(attach, efd) {
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

/// Copies entries of a set behind `place`. Returns how many, and whether that are all.
///
/// If `count_only`, leaves `items` as they are, but goes on as far.
fn copy(
    key: &IdentityKey,
    ep: &Eventpoll,
    place: &mut Place,
    items: &mut [Item],
    count_only: bool,
) -> Result<(usize, bool)> {
    let guard = ep.lock_killable()?;
    let mut entries = guard.items_after(place.cursor);
    let mut count = 0;

    for (to, epi) in items.iter_mut().zip(entries.by_ref()) {
        let toff = place.pass(epi);
        if !count_only {
            *to = item(key, epi, toff);
        }
        count += 1;
    }

    // Who comes to the end of `items` has not asked for the next.
    Ok((count, count < items.len() || entries.next().is_none()))
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
        let (count, is_end) = {
            let attach = Attach::new(&task)?;
            let file = get_same_set(&attach, args.efd, &mut args.epoll_id)?;

            copy(
                key,
                Eventpoll::from_file(&file)?,
                &mut place,
                &mut items,
                args.count >= out.len(),
            )?
        };

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

/// A search for the entry that has a number, and so many of the same number before it.
struct Search {
    cursor: Cursor,
    tfd: i32,
    /// How many more are before it.
    toff: u32,
    /// The identity that its file must have, or 0.
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

    /// Looks at `count` further entries. Returns a reference to the file of the one that is looked
    /// for, if it is among them.
    ///
    /// Fails with [`ENOENT`] if there is no such entry in the set.
    fn go_on(
        &mut self,
        key: &IdentityKey,
        ep: &Eventpoll,
        count: usize,
    ) -> Result<Option<ARef<RemoteFile>>> {
        let guard = ep.lock_killable()?;
        let mut entries = guard.items_after(self.cursor);

        for _ in 0..count {
            let epi = entries
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
        let attach = Attach::new(&task)?;
        let file = get_same_set(&attach, args.efd, &mut id)?;

        if let Some(target) = search.go_on(key, Eventpoll::from_file(&file)?, WALK_BATCH)? {
            if !target.may_be_taken(&attach) {
                return Err(EPERM);
            }
            break target;
        }
    };

    Ok(target.receive_fd(bindings::O_CLOEXEC)? as isize)
}

#[kernel::macros::kunit_tests(epoll_cr_set)]
mod tests {
    use super::*;
    use kernel::epoll::kunit::TestSet;

    fn all(set: &TestSet, key: &IdentityKey, batch: usize) -> Result<KVec<Item>> {
        let mut items = KVec::from_elem(Item::default(), batch, GFP_KERNEL)?;
        let mut place = Place::START;
        let mut result = KVec::new();

        loop {
            let (count, is_end) = copy(key, set.eventpoll(), &mut place, &mut items, false)?;
            result.extend_from_slice(&items[..count], GFP_KERNEL)?;
            if is_end {
                return Ok(result);
            }
        }
    }

    #[test]
    fn batches_join_without_a_seam() -> Result {
        let key = IdentityKey::random();
        let set = TestSet::new(&[(3, 0), (4, 0), (4, 1), (4, 2), (4, 3), (9, 1)])?;

        for batch in 1..8 {
            let items = all(&set, &key, batch)?;

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
        let set = TestSet::new(&[])?;

        assert!(all(&set, &IdentityKey::random(), 1)?.is_empty());

        Ok(())
    }

    #[test]
    fn contents() -> Result {
        let mut set = TestSet::new(&[(3, 0), (4, 0)])?;
        assert!(set.set_event(4, 0, 0x8000_0001, u64::MAX - 1));
        assert!(set.set_ready(4, 0));
        let items = all(&set, &IdentityKey::random(), 2)?;

        assert_eq!(items[0].flags, 0);
        assert_eq!(items[1].flags, uapi::EPOLL_CR_ITEM_READY);
        assert_eq!(items[1].events, 0x8000_0001);
        assert_eq!(items[1].data, u64::MAX - 1);

        Ok(())
    }

    fn find_in_batches(
        key: &IdentityKey,
        set: &TestSet,
        (tfd, toff, identity): (i32, u32, u64),
        batch: usize,
    ) -> Result<u64> {
        let mut search = Search::new(tfd, toff, identity);

        loop {
            if let Some(file) = search.go_on(key, set.eventpoll(), batch)? {
                return Ok(key.file(file.identity()));
            }
        }
    }

    #[test]
    fn find() -> Result {
        let key = IdentityKey::random();
        let mut set = TestSet::new(&[(3, 0), (4, 0), (4, 1)])?;
        let identity = key.file(set.file(1));
        let find = |set: &TestSet, tfd, toff, identity| {
            let one_by_one = find_in_batches(&key, set, (tfd, toff, identity), 1);
            assert!(one_by_one == find_in_batches(&key, set, (tfd, toff, identity), 8));

            one_by_one
        };

        assert!(find(&set, 4, 1, 0) == Ok(identity));
        assert!(find(&set, 4, 1, identity) == Ok(identity));
        assert!(find(&set, 4, 0, identity) == Err(ESTALE));
        assert!(find(&set, 4, 2, 0) == Err(ENOENT));
        assert!(find(&set, 5, 0, 0) == Err(ENOENT));
        assert!(find(&set, -1, 0, 0) == Err(ENOENT));
        assert!(set.release_file(1));
        assert!(find(&set, 4, 1, 0) == Err(ENOENT));

        Ok(())
    }
}
