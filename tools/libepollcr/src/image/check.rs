// SPDX-License-Identifier: GPL-2.0

//! Consistency of an image.

use super::{
    Bytes, Image, Item, Kind, Listener, Memory, OpenFile, Peer, Pipe, Place, Socket, SocketOption,
    Timer, Watch,
};
use crate::types::SocketKind;
use minicbor::{Decoder, decode};
use std::net::SocketAddr;

/// A contradiction in an image, as a clause that names the place. It has no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

type Result = std::result::Result<(), Invalid>;

/// Fails unless `good`.
fn ensure(good: bool, why: impl FnOnce() -> String) -> Result {
    if good { Ok(()) } else { Err(Invalid(why())) }
}

/// The status flags that open(2) takes and `F_GETFL` returns. `O_LARGEFILE`, which the
/// kernel sets by itself, is 0 in the libc of 64-bit systems.
pub(crate) const FLAGS: u32 = (libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_DSYNC
    | libc::O_SYNC
    | libc::O_ASYNC
    | libc::O_DIRECT
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_PATH) as u32
    | LARGEFILE;
/// `O_LARGEFILE` of `asm/fcntl.h`.
const LARGEFILE: u32 = if cfg!(any(target_arch = "arm", target_arch = "aarch64")) {
    0o400_000
} else if cfg!(any(target_arch = "powerpc", target_arch = "powerpc64")) {
    0o200_000
} else if cfg!(any(target_arch = "mips", target_arch = "mips64")) {
    0x2000
} else if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) {
    0x40000
} else {
    0o100_000
};

/// The largest capacity of a pipe, in bytes: 2 GiB and more is a negative argument of
/// `F_SETPIPE_SZ`, and the kernel rounds up to a power of two.
const CAPACITY: u32 = 1 << 30;
/// How many files can come with one message: `SCM_MAX_FD`.
const PASSED: usize = 253;
const PATH_MAX: usize = 4096;
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;
/// The events that epoll_ctl(2) allows beside `EPOLLEXCLUSIVE`.
const WITH_EXCLUSIVE: u32 = EXCLUSIVE
    | (libc::EPOLLIN
        | libc::EPOLLOUT
        | libc::EPOLLERR
        | libc::EPOLLHUP
        | libc::EPOLLWAKEUP
        | libc::EPOLLET) as u32;

/// Decodes the contents of a pipe. Stops once they exceed what a pipe can hold.
pub(super) fn pieces<Context>(
    decoder: &mut Decoder<'_>,
    context: &mut Context,
) -> std::result::Result<Vec<Bytes>, decode::Error> {
    let mut pieces = Vec::new();
    let mut size = 0usize;
    for piece in decoder.array_iter_with::<Context, Bytes>(context)? {
        let piece = piece?;
        if piece.0.is_empty() {
            return Err(decode::Error::message("a packet in a pipe is empty"));
        }
        size = size.saturating_add(piece.0.len());
        if size > CAPACITY as usize {
            return Err(decode::Error::message(
                "the contents of a pipe exceed its capacity",
            ));
        }
        pieces.push(piece);
    }
    Ok(pieces)
}

/// Decodes the files of a message. Stops once there are more than can come with one.
pub(super) fn passed<Context>(
    decoder: &mut Decoder<'_>,
    context: &mut Context,
) -> std::result::Result<Vec<u32>, decode::Error> {
    let mut files = Vec::new();
    for file in decoder.array_iter_with::<Context, u32>(context)? {
        if files.len() == PASSED {
            return Err(decode::Error::message("a message has too many files"));
        }
        files.push(file?);
    }
    Ok(files)
}

impl Image {
    /// Checks that all references are valid, and that the kernel can have shown each
    /// value.
    pub(super) fn check(&self) -> Result {
        ensure(self.files.len() <= i32::MAX as usize, || {
            "it has more files than descriptors can refer to".into()
        })?;
        ensure(self.origin.pid >= 0, || {
            format!("{} is not the id of a process", self.origin.pid)
        })?;
        self.check_descriptors()?;
        for (index, pipe) in self.pipes.iter().enumerate() {
            check_pipe(pipe).map_err(|error| Invalid(format!("pipe {index}: {error}")))?;
        }
        for (index, memory) in self.memories.iter().enumerate() {
            check_memory(memory).map_err(|error| Invalid(format!("memory {index}: {error}")))?;
        }
        for index in 0..self.files.len() {
            self.check_file(index)
                .map_err(|error| Invalid(format!("file {index}: {error}")))?;
        }
        match self.innermost_first() {
            Ok(_) => Ok(()),
            Err(file) => Err(Invalid(format!("epoll instance {file} is its own target"))),
        }
    }

    fn check_descriptors(&self) -> Result {
        let mut last = None;
        for descriptor in &self.descriptors {
            let number = descriptor.number;
            ensure(number <= i32::MAX as u32, || {
                format!("{number} is too large for a descriptor")
            })?;
            ensure(last < Some(number), || {
                format!("descriptor {number} is not in ascending order")
            })?;
            last = Some(number);
            self.refers(descriptor.file)
                .map_err(|error| Invalid(format!("descriptor {number}: {error}")))?;
        }
        Ok(())
    }

    fn refers(&self, file: u32) -> Result {
        ensure((file as usize) < self.files.len(), || {
            format!("there is no file {file}")
        })
    }

    fn check_file(&self, index: usize) -> Result {
        let file = &self.files[index];
        check_alone(file)?;
        match &file.kind {
            Kind::Pipe { pipe } => ensure((*pipe as usize) < self.pipes.len(), || {
                format!("there is no pipe {pipe}")
            }),
            Kind::Socket(socket) => self.check_socket(index, socket),
            Kind::Epoll { items } => self.check_items(items),
            Kind::Memory { memory, .. } => ensure((*memory as usize) < self.memories.len(), || {
                format!("there is no memory {memory}")
            }),
            _ => Ok(()),
        }
    }

    fn check_socket(&self, index: usize, socket: &Socket) -> Result {
        if let Peer::File(peer) = socket.peer {
            self.refers(peer)?;
            let mutual = match &self.files[peer as usize].kind {
                Kind::Socket(other) => {
                    other.peer == Peer::File(index as u32) && other.kind == socket.kind
                }
                _ => false,
            };
            ensure(mutual && peer as usize != index, || {
                format!("file {peer} is not its peer")
            })?;
        }
        ensure(
            socket.peer != Peer::Nobody || socket.queue.is_empty(),
            || "it has messages, and was never connected".into(),
        )?;
        for option in socket.options.iter().flatten() {
            let mut kept = SocketOption::KEPT.iter();
            let kept = kept.find(|kept| kept.0 == option.name as i32);
            ensure(
                option.level.is_none()
                    && kept.is_some_and(|kept| kept.1.len() == option.value.0.len()),
                || format!("{} is not an option of a socket", option.name),
            )?;
        }
        let is_reset = socket.reset == Some(true);
        ensure(
            !is_reset || socket.peer == Peer::Closed && socket.kind != SocketKind::Datagram,
            || "its connection was reset, and its peer was not closed".into(),
        )?;
        for message in &socket.queue {
            ensure(message.files.len() <= PASSED, || {
                format!("a message has {} files", message.files.len())
            })?;
            let stream = socket.kind == SocketKind::Stream;
            ensure(!stream || !message.data.0.is_empty(), || {
                "a message of a stream is empty".into()
            })?;
            for &file in &message.files {
                self.refers(file)?;
            }
        }
        Ok(())
    }

    fn check_items(&self, items: &[Item]) -> Result {
        let mut keys = Vec::with_capacity(items.len());
        for item in items {
            let Item { tfd, events, .. } = *item;
            let place =
                |error: Invalid| Invalid(format!("the target of descriptor {tfd}: {error}"));
            ensure(tfd <= i32::MAX as u32, || {
                format!("{tfd} is too large for a descriptor")
            })?;
            self.refers(item.file).map_err(place)?;
            if events & EXCLUSIVE != 0 {
                ensure(events & !WITH_EXCLUSIVE == 0, || {
                    format!("events {events:#x} do not go with EPOLLEXCLUSIVE")
                })
                .map_err(place)?;
                let set = matches!(self.files[item.file as usize].kind, Kind::Epoll { .. });
                ensure(!set, || {
                    "an epoll instance cannot be a target with EPOLLEXCLUSIVE".into()
                })
                .map_err(place)?;
            }
            keys.push((tfd, item.file));
        }
        keys.sort_unstable();
        for pair in keys.windows(2) {
            ensure(pair[0] != pair[1], || {
                let (tfd, file) = pair[0];
                format!("file {file} is a target twice by descriptor {tfd}")
            })?;
        }
        Ok(())
    }
}

/// Checks what does not depend on the rest of the image.
pub(crate) fn check_alone(file: &OpenFile) -> Result {
    if let Some(owner) = file.owner {
        ensure(owner.signal <= 64, || {
            format!("{} is not a signal", owner.signal)
        })?;
        ensure(owner.id >= 0, || format!("{} is not an id", owner.id))?;
    }
    let path = matches!(file.kind, Kind::Path { .. } | Kind::Other { .. });
    ensure(path || !file.is_path_only(), || {
        format!("O_PATH does not open {} files", file.kind.name())
    })?;
    // Files of other kinds may have flags of their own.
    if !matches!(file.kind, Kind::Other { .. }) {
        ensure(file.flags & !FLAGS == 0, || {
            format!("it has unknown flags {:#o}", file.flags & !FLAGS)
        })?;
    }
    match &file.kind {
        Kind::Path { place, position } => {
            check_place(place)?;
            ensure(*position <= i64::MAX as u64, || {
                format!("{position} is too large for a position")
            })
        }
        Kind::Pipe { .. } => {
            let mode = file.flags & libc::O_ACCMODE as u32;
            ensure(mode <= 2, || "its access mode is invalid".into())
        }
        Kind::Memory { position, .. } => ensure(*position <= i64::MAX as u64, || {
            format!("{position} is too large for a position")
        }),
        Kind::EventFd { count, .. } => ensure(*count < u64::MAX, || {
            "the value of an eventfd is too large".into()
        }),
        Kind::TimerFd(timer) => check_timer(timer),
        Kind::Listener(listener) => check_listener(listener),
        Kind::Inotify { watches } => check_watches(watches),
        Kind::SignalFd { .. }
        | Kind::Other { .. }
        | Kind::Socket(_)
        | Kind::Epoll { .. }
        | Kind::PidFd => Ok(()),
    }
}

fn check_pipe(pipe: &Pipe) -> Result {
    ensure(pipe.capacity <= CAPACITY, || {
        format!("its capacity of {} bytes is too large", pipe.capacity)
    })?;
    if let Some(place) = &pipe.place {
        check_place(place)?;
        ensure(place.mode & libc::S_IFMT == libc::S_IFIFO, || {
            "its path does not name a FIFO".into()
        })?;
    }
    let size = pipe.size();
    ensure(size <= pipe.capacity as usize, || {
        format!("its {size} bytes exceed its capacity")
    })?;
    let good = pipe.data.iter().all(|data| !data.0.is_empty());
    ensure(good, || "a packet is empty".into())
}

fn check_listener(listener: &Listener) -> Result {
    ensure(listener.address.parse::<SocketAddr>().is_ok(), || {
        "its address is invalid".into()
    })?;
    for option in &listener.options {
        let mut kept = Listener::KEPT.iter();
        let kept = kept.find(|kept| (kept.0, kept.1) == option.place());
        ensure(
            kept.is_some_and(|kept| kept.2 == option.value.0.len()),
            || format!("{} is not an option of a listener", option.name),
        )?;
    }
    Ok(())
}

fn check_watches(watches: &[Watch]) -> Result {
    let mut last = 0;
    for &Watch {
        wd,
        mask,
        ref place,
    } in watches
    {
        let at = |error: Invalid| Invalid(format!("watch {wd}: {error}"));
        ensure(wd > last && wd <= i32::MAX as u32, || {
            format!("watch descriptor {wd} is too large, or not in ascending order")
        })?;
        last = wd;
        ensure(mask & !Watch::MASK == 0, || {
            format!("{mask:#x} is not a mask of events")
        })
        .map_err(at)?;
        check_place(place).map_err(at)?;
    }
    Ok(())
}

fn check_memory(memory: &Memory) -> Result {
    ensure(memory.length <= i64::MAX as u64, || {
        format!("{} bytes are too many for a file", memory.length)
    })?;
    // NAME_MAX, of which the kernel takes 6 for a prefix.
    ensure(
        memory.name.len() <= 249 && !memory.name.contains(&0),
        || "its name is too long, or contains NUL".into(),
    )?;
    ensure(memory.mode & !0o7777 == 0, || {
        "its mode is not one of permissions".into()
    })?;
    let mut end = 0;
    for extent in &memory.data {
        let last = extent.offset.checked_add(extent.data.0.len() as u64);
        let good = extent.offset >= end && last.is_some_and(|last| last <= memory.length);
        ensure(good, || "its contents overlap, or exceed its length".into())?;
        end = last.unwrap_or(end);
    }
    Ok(())
}

fn check_place(place: &Place) -> Result {
    let path = &place.path;
    ensure(
        path.first() == Some(&b'/') && path.len() < PATH_MAX && !path.contains(&0),
        || "a path is not absolute, too long, or contains NUL".into(),
    )
}

fn check_timer(timer: &Timer) -> Result {
    for time in [timer.value, timer.interval] {
        ensure(time.as_secs() <= i64::MAX as u64 / 4, || {
            format!("{} s is too long for a timer", time.as_secs())
        })?;
    }
    Ok(())
}
