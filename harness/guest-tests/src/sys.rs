// SPDX-License-Identifier: GPL-2.0
//! System calls on descriptor numbers.
//!
//! The numbers are under test: which file a number refers to, and when. Nothing
//! here owns a descriptor, and what owns one is not touched through these. rustix
//! makes the calls that need no owner; dup2(2) to any number, close(2) of any number
//! and arguments that are not valid are left to libc.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::time::Duration;

use guest_tests::signal;
use libc::{c_int, c_long};
use rustix::event::{EventfdFlags, epoll};
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
};
use rustix::process::Pid;
use rustix::time::{TimerfdClockId, TimerfdFlags};

// Not those of `epoll-targets`: these tests also check that the library has the kernel's
// values, and make calls that its types rule out.
pub const KCMP_FILE: i32 = 0;
pub const KCMP_EPOLL_TFD: i32 = 7;
/// One more than the last type.
pub const KCMP_TYPES: i32 = 8;

/// The answers of kcmp(2).
pub const EQUAL: i32 = 0;
pub const LESS: i32 = 1;
pub const GREATER: i32 = 2;

/// A target of an epoll instance: `struct kcmp_epoll_slot`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub efd: u32,
    pub tfd: u32,
    pub toff: u32,
}

impl Slot {
    pub fn new(efd: i32, tfd: i32, toff: u32) -> Self {
        Self {
            efd: efd as u32,
            tfd: tfd as u32,
            toff,
        }
    }

    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for (chunk, word) in bytes.chunks_mut(4).zip([self.efd, self.tfd, self.toff]) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// kcmp(2) with arbitrary arguments.
pub fn kcmp(pid1: i32, pid2: i32, kind: i32, idx1: u64, idx2: u64) -> Result<i32> {
    // SAFETY: it writes no memory, and reads what `idx2` points to with
    // copy_from_user(), which fails for an address that is not mapped.
    let ret = unsafe { libc::syscall(libc::SYS_kcmp, pid1, pid2, kind, idx1, idx2) };
    check(ret)
}

/// KCMP_FILE: compares the files of two descriptors.
pub fn files(pid1: i32, fd1: i32, pid2: i32, fd2: i32) -> Result<i32> {
    kcmp(pid1, pid2, KCMP_FILE, fd1 as u32 as u64, fd2 as u32 as u64)
}

/// KCMP_EPOLL_TFD: compares the file of a descriptor with that of a target.
pub fn epoll_tfd(pid1: i32, fd: i32, pid2: i32, slot: Slot) -> Result<i32> {
    let slot = &raw const slot;
    kcmp(pid1, pid2, KCMP_EPOLL_TFD, fd as u32 as u64, slot as u64)
}

/// An answer as one number: what kcmp returns, or a negative errno.
pub fn code(answer: Result<i32>) -> i32 {
    answer.unwrap_or_else(|errno| -errno.raw_os_error())
}

/// An answer as [`code`] returns it, for people.
pub fn describe(code: i32) -> String {
    match code {
        EQUAL => "equal".into(),
        LESS => "less".into(),
        GREATER => "greater".into(),
        code if code < 0 => {
            errno_name(-code).map_or_else(|| format!("errno {}", -code), Into::into)
        }
        code => code.to_string(),
    }
}

/// The name of an error, of those that a query can fail with.
fn errno_name(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EINTR => "EINTR",
        libc::EBADF => "EBADF",
        libc::ENOMEM => "ENOMEM",
        libc::EFAULT => "EFAULT",
        libc::EINVAL => "EINVAL",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        _ => return None,
    })
}

/// The result of a call of libc: what it returned, or errno.
pub fn check(ret: impl Into<c_long>) -> Result<i32> {
    match ret.into() {
        -1 => Err(last_errno()),
        // Numbers of descriptors and counts are no larger.
        ret => Ok(ret as i32),
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A descriptor for the length of one call.
fn descriptor<'fd>(fd: i32) -> Result<BorrowedFd<'fd>> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: it is not -1. Nothing that owns a descriptor is accessed by its number,
    // and the kernel refuses a number that is not open.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

pub fn eventfd(value: u32) -> Result<i32> {
    Ok(rustix::event::eventfd(value, EventfdFlags::NONBLOCK)?.into_raw_fd())
}

pub fn timerfd() -> Result<i32> {
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty())?;
    Ok(timer.into_raw_fd())
}

/// A signalfd of no signal.
pub fn signalfd() -> Result<i32> {
    match signal::signalfd(&[], 0) {
        Ok(fd) => Ok(fd.into_raw_fd()),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

pub fn pipe() -> Result<[i32; 2]> {
    let (read, write) = rustix::pipe::pipe()?;
    Ok([read, write].map(IntoRawFd::into_raw_fd))
}

/// Connected sockets that keep message boundaries.
pub fn socketpair() -> Result<[i32; 2]> {
    let (unix, packets) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let (one, other) = rustix::net::socketpair(unix, packets, SocketFlags::empty(), None)?;
    Ok([one, other].map(IntoRawFd::into_raw_fd))
}

pub fn send(socket: i32, bytes: &[u8]) -> Result<()> {
    rustix::net::send(descriptor(socket)?, bytes, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message, or as much of it as there is room for.
pub fn receive(socket: i32, buffer: &mut [u8]) -> Result<usize> {
    let (len, _) = rustix::net::recv(descriptor(socket)?, buffer, RecvFlags::empty())?;
    Ok(len)
}

/// Sends a message with a descriptor.
pub fn send_fd(socket: i32, fd: i32) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = [descriptor(fd)?];
    if !control.push(SendAncillaryMessage::ScmRights(&rights)) {
        return Err(Errno::NOBUFS);
    }
    let text = [IoSlice::new(b"x")];
    sendmsg(
        descriptor(socket)?,
        &text,
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives a message that must be there, and the one descriptor in it.
pub fn receive_fd(socket: i32) -> Result<i32> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    recvmsg(
        descriptor(socket)?,
        &mut parts,
        &mut control,
        RecvFlags::DONTWAIT,
    )?;
    match control.drain().next() {
        Some(RecvAncillaryMessage::ScmRights(mut fds)) => fds.next(),
        _ => None,
    }
    .map(IntoRawFd::into_raw_fd)
    .ok_or(Errno::NOMSG)
}

pub fn epoll_create() -> Result<i32> {
    Ok(epoll::create(epoll::CreateFlags::empty())?.into_raw_fd())
}

/// Duplicates a descriptor to the lowest one that is free from `min` on.
pub fn dup_from(fd: i32, min: i32) -> Result<i32> {
    // SAFETY: takes and returns numbers.
    check(unsafe { libc::fcntl(fd, libc::F_DUPFD, min) })
}

pub fn dup2(fd: i32, to: i32) -> Result<i32> {
    // SAFETY: takes and returns numbers; nothing owns `to`.
    check(unsafe { libc::dup2(fd, to) })
}

pub fn close(fd: i32) -> Result<i32> {
    // SAFETY: nothing owns the number.
    check(unsafe { libc::close(fd) })
}

/// Moves descriptor `fd` to `to`.
pub fn renumber(fd: i32, to: i32) -> Result<i32> {
    if fd != to {
        dup2(fd, to)?;
        close(fd)?;
    }
    Ok(to)
}

/// Waits until there is data or an end of file; false if there is neither in time.
pub fn readable(fd: i32, patience: Duration) -> Result<bool> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let patience = patience.as_millis().try_into().unwrap_or(c_int::MAX);
    // SAFETY: there is one such structure.
    let ret = unsafe { libc::poll(&raw mut poll, 1, patience) };
    match check(ret)? {
        _ if poll.revents & (libc::POLLERR | libc::POLLNVAL) != 0 => Err(Errno::IO),
        ready => Ok(ready > 0),
    }
}

pub fn close_range(first: u32, last: u32) -> Result<i32> {
    // SAFETY: nothing owns these descriptors: it is called in children that were just
    // forked, and that use none of the descriptors that they inherited.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    check(ret)
}

/// epoll_ctl(2), with the descriptor as the data.
pub fn epoll_ctl(efd: i32, op: i32, fd: i32, events: u32) -> Result<i32> {
    let mut event = libc::epoll_event {
        events,
        u64: fd as u64,
    };
    // SAFETY: the event is there during the call.
    check(unsafe { libc::epoll_ctl(efd, op, fd, &raw mut event) })
}

pub fn epoll_add(efd: i32, fd: i32) -> Result<i32> {
    epoll_ctl(efd, libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32)
}

pub fn epoll_del(efd: i32, fd: i32) -> Result<i32> {
    epoll_ctl(efd, libc::EPOLL_CTL_DEL, fd, 0)
}

/// Adds the file of `fd` by the number `tfd`, which is closed afterwards.
pub fn epoll_add_as(efd: i32, fd: i32, tfd: i32) -> Result<i32> {
    dup2(fd, tfd)?;
    let ret = epoll_add(efd, tfd);
    close(tfd)?;
    ret
}

pub fn gettid() -> i32 {
    rustix::thread::gettid().as_raw_pid()
}

pub fn getpid() -> i32 {
    std::process::id() as i32
}

/// fork(2): the child's pid, and nothing in the child.
///
/// # Safety
///
/// The process must have a single thread: the child has no other, and whatever lock one
/// of them held would never be released.
pub unsafe fn fork() -> Result<Option<Pid>> {
    // SAFETY: as the caller warrants.
    let pid = unsafe { libc::fork() };
    check(pid).map(Pid::from_raw)
}
