// SPDX-License-Identifier: GPL-2.0

//! Adding entries to a set of the caller as they were.

use crate::{
    defs::{
        self,
        Add, //
    },
    user::{
        Args,
        Array, //
    }, //
};
use kernel::{
    epoll::{
        restore::{
            Entry,
            Restore, //
        },
        Eventpoll, //
    },
    fs::RemoteFile,
    prelude::*,
    sync::aref::ARef,
    task::Task,
    uapi, //
};

/// How many entries are read at once, and looked up while the mutex of the set is held.
const BATCH: usize = 128;

/// Why a call fails, and the index of the entry that it fails because of, if any.
struct Failure {
    error: Error,
    index: Option<u64>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, index: None }
    }
}

impl Failure {
    fn of(index: u64) -> impl FnOnce(Error) -> Self {
        move |error| Self {
            error,
            index: Some(index),
        }
    }

    /// That an element could not be read. If its memory is to blame, it is not the entry.
    fn of_read(index: u64) -> impl FnOnce(Error) -> Self {
        move |error| match error {
            EFAULT => error.into(),
            _ => Self::of(index)(error),
        }
    }
}

/// What an element says is to be added.
fn entry(add: &Add) -> Result<Entry> {
    if add.flags & !uapi::EPOLL_CR_ITEM_READY != 0 {
        return Err(EINVAL);
    }

    Ok(Entry {
        fd: add.tfd,
        events: add.events,
        data: add.data,
        ready: add.flags & uapi::EPOLL_CR_ITEM_READY != 0,
    })
}

/// Takes a reference to a file of the caller.
fn get_file(fd: i32) -> Result<ARef<RemoteFile>> {
    Ok(RemoteFile::fget(fd as u32)?)
}

/// Looks at all entries of a batch, the first of which has the index `first`.
///
/// The references that this takes are in `files` when it returns.
fn check_batch(
    ep: &Eventpoll,
    restore: &Restore<'_>,
    first: u64,
    batch: &[Add],
    files: &mut KVec<ARef<RemoteFile>>,
) -> Result<(), Failure> {
    let mut result = Ok(());

    for (add, index) in batch.iter().zip(first..) {
        let checked = entry(add).and_then(|entry| {
            let file = get_file(add.fd)?;
            restore.check(&file, &entry)?;

            Ok(file)
        });
        match checked {
            Ok(file) => files.push(file, GFP_KERNEL).map_err(Error::from)?,
            Err(error) => {
                result = Err(Failure::of(index)(error));
                break;
            }
        }
    }

    // Those before the first that is refused can be there already.
    let guard = ep.lock_killable()?;
    for ((add, file), index) in batch.iter().zip(files.iter()).zip(first..) {
        if guard.find(add.tfd, file.identity()).is_some() {
            return Err(Failure::of(index)(EEXIST));
        }
    }

    result
}

fn add_batch(restore: &mut Restore<'_>, first: u64, batch: &[Add]) -> Result<(), Failure> {
    for (add, index) in batch.iter().zip(first..) {
        entry(add)
            .and_then(|entry| restore.add(&*get_file(add.fd)?, &entry))
            .map_err(|error| match error {
                EINTR | ENOMEM => error.into(),
                _ => Failure::of(index)(error),
            })?;
    }

    Ok(())
}

/// Adds all entries, and leaves it to the caller to commit that.
fn restore_all<'a>(set: &'a RemoteFile, items: &Array<Add>) -> Result<Restore<'a>, Failure> {
    let ep = Eventpoll::from_file(set).map_err(Error::from)?;
    let mut buf = KVec::from_elem(Add::default(), BATCH, GFP_KERNEL).map_err(Error::from)?;
    let mut files = KVec::with_capacity(BATCH, GFP_KERNEL).map_err(Error::from)?;
    let mut restore = Restore::new(set, items.len())?;

    let mut first = 0;
    while first < items.len() {
        Task::pause_killable()?;

        let (batch, read) = items.read(first, &mut buf);
        let checked = check_batch(ep, &restore, first, batch, &mut files);
        files.clear();
        checked?;

        first += batch.len() as u64;
        read.map_err(Failure::of_read(first))?;
    }

    // The array is read again: what it says now is what counts.
    let mut first = 0;
    while first < items.len() {
        Task::pause_killable()?;

        let (batch, read) = items.read(first, &mut buf);
        add_batch(&mut restore, first, batch)?;

        first += batch.len() as u64;
        read.map_err(Failure::of_read(first))?;
    }

    Ok(restore)
}

pub(crate) fn restore(args: &Args<defs::Restore>, mut value: defs::Restore) -> Result<isize> {
    // Should it fail because of what is not an entry.
    value.bad = value.count;
    args.write(&value)?;

    if value.flags != 0 {
        return Err(EINVAL);
    }

    let items = Array::new(value.items, value.item_size, value.count)?;
    let set = get_file(value.efd)?;
    Eventpoll::from_file(&set).map_err(|_| EOPNOTSUPP)?;
    if value.count == 0 {
        return Ok(0);
    }

    match restore_all(&set, &items) {
        Ok(restore) => restore.commit(),
        Err(Failure { error, index: None }) => return Err(error),
        Err(Failure {
            error,
            index: Some(index),
        }) => {
            value.bad = index;
            // That the call fails is more important than why.
            let _ = args.write(&value);

            return Err(error);
        }
    }

    Ok(0)
}
