// SPDX-License-Identifier: GPL-2.0
//! The scenarios: what the program watches while it is dumped.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::Signal;
use rustix::stdio::dup2_stdin;

use crate::world::{Mode, Source, World};

pub fn build(name: &str, targets: u32) -> Result<World> {
    let mut world = World::default();
    let set = world.set()?;
    match name {
        "plain" => plain(&mut world, set)?,
        "many" => {
            for _ in 0..targets {
                let source = world.source(Source::counter()?);
                world.watch(set, source, Mode::Level)?;
            }
        }
        "unwatched" => {
            for _ in 0..targets {
                world.source(Source::counter()?);
            }
        }
        "one-number" => under(&mut world, set, targets, 702)?,
        "two-numbers" => {
            under(&mut world, set, 3, 702)?;
            under(&mut world, set, 2, 701)?;
        }
        "reused-number" => reused(&mut world, set)?,
        "file-number" => {
            under(&mut world, set, 1, 702)?;
            // A regular file, which could not be a target itself.
            let file = File::open(std::env::current_exe()?)?;
            world.others.push(fcntl_dupfd_cloexec(file, 702)?);
        }
        "nested" => nested(&mut world, set)?,
        "inner-number" => {
            let inner = world.set()?;
            let inner_source = world.source(Source::Set(inner));
            world.watch_under(set, inner_source, 703)?;
            let source = world.source(Source::counter()?);
            world.watch(inner, source, Mode::Level)?;
        }
        "semaphore" => {
            let source = world.source(Source::semaphore(3)?);
            world.ready = vec![world.watch(set, source, Mode::Level)?];
        }
        "edge" => edge(&mut world, set)?,
        "edge-idle" => {
            let source = world.source(Source::pipe()?);
            world.watch(set, source, Mode::Edge)?;
            world.fire(source)?;
            world.collect(set, true)?;
        }
        "flags" => flags(&mut world, set)?,
        "oneshot" => {
            for source in [Source::counter()?, Source::pipe()?] {
                let source = world.source(source);
                world.watch(set, source, Mode::Oneshot)?;
            }
        }
        "disarmed" => disarmed(&mut world, set)?,
        "disarmed-idle" => {
            let source = world.source(Source::pipe()?);
            world.watch(set, source, Mode::Disarmed)?;
            world.fire(source)?;
            world.collect(set, true)?;
            world.drain(source)?;
        }
        "twice" => {
            let source = world.source(Source::counter()?);
            world.watch(set, source, Mode::Level)?;
            world.watch_under(set, source, 704)?;
        }
        "thrice" => {
            let source = world.source(Source::counter()?);
            world.watch(set, source, Mode::Level)?;
            world.watch_under(set, source, 704)?;
            world.watch_under(set, source, 705)?;
            let file = File::open(std::env::current_exe()?)?;
            world.others.push(fcntl_dupfd_cloexec(file, 705)?);
        }
        "child" => child(&mut world, set)?,
        "apart" => apart(&mut world, set)?,
        "heir" => heir(&mut world, set)?,
        "in-flight" => in_flight(&mut world, set, false)?,
        "in-flight-both" => in_flight(&mut world, set, true)?,
        "nobody" | "nobody-nested" => nobody(&mut world, set)?,
        _ => bail!("there is no scenario '{name}'"),
    }
    Ok(world)
}

/// A file of each kind; the last one is ready.
fn plain(world: &mut World, set: usize) -> Result<()> {
    for source in [
        Source::counter()?,
        Source::pipe()?,
        Source::pair()?,
        Source::timer()?,
        Source::signals(Signal::USR2)?,
        Source::counter()?,
    ] {
        let source = world.source(source);
        let target = world.watch(set, source, Mode::Level)?;
        world.ready = vec![target];
    }
    world.fire(world.targets[world.ready[0]].source)
}

/// So many targets of one number, which is closed each time.
fn under(world: &mut World, set: usize, targets: u32, number: i32) -> Result<()> {
    for _ in 0..targets {
        let source = world.source(Source::counter()?);
        world.watch_under(set, source, number)?;
    }
    Ok(())
}

/// A number that refers to another file by now, which is a target, too.
fn reused(world: &mut World, set: usize) -> Result<()> {
    let first = world.source(Source::pipe()?);
    world.watch_under(set, first, 702)?;
    let second = world.source(Source::counter_from(702)?);
    world.watch(set, second, Mode::Level)?;
    Ok(())
}

/// Nested epoll instances, one of which is in two others.
fn nested(world: &mut World, outer: usize) -> Result<()> {
    let (middle, inner) = (world.set()?, world.set()?);
    let middle_source = world.source(Source::Set(middle));
    let inner_source = world.source(Source::Set(inner));
    world.watch(outer, middle_source, Mode::Level)?;
    world.watch(outer, inner_source, Mode::Level)?;
    world.watch(middle, inner_source, Mode::Level)?;
    for set in [outer, middle, inner] {
        let source = world.source(Source::counter()?);
        world.watch(set, source, Mode::Level)?;
    }
    Ok(())
}

/// Edge-triggered targets: one that was not ready yet, one that will report, and one that
/// has reported, which reports nothing until there is more to read.
fn edge(world: &mut World, set: usize) -> Result<()> {
    let mut targets = Vec::new();
    for _ in 0..3 {
        let source = world.source(Source::pipe()?);
        targets.push(world.watch(set, source, Mode::Edge)?);
    }
    world.fire(world.targets[targets[2]].source)?;
    world.collect(set, true)?;
    world.fire(world.targets[targets[1]].source)?;
    world.ready = vec![targets[1]];
    Ok(())
}

/// All kinds of events and flags.
fn flags(world: &mut World, set: usize) -> Result<()> {
    for events in [
        EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP,
        EventFlags::IN | EventFlags::EXCLUSIVE,
        EventFlags::IN | EventFlags::MSG,
    ] {
        let source = world.source(Source::pair()?);
        world.watch_for(set, source, Mode::Level, events)?;
    }
    let source = world.source(Source::pair()?);
    world.watch_for(
        set,
        source,
        Mode::Edge,
        EventFlags::IN | EventFlags::EXCLUSIVE,
    )?;
    Ok(())
}

/// Oneshot targets that have reported; the file of one is still ready.
fn disarmed(world: &mut World, set: usize) -> Result<()> {
    for drained in [true, false] {
        let source = world.source(Source::counter()?);
        world.watch(set, source, Mode::Disarmed)?;
        world.fire(source)?;
        world.collect(set, true)?;
        if drained {
            world.drain(source)?;
        }
    }
    Ok(())
}

/// A target whose file only a child has open.
fn child(world: &mut World, set: usize) -> Result<()> {
    let (far, source) = Source::far_pipe()?;
    let source = world.source(source);
    world.watch_foreign(set, source, far.as_fd())?;
    // It is killed with our process group.
    Command::new(std::env::current_exe()?)
        .arg("hold")
        .stdin(Stdio::from(far))
        .spawn()?;
    Ok(())
}

/// An epoll instance that only a child has open, with a target that only we have open.
fn apart(world: &mut World, set: usize) -> Result<()> {
    let source = world.source(Source::counter()?);
    world.watch(set, source, Mode::Level)?;
    let theirs = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    if let Source::Counter(fd) = &world.sources[source] {
        epoll::add(&theirs, fd, epoll::EventData::new_u64(1), EventFlags::IN)?;
    }
    Command::new(std::env::current_exe()?)
        .arg("hold")
        .stdin(Stdio::from(theirs))
        .spawn()?;
    Ok(())
}

/// Two epoll instances, one of them in flight, alone or together with its target.
fn in_flight(world: &mut World, set: usize, both: bool) -> Result<()> {
    let flies = world.set()?;
    let mut source = 0;
    for set in [set, flies] {
        source = world.source(Source::counter()?);
        world.watch(set, source, Mode::Level)?;
    }
    world.flies = Some((flies, both.then_some(source)));
    Ok(())
}

/// A child with a lower pid, which CRIU restores first, that has the instance open and not
/// its target.
fn heir(world: &mut World, set: usize) -> Result<()> {
    let source = world.source(Source::counter()?);
    world.watch(set, source, Mode::Level)?;
    let ours = std::process::id();
    // The next one gets the first pid above it that is free.
    fs::write("/proc/sys/kernel/ns_last_pid", (ours / 2).to_string())
        .context("cannot choose the next pid")?;
    let child = Command::new(std::env::current_exe()?)
        .arg("hold")
        .stdin(Stdio::from(world.sets[set].try_clone()?))
        .spawn()?
        .id();
    ensure!(child < ours, "the child has pid {child}, we have {ours}");
    Ok(())
}

/// A target whose file only our parent has open, and an ordinary one.
fn nobody(world: &mut World, set: usize) -> Result<()> {
    let source = world.source(Source::Lost);
    let held = fcntl_dupfd_cloexec(std::io::stdin(), 900)?;
    world.watch_foreign(set, source, held.as_fd())?;
    drop(held);
    dup2_stdin(File::open("/dev/null")?)?;
    let source = world.source(Source::counter()?);
    world.watch(set, source, Mode::Level)?;
    Ok(())
}
