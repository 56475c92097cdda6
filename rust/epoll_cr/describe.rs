// SPDX-License-Identifier: GPL-2.0

//! What the open files of another process are.

use crate::{
    defs::{
        self,
        File, //
    },
    files::no_such_fd,
    user::Array, //
};
use kernel::{
    bindings,
    epoll::Eventpoll,
    fs::{
        file_info::OpenedBy,
        identity::IdentityKey,
        RemoteFile, //
    },
    pid::get_task_by_pidfd,
    prelude::*,
    ptrace::Attach,
    sync::aref::ARef,
    task::Task,
    uapi, //
};

/// How many files are described between two accesses to memory of the caller.
const BATCH: usize = 32;

/// The memory for paths.
struct Paths {
    area: Array<u8>,
    /// How long all are so far.
    len: u64,
    /// Those of a batch, which are not written yet.
    pending: KVVec<u8>,
    /// Where they go.
    pending_at: u64,
    /// Whether the caller wants them at all.
    is_wanted: bool,
}

impl Paths {
    /// Puts a path and a NUL behind those that are there, if it fits.
    ///
    /// Returns where it is.
    fn push(&mut self, path: &[u8]) -> Result<Option<u64>> {
        let offset = self.len;
        self.len += path.len() as u64 + 1;
        if !self.is_wanted || self.len > self.area.len() {
            return Ok(None);
        }

        self.pending.extend_from_slice(path, GFP_KERNEL)?;
        self.pending.push(0, GFP_KERNEL)?;

        Ok(Some(offset))
    }

    /// Writes those of the batch.
    fn write(&mut self) -> Result {
        self.area.write(self.pending_at, &self.pending)?;
        self.pending_at += self.pending.len() as u64;
        self.pending.clear();

        Ok(())
    }
}

/// Describes a file in `to`, which is zero but for the number of the descriptor.
///
/// Its path is in `buf`, of which the part that it is is returned.
fn describe_one<'a>(
    key: &IdentityKey,
    file: &RemoteFile,
    opened_by: &OpenedBy,
    to: &mut File,
    buf: &'a mut [u8],
) -> Option<&'a [u8]> {
    to.file = key.file(file.identity());
    to.pos = file.position() as u64;
    to.mode = u32::from(file.mode());
    to.f_flags = file.flags() & !bindings::O_CLOEXEC;

    to.uid = opened_by.uid;
    to.gid = opened_by.gid;
    to.euid = opened_by.euid;
    to.egid = opened_by.egid;
    to.fsuid = opened_by.fsuid;
    to.fsgid = opened_by.fsgid;

    if let Ok(ep) = Eventpoll::from_file(file) {
        to.epoll_id = ep.id();
    }

    if let Some(owner) = file.owner() {
        if owner.pid > 0 {
            to.owner_type = owner.owner_type;
            to.owner_pid = owner.pid as u32;
            to.owner_uid = owner.uid;
            to.owner_euid = owner.euid;
        }
        to.owner_signal = owner.signal as u32;
    }

    if let Ok(stat) = file.stat() {
        to.mask |= uapi::EPOLL_CR_FILE_STAT;
        to.mode = u32::from(stat.mode);
        to.nlink = stat.nlink;
        to.dev_major = stat.dev.major;
        to.dev_minor = stat.dev.minor;
        to.rdev_major = stat.rdev.major;
        to.rdev_minor = stat.rdev.minor;
        to.ino = stat.ino;
        to.length = stat.size as u64;
    }

    let path = file.path(buf).ok()?;
    if path.is_name {
        to.mask |= uapi::EPOLL_CR_FILE_NAME;
    }
    if path.is_unlinked {
        to.mask |= uapi::EPOLL_CR_FILE_UNLINKED;
    }
    if path.is_unreachable {
        to.mask |= uapi::EPOLL_CR_FILE_UNREACHABLE;
    }

    path.path
}

/// Takes references to the files behind `fds`, as far as those are open.
fn get_files(task: &Task, fds: &[u32]) -> Result<[Option<ARef<RemoteFile>>; BATCH]> {
    let mut files = [const { None }; BATCH];
    let attach = Attach::new(task)?;

    for (file, &fd) in files.iter_mut().zip(fds) {
        *file = match RemoteFile::fget_task(task, fd) {
            Ok(file) => Some(file),
            Err(_) => match no_such_fd(&attach) {
                EBADF => None,
                error => return Err(error),
            },
        };
    }

    Ok(files)
}

/// Describes the files behind `fds` in as many elements of `to`.
fn describe_batch(
    key: &IdentityKey,
    task: &Task,
    fds: &[u32],
    to: &mut [File],
    paths: &mut Paths,
    path_buf: &mut [u8],
) -> Result {
    let files = get_files(task, fds)?;
    let mut last: Option<(&RemoteFile, OpenedBy)> = None;

    for ((&fd, file), to) in fds.iter().zip(&files).zip(to) {
        *to = File {
            fd,
            ..File::default()
        };
        let Some(file) = file else {
            continue;
        };

        // Most files of a process were opened with the same credentials.
        let opened_by = match last {
            Some((other, opened_by)) if file.has_credentials_of(other) => opened_by,
            _ => file.opened_by(),
        };
        last = Some((file, opened_by));

        if let Some(path) = describe_one(key, file, &opened_by, to, path_buf) {
            to.path_len = path.len() as u32;
            if let Some(offset) = paths.push(path)? {
                to.mask |= uapi::EPOLL_CR_FILE_PATH;
                to.path_offset = offset;
            }
        }
    }

    Ok(())
}

pub(crate) fn describe(key: &IdentityKey, args: &mut defs::Describe) -> Result {
    args.paths_len = 0;
    if args.flags != 0 {
        return Err(EINVAL);
    }

    let fds = Array::<u32>::new(args.fds, size_of::<u32>() as u32, args.count)?;
    let out = Array::<File>::new(args.files, args.file_size, args.count)?;
    let mut paths = Paths {
        area: Array::new(args.paths, 1, args.paths_size)?,
        len: 0,
        pending: KVVec::new(),
        pending_at: 0,
        is_wanted: args.paths != 0,
    };
    let task = get_task_by_pidfd(args.pidfd)?;

    let mut fd_buf = [0; BATCH];
    let mut file_buf = KVec::from_elem(File::default(), BATCH, GFP_KERNEL)?;
    let mut path_buf = KVec::from_elem(0, bindings::PATH_MAX as usize, GFP_KERNEL)?;
    let mut done = 0;

    while done < args.count {
        let (batch, read) = fds.read(done, &mut fd_buf);
        read?;
        if batch.iter().any(|&fd| i32::try_from(fd).is_err()) {
            return Err(EINVAL);
        }
        let files = &mut file_buf[..batch.len()];

        // The references are put before memory of the caller is accessed, which can take as long as
        // the caller likes, so that each file is held by those who have it only. If those close it,
        // it is released when the caller returns to user mode.
        describe_batch(key, &task, batch, files, &mut paths, &mut path_buf)?;

        args.paths_len = paths.len;
        paths.write()?;
        out.write(done, files)?;
        done += files.len() as u64;
    }

    if paths.is_wanted && paths.len > args.paths_size {
        return Err(ENOSPC);
    }

    Ok(())
}
