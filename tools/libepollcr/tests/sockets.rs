// SPDX-License-Identifier: GPL-2.0

//! Dumps and restores sockets of this process as on a kernel without the device.

mod process;

use libepollcr::restore::Restore;
use process::*;
use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, getsockname, recv,
    send, shutdown, socket_with, sockopt,
};
use std::os::fd::{AsRawFd, OwnedFd};

/// Both ends are named, or the other one would lose its peer.
#[test]
fn data_out_of_band_are_refused() {
    let Some(_alone) = alone() else { return };
    for parts in [
        &[(&b"data"[..], false), (b"!", true), (b"more", false)][..],
        &[(b"!", true)],
    ] {
        let (near, far) = pair([600, 601], SocketType::STREAM);
        for &(text, urgent) in parts {
            let flags = match urgent {
                true => SendFlags::OOB,
                false => SendFlags::empty(),
            };
            if send(&far, text, flags) == Err(Errno::OPNOTSUPP) {
                return skip("unix sockets have no urgent data (CONFIG_AF_UNIX_OOB)");
            }
        }
        let image = dump();
        let said = why(&image, 600);
        assert_eq!(
            said,
            Some("unix socket: it has data that were sent out of band (MSG_OOB), or their mark")
        );
        drop((near, far));
        let problems = Restore::new(&image).problems(None);
        for number in [600, 601] {
            let start = format!("descriptor {number}, ");
            assert!(problems.iter().any(|p| p.to_string().starts_with(&start)));
        }
    }
    // Nothing is left of it once it was received.
    let (near, far) = pair([600, 601], SocketType::STREAM);
    send(&far, b"!", SendFlags::OOB).unwrap();
    recv(&near, &mut [0; 1][..], RecvFlags::OOB).unwrap();
    send(&far, b"more", SendFlags::empty()).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(
        recv(&near, &mut buffer[..2], RecvFlags::empty()).unwrap().0,
        2
    );
    let restored = again(vec![near, far]);
    let near = &restored.descriptors[&600];
    assert_eq!(
        recv(near, &mut buffer[..], RecvFlags::empty()).unwrap().0,
        2
    );
    assert_eq!(&buffer[..2], b"re");
}

#[test]
fn options_of_sockets_are_kept() {
    let Some(_alone) = alone() else { return };
    for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
        let (near, far) = pair([600, 601], kind);
        send(&far, b"some data", SendFlags::empty()).unwrap();
        let second = std::time::Duration::from_secs(1);
        sockopt::set_socket_timeout(&near, sockopt::Timeout::Recv, Some(second)).unwrap();
        sockopt::set_socket_oobinline(&near, true).unwrap();
        let offset = 4i32;
        let set = |fd: &OwnedFd, name, value: i32| {
            // SAFETY: the kernel reads the integer, whose size is given.
            let ret = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    name,
                    (&raw const value).cast(),
                    size_of_val(&value) as libc::socklen_t,
                )
            };
            assert_eq!(ret, 0, "{name}");
        };
        set(&near, libc::SO_PEEK_OFF, offset);
        set(&near, libc::SO_RCVLOWAT, 3);
        set(&far, libc::SO_TIMESTAMP, 1);
        let restored = again(vec![near, far]);
        let get = |number, name| {
            let mut value = 0i32;
            let mut len = size_of_val(&value) as libc::socklen_t;
            let fd = restored.descriptors[&number].as_raw_fd();
            // SAFETY: the kernel writes an integer, whose size is given.
            let ret = unsafe {
                libc::getsockopt(
                    fd,
                    libc::SOL_SOCKET,
                    name,
                    (&raw mut value).cast(),
                    &raw mut len,
                )
            };
            assert_eq!(ret, 0, "{name}");
            value
        };
        assert_eq!(get(600, libc::SO_PEEK_OFF), 4);
        assert_eq!(get(600, libc::SO_RCVLOWAT), 3);
        assert_eq!(get(600, libc::SO_OOBINLINE), 1);
        assert_eq!(
            (get(600, libc::SO_TIMESTAMP), get(601, libc::SO_TIMESTAMP)),
            (0, 1)
        );
        let near = &restored.descriptors[&600];
        let timeout = sockopt::socket_timeout(near, sockopt::Timeout::Recv).unwrap();
        assert_eq!(timeout, Some(second));
        let mut buffer = [0; 16];
        let (len, _) = recv(near, &mut buffer[..], RecvFlags::PEEK).unwrap();
        assert_eq!(&buffer[..len], b" data");
    }
}

#[test]
fn a_connection_that_was_reset() {
    let Some(_alone) = alone() else { return };
    let (near, far) = pair([600, 601], SocketType::STREAM);
    send(&near, b"never received", SendFlags::empty()).unwrap();
    send(&far, b"last words", SendFlags::empty()).unwrap();
    drop(far);
    let restored = again(vec![near]);
    let near = &restored.descriptors[&600];
    let mut buffer = [0; 16];
    let result = |buffer: &mut [u8]| recv(near, buffer, RecvFlags::empty()).map(|got| got.0);
    assert_eq!(result(&mut buffer), Ok(10));
    assert_eq!(result(&mut buffer), Err(Errno::CONNRESET));
    assert_eq!(result(&mut buffer), Ok(0));
}

#[test]
fn a_socket_that_listens() {
    let Some(_alone) = alone() else { return };
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = std::net::TcpListener::bind(address) else {
            // Without IPv6, for instance.
            continue;
        };
        let address = listener.local_addr().unwrap();
        sockopt::set_tcp_nodelay(&listener, true).unwrap();
        sockopt::set_socket_recv_buffer_size(&listener, 20_000).unwrap();
        rustix::net::listen(&listener, 5).unwrap();
        let (set, listener) = (set(601), at(600, listener.into()));
        add(&set, &listener, 9, EventFlags::IN);
        let image = dump();

        // As long as it is there, there can be no other.
        let problems = Restore::new(&image).problems(None);
        let said = format!("it cannot listen at {address} again: Address already in use");
        assert!(
            problems.iter().any(|p| p.why.starts_with(&said)),
            "{problems:?}"
        );

        // Nor is a connection forgotten.
        let client = std::net::TcpStream::connect(address).unwrap();
        let said = format!(
            "TCP socket {address}, listening: it has a connection that was not accepted, and \
             would be lost"
        );
        assert_eq!(why(&dump(), 600), Some(&said[..]));
        drop((set, listener, client));

        let restored = restore(&mut { image });
        let listener = &restored.descriptors[&600];
        assert!(sockopt::tcp_nodelay(listener).unwrap());
        assert_eq!(sockopt::socket_recv_buffer_size(listener), Ok(40_000));
        let set = &restored.descriptors[&601];
        assert_eq!(reported(set), []);
        let _client = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(reported(set), [9]);
        rustix::net::accept(listener).unwrap();
    }
}

#[test]
fn sockets_are_named() {
    let Some(_alone) = alone() else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = std::net::TcpStream::connect(address).unwrap();
    let own = client.local_addr().unwrap();
    let client = at(600, client.into());
    let image = dump();
    drop(client);
    assert_eq!(
        why(&image, 600),
        Some(
            &format!(
                "TCP socket {own}, connected to {address}: only pairs of unix sockets can be \
                 recreated"
            )[..]
        )
    );
}

/// A dump or a restore that loses these would do so in silence.
#[test]
fn what_queues_and_ends_are_like() {
    let Some(_alone) = alone() else { return };
    // It was shut down, and has no peer.
    for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
        let alone = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let events = |fd: &OwnedFd| {
            let mut polled = [PollFd::new(fd, PollFlags::IN | PollFlags::RDHUP)];
            poll(&mut polled, Some(&Timespec::default())).unwrap();
            polled[0].revents()
        };
        let before = events(&alone);
        shutdown(&alone, Shutdown::Read).unwrap();
        let shut = events(&alone);
        assert_ne!(before, shut);
        let restored = again(vec![at(600, alone)]);
        assert_eq!(events(&restored.descriptors[&600]), shut, "{kind:?}");
    }
    let (near, far) = pair([600, 601], SocketType::DGRAM);
    shutdown(&near, Shutdown::Write).unwrap();
    drop(far);
    let restored = again(vec![near]);
    let sent = send(&restored.descriptors[&600], b"x", SendFlags::NOSIGNAL);
    assert_eq!(sent, Err(Errno::PIPE));
    drop(restored);

    // One that has sent before it was to pass credentials has no address.
    let (near, far) = pair([600, 601], SocketType::DGRAM);
    send(&far, b"x", SendFlags::empty()).unwrap();
    sockopt::set_socket_passcred(&far, true).unwrap();
    let restored = again(vec![near, far]);
    let far = &restored.descriptors[&601];
    assert!(sockopt::socket_passcred(far).unwrap());
    assert!(getsockname(far).unwrap().addr_len() as usize <= size_of::<u16>());
    drop(restored);

    // A buffer that only root may make so large.
    let (near, far) = pair([600, 601], SocketType::STREAM);
    if sockopt::set_socket_send_buffer_size_force(&far, 8 << 20).is_ok() {
        let size = sockopt::socket_send_buffer_size(&far).unwrap();
        // The kernel counts more for them than there is room by their size.
        for _ in 0..10_000 {
            send(&far, b"x", SendFlags::DONTWAIT).unwrap();
        }
        let restored = again(vec![near, far]);
        let far = &restored.descriptors[&601];
        assert_eq!(sockopt::socket_send_buffer_size(far), Ok(size));
    }
}

/// One that cannot be restored is no reason to have no image.
#[test]
fn what_cannot_be_restored_is_named() {
    let Some(_alone) = alone() else { return };
    let (near, far) = pair([600, 601], SocketType::DGRAM);
    // See connect(2): it has no peer any more, and the other one does not know.
    let nobody = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let len = size_of_val(&nobody.sa_family) as libc::socklen_t;
    // SAFETY: `nobody` is as long as that, and longer.
    let ret = unsafe { libc::connect(near.as_raw_fd(), &raw const nobody, len) };
    assert_eq!(ret, 0);
    send(&far, b"x", SendFlags::empty()).unwrap();
    let said = why(&dump(), 600).map(str::to_owned);
    let expected = "it has messages of a socket that it is not connected to";
    assert_eq!(said.as_deref(), Some(expected));
    drop((near, far));

    // The mark is not where it can be asked for.
    let (near, far) = pair([600, 601], SocketType::STREAM);
    send(&far, b"data", SendFlags::empty()).unwrap();
    if send(&far, b"!", SendFlags::OOB) != Err(Errno::OPNOTSUPP) {
        send(&far, b"more", SendFlags::empty()).unwrap();
        recv(&near, &mut [0; 1][..], RecvFlags::OOB).unwrap();
        // Older kernels peek past it.
        let (peeked, _) = recv(&near, &mut [0; 16][..], RecvFlags::PEEK).unwrap();
        let said = why(&dump(), 600).map(str::to_owned);
        let expected = "it has the mark of data that were sent out of band (MSG_OOB)";
        assert_eq!(said.as_deref(), (peeked == 4).then_some(expected));
    }

    flock(&near, FlockOperation::LockExclusive).unwrap();
    let image = dump();
    let found = image.descriptors.iter().find(|d| d.number == 600).unwrap();
    assert_eq!(image.files[found.file as usize].locks, Some(1));
}
