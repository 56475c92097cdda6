// SPDX-License-Identifier: GPL-2.0

//! Parses `/proc/PID/fdinfo/EFD` of an epoll instance.
//!
//! After the lines that all descriptors have, there is one line for each target:
//!
//! ```text
//! tfd:        5 events:       19 data:                5  pos:0 ino:5a3c sdev:10
//! ```
//!
//! A kernel with this project's patches identifies the instance in a line before:
//!
//! ```text
//! epoll-id: 7
//! ```
//!
//! The targets are in the order of the instance's red-black tree. Targets of one tfd
//! are in the order in which kcmp(2) counts them, so that `toff` of a target is the
//! number of lines before it with the same `tfd`.
//!
//! The kernel produces the whole text at once: for an instance of a million targets
//! it uses some 100 MB while the file is read. [`Targets`] itself keeps one line, and a
//! count for each tfd.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::RawFd;

/// A target of an epoll instance, as its fdinfo shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Target {
    /// The descriptor by which the target was added. It may mean another file by now.
    pub tfd: RawFd,
    /// How many targets of the same tfd come before it.
    pub toff: u32,
    /// The events it waits for.
    pub events: Events,
    /// What epoll_wait(2) returns with an event.
    pub data: u64,
    /// The position of the open file description, in bytes. Kernels before 4.13 do
    /// not show it.
    pub pos: Option<i64>,
    /// The file's inode. Kernels before 4.13 do not show it.
    pub inode: Option<Inode>,
}

/// An inode, as fdinfo shows it.
///
/// It identifies an open file only roughly: all eventfds have one inode, both
/// ends of a pipe have one, and a file can be opened twice. For files on overlayfs or
/// btrfs it differs from that of stat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Inode {
    /// The number of the inode.
    pub ino: u64,
    /// Major number of the file system's device.
    pub major: u32,
    /// Minor number of the file system's device.
    pub minor: u32,
}

impl Inode {
    /// From `dev_t` as the kernel keeps it: 12 bits and 20.
    pub(crate) fn new(ino: u64, dev: u32) -> Self {
        Self {
            ino,
            major: dev >> 20,
            minor: dev & 0xf_ffff,
        }
    }
}

/// The events of a target: `EPOLL*` bits of epoll_ctl(2).
///
/// ```
/// use epoll_targets::fdinfo::Events;
///
/// assert_eq!(Events(0x8000_0005).to_string(), "IN|OUT|ET");
/// assert_eq!(Events(0x0100_0001).to_string(), "IN|0x1000000");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Events(
    /// The bits.
    pub u32,
);

impl Events {
    /// The names of the bits, as in epoll_ctl(2) without `EPOLL`.
    const NAMES: [(u32, &'static str); 16] = [
        (0x1, "IN"),
        (0x2, "PRI"),
        (0x4, "OUT"),
        (0x8, "ERR"),
        (0x10, "HUP"),
        (0x20, "NVAL"),
        (0x40, "RDNORM"),
        (0x80, "RDBAND"),
        (0x100, "WRNORM"),
        (0x200, "WRBAND"),
        (0x400, "MSG"),
        (0x2000, "RDHUP"),
        (1 << 28, "EXCLUSIVE"),
        (1 << 29, "WAKEUP"),
        (1 << 30, "ONESHOT"),
        (1 << 31, "ET"),
    ];

    /// `EPOLLERR` and `EPOLLHUP`, which the kernel always adds.
    pub const ALWAYS: Events = Events(0x18);

    /// Bits that are not events: `EXCLUSIVE`, `WAKEUP`, `ONESHOT`, `ET`.
    const MODES: u32 = 0xf << 28;

    /// These events without those of `other`.
    pub fn without(self, other: Events) -> Events {
        Events(self.0 & !other.0)
    }

    /// Whether no event is waited for: a `ONESHOT` target that has reported one.
    ///
    /// ```
    /// use epoll_targets::fdinfo::Events;
    ///
    /// assert!(Events(1 << 30).is_disarmed());
    /// assert!(!Events(1 << 30 | 0x19).is_disarmed());
    /// ```
    pub fn is_disarmed(self) -> bool {
        self.0 & !Self::MODES == 0
    }

    /// The names of the bits that are set, from the lowest; none for bits that
    /// have no name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(bit, _)| self.0 & bit != 0)
            .map(|(_, name)| name)
    }

    /// The bits that have no name.
    pub fn unnamed(self) -> u32 {
        self.0 & !Self::NAMES.iter().fold(0, |all, (bit, _)| all | bit)
    }
}

impl fmt::Display for Events {
    /// `IN|OUT|ET`; bits without a name in hexadecimal; `0` if there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for name in self.names() {
            write!(f, "{separator}{name}")?;
            separator = "|";
        }
        match self.unnamed() {
            0 if separator.is_empty() => f.write_str("0"),
            0 => Ok(()),
            rest => write!(f, "{separator}{rest:#x}"),
        }
    }
}

/// A line of an fdinfo that begins like a target but is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of an fdinfo is not a target: {text:?}")]
#[non_exhaustive]
pub struct ParseError {
    /// The number of the line, from 1.
    pub line: u64,
    /// The text of the line.
    pub text: String,
}

/// Reads the targets from the text of an fdinfo, line by line.
///
/// Lines that do not begin with `tfd:` are skipped, and so is what a later kernel may
/// add after the known fields. The iterator ends after the first error.
///
/// # Errors
///
/// Each item is a target or an error: one of the reader, or
/// [`InvalidData`](io::ErrorKind::InvalidData) with a [`ParseError`] inside.
///
/// ```
/// use epoll_targets::fdinfo::Targets;
///
/// let text = "\
/// pos:\t0
/// flags:\t02
/// tfd:        5 events:       19 data:       10  pos:0 ino:5a3c sdev:10
/// tfd:        5 events:       19 data:       11  pos:0 ino:5a3d sdev:10
/// ";
/// let targets: Vec<_> = Targets::new(text.as_bytes()).collect::<Result<_, _>>()?;
/// assert_eq!((targets[1].tfd, targets[1].toff), (5, 1));
/// assert_eq!(targets[1].data, 0x11);
///
/// let error = Targets::new(&b"tfd: five"[..]).next().unwrap().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "line 1 of an fdinfo is not a target: \"tfd: five\""
/// );
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Targets<R> {
    reader: Option<R>,
    line: u64,
    text: Vec<u8>,
    counts: HashMap<RawFd, u32>,
    id: Option<u64>,
}

impl<R: BufRead> Targets<R> {
    /// Reads from the beginning of an fdinfo.
    pub fn new(reader: R) -> Self {
        Self {
            reader: Some(reader),
            line: 0,
            text: Vec::new(),
            counts: HashMap::new(),
            id: None,
        }
    }

    /// The id of the epoll instance, which no other one gets until the system is
    /// rebooted. It is known once [`next`](Iterator::next) was called, and `None` if
    /// the kernel does not show it.
    ///
    /// ```
    /// use epoll_targets::fdinfo::Targets;
    ///
    /// let mut targets = Targets::new(&b"pos:\t0\nepoll-id: 7\n"[..]);
    /// assert!(targets.next().is_none());
    /// assert_eq!(targets.id(), Some(7));
    /// ```
    pub fn id(&self) -> Option<u64> {
        self.id
    }

    fn read(&mut self) -> io::Result<Option<Target>> {
        while let Some(reader) = &mut self.reader {
            self.line += 1;
            self.text.clear();
            if reader.read_until(b'\n', &mut self.text)? == 0 {
                break;
            }
            if let Some(id) = self.text.strip_prefix(b"epoll-id:") {
                let id = std::str::from_utf8(id).ok();
                self.id = id.and_then(|id| id.trim().parse().ok());
            }
            if !self.text.starts_with(b"tfd:") {
                continue;
            }
            let mut target = std::str::from_utf8(&self.text)
                .ok()
                .and_then(parse)
                .ok_or_else(|| {
                    let text = String::from_utf8_lossy(self.text.trim_ascii_end()).into_owned();
                    let line = self.line;
                    io::Error::new(io::ErrorKind::InvalidData, ParseError { line, text })
                })?;
            let count = self.counts.entry(target.tfd).or_default();
            target.toff = *count;
            *count += 1;
            return Ok(Some(target));
        }
        Ok(None)
    }
}

impl<R: BufRead> Iterator for Targets<R> {
    type Item = io::Result<Target>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.reader = None;
        }
        next
    }
}

/// The fields of a line, `toff` left 0.
fn parse(line: &str) -> Option<Target> {
    let (tfd, rest) = field(line, "tfd:")?;
    let (events, rest) = field(rest, "events:")?;
    let (data, rest) = field(rest, "data:")?;
    let mut target = Target {
        tfd: tfd.parse().ok().filter(|&tfd| tfd >= 0)?,
        toff: 0,
        events: Events(hex(events)?.try_into().ok()?),
        data: hex(data)?,
        pos: None,
        inode: None,
    };
    if let Some((pos, rest)) = field(rest, "pos:") {
        let (ino, rest) = field(rest, "ino:")?;
        let (sdev, _) = field(rest, "sdev:")?;
        target.pos = Some(pos.parse().ok()?);
        target.inode = Some(Inode::new(hex(ino)?, hex(sdev)?.try_into().ok()?));
    }
    Some(target)
}

/// The value after `name` at the beginning of `text`, and the rest.
fn field<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let text = text.trim_start().strip_prefix(name)?.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    Some(text.split_at(end))
}

/// Digits only: no sign, which from_str_radix() would take.
fn hex(digits: &str) -> Option<u64> {
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// Reads the targets of descriptor `efd` of process `pid`. If it is not an epoll
/// instance, there are none.
///
/// # Errors
///
/// Those of opening the file: `NotFound` if there is no such process or
/// descriptor, `PermissionDenied` if the caller lacks ptrace(2) access to the
/// process; then those of [`Targets`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use epoll_targets::fdinfo;
/// use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
/// use std::os::fd::AsRawFd;
///
/// let set = epoll::create(CreateFlags::CLOEXEC)?;
/// let (reader, _writer) = rustix::pipe::pipe()?;
/// epoll::add(&set, &reader, EventData::new_u64(77), EventFlags::IN)?;
///
/// let pid = std::process::id() as i32;
/// let target = fdinfo::read(pid, set.as_raw_fd())?.next().unwrap()?;
/// assert_eq!(target.tfd, reader.as_raw_fd());
/// assert_eq!(target.data, 77);
/// assert_eq!(target.events.to_string(), "IN|ERR|HUP");
/// # Ok(()) }
/// ```
pub fn read(pid: i32, efd: RawFd) -> io::Result<Targets<BufReader<File>>> {
    let file = File::open(format!("/proc/{pid}/fdinfo/{efd}"))?;
    Ok(Targets::new(BufReader::with_capacity(1 << 16, file)))
}

#[cfg(test)]
mod tests;
