// SPDX-License-Identifier: GPL-2.0

//! kcmp(2): do two processes share something of the kernel's?
//!
//! The kernel answers *equal*, *less* or *greater*. The order is total, the same
//! for all callers, and stays until the system is shut down. It says nothing
//! about addresses. [`files`] and [`epoll_tfd`] have one and the same order, so
//! that files sorted with the former can be searched with the latter.
//!
//! # Errors
//!
//! All functions return the kernel's `errno` in an [`io::Error`]
//! ([`raw_os_error`](io::Error::raw_os_error)), the first that applies of:
//!
//! | errno | when |
//! |---|---|
//! | `ENOSYS` | the kernel has no kcmp(2) (`CONFIG_KCMP`) |
//! | `ESRCH` | there is no such task in the caller's PID namespace |
//! | `EINTR` | the caller was killed while it waited (it does not live to see it) |
//! | `EPERM` | no `PTRACE_MODE_READ_REALCREDS` on one of the tasks, or a seccomp filter |
//! | `EINVAL` | the kernel does not know this type ([`Type::EpollTfd`]: before 4.13) |
//! | `EOPNOTSUPP` | [`Type::EpollTfd`], and the kernel has no epoll; [`Type::Sysvsem`], and no System V IPC |
//! | `EBADF` | a descriptor is not open |
//! | `EINVAL` | [`epoll_tfd`]: `efd` is not an epoll set |
//! | `ENOENT` | [`epoll_tfd`]: the set has no such entry |
//!
//! [`support`] tells the first kinds apart without a process to ask about. An
//! answer that is no order is an error that [`Unordered`] is the source of.

use std::cmp::Ordering;
use std::fmt;
use std::io;
use std::os::fd::RawFd;

/// What is compared: the types of kcmp(2), with the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// An open file and the one behind an entry of an epoll set: [`epoll_tfd`].
    EpollTfd = 7,
}

impl Type {
    /// All types, in the order of their numbers.
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

/// The types that compare two tasks as such, and take nothing but their pids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// Which entry of an epoll set: `struct kcmp_epoll_slot` of `linux/kcmp.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Slot {
    /// Descriptor of the epoll set, in the second process.
    pub efd: u32,
    /// Number that the entry was added by.
    pub tfd: u32,
    /// How many entries of that number to skip.
    pub toff: u32,
}

const _: () = assert!(size_of::<Slot>() == 12);

/// The kernel said something that is not less, equal or greater.
///
/// kcmp(2) reserves 3 for *not equal, but without an order*. No kernel has
/// returned it so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unordered(
    /// What the kernel returned.
    pub i64,
);

impl fmt::Display for Unordered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            3 => f.write_str("kcmp: not equal, but there is no order"),
            other => write!(f, "kcmp gave {other}, which is no order"),
        }
    }
}

impl std::error::Error for Unordered {}

/// What the running kernel can do, for the caller: see [`support`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Everything, [`Type::EpollTfd`] as well.
    Epoll,
    /// kcmp(2), but not [`Type::EpollTfd`] (`CONFIG_EPOLL`, or before 4.13).
    NoEpoll,
    /// No kcmp(2) (`CONFIG_KCMP`).
    Missing,
    /// A process may not even compare itself: a seccomp filter, as of containers.
    Forbidden,
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epoll => "kcmp(2) can tell the targets of epoll sets",
            Self::NoEpoll => "this kernel's kcmp(2) has no KCMP_EPOLL_TFD",
            Self::Missing => "this kernel has no kcmp(2) (CONFIG_KCMP)",
            Self::Forbidden => "kcmp(2) is forbidden here, by a seccomp filter perhaps",
        })
    }
}

/// The system call as it is, for those who need arguments that the other
/// functions rule out; returns the kernel's answer unless it is an error.
///
/// The kernel only ever reads what `idx2` points at, and fails with `EFAULT` if
/// it cannot, so no arguments can do harm.
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
    // SAFETY: kcmp(2) takes five integers. It writes no memory of the caller's,
    // and what it is to read, it reads as copy_from_user() does, which checks.
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

/// Compares the open files of two descriptors ([`Type::File`]).
///
/// [`Ordering::Equal`] is the same open file description, as dup(2) makes it;
/// one file that was opened twice is two of them.
///
/// # Errors
///
/// See the [module](self).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use epoll_targets::kcmp::{self, Support};
/// use std::cmp::Ordering;
/// use std::os::fd::AsRawFd;
///
/// # if kcmp::support() != Support::Epoll { return Ok(()) }
/// let pid = std::process::id() as i32;
/// let (reader, writer) = rustix::pipe::pipe()?;
/// let copy = rustix::io::dup(&reader)?;
///
/// let order = |a: i32, b: i32| kcmp::files(pid, a, pid, b);
/// assert_eq!(order(reader.as_raw_fd(), copy.as_raw_fd())?, Ordering::Equal);
/// assert_ne!(order(reader.as_raw_fd(), writer.as_raw_fd())?, Ordering::Equal);
/// # Ok(()) }
/// ```
pub fn files(pid1: i32, fd1: RawFd, pid2: i32, fd2: RawFd) -> io::Result<Ordering> {
    let idx = |fd: RawFd| fd as u32 as usize;
    ordering(raw(pid1, pid2, Type::File as i32, idx(fd1), idx(fd2))?)
}

/// Compares the open file of descriptor `fd` of `pid1` with the one behind an
/// entry of an epoll set of `pid2` ([`Type::EpollTfd`]).
///
/// # Errors
///
/// See the [module](self).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use epoll_targets::kcmp::{self, Slot, Support};
/// use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
/// use std::cmp::Ordering;
/// use std::os::fd::AsRawFd;
///
/// # if kcmp::support() != Support::Epoll { return Ok(()) }
/// let pid = std::process::id() as i32;
/// let set = epoll::create(CreateFlags::CLOEXEC)?;
/// let (reader, _writer) = rustix::pipe::pipe()?;
/// epoll::add(&set, &reader, EventData::new_u64(1), EventFlags::IN)?;
///
/// let slot = Slot {
///     efd: set.as_raw_fd() as u32,
///     tfd: reader.as_raw_fd() as u32,
///     toff: 0,
/// };
/// let order = kcmp::epoll_tfd(pid, reader.as_raw_fd(), pid, slot)?;
/// assert_eq!(order, Ordering::Equal);
/// # Ok(()) }
/// ```
pub fn epoll_tfd(pid1: i32, fd: RawFd, pid2: i32, slot: Slot) -> io::Result<Ordering> {
    let idx1 = fd as u32 as usize;
    let idx2 = (&raw const slot).expose_provenance();
    ordering(raw(pid1, pid2, Type::EpollTfd as i32, idx1, idx2)?)
}

/// Compares what two tasks have of a [`Resource`].
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

/// Asks the kernel what it can do, with a question about the caller itself.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(ordering(0).unwrap(), Ordering::Equal);
        assert_eq!(ordering(1).unwrap(), Ordering::Less);
        assert_eq!(ordering(2).unwrap(), Ordering::Greater);
        for (answer, message) in [
            (3, "kcmp: not equal, but there is no order"),
            (4, "kcmp gave 4, which is no order"),
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
            eprintln!("skipped: {}", support());
            return;
        }
        let pid = std::process::id() as i32;
        let slot = Slot::default();
        let errno = |result: io::Result<Ordering>| result.unwrap_err().raw_os_error();

        assert_eq!(errno(epoll_tfd(i32::MAX, 0, pid, slot)), Some(libc::ESRCH));
        assert_eq!(errno(epoll_tfd(pid, -1, pid, slot)), Some(libc::EBADF));
        assert_eq!(errno(files(pid, -1, pid, 0)), Some(libc::EBADF));
        assert_eq!(errno(compare(Resource::Vm, pid, 0)), Some(libc::ESRCH));
    }
}
