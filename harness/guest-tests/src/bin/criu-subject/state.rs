// SPDX-License-Identifier: GPL-2.0
//! Passes what a program knows about its descriptors to the one that gets them.

use std::fmt::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use guest_tests::signal;
use rustix::event::epoll::EventFlags;
use rustix::process::Signal;

use crate::world::{Mode, Shown, Source, World};

const MODES: [Mode; 4] = [Mode::Level, Mode::Edge, Mode::Oneshot, Mode::Disarmed];

/// Writes a line for each epoll instance, source, target, and target that fdinfo shows.
pub fn write(world: &World, before: &[Vec<Shown>]) -> String {
    let mut text = String::new();
    let number = |fd: &OwnedFd| i64::from(fd.as_raw_fd());
    let mut line = |what: &str, numbers: &[i64]| {
        let numbers: Vec<_> = numbers.iter().map(i64::to_string).collect();
        // A string takes whatever is written to it.
        let _ = writeln!(text, "{what} {}", numbers.join(" "));
    };
    for set in &world.sets {
        line("set", &[number(set)]);
    }
    for source in &world.sources {
        match source {
            Source::Counter(fd) => line("counter", &[number(fd)]),
            Source::Semaphore(fd, value) => line("semaphore", &[number(fd), *value as i64]),
            Source::Pipe { read, write } => {
                let read = read.as_ref().map_or(-1, number);
                line("pipe", &[read, number(write)]);
            }
            Source::Pair { near, far } => line("pair", &[number(near), number(far)]),
            Source::Timer(fd) => line("timer", &[number(fd)]),
            Source::Signals(fd, signal) => line("signals", &[number(fd), signal.as_raw().into()]),
            Source::Set(set) => line("watched-set", &[*set as i64]),
            Source::Lost => line("lost", &[]),
        }
    }
    if let (Some((set, source)), Some((near, far))) = (world.flies, &world.flight) {
        let source = source.map_or(-1, |source| source as i64);
        line("flies", &[set as i64, source, number(near), number(far)]);
    }
    for target in &world.targets {
        let mode = MODES.iter().position(|&mode| mode == target.mode);
        line(
            "target",
            &[
                target.set as i64,
                target.source as i64,
                mode.unwrap_or_default() as i64,
                target.events.bits().into(),
                target.data as i64,
                target.owner.unwrap_or(-1).into(),
            ],
        );
    }
    for &ready in &world.ready {
        line("ready", &[ready as i64]);
    }
    for (set, shown) in before.iter().enumerate() {
        for Shown { tfd, events, data } in shown {
            let numbers = [set as i64, (*tfd).into(), (*events).into(), *data as i64];
            line("shown", &numbers);
        }
    }
    text
}

/// A descriptor that this process was started with.
fn inherited(number: i64) -> Result<OwnedFd> {
    let number = i32::try_from(number)?;
    ensure!(
        // SAFETY: this only checks whether it is open.
        unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0,
        "{number} is not open"
    );
    // SAFETY: it is open, and each number occurs only once in what was written, so that
    // nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

pub fn read(text: &str) -> Result<(World, Vec<Vec<Shown>>)> {
    let mut world = World::default();
    let mut before = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let what = words.next().unwrap_or_default();
        let numbers: Result<Vec<i64>, _> = words.map(str::parse).collect();
        let source = match (what, &numbers?[..]) {
            ("set", &[fd]) => {
                world.set_of(inherited(fd)?);
                before.push(Vec::new());
                continue;
            }
            ("target", &[set, source, mode, events, data, owner]) => {
                let mode = *MODES.get(mode as usize).context("there is no such mode")?;
                let events = EventFlags::from_bits_retain(events as u32);
                let owner = i32::try_from(owner).ok().filter(|&owner| owner >= 0);
                world.add(
                    set as usize,
                    source as usize,
                    mode,
                    events,
                    data as u64,
                    owner,
                );
                continue;
            }
            ("flies", &[set, source, near, far]) => {
                world.flies = Some((set as usize, usize::try_from(source).ok()));
                world.flight = Some((inherited(near)?, inherited(far)?));
                continue;
            }
            ("ready", &[target]) => {
                world.ready.push(target as usize);
                continue;
            }
            ("shown", &[set, tfd, events, data]) => {
                let shown = Shown {
                    tfd: tfd as i32,
                    events: events as u32,
                    data: data as u64,
                };
                before
                    .get_mut(set as usize)
                    .context("there is no such epoll instance")?
                    .push(shown);
                continue;
            }
            ("counter", &[fd]) => Source::Counter(inherited(fd)?),
            ("semaphore", &[fd, value]) => Source::Semaphore(inherited(fd)?, value as u64),
            ("pipe", &[-1, write]) => Source::Pipe {
                read: None,
                write: inherited(write)?,
            },
            ("pipe", &[read, write]) => Source::Pipe {
                read: Some(inherited(read)?),
                write: inherited(write)?,
            },
            ("pair", &[near, far]) => Source::Pair {
                near: inherited(near)?,
                far: inherited(far)?,
            },
            ("timer", &[fd]) => Source::Timer(inherited(fd)?),
            ("signals", &[fd, signal]) => {
                let signal =
                    Signal::from_named_raw(signal as i32).context("there is no such signal")?;
                signal::block(signal)?;
                Source::Signals(inherited(fd)?, signal)
            }
            ("watched-set", &[set]) => Source::Set(set as usize),
            ("lost", &[]) => Source::Lost,
            _ => bail!("'{line}' is not a line of a state"),
        };
        world.source(source);
    }
    Ok((world, before))
}
