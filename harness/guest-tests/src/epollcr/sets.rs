// SPDX-License-Identifier: GPL-2.0
//! Epoll instances, target by target, and what the device refuses.

use std::collections::HashMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, ensure};
use libepollcr::device::{Add, Device, Process};
use libepollcr::restore::{Parking, Restore};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::{Errno, dup, fcntl_dupfd_cloexec, write};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{again, device, dump, numbers, take};
use crate::tap::Case;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("epollcr/shapes", |_| shapes()),
        Case::new("epollcr/ready", |_| ready()),
        Case::new("epollcr/room", |_| room()),
        Case::new("epollcr/cycle", |_| cycle()),
        Case::new("epollcr/all-or-nothing", |_| all_or_nothing()),
        Case::new("epollcr/held", |_| held()),
        Case::new("epollcr/given", |_| given()),
    ]
}

fn set() -> Result<OwnedFd> {
    Ok(epoll::create(CreateFlags::CLOEXEC)?)
}

fn file() -> Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

fn add(set: &OwnedFd, file: &OwnedFd, data: u64, events: EventFlags) -> Result<()> {
    Ok(epoll::add(set, file, EventData::new_u64(data), events)?)
}

/// Number, events, data, whether it is ready, and the index of the file, which is the same
/// in all epoll instances.
type Shape = (u32, u32, u64, bool, usize);

/// Describes epoll instances without what depends on addresses.
pub fn shape(device: &Device, sets: &[RawFd]) -> Result<Vec<Vec<Shape>>> {
    let mut files = HashMap::new();
    let mut shapes = Vec::new();
    for &set in sets {
        let mut snapshot = device.snapshot(Process::Own, set as u32)?;
        snapshot.items.sort_by_key(|item| (item.tfd, item.data));
        let mut shape = Vec::new();
        for item in snapshot.items {
            let next = files.len();
            let file = *files.entry(item.file).or_insert(next);
            shape.push((item.tfd, item.events, item.data, item.ready, file));
        }
        shapes.push(shape);
    }
    Ok(shapes)
}

/// Nested epoll instances, a duplicated descriptor of one, a file that was added by two
/// numbers, a file that was added to two instances by one number, an empty instance, all
/// kinds of events.
fn shapes() -> Result<()> {
    let device = device()?;
    let (outer, inner, empty) = (set()?, set()?, set()?);
    let copy = dup(&outer)?;
    let (one, two) = (file()?, file()?);
    add(&outer, &one, 1, EventFlags::IN)?;
    add(&inner, &one, 2, EventFlags::OUT | EventFlags::ET)?;
    let number = fcntl_dupfd_cloexec(&one, 800)?;
    add(&outer, &number, 3, EventFlags::IN | EventFlags::ONESHOT)?;
    drop(number);
    // The number refers to another file by now, which is added, too.
    let number = fcntl_dupfd_cloexec(&two, 800)?;
    add(&outer, &number, 4, EventFlags::IN | EventFlags::EXCLUSIVE)?;
    drop(number);
    add(&outer, &inner, 5, EventFlags::IN)?;
    add(&outer, &two, 6, EventFlags::PRI | EventFlags::RDHUP)?;

    let sets = [outer.as_raw_fd(), inner.as_raw_fd(), empty.as_raw_fd()];
    let before = shape(&device, &sets)?;
    let had = numbers([&outer, &inner, &empty, &copy, &one, &two]);
    let mut restored = again(&device, vec![outer, inner, empty, copy, one, two])?;
    let after = shape(&device, &sets)?;
    ensure!(before == after, "before: {before:?}, after: {after:?}");
    ensure!(before[0].len() == 5 && before[1].len() == 1 && before[2].is_empty());

    let [outer, _inner, _empty, copy, one, _two] = take(&mut restored, had)?;
    write(&one, &1u64.to_ne_bytes())?;
    ensure!(reported(&outer)? == [1, 3, 5], "the events differ");
    // The inner instance is still ready: nobody took its event.
    ensure!(
        reported(&copy)? == [1, 5],
        "the events of the duplicate differ"
    );
    Ok(())
}

/// The data of the targets that are ready now, sorted.
fn reported(set: &OwnedFd) -> Result<Vec<u64>> {
    let mut events = Vec::with_capacity(64);
    let now = Timespec::default();
    epoll::wait(set, rustix::buffer::spare_capacity(&mut events), Some(&now))?;
    let mut data: Vec<_> = events.iter().map(|event| { event.data }.u64()).collect();
    data.sort_unstable();
    Ok(data)
}

/// Events that were due are reported, and those that were reported are not.
fn ready() -> Result<()> {
    let device = device()?;
    let set = set()?;
    let modes = [
        (EventFlags::IN, false),
        (EventFlags::IN | EventFlags::ET, false),
        (EventFlags::IN | EventFlags::ET, true),
        (EventFlags::IN | EventFlags::ONESHOT, false),
        (EventFlags::IN | EventFlags::ONESHOT, true),
    ];
    let mut files = Vec::new();
    for (data, (events, was_reported)) in modes.into_iter().enumerate() {
        let file = file()?;
        add(&set, &file, data as u64, events)?;
        if was_reported {
            write(&file, &1u64.to_ne_bytes())?;
        }
        files.push(file);
    }
    ensure!(reported(&set)? == [2, 4], "two targets should be reported");
    for (file, (_, was_reported)) in files.iter().zip(modes) {
        if !was_reported {
            write(file, &1u64.to_ne_bytes())?;
        }
    }
    let sets = [set.as_raw_fd()];
    let before = shape(&device, &sets)?;
    let had = numbers([&set, &files[2], &files[4]]);
    let mut all = files;
    all.push(set);
    let mut restored = again(&device, all)?;
    let after = shape(&device, &sets)?;
    ensure!(before == after, "before: {before:?}, after: {after:?}");
    let [set, edge, _oneshot] = take(&mut restored, had)?;
    ensure!(
        reported(&set)? == [0, 1, 3],
        "the events that are due differ"
    );
    ensure!(
        reported(&set)? == [0],
        "edges and oneshots are reported twice"
    );
    write(&edge, &1u64.to_ne_bytes())?;
    ensure!(
        reported(&set)? == [0, 2],
        "the edge-triggered target does not report"
    );
    Ok(())
}

/// A pipe that was full of short pieces has room in the copy, which is reported. No descriptor
/// of this process can have the number of that target any more.
fn room() -> Result<()> {
    const NUMBER: RawFd = 900;
    let device = device()?;
    let set = set()?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let number = fcntl_dupfd_cloexec(&writer, NUMBER)?;
    ensure!(number.as_raw_fd() == NUMBER, "descriptor {NUMBER} is open");
    add(&set, &number, 1, EventFlags::OUT | EventFlags::ET)?;
    drop(number);
    ensure!(reported(&set)? == [1], "an empty pipe has room");
    while write(&writer, &[7; 3000]) != Err(Errno::AGAIN) {}
    let sets = [set.as_raw_fd()];
    let before = shape(&device, &sets)?;
    let limit = getrlimit(Resource::Nofile);
    let low = Rlimit {
        current: Some(NUMBER as u64),
        ..limit
    };
    setrlimit(Resource::Nofile, low)?;
    let restored = again(&device, vec![set, reader, writer]);
    setrlimit(Resource::Nofile, limit)?;
    let mut restored = restored?;
    let [set] = take(&mut restored, sets)?;
    ensure!(reported(&set)? == [1], "the room is not reported");
    ensure!(
        before[0][0].0 == NUMBER as u32 && !before[0][0].3,
        "{before:?}"
    );
    ensure!(reported(&set)?.is_empty(), "it is reported twice");
    Ok(())
}

fn item(file: &OwnedFd, tfd: u32) -> Add<'_> {
    Add {
        fd: file.as_fd(),
        tfd,
        events: (EventFlags::IN | EventFlags::ERR | EventFlags::HUP).bits(),
        ready: false,
        data: 1,
    }
}

/// Epoll instances that would watch each other.
fn cycle() -> Result<()> {
    let device = device()?;
    let (outer, inner) = (set()?, set()?);
    device.restore(outer.as_fd(), &[item(&inner, 7)])?;
    let error = device.restore(inner.as_fd(), &[item(&outer, 8)]);
    let error = error.err().context("a cycle was restored")?;
    ensure!(
        error.errno == Errno::LOOP && error.bad == Some(0),
        "{error:?}"
    );
    let error = device.restore(outer.as_fd(), &[item(&outer, 8)]);
    let error = error.err().context("an epoll instance watches itself")?;
    ensure!(error.errno == Errno::INVAL, "{error:?}");
    let snapshot = device.snapshot(Process::Own, inner.as_raw_fd() as u32)?;
    ensure!(snapshot.items.is_empty(), "something was added");
    Ok(())
}

fn all_or_nothing() -> Result<()> {
    let device = device()?;
    let (set, file) = (set()?, file()?);
    let directory: OwnedFd = std::fs::File::open("/")?.into();
    let only = || device.snapshot(Process::Own, set.as_raw_fd() as u32);
    let good: Vec<_> = (0..1000).map(|tfd| item(&file, tfd)).collect();

    let mut bad = good.clone();
    bad.push(item(&directory, 5));
    bad.extend(good.iter().map(|item| Add {
        tfd: item.tfd + 5000,
        ..*item
    }));
    let error = device
        .restore(set.as_fd(), &bad)
        .err()
        .context("a directory")?;
    ensure!(
        error.errno == Errno::PERM && error.bad == Some(1000),
        "{error:?}"
    );
    ensure!(only()?.items.is_empty(), "something was added");

    let mut twice = good.clone();
    twice.push(good[17]);
    let error = device
        .restore(set.as_fd(), &twice)
        .err()
        .context("one twice")?;
    ensure!(
        error.errno == Errno::EXIST && error.bad == Some(1000),
        "{error:?}"
    );
    ensure!(only()?.items.is_empty(), "something was added");

    device.restore(set.as_fd(), &good)?;
    ensure!(only()?.items.len() == 1000, "not all were added");
    let error = device
        .restore(set.as_fd(), &good[..1])
        .err()
        .context("there is one")?;
    ensure!(error.errno == Errno::EXIST, "{error:?}");
    ensure!(only()?.items.len() == 1000, "one was removed");
    Ok(())
}

/// A file that only epoll instances refer to is held, or its targets would be removed.
fn held() -> Result<()> {
    let device = device()?;
    let (set, file) = (set()?, file()?);
    add(&set, &file, 9, EventFlags::IN)?;
    let number = set.as_raw_fd();
    let before = shape(&device, &[number])?;
    // A child keeps the file that we close.
    let child = crate::process::fork(|| crate::process::pause_forever())?;
    drop(file);
    ensure!(
        shape(&device, &[number])?[0].len() == 1,
        "the target is gone"
    );
    let image = dump(&device)?;
    drop(set);
    let restored = Restore::new(&image).run(Some(&device))?;
    ensure!(shape(&device, &[number])? == before, "the target differs");
    ensure!(restored.held.len() == 1, "nothing is held");
    let held = restored.held.values().next().context("it is held")?;
    write(held, &1u64.to_ne_bytes())?;
    let set = &restored.descriptors[&(number as u32)];
    ensure!(reported(set)? == [9], "the held file is not the target's");
    drop(restored);
    drop(child);
    Ok(())
}

/// A target whose file is only in a message to a socket, and another file is given for
/// that socket, without the message: the target is restored all the same.
fn given() -> Result<()> {
    let device = device()?;
    let (set, file) = (set()?, file()?);
    add(&set, &file, 9, EventFlags::IN)?;
    let (near, far) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    ensure!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let text = [IoSlice::new(b"x")];
    sendmsg(&far, &text, &mut control, SendFlags::empty())?;
    drop(file);

    let image = dump(&device)?;
    let sockets = [near.as_raw_fd(), far.as_raw_fd()];
    let number = set.as_raw_fd() as u32;
    drop((set, near, far));
    let mut restore = Restore::new(&image);
    let mut parking = Parking::new(&image);
    for socket in sockets {
        let mut descriptors = image.descriptors.iter();
        let found = descriptors.find(|d| d.number as i32 == socket);
        let null: OwnedFd = std::fs::File::open("/dev/null")?.into();
        let file = found.context("a socket is not in the image")?.file;
        restore.give(file, parking.park(null)?);
    }
    let restored = restore.run(Some(&device))?;
    ensure!(
        restored.held.len() == 1,
        "the file of the target is not held"
    );
    let snapshot = device.snapshot(Process::Own, number)?;
    ensure!(snapshot.items.len() == 1, "the target is gone");
    Ok(())
}
