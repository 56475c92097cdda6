// SPDX-License-Identifier: GPL-2.0

//! What the tests share that dump and restore their own process. Not each uses all of it.
#![allow(dead_code)]

use epoll_targets::Descriptor;
use epoll_targets::fdinfo::Targets;
use epoll_targets::kcmp::{self, Slot, Support};
use libepollcr::dump::Dump;
use libepollcr::image::{Image, Item, Kind};
use libepollcr::restore::{Restore, Restored};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use std::fmt::Display;
use std::fs::File;
use std::io::{BufReader, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: they use the same numbers.
static ALONE: Mutex<()> = Mutex::new(());

/// Descriptors of tests are not less.
pub const FIRST: RawFd = 600;

/// Says that a test is skipped, past the capture of its output: see `scripts/lib/results`.
pub fn skip(why: impl Display) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// `None` if this kernel, or what confines this process, does not allow it.
pub fn alone() -> Option<MutexGuard<'static, ()>> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let support = kcmp::support();
    if support != Support::Epoll {
        skip(support);
        return None;
    }
    Some(alone)
}

pub fn at(number: RawFd, fd: OwnedFd) -> OwnedFd {
    let fd = fcntl_dupfd_cloexec(&fd, number).unwrap();
    assert_eq!(fd.as_raw_fd(), number);
    fd
}

pub fn set(number: RawFd) -> OwnedFd {
    at(number, epoll::create(CreateFlags::CLOEXEC).unwrap())
}

pub fn counter(number: RawFd, value: u32) -> OwnedFd {
    at(number, eventfd(value, EventfdFlags::NONBLOCK).unwrap())
}

pub fn pipe(numbers: [RawFd; 2]) -> (OwnedFd, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    (at(numbers[0], reader), at(numbers[1], writer))
}

pub fn add(set: &OwnedFd, file: &OwnedFd, data: u64, events: EventFlags) {
    epoll::add(set, file, EventData::new_u64(data), events).unwrap();
}

/// Adds a file by a number that is closed again.
pub fn add_by(set: &OwnedFd, file: &OwnedFd, number: RawFd, data: u64, events: EventFlags) {
    let copy = fcntl_dupfd_cloexec(file, number).unwrap();
    assert_eq!(copy.as_raw_fd(), number);
    add(set, &copy, data, events);
}

/// The data of the targets that are ready now, sorted.
pub fn reported(set: &OwnedFd) -> Vec<u64> {
    let mut events = Vec::with_capacity(64);
    epoll::wait(set, spare_capacity(&mut events), Some(&Timespec::default())).unwrap();
    let mut data: Vec<_> = events.iter().map(|event| { event.data }.u64()).collect();
    data.sort_unstable();
    data
}

/// Number, events and data of each target.
pub fn shape(set: RawFd) -> Vec<(RawFd, u32, u64)> {
    let file = File::open(format!("/proc/self/fdinfo/{set}")).unwrap();
    let targets = Targets::new(BufReader::new(file));
    let targets = targets.map(|target| target.unwrap());
    let mut shape: Vec<_> = targets.map(|t| (t.tfd, t.events.0, t.data)).collect();
    shape.sort_unstable();
    shape
}

/// Whether an instance has a target by this number whose file is that of a descriptor.
pub fn watches(set: RawFd, tfd: RawFd, file: RawFd) -> bool {
    let pid = std::process::id() as i32;
    let slot = |toff| Slot {
        efd: set,
        tfd,
        toff,
    };
    let file = Descriptor { pid, fd: file };
    (0..3).any(|toff| kcmp::epoll_tfd(file, pid, slot(toff)).is_ok_and(|order| order.is_eq()))
}

/// An image of this process without what the harness has open.
pub fn dump() -> Image {
    // Its first thread waits for the test.
    let dump = Dump::new(std::process::id() as i32).even_if_running();
    let mut image = dump.make(None).unwrap();
    image.descriptors.retain(|d| d.number >= FIRST as u32);
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    Image::read(&bytes[..]).unwrap()
}

pub fn again(had: Vec<OwnedFd>) -> Restored {
    let image = dump();
    drop(had);
    restore(&mut { image })
}

/// Puts eventfds in the place of what only the harness refers to.
pub fn leave_others_out(image: &mut Image) {
    let wanted: Vec<u32> = image.descriptors.iter().map(|d| d.file).collect();
    for (index, file) in image.files.iter_mut().enumerate() {
        let in_message = matches!(file.kind, Kind::EventFd { .. });
        if !wanted.contains(&(index as u32)) && !in_message {
            file.kind = Kind::EventFd {
                count: 0,
                semaphore: false,
            };
            (file.flags, file.locks, file.owner) = (libc::O_RDWR as u32, None, None);
        }
    }
}

/// Restores the descriptors of an image, and not what only others refer to.
pub fn restore(image: &mut Image) -> Restored {
    leave_others_out(image);
    Restore::new(image).run(None).unwrap()
}

pub fn items(image: &Image, set: RawFd) -> &[Item] {
    let found = image.descriptors.iter().find(|d| d.number as RawFd == set);
    match &image.files[found.unwrap().file as usize].kind {
        Kind::Epoll { items } => items,
        other => panic!("{other:?}"),
    }
}

/// A process that has a descriptor as its standard input.
pub fn holder(fd: &OwnedFd) -> Child {
    let mut command = Command::new("sleep");
    command
        .arg("1000")
        .stdin(Stdio::from(fd.try_clone().unwrap()));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    // It has closed the others when it executes.
    let comm = format!("/proc/{}/comm", child.id());
    while std::fs::read_to_string(&comm).unwrap() != "sleep\n" {
        std::thread::yield_now();
    }
    child
}

pub fn send_file(to: &OwnedFd, file: &OwnedFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(to, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
}

pub fn pair(numbers: [RawFd; 2], kind: SocketType) -> (OwnedFd, OwnedFd) {
    let (near, far) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    (at(numbers[0], near), at(numbers[1], far))
}

/// Why a descriptor cannot be restored.
pub fn why(image: &Image, number: RawFd) -> Option<&str> {
    let found = image
        .descriptors
        .iter()
        .find(|d| d.number as RawFd == number);
    match &image.files[found.unwrap().file as usize].kind {
        Kind::Other { why } => Some(why),
        _ => None,
    }
}
