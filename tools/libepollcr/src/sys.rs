// SPDX-License-Identifier: GPL-2.0

//! System calls that rustix has not.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

/// How many bytes can be received: `SIOCINQ`. Of datagrams, in the first.
pub fn waiting(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut value = 0i32;
    // SAFETY: it writes a number.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut value) })?;
    Ok(usize::try_from(value).unwrap_or(0))
}

/// A message that was looked at.
#[derive(Debug, Default)]
pub struct Peeked {
    /// How many bytes are in the buffer.
    pub len: usize,
    /// The files that come with it.
    pub files: Vec<OwnedFd>,
    /// There is more in it.
    pub truncated: bool,
    /// There is more with it.
    pub control_truncated: bool,
}

/// Looks at a message, from where `SO_PEEK_OFF` says.
///
/// rustix knows but some of what can come with one, and leaks the others: the
/// descriptor of `SO_PASSPIDFD` is one.
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Peeked> {
    /// `SCM_PIDFD`, of `linux/socket.h`.
    const SCM_PIDFD: i32 = 4;
    /// Files, credentials, a pidfd, time stamps, and the label of a security
    /// module, which is a page at most.
    const ROOM: usize = 8192 / size_of::<u64>();

    let mut control = [0u64; ROOM];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: it is numbers and pointers, all of which may be 0.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let len = loop {
        // SAFETY: `message` points to a buffer, and to memory for what comes with
        // the message, which is aligned for it, and says how long they are.
        let ret = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        match usize::try_from(ret) {
            Ok(len) => break len,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    let mut peeked = Peeked {
        len,
        files: Vec::new(),
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        control_truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
    };
    // SAFETY: the kernel has written it, and says how long it is.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: it is one that the kernel has written.
        let head = unsafe { next.read() };
        // SAFETY: takes a number.
        let empty = unsafe { libc::CMSG_LEN(0) } as usize;
        let size = (head.cmsg_len as usize).saturating_sub(empty);
        if head.cmsg_level == libc::SOL_SOCKET
            && [libc::SCM_RIGHTS, SCM_PIDFD].contains(&head.cmsg_type)
        {
            // SAFETY: of the same.
            let data = unsafe { libc::CMSG_DATA(next) }.cast::<i32>();
            for index in 0..size / size_of::<i32>() {
                // SAFETY: there are so many numbers behind the head.
                let fd = unsafe { data.add(index).read_unaligned() };
                if fd < 0 {
                    // There is an errno in place of a pidfd.
                    continue;
                }
                // SAFETY: the kernel has just opened it for us.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                if head.cmsg_type == libc::SCM_RIGHTS {
                    peeked.files.push(fd);
                }
            }
        }
        // SAFETY: it is of this message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(peeked)
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
pub fn signalfd(mask: u64) -> io::Result<OwnedFd> {
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
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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
