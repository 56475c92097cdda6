// SPDX-License-Identifier: GPL-2.0

//! kcmp(2): do two processes share a kernel object?
//!
//! The kernel answers *equal*, *less* or *greater*. The order is total, the same
//! for all callers, and constant until the system is rebooted. It does not reveal
//! addresses. [`files`] and [`epoll_tfd`] use the same order, so that files sorted
//! with the former can be searched with the latter.
//!
//! # Errors
//!
//! All functions return the kernel's `errno` in an [`io::Error`]
//! ([`raw_os_error`](io::Error::raw_os_error)): the first of these that applies.
//!
//! | errno | when |
//! |---|---|
//! | `ENOSYS` | the kernel has no kcmp(2) (`CONFIG_KCMP`) |
//! | `ESRCH` | there is no such task in the caller's PID namespace |
//! | `EINTR` | the caller was killed while it waited (it does not see the error) |
//! | `EPERM` | no `PTRACE_MODE_READ_REALCREDS` on one of the tasks, or a seccomp filter |
//! | `EINVAL` | the kernel does not know this type ([`Type::EpollTfd`]: before 4.13) |
//! | `EOPNOTSUPP` | [`Type::EpollTfd`], and the kernel has no epoll; [`Type::Sysvsem`], and no System V IPC |
//! | `EBADF` | a descriptor is not open |
//! | `EINVAL` | [`epoll_tfd`]: `efd` is not an epoll instance |
//! | `ENOENT` | [`epoll_tfd`]: the interest list has no such target |
//!
//! [`support`] tells the errors of a missing feature apart without another process.
//! An answer that is not an order is an error with an [`Unordered`] inside.

use crate::descriptor::Descriptor;
use std::cmp::Ordering;
use std::fmt;
use std::io;
use std::os::fd::RawFd;

/// What is compared: the types of kcmp(2), with the kernel's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum Type {
    /// The open files of two descriptors: [`files`].
    File = 0,
    /// Address spaces.
    Vm = 1,
    /// Descriptor tables.
    Files = 2,
    /// Root, working directory and umask.
    Fs = 3,
    /// Tables of signal handlers.
    Sighand = 4,
    /// I/O contexts.
    Io = 5,
    /// Lists of System V semaphore undo operations.
    Sysvsem = 6,
    /// The open file of a descriptor and that of a target: [`epoll_tfd`].
    EpollTfd = 7,
}

impl Type {
    /// All types, in the order of their values.
    pub const ALL: [Type; 8] = [
        Type::File,
        Type::Vm,
        Type::Files,
        Type::Fs,
        Type::Sighand,
        Type::Io,
        Type::Sysvsem,
        Type::EpollTfd,
    ];
}

/// The types that compare two tasks as such, and take only their pids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum Resource {
    /// Address spaces.
    Vm = Type::Vm as u8,
    /// Descriptor tables.
    Files = Type::Files as u8,
    /// Root, working directory and umask.
    Fs = Type::Fs as u8,
    /// Tables of signal handlers.
    Sighand = Type::Sighand as u8,
    /// I/O contexts.
    Io = Type::Io as u8,
    /// Lists of System V semaphore undo operations.
    Sysvsem = Type::Sysvsem as u8,
}

/// A target of an epoll instance: `struct kcmp_epoll_slot` of `linux/kcmp.h`, where
/// descriptors are `__u32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Slot {
    /// The descriptor of the epoll instance, in the second process.
    pub efd: RawFd,
    /// The descriptor by which the target was added.
    pub tfd: RawFd,
    /// How many targets of the same tfd to skip.
    pub toff: u32,
}

const _: () = assert!(size_of::<Slot>() == 12);

/// An answer of kcmp(2) that is not *equal*, *less* or *greater*.
///
/// kcmp(2) reserves 3 for *not equal, but without an order*. No kernel has
/// returned it so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kcmp(2) returned {0}, which is not an order")]
pub struct Unordered(
    /// What the kernel returned.
    pub i64,
);

/// What kcmp(2) of the running kernel can do for the caller: see [`support`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Support {
    /// Everything, including [`Type::EpollTfd`].
    Epoll,
    /// kcmp(2), but not [`Type::EpollTfd`] (`CONFIG_EPOLL`, or before 4.13).
    NoEpoll,
    /// No kcmp(2) (`CONFIG_KCMP`).
    Missing,
    /// A process may not even compare itself: a seccomp filter, as in containers.
    Forbidden,
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epoll => "kcmp(2) can compare targets of epoll instances",
            Self::NoEpoll => "this kernel's kcmp(2) has no KCMP_EPOLL_TFD",
            Self::Missing => "this kernel has no kcmp(2) (CONFIG_KCMP)",
            Self::Forbidden => "kcmp(2) is forbidden, perhaps by a seccomp filter",
        })
    }
}

/// The bare system call, for arguments that the other functions rule out; returns
/// the kernel's answer unless it is an error.
///
/// The kernel only reads what `idx2` points to, and fails with `EFAULT` if it
/// cannot, so no argument can do harm.
///
/// # Errors
///
/// See the [module](self).
///
/// ```
/// use epoll_targets::kcmp;
///
/// let pid = std::process::id() as i32;
/// // 8 is not a type yet.
/// let error = kcmp::raw(pid, pid, 8, 0, 0).unwrap_err();
/// assert!(error.raw_os_error().is_some());
/// ```
pub fn raw(pid1: i32, pid2: i32, r#type: i32, idx1: usize, idx2: usize) -> io::Result<i64> {
    // SAFETY: kcmp(2) takes five integers. It writes no memory of the caller, and
    // reads with copy_from_user(), which fails where nothing is mapped.
    let ret = unsafe { libc::syscall(libc::SYS_kcmp, pid1, pid2, r#type, idx1, idx2) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    // c_long has 32 bits on some.
    #[allow(clippy::useless_conversion)]
    Ok(ret.into())
}

fn ordering(answer: i64) -> io::Result<Ordering> {
    match answer {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        other => Err(io::Error::other(Unordered(other))),
    }
}

/// Compares the open file descriptions of two descriptors ([`Type::File`]).
///
/// [`Ordering::Equal`] means one open file description, as after dup(2); a file that
/// was opened twice has two.
///
/// # Errors
///
/// See the [module](self).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use epoll_targets::Descriptor;
/// use epoll_targets::kcmp::{self, Support};
/// use std::cmp::Ordering;
/// use std::os::fd::AsRawFd;
///
/// # if kcmp::support() != Support::Epoll { return Ok(()) }
/// let pid = std::process::id() as i32;
/// let (reader, writer) = rustix::pipe::pipe()?;
/// let copy = rustix::io::dup(&reader)?;
///
/// let [reader, writer, copy] = [&reader, &writer, &copy].map(|file| {
///     let fd = file.as_raw_fd();
///     Descriptor { pid, fd }
/// });
/// assert_eq!(kcmp::files(reader, copy)?, Ordering::Equal);
/// assert_ne!(kcmp::files(reader, writer)?, Ordering::Equal);
/// # Ok(()) }
/// ```
pub fn files(a: Descriptor, b: Descriptor) -> io::Result<Ordering> {
    ordering(raw(a.pid, b.pid, Type::File as i32, a.index(), b.index())?)
}

/// Compares the open file description of a descriptor with that of a target of an
/// epoll instance of process `pid` ([`Type::EpollTfd`]).
///
/// # Errors
///
/// See the [module](self).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use epoll_targets::Descriptor;
/// use epoll_targets::kcmp::{self, Slot, Support};
/// use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
/// use std::cmp::Ordering;
/// use std::os::fd::AsRawFd;
///
/// # if kcmp::support() != Support::Epoll { return Ok(()) }
/// let pid = std::process::id() as i32;
/// let instance = epoll::create(CreateFlags::CLOEXEC)?;
/// let (reader, _writer) = rustix::pipe::pipe()?;
/// epoll::add(&instance, &reader, EventData::new_u64(1), EventFlags::IN)?;
///
/// let slot = Slot {
///     efd: instance.as_raw_fd(),
///     tfd: reader.as_raw_fd(),
///     toff: 0,
/// };
/// let fd = reader.as_raw_fd();
/// let order = kcmp::epoll_tfd(Descriptor { pid, fd }, pid, slot)?;
/// assert_eq!(order, Ordering::Equal);
/// # Ok(()) }
/// ```
pub fn epoll_tfd(file: Descriptor, pid: i32, slot: Slot) -> io::Result<Ordering> {
    let idx2 = (&raw const slot).expose_provenance();
    ordering(raw(
        file.pid,
        pid,
        Type::EpollTfd as i32,
        file.index(),
        idx2,
    )?)
}

/// Compares a [`Resource`] of two tasks.
///
/// # Errors
///
/// See the [module](self).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use epoll_targets::kcmp::{self, Resource, Support};
/// use std::cmp::Ordering;
///
/// # if kcmp::support() != Support::Epoll { return Ok(()) }
/// let pid = std::process::id() as i32;
/// let thread = rustix::thread::gettid().as_raw_nonzero().get();
/// // Threads share one table of descriptors.
/// assert_eq!(kcmp::compare(Resource::Files, pid, thread)?, Ordering::Equal);
/// # Ok(()) }
/// ```
pub fn compare(resource: Resource, pid1: i32, pid2: i32) -> io::Result<Ordering> {
    ordering(raw(pid1, pid2, resource as i32, 0, 0)?)
}

/// Finds out what kcmp(2) can do, by a query about the caller itself.
///
/// ```
/// use epoll_targets::kcmp;
///
/// println!("{}", kcmp::support());
/// ```
pub fn support() -> Support {
    let pid = rustix::process::getpid().as_raw_pid();
    // The slot is read before a descriptor is looked up.
    let Err(error) = raw(pid, pid, Type::EpollTfd as i32, 0, 0) else {
        return Support::Epoll;
    };
    match error.raw_os_error() {
        Some(libc::EFAULT) => Support::Epoll,
        Some(libc::ENOSYS) => Support::Missing,
        Some(libc::EPERM | libc::EACCES) => Support::Forbidden,
        _ => Support::NoEpoll,
    }
}

/// Groups descriptors by their open files, in the order of [`files`]. Those that are
/// closed meanwhile are left out.
///
/// # Errors
///
/// See the [module](self).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use epoll_targets::Descriptor;
/// use epoll_targets::kcmp::{self, Support};
/// use std::os::fd::AsRawFd;
/// # if kcmp::support() != Support::Epoll { return Ok(()) }
///
/// let (reader, writer) = rustix::pipe::pipe()?;
/// let copy = rustix::io::dup(&reader)?;
/// let pid = std::process::id() as i32;
/// let fds = [reader.as_raw_fd(), writer.as_raw_fd(), copy.as_raw_fd()];
/// let groups = kcmp::group(fds.map(|fd| Descriptor { pid, fd }))?;
/// assert_eq!(groups.len(), 2);
/// # Ok(()) }
/// ```
pub fn group(
    descriptors: impl IntoIterator<Item = Descriptor>,
) -> io::Result<Vec<Vec<Descriptor>>> {
    crate::order::sort(descriptors, &files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(ordering(0).unwrap(), Ordering::Equal);
        assert_eq!(ordering(1).unwrap(), Ordering::Less);
        assert_eq!(ordering(2).unwrap(), Ordering::Greater);
        for (answer, message) in [
            (3, "kcmp(2) returned 3, which is not an order"),
            (4, "kcmp(2) returned 4, which is not an order"),
        ] {
            let error = ordering(answer).unwrap_err();
            let source = error.get_ref().and_then(|e| e.downcast_ref());
            assert_eq!(source, Some(&Unordered(answer)));
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn types_have_the_numbers_of_the_kernel() {
        for (number, r#type) in Type::ALL.into_iter().enumerate() {
            assert_eq!(r#type as usize, number);
        }
        assert_eq!(Resource::Sysvsem as u8, Type::Sysvsem as u8);
    }

    #[test]
    fn errors_come_in_the_order_documented() {
        if support() != Support::Epoll {
            return crate::skipped(support());
        }
        let pid = std::process::id() as i32;
        let slot = Slot::default();
        let errno = |result: io::Result<Ordering>| result.unwrap_err().raw_os_error();

        let descriptor = |pid, fd| Descriptor { pid, fd };
        let tfd = |pid1, fd| errno(epoll_tfd(descriptor(pid1, fd), pid, slot));
        assert_eq!(tfd(i32::MAX, 0), Some(libc::ESRCH));
        assert_eq!(tfd(pid, -1), Some(libc::EBADF));
        let order = files(descriptor(pid, -1), descriptor(pid, 0));
        assert_eq!(errno(order), Some(libc::EBADF));
        assert_eq!(errno(compare(Resource::Vm, pid, 0)), Some(libc::ESRCH));
    }
}
