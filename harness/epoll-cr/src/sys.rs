// SPDX-License-Identifier: GPL-2.0

//! System calls that rustix has not.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

pub const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;
pub const F_OWNER_TID: i32 = 0;
pub const F_OWNER_PGRP: i32 = 2;

fn check(ret: libc::c_int) -> io::Result<i32> {
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

/// An option of `SOL_SOCKET` that is a number.
pub fn socket_option(socket: BorrowedFd<'_>, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: there is room for a number, and `len` says so.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    })?;
    Ok(value)
}

/// Sets such an option.
pub fn set_socket_option(socket: BorrowedFd<'_>, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: there is a number, which is only read, and `len` says how long.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw const value).cast(),
            len,
        )
    })
    .map(drop)
}

/// A call of fcntl(2) that takes a number.
pub fn fcntl(fd: impl AsFd, command: i32, argument: i32) -> io::Result<i32> {
    // SAFETY: the commands that this is used for take a number, or nothing, and
    // do nothing to descriptors; nor are addresses involved.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, argument) })
}

/// Who gets signals of the file: `F_SETOWN_EX`.
pub fn set_owner(fd: impl AsFd, kind: i32, id: i32) -> io::Result<()> {
    let owner = [kind, id];
    // SAFETY: `struct f_owner_ex` is these two, and is only read.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_SETOWN_EX, owner.as_ptr()) }).map(drop)
}

/// How often a timer has expired: `TFD_IOC_SET_TICKS`.
pub fn set_ticks(timer: impl AsFd, ticks: u64) -> io::Result<()> {
    /// `_IOW('T', 0, __u64)`
    const TFD_IOC_SET_TICKS: libc::Ioctl = 0x4008_5400;

    let fd = timer.as_fd().as_raw_fd();
    // SAFETY: it reads a number of 64 bits.
    check(unsafe { libc::ioctl(fd, TFD_IOC_SET_TICKS, &raw const ticks) }).map(drop)
}

/// A signalfd for a mask, as the kernel has it.
pub fn signalfd(mask: u64) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;

    let flags = libc::SFD_CLOEXEC;
    // SAFETY: it reads `mask`, whose size is that of the kernel's mask.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const mask,
            size_of::<u64>(),
            flags,
        )
    };
    let fd = check(fd as libc::c_int)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}

/// Whether a number is that of a descriptor of this process.
pub fn is_open(number: i32) -> bool {
    // SAFETY: it looks at a number, and does nothing to a descriptor.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Whether a new timer can be told how often it has expired.
pub fn can_set_ticks() -> bool {
    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

    timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)
        .is_ok_and(|timer| set_ticks(timer, 1).is_ok())
}
