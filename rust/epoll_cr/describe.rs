// SPDX-License-Identifier: GPL-2.0

//! `EPOLL_CR_DESCRIBE`: properties of the open files of a process.

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
    epoll::{
        pause_killable,
        Eventpoll, //
    },
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

/// The number of files to describe between two accesses to user memory.
const BATCH: usize = 32;

/// The user memory for paths.
struct Paths {
    area: Array<u8>,
    /// The length of all paths so far, including those that did not fit.
    len: u64,
    /// The paths of the current batch, which have not been written yet.
    pending: KVVec<u8>,
    /// The offset to write them at.
    pending_at: u64,
    /// Whether the caller has requested paths.
    is_wanted: bool,
}

impl Paths {
    /// Appends a path and a NUL if there is room for it.
    ///
    /// Returns the offset of the path.
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

    /// Writes the paths of the current batch.
    fn write(&mut self) -> Result {
        self.area.write(self.pending_at, &self.pending)?;
        self.pending_at += self.pending.len() as u64;
        self.pending.clear();

        Ok(())
    }
}

/// Describes a file in `to`, which is zero except for the descriptor.
///
/// Returns the path, which is stored in `buf`.
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

/// Takes references to the files that `fds` refer to, as far as they are open.
fn get_files(task: &Task, fds: &[u32]) -> Result<[Option<ARef<RemoteFile>>; BATCH]> {
    let mut files = [const { None }; BATCH];

    pause_killable()?;
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

/// Describes the files that `fds` refer to in the corresponding elements of `to`.
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

        // Most files of a process have been opened with the same credentials.
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

        // Drop the references before user memory is accessed, which can take arbitrarily long. If
        // the process closes a file meanwhile, it is released when the caller returns to user mode.
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
