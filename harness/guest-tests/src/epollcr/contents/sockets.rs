// SPDX-License-Identifier: GPL-2.0
//! Unix sockets that are restored with their messages.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recv, recvmsg, send,
    sendmsg, shutdown, socketpair,
};
use rustix::time::Timespec;

use crate::epollcr::{again, module, numbers, take};
use crate::sys;

/// Empty messages, which a stream cannot have.
pub fn empty_messages() -> Result<()> {
    let device = module()?;
    let device = device.as_ref();
    for kind in [SocketType::DGRAM, SocketType::SEQPACKET] {
        let (near, far) = pair(kind)?;
        set_socket_send_buffer_size_force(&far, 1 << 20)?;
        // Longer than the buffer of the first attempt to read it.
        let long = vec![b'x'; 300_000];
        let all: [&[u8]; 5] = [b"", b"one", b"", &long, b""];
        for text in all {
            ensure!(send(&far, text, SendFlags::empty())? == text.len());
        }
        let had = numbers([&near, &far]);
        let mut restored = again(device, vec![near, far])?;
        let [near, far] = take(&mut restored, had)?;
        let mut buffer = vec![0; 400_000];
        for text in all {
            let (len, _) = recv(&near, &mut buffer[..], RecvFlags::empty())?;
            ensure!(&buffer[..len] == text, "{kind:?}: {len} bytes");
        }
        ensure!(
            recv(&near, &mut buffer[..], RecvFlags::empty()).err() == Some(Errno::AGAIN),
            "{kind:?}: there is more"
        );
        drop(far);
    }
    Ok(())
}

pub fn pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

fn receive(socket: &OwnedFd) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 1 << 17];
    let (len, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
    Ok(buffer[..len].to_vec())
}

pub fn sockets() -> Result<()> {
    let device = module()?;
    let device = device.as_ref();
    for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
        let stream = kind == SocketType::STREAM;
        let (near, far) = pair(kind)?;
        let long = vec![b'x'; 100_000];
        send(&far, &long, SendFlags::empty())?;
        send(&far, b"to near", SendFlags::empty())?;
        send(&near, b"to far", SendFlags::empty())?;
        // The kernel doubles it.
        set_socket_recv_buffer_size_force(&near, 300_000)?;
        let (orphan, closed) = pair(kind)?;
        send(&closed, b"a legacy", SendFlags::empty())?;
        drop(closed);
        let (half, other) = pair(kind)?;
        if kind != SocketType::DGRAM {
            shutdown(&half, Shutdown::Write)?;
        }

        let had = numbers([&near, &far, &orphan, &half, &other]);
        let mut restored = again(device, vec![near, far, orphan, half, other])?;
        let [near, far, orphan, half, other] = take(&mut restored, had)?;

        let mut found = receive(&near)?;
        while stream && found.len() < long.len() + 7 {
            found.extend(receive(&near)?);
        }
        if !stream {
            ensure!(found == long, "the message differs");
            found.extend(receive(&near)?);
        }
        ensure!(
            found == [&long[..], b"to near"].concat(),
            "the data differs"
        );
        ensure!(
            receive(&far)? == b"to far",
            "the data in the other direction differs"
        );
        send(&near, b"more", SendFlags::empty())?;
        ensure!(receive(&far)? == b"more", "they are not connected");
        let size = rustix::net::sockopt::socket_recv_buffer_size(&near)?;
        ensure!(size == 600_000, "the size of the buffer is {size}");
        ensure!(
            receive(&orphan)? == b"a legacy",
            "the data of the closed peer differs"
        );
        if stream {
            ensure!(receive(&orphan)?.is_empty(), "its peer was not closed");
        }
        let flags = SendFlags::NOSIGNAL;
        ensure!(send(&orphan, b"x", flags).is_err(), "it still has a peer");
        if kind != SocketType::DGRAM {
            ensure!(
                send(&half, b"x", flags) == Err(Errno::PIPE),
                "it was shut down for sending, but can send"
            );
            ensure!(
                receive(&other)?.is_empty(),
                "its peer was shut down, but it sees no end"
            );
            send(&other, b"back", flags)?;
            ensure!(
                receive(&half)? == b"back",
                "the other direction was shut down, too"
            );
        }
    }
    Ok(())
}

/// Files and an epoll instance that are in flight, and that no process has open.
pub fn passed() -> Result<()> {
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

    let device = module()?;
    let device = device.as_ref();
    let (near, far) = pair(SocketType::STREAM)?;
    let counter = eventfd(3, EventfdFlags::CLOEXEC)?;
    let set = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&set, &counter, EventData::new_u64(77), EventFlags::IN)?;
    pass(&far, b"a", &[counter.as_fd(), set.as_fd()])?;
    drop((counter, set));
    pass(&far, b"b", &[near.as_fd()])?;

    let had = numbers([&near, &far]);
    let mut restored = again(device, vec![near, far])?;
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
    ensure!(
        { events[0].data }.u64() == 77,
        "the data of the event differs"
    );
    let mut value = [0; 8];
    read(&counter, &mut value)?;
    ensure!(u64::from_ne_bytes(value) == 3, "the counter differs");
    let [itself] = accept::<1>(&near, b"b")?;
    let me = sys::getpid();
    let same = sys::files(me, itself.as_raw_fd(), me, near.as_raw_fd())?;
    ensure!(same == sys::EQUAL, "it is not the socket itself");
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
    ensure!(&buffer[..got.bytes] == text, "the message differs");
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            fds.extend(files);
        }
    }
    fds.try_into().ok().context("the number of files differs")
}
