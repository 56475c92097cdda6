// SPDX-License-Identifier: GPL-2.0
//! Files that are made again, with what was in them.

use std::fs::{self, File, OpenOptions};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::stat::Mode;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno, FdFlags, dup, fcntl_getfd, read, write};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recv, recvmsg, send,
    sendmsg, shutdown, socketpair,
};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_gettime, timerfd_settime,
};

use super::{again, device, numbers, take};
use crate::sys;
use crate::tap::Case;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("epollcr/files", |_| files()),
        Case::new("epollcr/pipes", |_| pipes()),
        Case::new("epollcr/fifo", |_| fifo()),
        Case::new("epollcr/counters", |_| counters()),
        Case::new("epollcr/sockets", |_| sockets()),
        Case::new("epollcr/passed", |_| passed()),
    ]
}

fn bytes(fd: impl AsFd) -> Result<Vec<u8>> {
    let mut buffer = [0; 4096];
    let len = read(fd, &mut buffer)?;
    Ok(buffer[..len].to_vec())
}

/// Open files that several descriptors share, at their position.
fn files() -> Result<()> {
    let device = device()?;
    let path = std::env::temp_dir().join(format!("epollcr-file-{}", std::process::id()));
    fs::write(&path, "0123456789")?;
    let file: OwnedFd = OpenOptions::new()
        .read(true)
        .append(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)?
        .into();
    read(&file, &mut [0; 4])?;
    let shared = dup(&file)?;
    let other: OwnedFd = File::open(&path)?.into();
    let directory: OwnedFd = File::open("/proc")?.into();
    let null: OwnedFd = File::open("/dev/null")?.into();
    let only = rustix::fs::open(
        "/etc",
        OFlags::PATH | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let flags = fcntl_getfl(&file)?;

    let had = numbers([&file, &shared, &other, &directory, &null, &only]);
    let mut restored = again(&device, vec![file, shared, other, directory, null, only])?;
    let [file, shared, other, directory, null, only] = take(&mut restored, had)?;
    ensure!(
        restored.descriptors.is_empty(),
        "there are more: {restored:?}"
    );

    ensure!(bytes(&file)? == b"456789", "not at its position");
    ensure!(bytes(&shared)?.is_empty(), "the position is not shared");
    ensure!(bytes(&other)? == b"0123456789", "the position is shared");
    ensure!(fcntl_getfl(&file)? == flags, "other flags");
    ensure!(
        !fcntl_getfd(&shared)?.contains(FdFlags::CLOEXEC),
        "dup is close-on-exec"
    );
    ensure!(
        fcntl_getfd(&file)?.contains(FdFlags::CLOEXEC),
        "not close-on-exec"
    );
    write(&file, b"x")?;
    ensure!(fs::read(&path)? == b"0123456789x", "it does not append");
    ensure!(rustix::fs::fstat(&directory)?.st_mode & libc::S_IFMT == libc::S_IFDIR);
    ensure!(bytes(&null)?.is_empty(), "not /dev/null");
    ensure!(
        read(&only, &mut [0; 1]) == Err(Errno::BADF),
        "O_PATH is lost"
    );
    fs::remove_file(&path)?;
    Ok(())
}

fn pipes() -> Result<()> {
    let device = device()?;
    let (full, filler) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&filler, 1 << 18)?;
    write(&filler, b"one ")?;
    write(&filler, b"two")?;
    let (packets, sender) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT)?;
    write(&sender, b"first")?;
    write(&sender, b"second")?;
    // Nobody writes to it any more, and it is opened once more.
    let (ended, last) = pipe_with(PipeFlags::CLOEXEC)?;
    write(&last, b"the end")?;
    drop(last);
    let again_open: OwnedFd = File::open(format!("/proc/self/fd/{}", ended.as_raw_fd()))?.into();

    let had = numbers([&full, &filler, &packets, &sender, &ended, &again_open]);
    let all = vec![full, filler, packets, sender, ended, again_open];
    let mut restored = again(&device, all)?;
    let [full, filler, packets, sender, ended, again_open] = take(&mut restored, had)?;

    ensure!(fcntl_getpipe_size(&full)? == 1 << 18, "another size");
    ensure!(bytes(&full)? == b"one two", "something else was in it");
    write(&filler, b"more")?;
    ensure!(bytes(&full)? == b"more", "its ends are not of one pipe");
    ensure!(
        bytes(&packets)? == b"first" && bytes(&packets)? == b"second",
        "other packets"
    );
    write(&sender, b"a")?;
    write(&sender, b"b")?;
    ensure!(
        bytes(&packets)? == b"a",
        "packets are not kept apart any more"
    );
    ensure!(bytes(&again_open)? == b"the end", "another pipe");
    ensure!(
        bytes(&ended)?.is_empty(),
        "there is somebody who could write"
    );
    Ok(())
}

fn fifo() -> Result<()> {
    let device = device()?;
    let path = std::env::temp_dir().join(format!("epollcr-fifo-{}", std::process::id()));
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let reader: OwnedFd = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)?
        .into();
    let writer: OwnedFd = OpenOptions::new().write(true).open(&path)?.into();
    write(&writer, b"through it")?;

    let had = numbers([&reader, &writer]);
    let mut restored = again(&device, vec![reader, writer])?;
    let [reader, writer] = take(&mut restored, had)?;
    ensure!(bytes(&reader)? == b"through it", "something else was in it");
    write(&writer, b"more")?;
    ensure!(bytes(&reader)? == b"more", "its ends are not of one FIFO");
    drop(writer);
    ensure!(
        bytes(&reader)?.is_empty(),
        "there is somebody who could write"
    );
    fs::remove_file(&path)?;
    Ok(())
}

fn counters() -> Result<()> {
    let device = device()?;
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let counter = eventfd(0, flags)?;
    write(&counter, &(1u64 << 40).to_ne_bytes())?;
    let semaphore = eventfd(2, flags | EventfdFlags::SEMAPHORE)?;
    let monotonic = || timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC);
    let far = Timespec {
        tv_sec: 5000,
        tv_nsec: 0,
    };
    let soon = Timespec {
        tv_sec: 0,
        tv_nsec: 1,
    };
    let set = |timer: &OwnedFd, it_value, it_interval| {
        let new = Itimerspec {
            it_interval,
            it_value,
        };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &new).map(drop)
    };
    let (waits, expired, off) = (monotonic()?, monotonic()?, monotonic()?);
    set(&waits, far, far)?;
    set(&expired, soon, far)?;
    std::thread::sleep(Duration::from_millis(5));
    let signals = {
        let mut mask = nix::sys::signal::SigSet::empty();
        mask.add(nix::sys::signal::Signal::SIGUSR2);
        mask.thread_block()?;
        let flags =
            nix::sys::signalfd::SfdFlags::SFD_CLOEXEC | nix::sys::signalfd::SfdFlags::SFD_NONBLOCK;
        OwnedFd::from(nix::sys::signalfd::SignalFd::with_flags(&mask, flags)?)
    };

    let had = numbers([&counter, &semaphore, &waits, &expired, &off, &signals]);
    let all = vec![counter, semaphore, waits, expired, off, signals];
    let mut restored = again(&device, all)?;
    let [counter, semaphore, waits, expired, off, signals] = take(&mut restored, had)?;

    let number = |fd: &OwnedFd| -> Result<u64> {
        let bytes = bytes(fd)?;
        Ok(u64::from_ne_bytes(bytes[..].try_into()?))
    };
    ensure!(number(&counter)? == 1 << 40, "another value");
    ensure!(
        number(&semaphore)? == 1 && number(&semaphore)? == 1,
        "no semaphore"
    );
    ensure!(
        read(&semaphore, &mut [0; 8]) == Err(Errno::AGAIN),
        "another value"
    );
    let left = timerfd_gettime(&waits)?;
    ensure!(
        (4000..=5000).contains(&left.it_value.tv_sec),
        "it waits {left:?}"
    );
    ensure!(left.it_interval.tv_sec == 5000, "it repeats after {left:?}");
    ensure!(number(&expired)? == 1, "it has not expired once");
    let left = timerfd_gettime(&expired)?;
    ensure!(
        (4000..=5000).contains(&left.it_value.tv_sec),
        "it waits {left:?}"
    );
    let left = timerfd_gettime(&off)?;
    ensure!(
        left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0,
        "it is not off"
    );
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR2)?;
    let info = bytes(&signals)?;
    ensure!(
        info.first() == Some(&(libc::SIGUSR2 as u8)),
        "another signal"
    );
    ensure!(
        read(&signals, &mut [0; 128]) == Err(Errno::AGAIN),
        "it would wait"
    );
    Ok(())
}

fn pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

fn receive(socket: &OwnedFd) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 1 << 17];
    let (len, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
    Ok(buffer[..len].to_vec())
}

fn sockets() -> Result<()> {
    let device = device()?;
    for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
        let stream = kind == SocketType::STREAM;
        let (near, far) = pair(kind)?;
        let long = vec![b'x'; 100_000];
        send(&far, &long, SendFlags::empty())?;
        send(&far, b"to near", SendFlags::empty())?;
        send(&near, b"to far", SendFlags::empty())?;
        sys_size(&near, 300_000)?;
        let (orphan, closed) = pair(kind)?;
        send(&closed, b"a legacy", SendFlags::empty())?;
        drop(closed);
        let (half, other) = pair(kind)?;
        if kind != SocketType::DGRAM {
            shutdown(&half, Shutdown::Write)?;
        }

        let had = numbers([&near, &far, &orphan, &half, &other]);
        let mut restored = again(&device, vec![near, far, orphan, half, other])?;
        let [near, far, orphan, half, other] = take(&mut restored, had)?;

        let mut found = receive(&near)?;
        while stream && found.len() < long.len() + 7 {
            found.extend(receive(&near)?);
        }
        if !stream {
            ensure!(found == long, "another message");
            found.extend(receive(&near)?);
        }
        ensure!(
            found == [&long[..], b"to near"].concat(),
            "something else was sent"
        );
        ensure!(receive(&far)? == b"to far", "something else was sent back");
        send(&near, b"more", SendFlags::empty())?;
        ensure!(receive(&far)? == b"more", "they are not connected");
        let size = rustix::net::sockopt::socket_recv_buffer_size(&near)?;
        ensure!(size == 600_000, "a buffer of {size}");
        ensure!(receive(&orphan)? == b"a legacy", "something else was left");
        if stream {
            ensure!(receive(&orphan)?.is_empty(), "its peer was not closed");
        }
        let flags = SendFlags::NOSIGNAL;
        ensure!(
            send(&orphan, b"x", flags).is_err(),
            "there is somebody to send to"
        );
        if kind != SocketType::DGRAM {
            ensure!(
                send(&half, b"x", flags) == Err(Errno::PIPE),
                "it was shut down"
            );
            ensure!(receive(&other)?.is_empty(), "its peer was shut down");
            send(&other, b"back", flags)?;
            ensure!(
                receive(&half)? == b"back",
                "it was shut down for one way only"
            );
        }
    }
    Ok(())
}

fn sys_size(socket: &OwnedFd, size: usize) -> Result<()> {
    // Twice of it is what one gets.
    let value = i32::try_from(size)?;
    // SAFETY: it reads a number of that size.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const value).cast(),
            4,
        )
    };
    ensure!(ret == 0, "SO_RCVBUFFORCE");
    Ok(())
}

/// Files, and an epoll set, that are on their way from one socket to another and
/// that nobody else has.
fn passed() -> Result<()> {
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

    let device = device()?;
    let (near, far) = pair(SocketType::STREAM)?;
    let counter = eventfd(3, EventfdFlags::CLOEXEC)?;
    let set = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&set, &counter, EventData::new_u64(77), EventFlags::IN)?;
    pass(&far, b"a", &[counter.as_fd(), set.as_fd()])?;
    drop((counter, set));
    pass(&far, b"b", &[near.as_fd()])?;

    let had = numbers([&near, &far]);
    let mut restored = again(&device, vec![near, far])?;
    let [near, _far] = take(&mut restored, had)?;
    let [counter, set] = accept::<2>(&near, b"a")?;
    let mut events = Vec::with_capacity(4);
    let now = Timespec::default();
    epoll::wait(
        &set,
        rustix::buffer::spare_capacity(&mut events),
        Some(&now),
    )?;
    ensure!(events.len() == 1, "{} events", events.len());
    ensure!({ events[0].data }.u64() == 77, "another event");
    let mut value = [0; 8];
    read(&counter, &mut value)?;
    ensure!(u64::from_ne_bytes(value) == 3, "another counter");
    let [itself] = accept::<1>(&near, b"b")?;
    let me = sys::getpid();
    let same = sys::files(me, itself.as_raw_fd(), me, near.as_raw_fd())?;
    ensure!(same == sys::EQUAL, "not the socket itself");
    Ok(())
}

fn pass(socket: &OwnedFd, text: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    ensure!(
        control.push(SendAncillaryMessage::ScmRights(fds)),
        "too many"
    );
    sendmsg(
        socket,
        &[IoSlice::new(text)],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn accept<const N: usize>(socket: &OwnedFd, text: &[u8]) -> Result<[OwnedFd; N]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; 16];
    let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
    let got = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    ensure!(&buffer[..got.bytes] == text, "another message");
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            fds.extend(files);
        }
    }
    fds.try_into().ok().context("another number of files")
}
