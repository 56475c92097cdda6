// SPDX-License-Identifier: GPL-2.0

//! Open file descriptions.

use super::bytes::Bytes;
use super::check;
use super::socket::{Listener, Socket};
use crate::types::{
    Clock, DeviceNumber, Opener, Owner, PRIVATE_BITS, PipeEnds, TimerFlags, duration,
};
use minicbor::{Decode, Encode};
use rustix::fs::Stat;
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
    /// What poll(2) returned of a pipe (`POLL*`), so that the restore notices if it gives the
    /// pipe an event that it did not have. `None` if that is not known, as in older images.
    #[n(6)]
    pub events: Option<u32>,
}

/// The kind of an open file, and its state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
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
    /// An inotify instance without events, see inotify(7).
    #[n(11)]
    Inotify {
        /// What it watches, by ascending watch descriptor.
        #[n(0)]
        watches: Vec<Watch>,
    },
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
    /// Who owns it, if that is known.
    #[n(5)]
    pub owner: Option<Opener>,
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

/// A watch of an inotify instance.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub struct Watch {
    /// The watch descriptor, as inotify_add_watch(2) returned it.
    #[n(0)]
    pub wd: u32,
    /// The events (`IN_*`), and the flags `IN_EXCL_UNLINK` and `IN_ONESHOT`.
    #[n(1)]
    pub mask: u32,
    /// The file or directory.
    #[n(2)]
    pub place: Place,
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
            events: None,
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

    /// The file that this is the state of.
    pub(crate) fn of(path: impl Into<Vec<u8>>, stat: &Stat) -> Self {
        let is_device = matches!(stat.st_mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
        Self {
            device: DeviceNumber::of(stat.st_dev),
            inode: stat.st_ino,
            special: is_device.then(|| DeviceNumber::of(stat.st_rdev)),
            ..Self::new(path, stat.st_mode)
        }
    }
}

impl Watch {
    /// The events, and the flags of inotify_add_watch(2) that stay.
    pub(crate) const MASK: u32 = libc::IN_ALL_EVENTS | libc::IN_EXCL_UNLINK | libc::IN_ONESHOT;

    /// A watch of a file or directory.
    pub const fn new(wd: u32, mask: u32, place: Place) -> Self {
        Self { wd, mask, place }
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

impl Item {
    /// Whether this is a oneshot that has fired.
    pub(crate) const fn has_fired(&self) -> bool {
        self.events & !PRIVATE_BITS == 0
    }

    /// Whether it reports one event, and is disarmed then.
    pub(crate) const fn is_oneshot(&self) -> bool {
        self.events & libc::EPOLLONESHOT as u32 != 0
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
            Self::Inotify { .. } => "inotify",
            Self::Other { .. } => "other",
        }
    }
}
