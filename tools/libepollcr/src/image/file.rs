// SPDX-License-Identifier: GPL-2.0

//! Open file descriptions.

use super::check;
use crate::types::{
    Clock, DeviceNumber, Directions, Opener, Owner, PipeEnds, SocketKind, TimerFlags, duration,
};
use minicbor::{Decode, Encode};
use std::net::SocketAddr;
use std::time::Duration;

/// An open file description.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[non_exhaustive]
pub struct OpenFile {
    /// What kind of file it is, and its state.
    #[n(0)]
    pub kind: Kind,
    /// Access mode and status flags (`O_*`), as `F_GETFL` returns them.
    #[n(1)]
    pub flags: u32,
    /// What the link in `/proc/PID/fd` showed, for people.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub link: Vec<u8>,
    /// The receiver of its signals.
    #[n(3)]
    pub owner: Option<Owner>,
    /// The user and group that opened the file.
    #[n(4)]
    pub opener: Option<Opener>,
    /// How many locks and leases are held through it. They are not restored.
    #[n(5)]
    pub locks: Option<u32>,
}

/// The kind of an open file, and its state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Kind {
    /// A file that can be opened by its path: a regular file, a directory, a device; any
    /// file that was opened with `O_PATH`.
    #[n(0)]
    Path {
        /// The file.
        #[n(0)]
        place: Place,
        /// The file position, in bytes.
        #[n(1)]
        position: u64,
    },
    /// A pipe or a FIFO. The access mode says which end.
    #[n(1)]
    Pipe {
        /// An index of [`Image::pipes`](super::Image::pipes).
        #[n(0)]
        pipe: u32,
    },
    /// A counter, see eventfd(2).
    #[n(2)]
    EventFd {
        /// The value.
        #[n(0)]
        count: u64,
        /// Whether read(2) decrements the value by one (`EFD_SEMAPHORE`).
        #[n(1)]
        semaphore: bool,
    },
    /// A timer, see timerfd_create(2).
    #[n(3)]
    TimerFd(#[n(0)] Timer),
    /// A set of signals, see signalfd(2).
    #[n(4)]
    SignalFd {
        /// The set: bit n - 1 is signal n.
        #[n(0)]
        mask: u64,
    },
    /// A unix socket without an address, see socketpair(2).
    #[n(5)]
    Socket(#[n(0)] Socket),
    /// An epoll instance.
    #[n(6)]
    Epoll {
        /// The interest list, in the order of the kernel.
        #[n(0)]
        items: Vec<Item>,
    },
    /// A file of memory, see memfd_create(2).
    #[n(8)]
    Memory {
        /// An index of [`Image::memories`](super::Image::memories).
        #[n(0)]
        memory: u32,
        /// The file position, in bytes.
        #[n(1)]
        position: u64,
    },
    /// A TCP socket that waits for connections, and has none that was not accepted.
    #[n(9)]
    Listener(#[n(0)] Listener),
    /// The process itself, see pidfd_open(2).
    #[n(10)]
    PidFd,
    /// A file that cannot be restored.
    #[n(7)]
    Other {
        /// Why it cannot, as the end of a sentence.
        #[n(0)]
        why: String,
    },
}

/// A file in a file system.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[non_exhaustive]
pub struct Place {
    /// The absolute path.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub path: Vec<u8>,
    /// Type and permissions: `st_mode` of stat(2).
    #[n(1)]
    pub mode: u32,
    /// The device that has the inode.
    #[n(2)]
    pub device: DeviceNumber,
    /// The number of the inode.
    #[n(3)]
    pub inode: u64,
    /// The device that a device file stands for.
    #[n(4)]
    pub special: Option<DeviceNumber>,
    /// Whether the file was unlinked.
    #[n(5)]
    pub unlinked: bool,
}

/// A pipe or a FIFO.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[non_exhaustive]
pub struct Pipe {
    /// The capacity, in bytes: `F_GETPIPE_SZ` of fcntl(2).
    #[n(0)]
    pub capacity: u32,
    /// The contents: one piece, or each packet if the pipe is in packet mode.
    #[cbor(n(1), decode_with = "check::pieces")]
    pub data: Vec<Bytes>,
    /// The path of a FIFO.
    #[n(2)]
    pub place: Option<Place>,
    /// Ends that are open, but not in the image.
    #[n(3)]
    pub elsewhere: PipeEnds,
    /// Whether the contents are packets. If it is not known, as in older images, they are
    /// if there are several, or if a write end has `O_DIRECT`.
    #[n(4)]
    pub packets: Option<bool>,
}

/// A file of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[non_exhaustive]
pub struct Memory {
    /// The name that it was created with.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub name: Vec<u8>,
    /// The length, in bytes.
    #[n(1)]
    pub length: u64,
    /// The contents, ascending; zeros where there are none.
    #[n(2)]
    pub data: Vec<Extent>,
    /// `F_GET_SEALS` of fcntl(2).
    #[n(3)]
    pub seals: u32,
    /// The permissions: the lower bits of `st_mode` of stat(2).
    #[n(4)]
    pub mode: u32,
}

/// A part of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Extent {
    /// Where it begins, in bytes.
    #[n(0)]
    pub offset: u64,
    /// Its contents.
    #[n(1)]
    pub data: Bytes,
}

/// A byte string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Bytes(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

/// A timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub struct Timer {
    /// The clock.
    #[n(0)]
    pub clock: Clock,
    /// How many times it has expired since it was last read.
    #[n(1)]
    pub ticks: u64,
    /// How it was set.
    #[n(2)]
    pub flags: TimerFlags,
    /// The time until it expires; zero if it is disarmed.
    #[cbor(n(3), with = "duration")]
    pub value: Duration,
    /// The time from one expiration to the next; zero if it does not repeat.
    #[cbor(n(4), with = "duration")]
    pub interval: Duration,
}

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

/// A target of an epoll instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Item {
    /// The descriptor that the file was added by. It may be closed, or refer to another
    /// file.
    #[n(0)]
    pub tfd: u32,
    /// The open file: an index of [`Image::files`](super::Image::files).
    #[n(1)]
    pub file: u32,
    /// The events and flags (`EPOLL*`). Only flags are left of an `EPOLLONESHOT` target
    /// that has fired.
    #[n(2)]
    pub events: u32,
    /// What epoll_wait(2) returns with an event.
    #[n(3)]
    pub data: u64,
    /// Whether the target was on the ready list.
    #[n(4)]
    pub ready: bool,
    /// Whether `ready` is assumed: the dump could not see the ready list, and the file had
    /// an event. If it was reported before, it is reported once more after the restore.
    #[n(5)]
    pub guessed: Option<bool>,
}

impl OpenFile {
    /// An open file with these flags (`O_*`), and nothing else that is known of it.
    pub const fn new(kind: Kind, flags: u32) -> Self {
        Self {
            kind,
            flags,
            link: Vec::new(),
            owner: None,
            opener: None,
            locks: None,
        }
    }

    /// Whether it was opened with `O_PATH`, and can be neither read nor written.
    pub const fn is_path_only(&self) -> bool {
        self.flags & libc::O_PATH as u32 != 0
    }
}

impl Place {
    /// A file of this type and these permissions, without what identifies the inode.
    pub fn new(path: impl Into<Vec<u8>>, mode: u32) -> Self {
        Self {
            path: path.into(),
            mode,
            device: DeviceNumber::default(),
            inode: 0,
            special: None,
            unlinked: false,
        }
    }
}

impl Pipe {
    /// An empty pipe of this capacity in bytes, with both ends in the image.
    pub const fn new(capacity: u32) -> Self {
        Self {
            capacity,
            data: Vec::new(),
            place: None,
            elsewhere: PipeEnds::empty(),
            packets: None,
        }
    }

    /// Returns how many bytes are in it.
    pub fn size(&self) -> usize {
        self.data.iter().map(|data| data.0.len()).sum()
    }
}

impl Memory {
    /// Returns how many bytes of contents there are, without holes.
    pub fn size(&self) -> usize {
        self.data.iter().map(|extent| extent.data.0.len()).sum()
    }
}

impl Timer {
    /// A timer that is disarmed.
    pub const fn new(clock: Clock) -> Self {
        Self {
            clock,
            ticks: 0,
            flags: TimerFlags::empty(),
            value: Duration::ZERO,
            interval: Duration::ZERO,
        }
    }
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

impl Kind {
    /// Returns the name of the kind, as the tool shows it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Path { place, .. } => match place.mode & libc::S_IFMT {
                libc::S_IFREG => "file",
                libc::S_IFDIR => "directory",
                libc::S_IFCHR | libc::S_IFBLK => "device",
                _ => "path",
            },
            Self::Pipe { .. } => "pipe",
            Self::EventFd { .. } => "eventfd",
            Self::TimerFd(_) => "timerfd",
            Self::SignalFd { .. } => "signalfd",
            Self::Socket(_) => "socket",
            Self::Epoll { .. } => "epoll",
            Self::Memory { .. } => "memfd",
            Self::Listener(_) => "listener",
            Self::PidFd => "pidfd",
            Self::Other { .. } => "other",
        }
    }
}
