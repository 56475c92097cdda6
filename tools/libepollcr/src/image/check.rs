// SPDX-License-Identifier: GPL-2.0

//! Whether what an image says can be true.

use super::{Bytes, Image, Item, Kind, OpenFile, Peer, Pipe, Place, Socket, Timer};
use minicbor::{Decoder, decode};
use std::fmt;

/// Why the contents of an image do not hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

type Result = std::result::Result<(), Invalid>;

/// An error unless `good`.
fn ensure(good: bool, why: impl FnOnce() -> String) -> Result {
    if good { Ok(()) } else { Err(Invalid(why())) }
}

/// The status flags that open(2) takes and `F_GETFL` shows. The kernel's own
/// `O_LARGEFILE` is 0 in libc for 64 bit.
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
/// As of `asm/fcntl.h`.
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

/// More than a pipe is given by anyone, and less than would be refused for being
/// negative.
const CAPACITY: u32 = 1 << 30;
/// What a kernel hands over with one message: `SCM_MAX_FD`.
const PASSED: usize = 253;
const NANOSECONDS: u32 = 1_000_000_000;
const PATH_MAX: usize = 4096;
/// `EPOLLEXCLUSIVE` goes with few others.
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;
const WITH_EXCLUSIVE: u32 = EXCLUSIVE
    | (libc::EPOLLIN
        | libc::EPOLLOUT
        | libc::EPOLLERR
        | libc::EPOLLHUP
        | libc::EPOLLWAKEUP
        | libc::EPOLLET) as u32;

/// What is in a pipe, as far as a pipe can hold it: no longer than it would be
/// refused for is read on.
pub(super) fn pieces<Context>(
    decoder: &mut Decoder<'_>,
    context: &mut Context,
) -> std::result::Result<Vec<Bytes>, decode::Error> {
    let mut pieces = Vec::new();
    let mut size = 0usize;
    for piece in decoder.array_iter_with::<Context, Bytes>(context)? {
        let piece = piece?;
        if piece.0.is_empty() {
            return Err(decode::Error::message("a packet of a pipe is empty"));
        }
        size = size.saturating_add(piece.0.len());
        if size > CAPACITY as usize {
            return Err(decode::Error::message("there is too much in a pipe"));
        }
        pieces.push(piece);
    }
    Ok(pieces)
}

/// The files of a message, as many as can go with one.
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
    /// Whether all that refers to something has something to refer to, and no
    /// value is one that the kernel cannot have shown.
    pub(super) fn check(&self) -> Result {
        ensure(self.files.len() <= i32::MAX as usize, || {
            "it has more files than there can be".into()
        })?;
        self.check_descriptors()?;
        for (index, pipe) in self.pipes.iter().enumerate() {
            check_pipe(pipe).map_err(|error| Invalid(format!("pipe {index}: {error}")))?;
        }
        for index in 0..self.files.len() {
            self.check_file(index)
                .map_err(|error| Invalid(format!("file {index}: {error}")))?;
        }
        self.check_nesting()
    }

    fn check_descriptors(&self) -> Result {
        let mut last = None;
        for descriptor in &self.descriptors {
            let number = descriptor.number;
            ensure(number <= i32::MAX as u32, || {
                format!("{number} cannot be the number of a descriptor")
            })?;
            ensure(last < Some(number), || {
                format!("descriptor {number} comes twice, or too late")
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
            _ => Ok(()),
        }
    }

    fn check_socket(&self, index: usize, socket: &Socket) -> Result {
        ensure(
            [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET]
                .contains(&(socket.kind as i32)),
            || format!("there is no unix socket of type {}", socket.kind),
        )?;
        ensure(socket.shutdown <= 3, || {
            format!("{} is no way to shut down", socket.shutdown)
        })?;
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
            || "there is nobody who can have sent it something".into(),
        )?;
        for message in &socket.queue {
            ensure(message.files.len() <= PASSED, || {
                format!("{} files cannot go with a message", message.files.len())
            })?;
            let stream = socket.kind as i32 == libc::SOCK_STREAM;
            ensure(!stream || !message.data.0.is_empty(), || {
                "there is nothing in one of its messages".into()
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
            let place = |error: Invalid| Invalid(format!("the item of number {tfd}: {error}"));
            ensure(tfd <= i32::MAX as u32, || {
                format!("{tfd} cannot be the number of a descriptor")
            })?;
            self.refers(item.file).map_err(place)?;
            if events & EXCLUSIVE != 0 {
                ensure(events & !WITH_EXCLUSIVE == 0, || {
                    format!("EPOLLEXCLUSIVE cannot be in {events:#x}")
                })
                .map_err(place)?;
                let set = matches!(self.files[item.file as usize].kind, Kind::Epoll { .. });
                ensure(!set, || {
                    "an epoll set is not watched with EPOLLEXCLUSIVE".into()
                })
                .map_err(place)?;
            }
            keys.push((tfd, item.file));
        }
        keys.sort_unstable();
        for pair in keys.windows(2) {
            ensure(pair[0] != pair[1], || {
                let (tfd, file) = pair[0];
                format!("file {file} is watched twice by number {tfd}")
            })?;
        }
        Ok(())
    }

    /// No epoll set is watched by itself, however indirectly.
    fn check_nesting(&self) -> Result {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            New,
            Open,
            Done,
        }
        let mut state = vec![State::New; self.files.len()];
        // The sets that are open, each with its next item.
        let mut path: Vec<(usize, usize)> = Vec::new();
        for first in 0..self.files.len() {
            if state[first] == State::New {
                state[first] = State::Open;
                path.push((first, 0));
            }
            while let Some((set, next)) = path.last_mut() {
                let item = match &self.files[*set].kind {
                    Kind::Epoll { items } => items.get(*next),
                    _ => None,
                };
                *next += 1;
                let Some(item) = item else {
                    state[*set] = State::Done;
                    path.pop();
                    continue;
                };
                let inner = item.file as usize;
                match state[inner] {
                    State::New => {
                        state[inner] = State::Open;
                        path.push((inner, 0));
                    }
                    State::Open => {
                        return Err(Invalid(format!("epoll set {inner} watches itself")));
                    }
                    State::Done => {}
                }
            }
        }
        Ok(())
    }
}

/// What has to be true of a file whatever else there is.
pub(crate) fn check_alone(file: &OpenFile) -> Result {
    if let Some(owner) = file.owner {
        ensure(owner.kind <= 2, || {
            format!("{} is no kind of owner", owner.kind)
        })?;
        ensure(owner.signal <= 64, || {
            format!("there is no signal {}", owner.signal)
        })?;
    }
    let path = matches!(file.kind, Kind::Path { .. } | Kind::Other { .. });
    ensure(path || !file.is_path_only(), || {
        format!("no {} is opened with O_PATH", file.kind.name())
    })?;
    // What it can be is not known otherwise.
    if !matches!(file.kind, Kind::Other { .. }) {
        ensure(file.flags & !FLAGS == 0, || {
            format!("it has unknown flags {:#o}", file.flags & !FLAGS)
        })?;
    }
    match &file.kind {
        Kind::Path { place, position } => {
            check_place(place)?;
            ensure(*position <= i64::MAX as u64, || {
                format!("{position} is no position")
            })
        }
        Kind::Pipe { .. } => {
            let mode = file.flags & libc::O_ACCMODE as u32;
            ensure(mode <= 2, || "it can neither be read nor written".into())
        }
        Kind::EventFd { count, .. } => ensure(*count < u64::MAX, || {
            "an eventfd cannot be given so high a value".into()
        }),
        Kind::TimerFd(timer) => check_timer(timer),
        Kind::SignalFd { .. } | Kind::Other { .. } | Kind::Socket(_) | Kind::Epoll { .. } => Ok(()),
    }
}

fn check_pipe(pipe: &Pipe) -> Result {
    ensure(pipe.capacity <= CAPACITY, || {
        format!("{} bytes are too much for a pipe", pipe.capacity)
    })?;
    ensure(pipe.elsewhere <= 3, || {
        format!("{} is no end of a pipe", pipe.elsewhere)
    })?;
    if let Some(place) = &pipe.place {
        check_place(place)?;
        ensure(place.mode & libc::S_IFMT == libc::S_IFIFO, || {
            "its path is not that of a FIFO".into()
        })?;
    }
    let size: usize = pipe.data.iter().map(|data| data.0.len()).sum();
    ensure(size <= pipe.capacity as usize, || {
        format!("{size} bytes are more than fit in it")
    })?;
    let good = pipe.data.iter().all(|data| !data.0.is_empty());
    ensure(good, || "one of its packets is empty".into())
}

fn check_place(place: &Place) -> Result {
    let path = &place.path;
    ensure(
        path.first() == Some(&b'/') && path.len() < PATH_MAX && !path.contains(&0),
        || "a path is none".into(),
    )
}

fn check_timer(timer: &Timer) -> Result {
    let clocks = [
        libc::CLOCK_REALTIME,
        libc::CLOCK_MONOTONIC,
        libc::CLOCK_BOOTTIME,
        libc::CLOCK_REALTIME_ALARM,
        libc::CLOCK_BOOTTIME_ALARM,
    ];
    ensure(clocks.contains(&(timer.clock as i32)), || {
        format!("{} is no clock of a timer", timer.clock)
    })?;
    let flags = (libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET) as u32;
    ensure(timer.flags & !flags == 0, || {
        format!("{:#x} is no flag of a timer", timer.flags)
    })?;
    for (seconds, nanoseconds) in [timer.value, timer.interval] {
        ensure(
            seconds <= i64::MAX as u64 / 4 && nanoseconds < NANOSECONDS,
            || format!("{seconds} s {nanoseconds} ns is no time"),
        )?;
    }
    Ok(())
}
