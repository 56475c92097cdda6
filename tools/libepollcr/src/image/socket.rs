// SPDX-License-Identifier: GPL-2.0

//! Sockets, their options, and the messages in them.

use super::bytes::Bytes;
use super::check;
use crate::types::{Directions, SocketKind};
use minicbor::{Decode, Encode};
use std::net::SocketAddr;

/// A unix socket without an address.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[non_exhaustive]
pub struct Socket {
    /// The type.
    #[n(0)]
    pub kind: SocketKind,
    /// The socket that it is connected to.
    #[n(1)]
    pub peer: Peer,
    /// The directions that were shut down.
    #[n(2)]
    pub shutdown: Directions,
    /// Messages that were sent to the socket and not received yet.
    #[n(3)]
    pub queue: Vec<Message>,
    /// The sizes of its buffers.
    #[n(4)]
    pub buffers: Buffers,
    /// Whether messages come with the credentials of their sender: `SO_PASSCRED`.
    #[n(5)]
    pub passcred: bool,
    /// Other options that are not as in a new socket.
    #[n(6)]
    pub options: Option<Vec<SocketOption>>,
    /// Whether the next system call is to fail with `ECONNRESET`: the peer was closed, and
    /// had not received everything.
    #[n(7)]
    pub reset: Option<bool>,
}

/// A TCP socket that waits for connections, see listen(2).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[non_exhaustive]
pub struct Listener {
    /// The address, such as `127.0.0.1:80` or `[::]:80`.
    #[n(0)]
    pub address: String,
    /// How many connections can wait to be accepted.
    #[n(1)]
    pub backlog: u32,
    /// The options that are not as in a new socket.
    #[n(2)]
    pub options: Vec<SocketOption>,
}

impl Listener {
    /// A socket with this address and this backlog.
    pub fn new(address: SocketAddr, backlog: u32) -> Self {
        Self {
            address: address.to_string(),
            backlog,
            options: Vec::new(),
        }
    }

    /// The options that are kept, by level and name, and the sizes of their values.
    pub(crate) const KEPT: [(i32, i32, usize); 66] = {
        use libc::{IPPROTO_IP as IP, IPPROTO_IPV6 as IPV6, IPPROTO_TCP as TCP, SOL_SOCKET};

        const INT: usize = size_of::<i32>();
        const LONG: usize = size_of::<libc::c_ulong>();
        const TIME: usize = size_of::<libc::timeval>();
        const NAME: usize = 16;
        const BINDTOIFINDEX: i32 = 62;
        const TIMESTAMP_NEW: i32 = 63;
        const TIMESTAMPNS_NEW: i32 = 64;
        const PREFER_BUSY_POLL: i32 = 69;
        const TXREHASH: i32 = 74;
        const RCVMARK: i32 = 75;
        const IPV6_ADDR_PREFERENCES: i32 = 72;
        const IPV6_MINHOPCOUNT: i32 = 73;
        const IPV6_TRANSPARENT: i32 = 75;
        const IPV6_FREEBIND: i32 = 78;
        const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
        const TCP_INQ: i32 = 36;
        const TCP_TX_DELAY: i32 = 37;
        [
            (SOL_SOCKET, libc::SO_REUSEADDR, INT),
            (SOL_SOCKET, libc::SO_REUSEPORT, INT),
            (SOL_SOCKET, libc::SO_KEEPALIVE, INT),
            (SOL_SOCKET, libc::SO_LINGER, size_of::<libc::linger>()),
            (SOL_SOCKET, libc::SO_PRIORITY, INT),
            (SOL_SOCKET, libc::SO_MARK, INT),
            (SOL_SOCKET, libc::SO_SNDBUF, INT),
            (SOL_SOCKET, libc::SO_RCVBUF, INT),
            (SOL_SOCKET, libc::SO_RCVLOWAT, INT),
            (SOL_SOCKET, libc::SO_RCVTIMEO, TIME),
            (SOL_SOCKET, libc::SO_SNDTIMEO, TIME),
            (SOL_SOCKET, libc::SO_OOBINLINE, INT),
            (SOL_SOCKET, libc::SO_TIMESTAMP, INT),
            (SOL_SOCKET, libc::SO_TIMESTAMPNS, INT),
            (SOL_SOCKET, TIMESTAMP_NEW, INT),
            (SOL_SOCKET, TIMESTAMPNS_NEW, INT),
            (SOL_SOCKET, libc::SO_TIMESTAMPING, INT),
            (SOL_SOCKET, libc::SO_BUSY_POLL, INT),
            (SOL_SOCKET, PREFER_BUSY_POLL, INT),
            (SOL_SOCKET, libc::SO_INCOMING_CPU, INT),
            (SOL_SOCKET, libc::SO_MAX_PACING_RATE, LONG),
            (SOL_SOCKET, libc::SO_ZEROCOPY, INT),
            (SOL_SOCKET, libc::SO_DONTROUTE, INT),
            (SOL_SOCKET, TXREHASH, INT),
            (SOL_SOCKET, RCVMARK, INT),
            (SOL_SOCKET, BINDTOIFINDEX, INT),
            (IP, libc::IP_TOS, INT),
            (IP, libc::IP_TTL, INT),
            (IP, libc::IP_MINTTL, INT),
            (IP, libc::IP_MTU_DISCOVER, INT),
            (IP, libc::IP_RECVERR, INT),
            (IP, libc::IP_PKTINFO, INT),
            (IP, libc::IP_RECVTOS, INT),
            (IP, libc::IP_BIND_ADDRESS_NO_PORT, INT),
            (IP, libc::IP_FREEBIND, INT),
            (IP, libc::IP_TRANSPARENT, INT),
            (IPV6, libc::IPV6_V6ONLY, INT),
            (IPV6, libc::IPV6_TCLASS, INT),
            (IPV6, libc::IPV6_UNICAST_HOPS, INT),
            (IPV6, libc::IPV6_MTU_DISCOVER, INT),
            (IPV6, libc::IPV6_RECVPKTINFO, INT),
            (IPV6, libc::IPV6_RECVTCLASS, INT),
            (IPV6, libc::IPV6_AUTOFLOWLABEL, INT),
            (IPV6, IPV6_ADDR_PREFERENCES, INT),
            (IPV6, IPV6_MINHOPCOUNT, INT),
            (IPV6, IPV6_TRANSPARENT, INT),
            (IPV6, IPV6_FREEBIND, INT),
            (TCP, libc::TCP_NODELAY, INT),
            (TCP, libc::TCP_CORK, INT),
            (TCP, libc::TCP_MAXSEG, INT),
            (TCP, libc::TCP_KEEPIDLE, INT),
            (TCP, libc::TCP_KEEPINTVL, INT),
            (TCP, libc::TCP_KEEPCNT, INT),
            (TCP, libc::TCP_SYNCNT, INT),
            (TCP, libc::TCP_LINGER2, INT),
            (TCP, libc::TCP_WINDOW_CLAMP, INT),
            (TCP, libc::TCP_DEFER_ACCEPT, INT),
            (TCP, libc::TCP_USER_TIMEOUT, INT),
            (TCP, libc::TCP_THIN_LINEAR_TIMEOUTS, INT),
            (TCP, libc::TCP_NOTSENT_LOWAT, INT),
            (TCP, libc::TCP_SAVE_SYN, INT),
            (TCP, libc::TCP_FASTOPEN, INT),
            (TCP, TCP_FASTOPEN_NO_COOKIE, INT),
            (TCP, libc::TCP_CONGESTION, NAME),
            (TCP, TCP_INQ, INT),
            (TCP, TCP_TX_DELAY, INT),
        ]
    };
}

/// An option of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub struct SocketOption {
    /// `SO_*`, or what the level has, of this machine.
    #[n(0)]
    pub name: u32,
    /// The value, as getsockopt(2) returns it.
    #[n(1)]
    pub value: Bytes,
    /// The level, such as `IPPROTO_TCP`; `None` for `SOL_SOCKET`.
    #[n(2)]
    pub level: Option<u32>,
}

impl SocketOption {
    /// An option of `SOL_SOCKET`.
    pub const fn new(name: u32, value: Bytes) -> Self {
        Self {
            name,
            value,
            level: None,
        }
    }

    /// Level and name, as getsockopt(2) takes them.
    pub(crate) fn place(&self) -> (i32, i32) {
        let level = self.level.map_or(libc::SOL_SOCKET, |level| level as i32);
        (level, self.name as i32)
    }

    /// The options of unix sockets that are kept, and their values in a new one.
    pub(crate) const KEPT: [(i32, &'static [u8]); 12] = {
        const NO: &[u8] = &0i32.to_ne_bytes();
        const YES: &[u8] = &1i32.to_ne_bytes();
        const NOWHERE: &[u8] = &(-1i32).to_ne_bytes();
        const NO_TIME: &[u8] = &[0; size_of::<libc::timeval>()];
        const TIMESTAMP_NEW: i32 = 63;
        const TIMESTAMPNS_NEW: i32 = 64;
        const PASSPIDFD: i32 = 76;
        const PASSRIGHTS: i32 = 83;
        [
            (libc::SO_PEEK_OFF, NOWHERE),
            (libc::SO_RCVLOWAT, YES),
            (libc::SO_RCVTIMEO, NO_TIME),
            (libc::SO_SNDTIMEO, NO_TIME),
            (libc::SO_OOBINLINE, NO),
            (libc::SO_TIMESTAMP, NO),
            (libc::SO_TIMESTAMPNS, NO),
            (TIMESTAMP_NEW, NO),
            (TIMESTAMPNS_NEW, NO),
            (libc::SO_PASSSEC, NO),
            (PASSPIDFD, NO),
            (PASSRIGHTS, YES),
        ]
    };
}

/// The sizes of a socket's buffers, in bytes, as getsockopt(2) returns them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Buffers {
    /// `SO_SNDBUF`
    #[n(0)]
    pub send: u32,
    /// `SO_RCVBUF`
    #[n(1)]
    pub receive: u32,
}

/// The socket that another one is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Peer {
    /// An open file: an index of [`Image::files`](super::Image::files).
    #[n(0)]
    File(#[n(0)] u32),
    /// A socket that was closed.
    #[n(1)]
    Closed,
    /// A socket that is not in the image.
    #[n(2)]
    Elsewhere,
    /// None: the socket was never connected.
    #[n(3)]
    Nobody,
}

/// A message that was sent and not received yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Message {
    /// Its data.
    #[n(0)]
    pub data: Bytes,
    /// The open files that come with it (`SCM_RIGHTS`): indexes of
    /// [`Image::files`](super::Image::files).
    #[cbor(n(1), decode_with = "check::passed")]
    pub files: Vec<u32>,
}

impl Socket {
    /// A socket that nothing was sent to, and whose buffers have these sizes.
    pub const fn new(kind: SocketKind, peer: Peer, buffers: Buffers) -> Self {
        Self {
            kind,
            peer,
            shutdown: Directions::empty(),
            queue: Vec::new(),
            buffers,
            passcred: false,
            options: None,
            reset: None,
        }
    }
}
