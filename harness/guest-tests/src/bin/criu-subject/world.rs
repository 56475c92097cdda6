// SPDX-License-Identifier: GPL-2.0
//! Epoll instances, their targets, and what makes these ready.

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail, ensure};
use guest_tests::signal;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, fcntl_dupfd_cloexec, read, write};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// More events than any epoll instance here has at one time.
const AT_ONCE: usize = 64;

/// A file that can be made ready to be read.
pub enum Source {
    Counter(OwnedFd),
    /// A counter that read(2) decrements by one, with its value.
    Semaphore(OwnedFd, u64),
    /// `read` is `None` if another process has that end.
    Pipe {
        read: Option<OwnedFd>,
        write: OwnedFd,
    },
    Pair {
        near: OwnedFd,
        far: OwnedFd,
    },
    Timer(OwnedFd),
    Signals(OwnedFd, Signal),
    /// An epoll instance, which is ready when one of its targets is.
    Set(usize),
    /// A file that we do not have open.
    Lost,
}

impl Source {
    pub fn counter() -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self::Counter(eventfd(0, flags)?))
    }

    /// A counter with the first descriptor that is free from `number` on.
    pub fn counter_from(number: RawFd) -> Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self::Counter(fcntl_dupfd_cloexec(fd, number)?))
    }

    pub fn semaphore(value: u32) -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        Ok(Self::Semaphore(eventfd(value, flags)?, value.into()))
    }

    pub fn pipe() -> Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self::Pipe {
            read: Some(read),
            write,
        })
    }

    /// The read end of a pipe, and a source that has only the write end.
    pub fn far_pipe() -> Result<(OwnedFd, Self)> {
        let (far, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((far, Self::Pipe { read: None, write }))
    }

    pub fn pair() -> Result<Self> {
        let (near, far) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok(Self::Pair { near, far })
    }

    pub fn timer() -> Result<Self> {
        Ok(Self::Timer(timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?))
    }

    pub fn signals(signal: Signal) -> Result<Self> {
        signal::block(signal)?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        let fd = signal::signalfd(&[signal], flags)?;
        Ok(Self::Signals(fd, signal))
    }

    fn fire(&self) -> Result<()> {
        match self {
            Self::Counter(fd) | Self::Semaphore(fd, _) => {
                write(fd, &1u64.to_ne_bytes()).map(drop)?;
            }
            Self::Pipe { write: fd, .. } | Self::Pair { far: fd, .. } => {
                write(fd, b"x").map(drop)?;
            }
            Self::Timer(fd) => {
                let soon = Itimerspec {
                    it_interval: Timespec::default(),
                    it_value: Timespec {
                        tv_sec: 0,
                        tv_nsec: 1_000_000,
                    },
                };
                timerfd_settime(fd, TimerfdTimerFlags::empty(), &soon)?;
            }
            Self::Signals(_, signal) => signal::raise(*signal)?,
            Self::Set(_) | Self::Lost => bail!("it cannot be made ready directly"),
        }
        Ok(())
    }

    /// Reads everything; false if we do not have the file open.
    fn drain(&self, sets: &[OwnedFd]) -> Result<bool> {
        let fd = match self {
            Self::Set(_) => return Ok(true),
            _ => match self.fd(sets) {
                Some(fd) => fd,
                None => return Ok(false),
            },
        };
        let mut buf = [0u8; 256];
        loop {
            match read(fd, &mut buf) {
                Err(Errno::AGAIN) => return Ok(true),
                Ok(0) => bail!("end of file"),
                result => result.map(drop)?,
            }
        }
    }

    /// Reads everything; false if it was not what was there when the world was built.
    fn has_value(&self, sets: &[OwnedFd]) -> Result<bool> {
        let Self::Semaphore(fd, value) = self else {
            self.drain(sets)?;
            return Ok(true);
        };
        let mut same = true;
        let mut buf = [0u8; 8];
        for reads in 0.. {
            match read(fd, &mut buf) {
                Err(Errno::AGAIN) => return Ok(same && reads == *value),
                result => result.map(drop)?,
            }
            same &= u64::from_ne_bytes(buf) == 1;
        }
        Ok(false)
    }

    /// The watched file; `None` if we do not have it open.
    fn fd<'a>(&'a self, sets: &'a [OwnedFd]) -> Option<BorrowedFd<'a>> {
        match self {
            Self::Counter(fd) | Self::Semaphore(fd, _) | Self::Timer(fd) | Self::Signals(fd, _) => {
                Some(fd.as_fd())
            }
            Self::Pipe { read, .. } => read.as_ref().map(AsFd::as_fd),
            Self::Pair { near, .. } => Some(near.as_fd()),
            Self::Set(set) => Some(sets[*set].as_fd()),
            Self::Lost => None,
        }
    }
}

/// How a target reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Level,
    Edge,
    Oneshot,
    /// A oneshot target that has reported.
    Disarmed,
}

pub struct Target {
    pub set: usize,
    pub source: usize,
    pub mode: Mode,
    pub events: EventFlags,
    pub data: u64,
    /// The descriptor that the file stays open as, by which CRIU finds it.
    pub owner: Option<RawFd>,
}

/// A target as fdinfo shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub tfd: RawFd,
    pub events: u32,
    pub data: u64,
}

#[derive(Default)]
pub struct World {
    pub sets: Vec<OwnedFd>,
    pub sources: Vec<Source>,
    pub targets: Vec<Target>,
    /// The targets of each source.
    watched_by: Vec<Vec<usize>>,
    /// The sources that are each epoll instance.
    watched_as: Vec<Vec<usize>>,
    /// Targets that are ready when the world was built.
    pub ready: Vec<usize>,
    /// An epoll instance to be in flight during the dump, and a counter to be sent with it.
    pub flies: Option<(usize, Option<usize>)>,
    /// The socket that it arrives at, and the one that it was sent from.
    pub flight: Option<(OwnedFd, OwnedFd)>,
    /// Other files that are open.
    pub others: Vec<OwnedFd>,
}

impl World {
    pub fn set(&mut self) -> Result<usize> {
        Ok(self.set_of(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    pub fn set_of(&mut self, set: OwnedFd) -> usize {
        self.sets.push(set);
        self.watched_as.push(Vec::new());
        self.sets.len() - 1
    }

    /// Sends the epoll instance that is to be in flight, and closes it here.
    pub fn take_off(&mut self) -> Result<()> {
        let Some((set, source)) = self.flies else {
            return Ok(());
        };
        let nothing = || Ok::<OwnedFd, std::io::Error>(File::open("/dev/null")?.into());
        let mut fds = vec![std::mem::replace(&mut self.sets[set], nothing()?)];
        if let Some(source) = source {
            match std::mem::replace(&mut self.sources[source], Source::Counter(nothing()?)) {
                Source::Counter(fd) => fds.push(fd),
                _ => bail!("only counters can be in flight"),
            }
        }
        let flags = SocketFlags::CLOEXEC;
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        ensure!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let text = [IoSlice::new(b"x")];
        sendmsg(&far, &text, &mut control, SendFlags::empty())?;
        self.flight = Some((near, far));
        Ok(())
    }

    /// Receives it.
    pub fn land(&mut self) -> Result<()> {
        let (Some((set, source)), Some((near, _far))) = (self.flies, self.flight.take()) else {
            return Ok(());
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0];
        let mut parts = [IoSliceMut::new(&mut text)];
        recvmsg(&near, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                self.sets[set] = fds.next().context("no epoll instance was received")?;
                if let Some(source) = source {
                    let fd = fds.next().context("no counter was received")?;
                    self.sources[source] = Source::Counter(fd);
                }
                return Ok(());
            }
        }
        bail!("nothing was received")
    }

    pub fn source(&mut self, source: Source) -> usize {
        let index = self.sources.len();
        if let Source::Set(set) = source {
            self.watched_as[set].push(index);
        }
        self.sources.push(source);
        self.watched_by.push(Vec::new());
        index
    }

    /// Adds a source by the descriptor that it has.
    pub fn watch(&mut self, set: usize, source: usize, mode: Mode) -> Result<usize> {
        self.watch_for(set, source, mode, EventFlags::IN)
    }

    pub fn watch_for(
        &mut self,
        set: usize,
        source: usize,
        mode: Mode,
        events: EventFlags,
    ) -> Result<usize> {
        let fd = self.sources[source]
            .fd(&self.sets)
            .context("the file is not open here")?;
        let owner = fd.as_raw_fd();
        let (events, data) = self.plan(mode, events);
        epoll::add(&self.sets[set], fd, EventData::new_u64(data), events)?;
        Ok(self.add(set, source, mode, events, data, Some(owner)))
    }

    /// Adds a source by a number that is closed afterwards.
    pub fn watch_under(&mut self, set: usize, source: usize, number: RawFd) -> Result<usize> {
        let fd = self.sources[source]
            .fd(&self.sets)
            .context("the file is not open here")?;
        let owner = fd.as_raw_fd();
        let numbered = fcntl_dupfd_cloexec(fd, number)?;
        ensure!(numbered.as_raw_fd() == number, "{number} is taken");
        let (events, data) = self.plan(Mode::Level, EventFlags::IN);
        epoll::add(&self.sets[set], numbered, EventData::new_u64(data), events)?;
        Ok(self.add(set, source, Mode::Level, events, data, Some(owner)))
    }

    /// Adds a file that only another process will have open.
    pub fn watch_foreign(
        &mut self,
        set: usize,
        source: usize,
        fd: BorrowedFd<'_>,
    ) -> Result<usize> {
        let (events, data) = self.plan(Mode::Level, EventFlags::IN);
        epoll::add(&self.sets[set], fd, EventData::new_u64(data), events)?;
        Ok(self.add(set, source, Mode::Level, events, data, None))
    }

    /// The events to add a target with, and data that no other target has.
    fn plan(&self, mode: Mode, events: EventFlags) -> (EventFlags, u64) {
        let mode = match mode {
            Mode::Level => EventFlags::empty(),
            Mode::Edge => EventFlags::ET,
            Mode::Oneshot | Mode::Disarmed => EventFlags::ONESHOT,
        };
        let n = self.targets.len() as u64 + 1;
        (events | mode, n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn add(
        &mut self,
        set: usize,
        source: usize,
        mode: Mode,
        events: EventFlags,
        data: u64,
        owner: Option<RawFd>,
    ) -> usize {
        let index = self.targets.len();
        self.watched_by[source].push(index);
        self.targets.push(Target {
            set,
            source,
            mode,
            events,
            data,
            owner,
        });
        index
    }

    pub fn fire(&self, source: usize) -> Result<()> {
        self.sources[source].fire()
    }

    pub fn has_value(&self, source: usize) -> Result<bool> {
        self.sources[source].has_value(&self.sets)
    }

    pub fn drain(&self, source: usize) -> Result<bool> {
        self.sources[source].drain(&self.sets)
    }

    /// Arms a oneshot target that has reported.
    pub fn arm(&self, target: usize) -> Result<()> {
        let Target {
            set,
            source,
            events,
            data,
            ..
        } = self.targets[target];
        let fd = self.sources[source]
            .fd(&self.sets)
            .context("the file is not open here")?;
        Ok(epoll::modify(
            &self.sets[set],
            fd,
            EventData::new_u64(data),
            events,
        )?)
    }

    /// The targets that a source makes ready: its own, and epoll instances that have one of
    /// these.
    pub fn reached_from(&self, source: usize) -> Vec<usize> {
        let mut reached = Vec::new();
        let mut sources = vec![source];
        while let Some(source) = sources.pop() {
            for &target in &self.watched_by[source] {
                reached.push(target);
                sources.extend(&self.watched_as[self.targets[target].set]);
            }
        }
        reached
    }

    /// The events that an epoll instance reports, with their data. Waits a second for the
    /// first if there should be some.
    pub fn collect(&self, set: usize, some: bool) -> Result<Vec<(u64, u32)>> {
        let patience = Timespec {
            tv_sec: some.into(),
            tv_nsec: 0,
        };
        let mut events = Vec::with_capacity(AT_ONCE);
        epoll::wait(
            &self.sets[set],
            rustix::buffer::spare_capacity(&mut events),
            Some(&patience),
        )?;
        Ok(events
            .into_iter()
            .map(|event| ({ event.data }.u64(), { event.flags }.bits()))
            .collect())
    }

    pub fn each_set(&self) -> std::ops::Range<usize> {
        0..self.sets.len()
    }

    /// The targets of each epoll instance, as fdinfo shows them.
    pub fn snapshot(&self) -> Result<Vec<Vec<Shown>>> {
        self.sets.iter().map(|set| shown(set.as_raw_fd())).collect()
    }
}

fn shown(efd: RawFd) -> Result<Vec<Shown>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{efd}"))?;
    text.lines()
        .filter(|line| line.starts_with("tfd:"))
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let ["tfd:", tfd, "events:", events, "data:", data, ..] = words[..] else {
                bail!("what is '{line}'?");
            };
            Ok(Shown {
                tfd: tfd.parse()?,
                events: u32::from_str_radix(events, 16)?,
                data: u64::from_str_radix(data, 16)?,
            })
        })
        .collect()
}
