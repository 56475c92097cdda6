// SPDX-License-Identifier: GPL-2.0

//! Makes files like those of an image.

use crate::dump::pipe::{READ, WRITE};
use crate::image::{OpenFile, Owner, Pipe, Place, Timer};
use crate::sys;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{
    Access, AtFlags, CWD, Mode, OFlags, SeekFrom, accessat, fcntl_getfl, fcntl_setfl, fstat, open,
    seek,
};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Flags that are set on a file once it is open.
const SETTABLE: i32 =
    libc::O_APPEND | libc::O_NONBLOCK | libc::O_DIRECT | libc::O_NOATIME | libc::O_ASYNC;

/// `/dev/null` and its like: they are what they are, whoever has them open.
const MEMORY: u32 = 1;
const HARMLESS: [u32; 5] = [3, 5, 7, 8, 9];

/// Opens a file of a path again, or says why not.
pub fn path(file: &OpenFile, place: &Place) -> Result<OwnedFd, String> {
    if place.unlinked {
        return Err("it was unlinked".into());
    }
    let kind = place.mode & libc::S_IFMT;
    if !file.is_path_only() {
        match kind {
            libc::S_IFREG | libc::S_IFDIR => {}
            libc::S_IFCHR
                if place
                    .special
                    .is_some_and(|(major, minor)| major == MEMORY && HARMLESS.contains(&minor)) => {
            }
            libc::S_IFCHR | libc::S_IFBLK => return Err("a device has a state of its own".into()),
            _ => return Err("there is no way to open such a file again".into()),
        }
    }
    let found = find(place)?;
    if file.is_path_only() {
        return Ok(found);
    }
    // Not by its path, which might lead to another file by now.
    let flags = OFlags::from_bits_retain(file.flags & !(libc::O_ASYNC | libc::O_NOFOLLOW) as u32);
    open(
        link(&found),
        flags | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
    )
    .map_err(|error| format!("it cannot be opened again: {error}"))
}

/// What is at a path, if it is what was there.
fn find(place: &Place) -> Result<OwnedFd, String> {
    let path = OsStr::from_bytes(&place.path);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = open(path, flags, Mode::empty());
    let found = found.map_err(|error| format!("it cannot be found: {error}"))?;
    let stat = fstat(&found).map_err(|error| format!("it cannot be looked at: {error}"))?;
    let device = (
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
    );
    let special = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    let same = device == place.device
        && stat.st_ino == place.inode
        && stat.st_mode & libc::S_IFMT == place.mode & libc::S_IFMT
        && place.special.is_none_or(|old| old == special);
    if !same {
        return Err("its path leads to another file now".into());
    }
    Ok(found)
}

fn link(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A FIFO, found but not opened, if those ends of it can be opened that the image
/// has. Others may be at the other end: to open it is for when all else is known.
pub fn fifo(pipe: &Pipe, place: &Place, ends: u32) -> Result<OwnedFd, String> {
    if place.unlinked {
        return Err("it was unlinked".into());
    }
    let found = find(place)?;
    let mut access = Access::empty();
    if ends & READ != 0 {
        access |= Access::READ_OK;
    }
    if ends & WRITE != 0 || ends & READ != 0 && !pipe.data.is_empty() {
        access |= Access::WRITE_OK;
    }
    match accessat(CWD, link(&found), access, AtFlags::EACCESS) {
        Err(Errno::ACCESS) => Err("it may not be opened again".into()),
        // Whatever else is the matter is told when it is opened.
        _ => Ok(found),
    }
}

/// How much a pipe can be given, see pipe(7).
pub fn capacity(pipe: &Pipe) -> u32 {
    const MAXIMUM: &str = "/proc/sys/fs/pipe-max-size";
    const DEFAULT: u32 = 1 << 20;

    let maximum = std::fs::read_to_string(MAXIMUM).ok();
    let maximum = maximum.and_then(|text| text.trim().parse().ok());
    pipe.capacity.min(maximum.unwrap_or(DEFAULT))
}

/// The ends of a pipe, with its contents.
pub struct Ends {
    read: Option<OwnedFd>,
    write: Option<OwnedFd>,
    /// What both can be opened by once more.
    both: OwnedFd,
    /// So that there is somebody who reads, as long as it is opened for writing.
    hold: Option<OwnedFd>,
}

/// `ends` is what the image has of it, `packets` whether one writes packets.
pub fn ends(pipe: &Pipe, ends: u32, packets: bool) -> io::Result<Ends> {
    let Some(place) = &pipe.place else {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        resize(&write, pipe)?;
        fill(&write, pipe, packets)?;
        return Ok(Ends {
            both: read.try_clone()?,
            read: Some(read),
            write: Some(write),
            hold: None,
        });
    };
    let both = fifo(pipe, place, ends).map_err(io::Error::other)?;
    let open = |mode| {
        let flags = mode | OFlags::NONBLOCK | OFlags::CLOEXEC;
        open(link(&both), flags, Mode::empty())
    };
    let (mut write, mut hold) = (None, None);
    if ends & READ != 0 {
        let read = open(OFlags::RDONLY)?;
        // Others may have kept it open, and what was in it with it.
        let there = rustix::io::ioctl_fionread(&read)?;
        if there == 0 {
            resize(&read, pipe)?;
            if !pipe.data.is_empty() {
                fill(&open(OFlags::WRONLY)?, pipe, packets)?;
            }
        } else if there != size(pipe) as u64 {
            return Err(io::Error::other("there is something else in it by now"));
        }
        hold = Some(read);
    } else if ends & WRITE != 0 {
        // What was in it is for those who read to care for.
        write = Some(match open(OFlags::WRONLY) {
            Err(Errno::NXIO) => {
                hold = Some(open(OFlags::RDONLY)?);
                open(OFlags::WRONLY)?
            }
            write => write?,
        });
    }
    Ok(Ends {
        read: None,
        write,
        both,
        hold,
    })
}

/// How much is in it.
pub fn size(pipe: &Pipe) -> usize {
    pipe.data.iter().map(|data| data.0.len()).sum()
}

fn resize(fd: &OwnedFd, pipe: &Pipe) -> io::Result<()> {
    let capacity = capacity(pipe) as usize;
    if fcntl_getpipe_size(fd)? != capacity {
        fcntl_setpipe_size(fd, capacity)?;
    }
    Ok(())
}

fn fill(write: &OwnedFd, pipe: &Pipe, packets: bool) -> io::Result<()> {
    let packets = packets || pipe.data.len() > 1;
    for data in &pipe.data {
        // What is longer was written before packets were.
        let flags = match packets && data.0.len() <= libc::PIPE_BUF {
            true => OFlags::NONBLOCK | OFlags::DIRECT,
            false => OFlags::NONBLOCK,
        };
        fcntl_setfl(write, flags)?;
        if rustix::io::write(write, &data.0)? != data.0.len() {
            return Err(Errno::NOSPC.into());
        }
    }
    fcntl_setfl(write, OFlags::NONBLOCK)?;
    Ok(())
}

impl Ends {
    /// With each descriptor moved.
    pub fn move_by(self, mut to: impl FnMut(OwnedFd) -> io::Result<OwnedFd>) -> io::Result<Self> {
        Ok(Self {
            read: self.read.map(&mut to).transpose()?,
            write: self.write.map(&mut to).transpose()?,
            both: to(self.both)?,
            hold: self.hold.map(&mut to).transpose()?,
        })
    }

    /// An end like a file of the image.
    pub fn open(&mut self, file: &OpenFile) -> io::Result<OwnedFd> {
        let flags = file.flags as i32;
        let ready = match flags & libc::O_ACCMODE {
            libc::O_RDONLY => self.read.take(),
            libc::O_WRONLY => self.write.take(),
            _ => None,
        };
        if let Some(end) = ready {
            return Ok(end);
        }
        // A FIFO, or somebody has opened it once more, through /proc. Nothing waits
        // for the other end.
        let mode = OFlags::from_bits_retain((flags & libc::O_ACCMODE) as u32);
        let flags = mode | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(open(link(&self.both), flags, Mode::empty())?)
    }
}

pub fn seek_to(fd: impl AsFd, position: u64) -> io::Result<()> {
    seek(fd, SeekFrom::Start(position))?;
    Ok(())
}

pub fn counter(count: u64, semaphore: bool) -> io::Result<OwnedFd> {
    let mut flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    if semaphore {
        flags |= EventfdFlags::SEMAPHORE;
    }
    let fd = eventfd(0, flags)?;
    if count > 0 {
        rustix::io::write(&fd, &count.to_ne_bytes())?;
    }
    Ok(fd)
}

pub fn timer_of(clock: u32) -> io::Result<(OwnedFd, ClockId)> {
    let (id, clock) = match clock as i32 {
        libc::CLOCK_REALTIME => (TimerfdClockId::Realtime, ClockId::Realtime),
        libc::CLOCK_MONOTONIC => (TimerfdClockId::Monotonic, ClockId::Monotonic),
        libc::CLOCK_BOOTTIME => (TimerfdClockId::Boottime, ClockId::Boottime),
        libc::CLOCK_REALTIME_ALARM => (TimerfdClockId::RealtimeAlarm, ClockId::Realtime),
        libc::CLOCK_BOOTTIME_ALARM => (TimerfdClockId::BoottimeAlarm, ClockId::Boottime),
        _ => return Err(Errno::INVAL.into()),
    };
    Ok((timerfd_create(id, TimerfdFlags::CLOEXEC)?, clock))
}

pub fn timer(timer: &Timer) -> io::Result<OwnedFd> {
    let (fd, clock) = timer_of(timer.clock)?;
    let time = |(seconds, nanoseconds): (u64, u32)| Timespec {
        tv_sec: seconds as i64,
        tv_nsec: nanoseconds.into(),
    };
    let flags = TimerfdTimerFlags::from_bits_retain(timer.flags);
    let mut setting = Itimerspec {
        it_interval: time(timer.interval),
        it_value: time(timer.value),
    };
    let is_on = timer.value != (0, 0);
    if is_on && flags.contains(TimerfdTimerFlags::ABSTIME) {
        setting.it_value = sum(setting.it_value, clock_gettime(clock));
    }
    timerfd_settime(&fd, flags, &setting)?;
    if timer.ticks > 0 {
        sys::set_ticks(&fd, timer.ticks)?;
    }
    Ok(fd)
}

fn sum(a: Timespec, b: Timespec) -> Timespec {
    const SECOND: i64 = 1_000_000_000;

    let nanoseconds = a.tv_nsec + b.tv_nsec;
    Timespec {
        tv_sec: a
            .tv_sec
            .saturating_add(b.tv_sec)
            .saturating_add(nanoseconds / SECOND),
        tv_nsec: nanoseconds % SECOND,
    }
}

/// Gives a new file the status flags that the old one had, but for that which
/// makes it send signals.
pub fn finish(fd: impl AsFd, file: &OpenFile) -> io::Result<()> {
    if file.is_path_only() {
        return Ok(());
    }
    set_flags(fd, file, SETTABLE & !libc::O_ASYNC)
}

/// Lets it send signals, if it did, to whom it did.
pub fn signals(fd: impl AsFd, file: &OpenFile) -> io::Result<()> {
    if file.is_path_only() {
        return Ok(());
    }
    if let Some(Owner { kind, id, signal }) = file.owner {
        if id != 0 {
            // It was the process itself, and so it is now.
            let own = match kind as i32 {
                sys::F_OWNER_TID => rustix::thread::gettid(),
                _ => rustix::process::getpid(),
            };
            sys::set_owner(&fd, kind as i32, own.as_raw_pid())?;
        }
        sys::fcntl(&fd, sys::F_SETSIG, signal as i32)?;
    }
    set_flags(fd, file, SETTABLE)
}

fn set_flags(fd: impl AsFd, file: &OpenFile, settable: i32) -> io::Result<()> {
    let now = fcntl_getfl(&fd)?;
    let settable = OFlags::from_bits_retain(settable as u32);
    let wanted = OFlags::from_bits_retain(file.flags) & settable;
    if now & settable != wanted {
        fcntl_setfl(&fd, (now - settable) | wanted)?;
    }
    Ok(())
}
