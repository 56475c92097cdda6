// SPDX-License-Identifier: GPL-2.0

//! poll(2) of one file; and system calls that rustix 1.1 does not wrap: options of sockets,
//! among them `SO_PEEK_OFF`; recvmsg(2) that keeps all descriptors it is given; `F_SETSIG`,
//! `F_SETOWN_EX` and their like; signalfd(2); `F_GETFD` of a descriptor that need not be
//! open, which no `BorrowedFd` may stand for; open_by_handle_at(2); and the ioctls
//! `SIOCATMARK`, `TFD_IOC_SET_TICKS` and `INOTIFY_IOC_SETNEXTWD`, which go through
//! [`rustix::ioctl`].

use crate::types::{Owner, OwnerKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{self, Getter, IntegerSetter, Setter, opcode};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The events that a file has now, of those that a target can wait for.
pub fn events(fd: BorrowedFd<'_>) -> rustix::io::Result<PollFlags> {
    let wanted = PollFlags::IN
        | PollFlags::PRI
        | PollFlags::OUT
        | PollFlags::ERR
        | PollFlags::HUP
        | PollFlags::RDHUP;
    let mut fds = [PollFd::new(&fd, wanted)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())))?;
    Ok(fds[0].revents() & wanted)
}

fn check(ret: libc::c_int) -> io::Result<i32> {
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

/// Reads an option of a socket. Returns its length.
fn get_option(
    socket: BorrowedFd<'_>,
    (level, name): (i32, i32),
    value: &mut [u8],
) -> io::Result<usize> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, and to `len`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    })?;
    Ok(len as usize)
}

/// Sets an option of a socket, by its level and name.
pub fn set_option(
    socket: BorrowedFd<'_>,
    (level, name): (i32, i32),
    value: &[u8],
) -> io::Result<()> {
    // SAFETY: the kernel reads `value`, whose length it is told.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Reads an option of a known size; `None` if the kernel does not have it.
pub fn option(
    socket: BorrowedFd<'_>,
    option: (i32, i32),
    size: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; size];
    match get_option(socket, option, &mut value) {
        Ok(len) if len == size => Ok(Some(value)),
        Ok(_) => Err(rustix::io::Errno::PROTO.into()),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What is known of a TCP socket: `TCP_INFO`, see tcp(7).
pub struct TcpInfo {
    /// `TCP_*` of `linux/tcp_states.h`.
    pub state: u8,
    /// If it listens, how many connections were not accepted yet, and how many can wait.
    pub waiting: u32,
    pub backlog: u32,
}

/// Returns what is known of a TCP socket.
pub fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    // Until `tcpi_sacked`.
    let mut info = [0u8; 32];
    let option = (libc::IPPROTO_TCP, libc::TCP_INFO);
    get_option(socket, option, &mut info)?;
    let number = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&info[at..at + 4]);
        u32::from_ne_bytes(bytes)
    };
    Ok(TcpInfo {
        state: info[0],
        waiting: number(24),
        backlog: number(28),
    })
}

/// Whether a filter is attached to a socket: `SO_ATTACH_FILTER`, `SO_ATTACH_BPF`.
pub fn has_filter(socket: BorrowedFd<'_>) -> bool {
    // The length is that of the filter, in instructions, if there is no room for it. A
    // program in eBPF is not shown: that is an error.
    let option = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    get_option(socket, option, &mut []).map_or(true, |len| len > 0)
}

const PEEK_OFF: (i32, i32) = (libc::SOL_SOCKET, libc::SO_PEEK_OFF);

/// Returns the offset at which a socket is peeked: `SO_PEEK_OFF`.
pub fn peek_offset(socket: BorrowedFd<'_>) -> io::Result<i32> {
    let mut value = [0; 4];
    get_option(socket, PEEK_OFF, &mut value)?;
    Ok(i32::from_ne_bytes(value))
}

/// Sets the offset at which a socket is peeked.
pub fn set_peek_offset(socket: BorrowedFd<'_>, offset: i32) -> io::Result<()> {
    set_option(socket, PEEK_OFF, &offset.to_ne_bytes())
}

/// Whether the next byte of a stream is one that was sent out of band, or was:
/// `SIOCATMARK`.
pub fn is_at_mark(socket: BorrowedFd<'_>) -> bool {
    /// Of `asm/sockios.h`; some architectures have another one.
    const SIOCATMARK: ioctl::Opcode = if cfg!(any(target_arch = "mips", target_arch = "mips64")) {
        0x4004_7307
    } else {
        0x8905
    };

    // SAFETY: the call writes an integer, if the file has it.
    let at_mark = unsafe { ioctl::ioctl(socket, Getter::<SIOCATMARK, i32>::new()) };
    at_mark.is_ok_and(|at_mark| at_mark != 0)
}

/// A message that stays in the queue.
#[derive(Debug, Default)]
pub struct Peeked {
    /// How many bytes of it are in the buffer.
    pub len: usize,
    /// The files that come with it.
    pub files: Vec<OwnedFd>,
    /// Whether the buffer was too small for it.
    pub truncated: bool,
    /// Whether some of its files are missing.
    pub control_truncated: bool,
}

/// Reads a message at the offset of `SO_PEEK_OFF`, and leaves it in the queue.
///
/// `recvmsg` of rustix skips control messages that it does not know, and so leaks the
/// descriptor that `SO_PASSPIDFD` opens.
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Peeked> {
    let part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: the part is `buffer`, which is borrowed mutably here.
    unsafe { peek_parts(socket, &mut [part]) }
}

/// Does the same with those parts of a stream of which all fits into the buffer. Returns how
/// many bytes that are.
///
/// A part that does not fit cannot be written: the buffer is followed by the address 0, where
/// there is no memory. The kernel then leaves out that part, and the files that come with it,
/// while it returns those of a part of which it has read no byte otherwise.
pub fn peek_whole_parts(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let nothing = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 1,
    };
    // SAFETY: one part is `buffer`, which is borrowed mutably here, and the other is no memory
    // of this process.
    match unsafe { peek_parts(socket, &mut [part, nothing]) } {
        // None fits, or they were received meanwhile.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EFAULT | libc::EAGAIN)) => Ok(0),
        peeked => Ok(peeked?.len),
    }
}

/// # Safety
///
/// What `parts` refer to can be overwritten: nobody else uses it during the call.
unsafe fn peek_parts(socket: BorrowedFd<'_>, parts: &mut [libc::iovec]) -> io::Result<Peeked> {
    /// `SCM_PIDFD`, of `linux/socket.h`.
    const SCM_PIDFD: i32 = 4;
    /// Room for files, credentials, a pidfd, time stamps, and the label of a security
    /// module, which is a page at most.
    const ROOM: usize = 8192 / size_of::<u64>();

    let mut control = [0u64; ROOM];
    // SAFETY: a `msghdr` has integers and raw pointers, all of which may be 0.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let len = loop {
        // SAFETY: `message` has the addresses and lengths of `parts` and `control`, which
        // are borrowed mutably here, and the caller answers for what `parts` refer to;
        // `control` is aligned for a `cmsghdr`.
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
    // SAFETY: recvmsg() has initialised `message`, and `control` is still there.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: `next` is not null, so there is a whole head in `control`.
        let head = unsafe { next.read() };
        // SAFETY: CMSG_LEN() only computes.
        let empty = unsafe { libc::CMSG_LEN(0) } as usize;
        let size = (head.cmsg_len as usize).saturating_sub(empty);
        if head.cmsg_level == libc::SOL_SOCKET
            && [libc::SCM_RIGHTS, SCM_PIDFD].contains(&head.cmsg_type)
        {
            // SAFETY: CMSG_DATA() only computes, and the data follow the head.
            let data = unsafe { libc::CMSG_DATA(next) }.cast::<i32>();
            for index in 0..size / size_of::<i32>() {
                // SAFETY: `cmsg_len` says that there are `size` bytes of data.
                let fd = unsafe { data.add(index).read_unaligned() };
                if fd < 0 {
                    // An errno instead of a pidfd.
                    continue;
                }
                // SAFETY: recvmsg() has just opened this descriptor for us.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                if head.cmsg_type == libc::SCM_RIGHTS {
                    peeked.files.push(fd);
                }
            }
        }
        // SAFETY: `next` is a head of this message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(peeked)
}

/// Returns the receiver of a file's signals, and the signal; `None` if nobody is, and the
/// signal was not set.
pub fn owner(fd: BorrowedFd<'_>) -> io::Result<Option<Owner>> {
    const F_GETSIG: i32 = 11;
    const F_GETOWN_EX: i32 = 16;

    let mut owner = [0i32; 2];
    // SAFETY: the kernel writes a `struct f_owner_ex`, which is two integers.
    match check(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, owner.as_mut_ptr()) }) {
        // It was opened with O_PATH.
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Ok(None),
        result => result?,
    };
    // SAFETY: the command takes nothing.
    let signal = check(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETSIG) })? as u32;
    let [kind, id] = owner;
    if id == 0 && signal == 0 {
        return Ok(None);
    }
    let unknown = || io::Error::from(rustix::io::Errno::PROTO);
    Ok(Some(Owner {
        kind: OwnerKind::from_raw(kind as u32).ok_or_else(unknown)?,
        id,
        signal,
    }))
}

/// Sets the receiver of a file's signals: this process or thread, unless there was
/// none. Sets the signal.
pub fn set_owner(fd: impl AsFd, owner: Owner) -> io::Result<()> {
    const F_SETSIG: i32 = 10;
    const F_SETOWN_EX: i32 = 15;

    let fd = fd.as_fd().as_raw_fd();
    if owner.id != 0 {
        let own = match owner.kind {
            OwnerKind::Thread => rustix::thread::gettid(),
            _ => rustix::process::getpid(),
        };
        let owner = [owner.kind.raw() as i32, own.as_raw_pid()];
        // SAFETY: the kernel reads a `struct f_owner_ex`, which is two integers.
        check(unsafe { libc::fcntl(fd, F_SETOWN_EX, owner.as_ptr()) })?;
    }
    // SAFETY: the command takes an integer.
    check(unsafe { libc::fcntl(fd, F_SETSIG, owner.signal as i32) }).map(drop)
}

/// Sets how many times a timer has expired: `TFD_IOC_SET_TICKS` of timerfd_create(2).
pub fn set_ticks(timer: impl AsFd, ticks: u64) -> io::Result<()> {
    const REQUEST: ioctl::Opcode = opcode::write::<u64>(b'T', 0);

    // SAFETY: this ioctl reads a `u64`. On anything but a timer it is an unknown one,
    // and all callers pass a timer that they have just created.
    unsafe { ioctl::ioctl(timer, Setter::<REQUEST, u64>::new(ticks)) }?;
    Ok(())
}

/// Sets the watch descriptor that inotify_add_watch(2) returns next:
/// `INOTIFY_IOC_SETNEXTWD` of `linux/inotify.h`, which takes `CONFIG_CHECKPOINT_RESTORE`.
pub fn set_next_watch(inotify: impl AsFd, wd: u32) -> io::Result<()> {
    const REQUEST: ioctl::Opcode = opcode::write::<i32>(b'I', 0);

    // SAFETY: this ioctl takes an integer, not a pointer. The caller has just created the
    // inotify instance.
    unsafe { ioctl::ioctl(inotify, IntegerSetter::<REQUEST>::new_usize(wd as usize)) }?;
    Ok(())
}

/// Gives this thread a working directory of its own.
pub fn leave_shared_directory() -> io::Result<()> {
    // SAFETY: no descriptor depends on the working directory, or on anything else that is
    // shared by `CLONE_FS`.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?)
}

/// Opens a file with `O_PATH` by its handle, and a file or directory in the same mount, or
/// [`CWD`](rustix::fs::CWD): see open_by_handle_at(2).
pub fn open_by_handle(mount: BorrowedFd<'_>, kind: i32, handle: &[u8]) -> io::Result<OwnedFd> {
    /// `struct file_handle`, with room for the largest handle.
    #[repr(C)]
    struct Handle {
        size: libc::c_uint,
        kind: libc::c_int,
        bytes: [u8; libc::MAX_HANDLE_SZ as usize],
    }

    let mut file = Handle {
        size: handle.len() as libc::c_uint,
        kind,
        bytes: [0; libc::MAX_HANDLE_SZ as usize],
    };
    let room = file.bytes.get_mut(..handle.len());
    room.ok_or(rustix::io::Errno::INVAL)?
        .copy_from_slice(handle);
    // SAFETY: the kernel reads a `struct file_handle`, and as many bytes of the handle as that
    // says, which are there.
    let fd = check(unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut file).cast(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    })?;
    // SAFETY: open_by_handle_at() has just opened this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a signalfd for a set of signals, bit n - 1 of which is signal n.
pub fn signalfd(mask: u64) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `mask`, whose size is that of its own `sigset_t`.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const mask,
            size_of::<u64>(),
            libc::SFD_CLOEXEC,
        )
    };
    let fd = check(fd as libc::c_int)?;
    // SAFETY: signalfd4() has just opened this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether this process has a descriptor `number`.
pub fn is_open(number: i32) -> bool {
    // SAFETY: `F_GETFD` changes nothing, whatever the number stands for.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Whether the kernel has `TFD_IOC_SET_TICKS`, which takes `CONFIG_CHECKPOINT_RESTORE`.
pub fn can_set_ticks() -> bool {
    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

    timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)
        .is_ok_and(|timer| set_ticks(timer, 1).is_ok())
}
