// SPDX-License-Identifier: GPL-2.0

//! What a dump holds: open files, the descriptors that mean them, epoll sets.
//!
//! `Documentation/epollcr-image.rst` has the schema. An image is read with
//! [`Image::read`], which refuses whatever does not hold together, so that the
//! code that uses one need not ask again. It never panics, and never needs much
//! more memory than the image has bytes.

mod check;
mod codec;

pub use check::Invalid;
pub(crate) use check::{FLAGS, check_alone};
pub use codec::{Error, VERSION};

use minicbor::{Decode, Encode};

/// A dump of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Image {
    /// Where and when it was made.
    #[n(0)]
    pub origin: Origin,
    /// Open files, each once. Whatever refers to one has its index here.
    #[n(1)]
    pub files: Vec<OpenFile>,
    /// The table of descriptors, ascending.
    #[n(2)]
    pub descriptors: Vec<Descriptor>,
    /// Pipes and FIFOs, which several files can have open.
    #[n(3)]
    pub pipes: Vec<Pipe>,
}

/// Where an image comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Origin {
    /// The process.
    #[n(0)]
    pub pid: u32,
    /// Its name.
    #[n(1)]
    pub command: String,
    /// The kernel's release.
    #[n(2)]
    pub kernel: String,
    /// Seconds since 1970.
    #[n(3)]
    pub time: u64,
    /// The process was not stopped: what is here need never have been so at any
    /// one time.
    #[n(4)]
    pub running: bool,
}

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Descriptor {
    /// Its number.
    #[n(0)]
    pub number: u32,
    /// The open file.
    #[n(1)]
    pub file: u32,
    /// Whether exec closes it.
    #[n(2)]
    pub cloexec: bool,
}

/// An open file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OpenFile {
    /// What it is.
    #[n(0)]
    pub kind: Kind,
    /// Access mode and status flags, as `F_GETFL` tells them.
    #[n(1)]
    pub flags: u32,
    /// What the link in `/proc/PID/fd` says, for people.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub link: Vec<u8>,
    /// Who gets a signal when it is ready (`F_SETOWN`).
    #[n(3)]
    pub owner: Option<Owner>,
    /// User and group that it was opened as.
    #[n(4)]
    pub opener: Option<Opener>,
    /// How many locks and leases there are on it, all of which will be lost.
    #[n(5)]
    pub locks: Option<u32>,
}

/// Who gets signals of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Owner {
    /// What `id` is: `F_OWNER_TID`, `F_OWNER_PID` or `F_OWNER_PGRP`.
    #[n(0)]
    pub kind: u32,
    /// The thread, process or group; 0 is nobody.
    #[n(1)]
    pub id: u32,
    /// Which signal; 0 is SIGIO.
    #[n(2)]
    pub signal: u32,
}

/// User and group that a file was opened as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Opener {
    /// The user.
    #[n(0)]
    pub uid: u32,
    /// The group.
    #[n(1)]
    pub gid: u32,
}

/// What an open file is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Kind {
    /// Something that has a path, and can be opened again: a regular file, a
    /// directory, a device; any file if it was opened with `O_PATH`.
    #[n(0)]
    Path {
        /// Where it is.
        #[n(0)]
        place: Place,
        /// The position in it.
        #[n(1)]
        position: u64,
    },
    /// A pipe or a FIFO; the access mode tells which end.
    #[n(1)]
    Pipe {
        /// Its index in [`Image::pipes`].
        #[n(0)]
        pipe: u32,
    },
    /// A counter, see eventfd(2).
    #[n(2)]
    EventFd {
        /// Its value.
        #[n(0)]
        count: u64,
        /// Whether each read takes one.
        #[n(1)]
        semaphore: bool,
    },
    /// A timer, see timerfd_create(2).
    #[n(3)]
    TimerFd(#[n(0)] Timer),
    /// Signals, see signalfd(2).
    #[n(4)]
    SignalFd {
        /// Bit n - 1 is signal n.
        #[n(0)]
        mask: u64,
    },
    /// An unnamed unix socket, see socketpair(2).
    #[n(5)]
    Socket(#[n(0)] Socket),
    /// An epoll set.
    #[n(6)]
    Epoll {
        /// What it watches, in the order of the kernel.
        #[n(0)]
        items: Vec<Item>,
    },
    /// Anything else, of which nothing is known but its name.
    #[n(7)]
    Other {
        /// What keeps it from being recreated, as the rest of a sentence.
        #[n(0)]
        why: String,
    },
}

/// A file in a file system.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Place {
    /// Its path.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub path: Vec<u8>,
    /// Type and permissions.
    #[n(1)]
    pub mode: u32,
    /// The device that it is on: major and minor number.
    #[n(2)]
    pub device: (u32, u32),
    /// Its inode.
    #[n(3)]
    pub inode: u64,
    /// The device that it is, if it is one.
    #[n(4)]
    pub special: Option<(u32, u32)>,
    /// No directory has it any more.
    #[n(5)]
    pub unlinked: bool,
}

/// A pipe or a FIFO.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pipe {
    /// How much can be in it.
    #[n(0)]
    pub capacity: u32,
    /// What is in it: one piece, or the packets of a pipe in packet mode.
    #[cbor(n(1), decode_with = "check::pieces")]
    pub data: Vec<Bytes>,
    /// Where the FIFO is.
    #[n(2)]
    pub place: Option<Place>,
    /// An end that is open, but not in the image: 1 for reading, 2 for writing.
    #[n(3)]
    pub elsewhere: u32,
}

/// Bytes, as CBOR has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Bytes(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

/// A timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Timer {
    /// The clock, see clock_gettime(2).
    #[n(0)]
    pub clock: u32,
    /// How often it has expired since it was read.
    #[n(1)]
    pub ticks: u64,
    /// `TFD_TIMER_ABSTIME`, `TFD_TIMER_CANCEL_ON_SET`.
    #[n(2)]
    pub flags: u32,
    /// How long until it expires, in seconds and nanoseconds; 0 if it is off.
    #[n(3)]
    pub value: (u64, u32),
    /// How long from then to the next time; 0 if there is none.
    #[n(4)]
    pub interval: (u64, u32),
}

/// An unnamed unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Socket {
    /// `SOCK_STREAM`, `SOCK_DGRAM` or `SOCK_SEQPACKET`.
    #[n(0)]
    pub kind: u32,
    /// The one that it is connected to.
    #[n(1)]
    pub peer: Peer,
    /// What was shut down: 1 reading, 2 writing.
    #[n(2)]
    pub shutdown: u32,
    /// What was sent to it and not received yet.
    #[n(3)]
    pub queue: Vec<Message>,
    /// `SO_SNDBUF` and `SO_RCVBUF`, as getsockopt(2) tells them.
    #[n(4)]
    pub buffers: (u32, u32),
    /// `SO_PASSCRED`
    #[n(5)]
    pub passcred: bool,
}

/// The other end of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Peer {
    /// A file of the image.
    #[n(0)]
    File(#[n(0)] u32),
    /// It was closed.
    #[n(1)]
    Closed,
    /// A socket that is not in the image.
    #[n(2)]
    Elsewhere,
    /// There has been none yet.
    #[n(3)]
    Nobody,
}

/// A message that was sent and not received yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Message {
    /// What it says.
    #[n(0)]
    pub data: Bytes,
    /// The open files that go with it (`SCM_RIGHTS`).
    #[cbor(n(1), decode_with = "check::passed")]
    pub files: Vec<u32>,
}

/// What an epoll set watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Item {
    /// The number that it was added by.
    #[n(0)]
    pub tfd: u32,
    /// The open file.
    #[n(1)]
    pub file: u32,
    /// What is waited for, to the bit: a oneshot that has reported waits for
    /// nothing.
    #[n(2)]
    pub events: u32,
    /// What comes with an event.
    #[n(3)]
    pub data: u64,
    /// Whether it was due to be reported.
    #[n(4)]
    pub ready: bool,
}

impl Image {
    /// The numbers of an open file, ascending, for all of them at once.
    pub fn numbers(&self) -> Vec<Vec<u32>> {
        let mut numbers = vec![Vec::new(); self.files.len()];
        for descriptor in &self.descriptors {
            if let Some(numbers) = numbers.get_mut(descriptor.file as usize) {
                numbers.push(descriptor.number);
            }
        }
        numbers
    }

    /// How many items the epoll sets have.
    pub fn items(&self) -> usize {
        self.files
            .iter()
            .map(|file| match &file.kind {
                Kind::Epoll { items } => items.len(),
                _ => 0,
            })
            .sum()
    }
}

impl OpenFile {
    /// Whether it can be read or written at all.
    pub fn is_path_only(&self) -> bool {
        self.flags & libc::O_PATH as u32 != 0
    }
}

impl Kind {
    /// What it is called.
    pub fn name(&self) -> &'static str {
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
            Self::Other { .. } => "other",
        }
    }
}
