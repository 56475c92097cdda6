// SPDX-License-Identifier: GPL-2.0

//! `EPOLL_CR_RESTORE`: adding targets to an epoll instance of the caller in a given state.

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
        pause_killable,
        restore::{
            EpitemState,
            Restore, //
        },
        Eventpoll, //
    },
    fs::RemoteFile,
    prelude::*,
    sync::aref::ARef,
    uapi, //
};

/// The number of elements to read at once, and to look up while the mutex of the instance is held.
const BATCH: usize = 128;

/// The error of a call, and the index of the element that has caused it, if any.
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

    /// Reading an element has failed. `EFAULT` is not attributed to the element.
    fn of_read(index: u64) -> impl FnOnce(Error) -> Self {
        move |error| match error {
            EFAULT => error.into(),
            _ => Self::of(index)(error),
        }
    }
}

/// Returns the state that an element specifies.
fn state(add: &Add) -> Result<EpitemState> {
    if add.flags & !uapi::EPOLL_CR_ITEM_READY != 0 {
        return Err(EINVAL);
    }

    Ok(EpitemState {
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

/// Checks all elements of a batch, the first of which has the index `first`.
///
/// Stores the references that it takes in `files`.
fn check_batch(
    ep: &Eventpoll,
    restore: &Restore<'_>,
    first: u64,
    batch: &[Add],
    files: &mut KVec<ARef<RemoteFile>>,
) -> Result<(), Failure> {
    let mut result = Ok(());

    for (add, index) in batch.iter().zip(first..) {
        let checked = state(add).and_then(|state| {
            let file = get_file(add.fd)?;
            restore.check(&file, &state)?;

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

    // An element before the first that has been refused may exist in the instance already.
    let guard = ep.lock_killable()?;
    for ((add, file), index) in batch.iter().zip(files.iter()).zip(first..) {
        if guard.find(add.tfd, file.identity()).is_some() {
            return Err(Failure::of(index)(EEXIST));
        }
    }

    result
}

/// Adds all elements of a batch, the first of which has the index `first`.
fn add_batch(restore: &mut Restore<'_>, first: u64, batch: &[Add]) -> Result<(), Failure> {
    for (add, index) in batch.iter().zip(first..) {
        state(add)
            .and_then(|state| restore.add(&*get_file(add.fd)?, &state))
            .map_err(|error| match error {
                EINTR | ENOMEM => error.into(),
                _ => Failure::of(index)(error),
            })?;
    }

    Ok(())
}

/// Adds all elements. The caller is responsible for committing the result.
fn restore_all<'a>(epoll_file: &'a RemoteFile, items: &Array<Add>) -> Result<Restore<'a>, Failure> {
    let ep = Eventpoll::from_file(epoll_file).map_err(Error::from)?;
    let mut buf = KVec::from_elem(Add::default(), BATCH, GFP_KERNEL).map_err(Error::from)?;
    let mut files = KVec::with_capacity(BATCH, GFP_KERNEL).map_err(Error::from)?;
    let mut restore = Restore::new(epoll_file, items.len())?;

    let mut first = 0;
    while first < items.len() {
        pause_killable()?;

        let (batch, read) = items.read(first, &mut buf);
        let checked = check_batch(ep, &restore, first, batch, &mut files);
        files.clear();
        checked?;

        first += batch.len() as u64;
        read.map_err(Failure::of_read(first))?;
    }

    // Read the array again. The second read counts.
    let mut first = 0;
    while first < items.len() {
        pause_killable()?;

        let (batch, read) = items.read(first, &mut buf);
        add_batch(&mut restore, first, batch)?;

        first += batch.len() as u64;
        read.map_err(Failure::of_read(first))?;
    }

    Ok(restore)
}

pub(crate) fn restore(args: &Args<defs::Restore>, mut value: defs::Restore) -> Result<isize> {
    // The value for errors that are not caused by an element.
    value.bad = value.count;
    args.write(&value)?;

    if value.flags != 0 {
        return Err(EINVAL);
    }

    let items = Array::new(value.items, value.item_size, value.count)?;
    let epoll_file = get_file(value.efd)?;
    Eventpoll::from_file(&epoll_file).map_err(|_| EOPNOTSUPP)?;
    if value.count == 0 {
        return Ok(0);
    }

    match restore_all(&epoll_file, &items) {
        Ok(restore) => restore.commit(),
        Err(Failure { error, index: None }) => return Err(error),
        Err(Failure {
            error,
            index: Some(index),
        }) => {
            value.bad = index;
            // The error of the call takes precedence over that of the write.
            let _ = args.write(&value);

            return Err(error);
        }
    }

    Ok(0)
}
