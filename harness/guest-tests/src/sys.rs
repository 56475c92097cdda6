// SPDX-License-Identifier: GPL-2.0
//! System calls on descriptor numbers.
//!
//! The numbers are under test: which file a number refers to, and when. Nothing
//! here owns a descriptor, and what owns one is not touched through these.

use std::time::Duration;

use libc::{c_int, c_long};
use nix::errno::Errno;

pub const KCMP_FILE: i32 = 0;
pub const KCMP_EPOLL_TFD: i32 = 7;
/// One more than the last type.
pub const KCMP_TYPES: i32 = 8;

/// The answers of kcmp(2).
pub const EQUAL: i32 = 0;
pub const LESS: i32 = 1;
pub const GREATER: i32 = 2;

/// An entry of a set: `struct kcmp_epoll_slot`.
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

/// kcmp(2) with any arguments at all.
pub fn kcmp(pid1: i32, pid2: i32, kind: i32, idx1: u64, idx2: u64) -> nix::Result<i32> {
    // SAFETY: it reads what `idx2` points to, if anything, and writes nothing.
    let ret = unsafe { libc::syscall(libc::SYS_kcmp, pid1, pid2, kind, idx1, idx2) };
    Errno::result(ret).map(|ret| ret as i32)
}

/// KCMP_FILE: compare two descriptors.
pub fn files(pid1: i32, fd1: i32, pid2: i32, fd2: i32) -> nix::Result<i32> {
    kcmp(pid1, pid2, KCMP_FILE, fd1 as u32 as u64, fd2 as u32 as u64)
}

/// KCMP_EPOLL_TFD: compare a descriptor with an entry of a set.
pub fn epoll_tfd(pid1: i32, fd: i32, pid2: i32, slot: Slot) -> nix::Result<i32> {
    let slot = &raw const slot;
    kcmp(pid1, pid2, KCMP_EPOLL_TFD, fd as u32 as u64, slot as u64)
}

/// An answer as one number: what kcmp returns, or a negative errno.
pub fn code(answer: nix::Result<i32>) -> i32 {
    answer.unwrap_or_else(|errno| -(errno as i32))
}

/// What [`code`] has made of an answer, for people.
pub fn describe(code: i32) -> String {
    match code {
        EQUAL => "equal".into(),
        LESS => "less".into(),
        GREATER => "greater".into(),
        code if code < 0 => format!("{:?}", Errno::from_raw(-code)),
        code => code.to_string(),
    }
}

fn check(ret: c_int) -> nix::Result<i32> {
    Errno::result(ret)
}

pub fn eventfd(value: u32) -> nix::Result<i32> {
    // SAFETY: takes and returns numbers.
    check(unsafe { libc::eventfd(value, libc::EFD_NONBLOCK) })
}

pub fn timerfd() -> nix::Result<i32> {
    // SAFETY: takes and returns numbers.
    check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, 0) })
}

/// A signalfd of no signal.
pub fn signalfd() -> nix::Result<i32> {
    let none = nix::sys::signal::SigSet::empty();
    // SAFETY: the signal set is there during the call, which only reads it.
    check(unsafe { libc::signalfd(-1, none.as_ref(), 0) })
}

pub fn pipe() -> nix::Result<[i32; 2]> {
    let mut fds = [0; 2];
    // SAFETY: there is room for two numbers.
    check(unsafe { libc::pipe(fds.as_mut_ptr()) })?;
    Ok(fds)
}

/// A pair of connected sockets that keep messages apart.
pub fn socketpair() -> nix::Result<[i32; 2]> {
    let mut fds = [0; 2];
    // SAFETY: there is room for two numbers.
    check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()) })?;
    Ok(fds)
}

pub fn epoll_create() -> nix::Result<i32> {
    // SAFETY: takes and returns numbers.
    check(unsafe { libc::epoll_create1(0) })
}

/// The lowest free number from `min` on.
pub fn dup_from(fd: i32, min: i32) -> nix::Result<i32> {
    // SAFETY: takes and returns numbers.
    check(unsafe { libc::fcntl(fd, libc::F_DUPFD, min) })
}

pub fn dup2(fd: i32, to: i32) -> nix::Result<i32> {
    // SAFETY: takes and returns numbers; nothing owns `to`.
    check(unsafe { libc::dup2(fd, to) })
}

pub fn close(fd: i32) -> nix::Result<i32> {
    // SAFETY: nothing owns the number.
    check(unsafe { libc::close(fd) })
}

/// Give the file of `fd` the number `to` instead.
pub fn renumber(fd: i32, to: i32) -> nix::Result<i32> {
    if fd != to {
        dup2(fd, to)?;
        close(fd)?;
    }
    Ok(to)
}

/// Whether there is something to read, or an end, at the latest after that time.
pub fn readable(fd: i32, patience: Duration) -> nix::Result<bool> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let patience = patience.as_millis().try_into().unwrap_or(c_int::MAX);
    // SAFETY: there is one such structure.
    let ret = unsafe { libc::poll(&raw mut poll, 1, patience) };
    match Errno::result(ret)? {
        _ if poll.revents & (libc::POLLERR | libc::POLLNVAL) != 0 => Err(Errno::EIO),
        ready => Ok(ready > 0),
    }
}

pub fn close_range(first: u32, last: u32) -> nix::Result<i32> {
    // SAFETY: nothing owns these numbers: it is called in children that have
    // just been forked, and use nothing that they have inherited.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    Errno::result(ret).map(|ret: c_long| ret as i32)
}

/// epoll_ctl(2), with the number as the data.
pub fn epoll_ctl(efd: i32, op: i32, fd: i32, events: u32) -> nix::Result<i32> {
    let mut event = libc::epoll_event {
        events,
        u64: fd as u64,
    };
    // SAFETY: the event is there during the call.
    check(unsafe { libc::epoll_ctl(efd, op, fd, &raw mut event) })
}

pub fn epoll_add(efd: i32, fd: i32) -> nix::Result<i32> {
    epoll_ctl(efd, libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32)
}

pub fn epoll_del(efd: i32, fd: i32) -> nix::Result<i32> {
    epoll_ctl(efd, libc::EPOLL_CTL_DEL, fd, 0)
}

/// Add the file of `fd` as number `tfd`, which is closed again.
pub fn epoll_add_as(efd: i32, fd: i32, tfd: i32) -> nix::Result<i32> {
    dup2(fd, tfd)?;
    let ret = epoll_add(efd, tfd);
    close(tfd)?;
    ret
}

pub fn gettid() -> i32 {
    nix::unistd::gettid().as_raw()
}

pub fn getpid() -> i32 {
    std::process::id() as i32
}

/// Let this process have so many descriptors.
pub fn allow_descriptors(count: u64) -> nix::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < count {
        setrlimit(Resource::RLIMIT_NOFILE, count, hard.max(count))?;
    }
    Ok(())
}
