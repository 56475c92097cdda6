// SPDX-License-Identifier: GPL-2.0

//! Makes single files.

use crate::image::{Bytes, Listener, Memory, OpenFile, Pipe, Place, Timer, Watch};
use crate::pipe::{self, Contents};
use crate::sys;
use crate::types::{Clock, DeviceNumber, PipeEnds, TimerFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{
    Access, AtFlags, CWD, Gid, MemfdFlags, Mode, OFlags, SealFlags, SeekFrom, Uid, accessat,
    fchmod, fchown, fcntl_add_seals, fcntl_get_seals, fcntl_getfl, fcntl_setfl, fstat, ftruncate,
    inotify, memfd_create, open, seek,
};
use rustix::io::{Errno, pwrite};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Flags that can be set on an open file.
const SETTABLE: i32 =
    libc::O_APPEND | libc::O_NONBLOCK | libc::O_DIRECT | libc::O_NOATIME | libc::O_ASYNC;

/// The driver of `/dev/null`, `zero`, `full`, `random` and `urandom`, and these devices:
/// opening them again makes no difference.
const MEMORY: u32 = 1;
const STATELESS: [u32; 5] = [3, 5, 7, 8, 9];

/// Opens a file by its path, or says why it cannot.
pub fn path(file: &OpenFile, place: &Place) -> Result<OwnedFd, String> {
    if place.unlinked {
        return Err("it was unlinked".into());
    }
    let kind = place.mode & libc::S_IFMT;
    if !file.is_path_only() {
        match kind {
            libc::S_IFREG | libc::S_IFDIR => {}
            libc::S_IFCHR if place.special.is_some_and(is_stateless) => {}
            libc::S_IFCHR | libc::S_IFBLK => return Err("a device has a state of its own".into()),
            _ => return Err("files of this type cannot be opened again".into()),
        }
    }
    let found = find(place)?;
    if file.is_path_only() {
        return Ok(found);
    }
    // Not by its path, which may lead to another file by now.
    let flags = OFlags::from_bits_retain(file.flags & !(libc::O_ASYNC | libc::O_NOFOLLOW) as u32);
    open(
        link(&found),
        flags | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
    )
    .map_err(|error| format!("it cannot be opened again: {error}"))
}

fn is_stateless(device: DeviceNumber) -> bool {
    device.major == MEMORY && STATELESS.contains(&device.minor)
}

/// Opens a file by its path, at its position.
pub fn path_at(file: &OpenFile, place: &Place, position: u64) -> io::Result<OwnedFd> {
    let fd = path(file, place).map_err(io::Error::other)?;
    let has_position = matches!(place.mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR);
    if has_position && !file.is_path_only() {
        seek(&fd, SeekFrom::Start(position))?;
    }
    Ok(fd)
}

/// Opens what is at a path with `O_PATH`, if it is the file that was there.
fn find(place: &Place) -> Result<OwnedFd, String> {
    let path = OsStr::from_bytes(&place.path);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = open(path, flags, Mode::empty());
    let found = found.map_err(|error| format!("it cannot be found: {error}"))?;
    let stat = fstat(&found).map_err(|error| format!("its attributes cannot be read: {error}"))?;
    let special = DeviceNumber::of(stat.st_rdev);
    let same = DeviceNumber::of(stat.st_dev) == place.device
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

/// Finds a FIFO, if its `ends` can be opened. It is not opened yet: that would wake
/// processes that wait at its other end.
pub fn fifo(pipe: &Pipe, place: &Place, ends: PipeEnds) -> Result<OwnedFd, String> {
    if place.unlinked {
        return Err("it was unlinked".into());
    }
    let found = find(place)?;
    let mut access = Access::empty();
    let reads = ends.contains(PipeEnds::READ);
    if reads {
        access |= Access::READ_OK;
    }
    if ends.contains(PipeEnds::WRITE) || reads && !pipe.data.is_empty() {
        access |= Access::WRITE_OK;
    }
    match accessat(CWD, link(&found), access, AtFlags::EACCESS) {
        Err(Errno::ACCESS) => Err("it may not be opened again".into()),
        // Other errors are reported when it is opened.
        _ => Ok(found),
    }
}

/// Returns the capacity that a pipe can be given, in bytes, see pipe(7).
pub fn capacity(pipe: &Pipe) -> u32 {
    const MAXIMUM: &str = "/proc/sys/fs/pipe-max-size";
    const DEFAULT: u32 = 1 << 20;

    let maximum = std::fs::read_to_string(MAXIMUM).ok();
    let maximum = maximum.and_then(|text| text.trim().parse().ok());
    pipe.capacity.min(maximum.unwrap_or(DEFAULT))
}

/// A pipe with its contents, and descriptors for its ends.
pub struct Ends {
    read: Option<OwnedFd>,
    write: Option<OwnedFd>,
    /// A descriptor by which either end can be opened once more.
    both: OwnedFd,
    /// A read end, without which a FIFO cannot be opened for writing.
    hold: Option<OwnedFd>,
}

/// Makes a pipe. The image has its `ends`; `packets` says whether one writes packets.
pub fn ends(pipe: &Pipe, ends: PipeEnds, packets: bool) -> io::Result<Ends> {
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
    if ends.contains(PipeEnds::READ) {
        let read = open(OFlags::RDONLY)?;
        // Another process may have kept it open, and so its contents.
        let there = rustix::io::ioctl_fionread(&read)?;
        if there == 0 {
            resize(&read, pipe)?;
            if !pipe.data.is_empty() {
                fill(&open(OFlags::WRONLY)?, pipe, packets)?;
            }
        } else if there != pipe.size() as u64 || !has_contents(&read, pipe)? {
            return Err(io::Error::other("it has other contents by now"));
        }
        hold = Some(read);
    } else if ends.contains(PipeEnds::WRITE) {
        // Its contents are those of the process that reads it.
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

/// Whether a pipe has the contents of the image.
fn has_contents(read: &OwnedFd, pipe: &Pipe) -> io::Result<bool> {
    let found = pipe::contents(read.as_fd(), pipe::capacity(read.as_fd())?)?;
    let bytes = |data: &[Bytes]| -> Vec<u8> {
        let bytes = data.iter().flat_map(|piece| &piece.0);
        bytes.copied().collect()
    };
    Ok(match found {
        Contents::Plain(data) | Contents::Byte(data) | Contents::Packets(data) => {
            bytes(&data) == bytes(&pipe.data)
        }
        Contents::Both => false,
    })
}

fn resize(fd: &OwnedFd, pipe: &Pipe) -> io::Result<()> {
    let capacity = capacity(pipe) as usize;
    if fcntl_getpipe_size(fd)? != capacity {
        fcntl_setpipe_size(fd, capacity)?;
    }
    Ok(())
}

fn fill(write: &OwnedFd, pipe: &Pipe, packets: bool) -> io::Result<()> {
    let packets = pipe.packets.unwrap_or(packets || pipe.data.len() > 1);
    for data in &pipe.data {
        // If it is only a guess, longer pieces were written before there were packets.
        let is_known = pipe.packets.is_some();
        let flags = match packets && (is_known || data.0.len() <= libc::PIPE_BUF) {
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
    /// Moves each descriptor.
    pub fn move_by(self, mut to: impl FnMut(OwnedFd) -> io::Result<OwnedFd>) -> io::Result<Self> {
        Ok(Self {
            read: self.read.map(&mut to).transpose()?,
            write: self.write.map(&mut to).transpose()?,
            both: to(self.both)?,
            hold: self.hold.map(&mut to).transpose()?,
        })
    }

    /// Lets a reader see that there are no writers any more.
    pub fn hang_up(&self) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        open(link(&self.both), flags, Mode::empty())?;
        Ok(())
    }

    /// Opens an end with the access mode of a file.
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
        // A FIFO, or a pipe that was opened again through /proc. O_NONBLOCK keeps this
        // from waiting for the other end.
        let mode = OFlags::from_bits_retain((flags & libc::O_ACCMODE) as u32);
        let flags = mode | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(open(link(&self.both), flags, Mode::empty())?)
    }
}

/// Makes a TCP socket with an address. It does not listen yet.
pub fn bound(listener: &Listener) -> io::Result<OwnedFd> {
    let address: SocketAddr = listener.address.parse().map_err(io::Error::other)?;
    let domain = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    let fd = socket_with(domain, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    for option in &listener.options {
        let buffer = |force| -> io::Result<()> {
            // setsockopt() doubles the size that it is given.
            let mut size = [0; 4];
            size.copy_from_slice(&option.value.0);
            let half = i32::from_ne_bytes(size) / 2;
            sys::set_option(fd.as_fd(), (libc::SOL_SOCKET, force), &half.to_ne_bytes())
        };
        match option.place() {
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => {
                buffer(libc::SO_SNDBUFFORCE).or_else(|_| buffer(libc::SO_SNDBUF))?;
            }
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => {
                buffer(libc::SO_RCVBUFFORCE).or_else(|_| buffer(libc::SO_RCVBUF))?;
            }
            place => {
                sys::set_option(fd.as_fd(), place, &option.value.0)?;
            }
        }
    }
    bind(&fd, &address)?;
    Ok(fd)
}

/// Makes a TCP socket that waits for connections.
pub fn listener(listener: &Listener) -> io::Result<OwnedFd> {
    let fd = bound(listener)?;
    listen(&fd, listener.backlog.try_into().unwrap_or(i32::MAX))?;
    Ok(fd)
}

/// Makes a file of memory. Its seals are added later.
pub fn memory(memory: &Memory) -> io::Result<OwnedFd> {
    let name = OsStr::from_bytes(&memory.name);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Before 6.3 there is no such flag, and no other way.
    let fd = match memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL | Errno::ACCESS) => memfd_create(name, flags)?,
        fd => fd?,
    };
    ftruncate(&fd, memory.length)?;
    for extent in &memory.data {
        let mut at = extent.offset;
        let mut data = &extent.data.0[..];
        while !data.is_empty() {
            let written = pwrite(&fd, data, at)?;
            data = &data[written..];
            at += written as u64;
        }
    }
    Ok(fd)
}

/// Opens a file of memory once more, as another one that had it open.
pub fn reopen(memory: &OwnedFd, file: &OpenFile) -> io::Result<OwnedFd> {
    let kept = libc::O_ASYNC | libc::O_NOFOLLOW | libc::O_DIRECT;
    let flags = OFlags::from_bits_retain(file.flags & !kept as u32);
    Ok(open(link(memory), flags | OFlags::CLOEXEC, Mode::empty())?)
}

/// Gives a file of memory its owner, permissions and seals, and checks that it has no other
/// seals. With these, it may not be possible to open it again.
pub fn seal(fd: &OwnedFd, memory: &Memory) -> io::Result<()> {
    let stat = fstat(fd)?;
    if let Some(owner) = memory.owner {
        if (owner.uid, owner.gid) != (stat.st_uid, stat.st_gid) {
            let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
            fchown(fd, Some(uid), Some(gid)).map_err(|error| {
                io::Error::other(format!(
                    "it cannot be given to user {} and group {}: {error}",
                    owner.uid, owner.gid
                ))
            })?;
        }
    }
    if stat.st_mode & 0o7777 != memory.mode {
        fchmod(fd, Mode::from_raw_mode(memory.mode))?;
    }
    let seals = SealFlags::from_bits_retain(memory.seals);
    if fcntl_get_seals(fd)? != seals {
        fcntl_add_seals(fd, seals)?;
    }
    if fcntl_get_seals(fd)? != seals {
        return Err(io::Error::other(
            "this system seals it in another way (vm.memfd_noexec)",
        ));
    }
    Ok(())
}

/// Makes an eventfd.
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

/// Makes an inotify instance. Nobody notices but those who count them.
pub fn inotify(watches: &[Watch]) -> io::Result<OwnedFd> {
    let made = inotify::init(inotify::CreateFlags::CLOEXEC)
        .map_err(|error| limited(error, Errno::MFILE, "max_user_instances, or ulimit -n"))?;
    let mut next = 1;
    for watch in watches {
        let failed = |why: &dyn fmt::Display| {
            let path = String::from_utf8_lossy(&watch.place.path);
            io::Error::other(format!("{path} cannot be watched again: {why}"))
        };
        if watch.wd != next {
            sys::set_next_watch(&made, watch.wd).map_err(|error| match error.raw_os_error() {
                Some(libc::ENOTTY) => {
                    failed(&"this kernel cannot set a watch descriptor (CONFIG_CHECKPOINT_RESTORE)")
                }
                _ => failed(&error),
            })?;
        }
        let found = find(&watch.place).map_err(|why| failed(&why))?;
        // The kernel ignores this one, and refuses a mask without any.
        let mask = inotify::WatchFlags::from_bits_retain(watch.mask | libc::IN_ISDIR);
        let wd = inotify::add_watch(&made, link(&found), mask)
            .map_err(|error| failed(&limited(error, Errno::NOSPC, "max_user_watches")))?;
        if wd as u32 != watch.wd {
            return Err(failed(&format!(
                "it got watch descriptor {wd}, not {}",
                watch.wd
            )));
        }
        next = watch.wd.saturating_add(1);
    }
    Ok(made)
}

/// Names the limit that an error comes from.
fn limited(error: Errno, at: Errno, limit: &str) -> io::Error {
    match error == at {
        true => io::Error::other(format!("{error} (raise /proc/sys/fs/inotify/{limit})")),
        false => error.into(),
    }
}

/// Makes a timer that is disarmed.
pub fn timer_of(clock: Clock) -> io::Result<OwnedFd> {
    let (id, _) = clocks(clock);
    Ok(timerfd_create(id, TimerfdFlags::CLOEXEC)?)
}

/// The clock of a timer, and the one that its times are of.
const fn clocks(clock: Clock) -> (TimerfdClockId, ClockId) {
    match clock {
        Clock::Realtime => (TimerfdClockId::Realtime, ClockId::Realtime),
        Clock::Monotonic => (TimerfdClockId::Monotonic, ClockId::Monotonic),
        Clock::Boottime => (TimerfdClockId::Boottime, ClockId::Boottime),
        Clock::RealtimeAlarm => (TimerfdClockId::RealtimeAlarm, ClockId::Realtime),
        Clock::BoottimeAlarm => (TimerfdClockId::BoottimeAlarm, ClockId::Boottime),
    }
}

/// Makes a timer.
pub fn timer(timer: &Timer) -> io::Result<OwnedFd> {
    let fd = timer_of(timer.clock)?;
    set_timer(&fd, timer)?;
    Ok(fd)
}

/// Sets a timer.
pub fn set_timer(fd: impl AsFd, timer: &Timer) -> io::Result<()> {
    let (_, clock) = clocks(timer.clock);
    let time = |time: Duration| Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: time.subsec_nanos().into(),
    };
    let mut setting = Itimerspec {
        it_interval: time(timer.interval),
        it_value: time(timer.value),
    };
    if !timer.value.is_zero() && timer.flags.contains(TimerFlags::ABSTIME) {
        setting.it_value = sum(setting.it_value, clock_gettime(clock));
    }
    let flags = TimerfdTimerFlags::from_bits_retain(timer.flags.bits());
    timerfd_settime(&fd, flags, &setting)?;
    if timer.ticks > 0 {
        sys::set_ticks(&fd, timer.ticks)?;
    }
    Ok(())
}

/// Lets a timer expire at once, and waits for that.
pub fn expire(timer: impl AsFd, patience: Timespec) -> io::Result<()> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 1,
    };
    let setting = Itimerspec {
        it_interval: Timespec::default(),
        it_value: now,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
    let mut fds = [PollFd::new(&timer, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&patience)))?;
    Ok(())
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

/// Gives a new file its status flags, except `O_ASYNC`.
pub fn finish(fd: impl AsFd, file: &OpenFile) -> io::Result<()> {
    if file.is_path_only() {
        return Ok(());
    }
    set_flags(fd, file, SETTABLE & !libc::O_ASYNC)
}

/// Gives a file its receiver of signals, which is this process, and `O_ASYNC`.
pub fn signals(fd: impl AsFd, file: &OpenFile) -> io::Result<()> {
    if file.is_path_only() {
        return Ok(());
    }
    if let Some(owner) = file.owner {
        sys::set_owner(&fd, owner)?;
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
