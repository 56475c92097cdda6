// SPDX-License-Identifier: GPL-2.0

//! Events that come while an image is restored, or by that, are reported: a program that
//! waits for an edge would wait for ever.

mod process;

use libepollcr::image::{Image, Kind};
use libepollcr::restore::Restore;
use process::*;
use rustix::event::epoll::EventFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat, open};
use rustix::io::{Errno, read, write};
use rustix::net::SocketType;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

const EDGE: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::ET);

fn file_of(image: &Image, number: RawFd) -> u32 {
    let mut descriptors = image.descriptors.iter();
    let found = descriptors.find(|d| d.number as RawFd == number);
    found.unwrap().file
}

/// Another file takes the place of one in the image, such as a listening socket that a
/// service manager passes.
#[test]
fn a_given_file() {
    let Some(_alone) = alone() else { return };
    let (set, file) = (set(600), counter(601, 1));
    let listener = at(602, TcpListener::bind("127.0.0.1:0").unwrap().into());
    add(&set, &file, 1, EDGE);
    add(&set, &listener, 2, EDGE);
    assert_eq!(reported(&set), [1]);
    let mut image = dump();
    drop((set, file, listener));
    leave_others_out(&mut image);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut restore = Restore::new(&image);
    for (number, fd) in [(601, counter(700, 5)), (602, at(701, listener.into()))] {
        restore.give(file_of(&image, number), fd);
    }
    let restored = restore.run(None).unwrap();
    assert_eq!(reported(&restored.descriptors[&600]), [1, 2]);
}

/// Some of them expire before they are added.
#[test]
fn timers_that_expire() {
    const TIMERS: u64 = 200;
    let Some(_alone) = alone() else { return };
    let set = set(600);
    let mut timers = Vec::new();
    for n in 0..TIMERS {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK).unwrap();
        let timer = at(601 + n as RawFd, timer);
        add(&set, &timer, n, EDGE);
        timers.push(timer);
    }
    let mut image = dump();
    drop((set, timers));
    let kinds = image.files.iter_mut().map(|file| &mut file.kind);
    let timers = kinds.filter_map(|kind| match kind {
        Kind::TimerFd(timer) => Some(timer),
        _ => None,
    });
    for (timer, n) in timers.zip(1..) {
        timer.value = Duration::from_micros(10 * n);
    }
    let restored = restore(&mut image);
    std::thread::sleep(Duration::from_millis(50));
    let mut found = Vec::new();
    loop {
        let some = reported(&restored.descriptors[&600]);
        if some.is_empty() {
            break;
        }
        found.extend(some);
    }
    found.sort_unstable();
    assert_eq!(found, (0..TIMERS).collect::<Vec<_>>());
}

/// Its contents take less room once they are in one piece.
#[test]
fn a_pipe_that_was_full() {
    let Some(_alone) = alone() else { return };
    let set = set(600);
    let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
    let (reader, writer) = (at(601, reader), at(602, writer));
    let one = |data, events| add_by(&set, &writer, 610 + data as RawFd, data, events);
    one(1, EDGE);
    one(2, EDGE | EventFlags::EXCLUSIVE);
    assert_eq!(reported(&set), [1, 2]);
    while write(&writer, &[7; 3000]) != Err(Errno::AGAIN) {}
    one(3, EDGE | EventFlags::ONESHOT);
    assert_eq!(reported(&set), []);
    let before = shape(600);
    let restored = again(vec![set, reader, writer]);
    assert_eq!(shape(600), before);
    let fds = &restored.descriptors;
    assert_eq!(reported(&fds[&600]), [1, 2, 3]);

    // That it had room was reported.
    let restored = again(restored.descriptors.into_values().collect());
    assert_eq!(reported(&restored.descriptors[&600]), []);
}

/// What nothing makes fire is refused before anything is made, and nothing waits.
#[test]
fn a_oneshot_on_a_pipe_that_is_full_of_packets() {
    let Some(_alone) = alone() else { return };
    for flags in [OFlags::empty(), OFlags::NONBLOCK] {
        let set = set(600);
        let (reader, writer) = pipe([601, 602]);
        add(&set, &writer, 1, EventFlags::OUT | EventFlags::ONESHOT);
        assert_eq!(reported(&set), [1]);
        fcntl_setfl(&writer, OFlags::DIRECT | OFlags::NONBLOCK).unwrap();
        while write(&writer, b"x") != Err(Errno::AGAIN) {}
        fcntl_setfl(&writer, OFlags::DIRECT | flags).unwrap();
        let image = dump();
        drop((set, reader, writer));
        let problems = Restore::new(&image).problems(None);
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(said[0].contains("cannot be made to fire again"), "{said:?}");
    }
}

/// It has nothing to receive, and no room to send.
#[test]
fn a_oneshot_on_a_socket_without_an_event() {
    let Some(_alone) = alone() else { return };
    for kind in [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM] {
        let set = set(600);
        let (near, far) = pair([601, 602], kind);
        let once = EventFlags::IN | EventFlags::OUT | EventFlags::ONESHOT;
        add(&set, &near, 1, once);
        assert_eq!(reported(&set), [1]);
        fcntl_setfl(&near, OFlags::NONBLOCK).unwrap();
        while write(&near, &[7; 4000]) != Err(Errno::AGAIN) {}
        let before = shape(600);
        let restored = again(vec![set, near, far]);
        assert_eq!(shape(600), before, "{kind:?}");
        let fds = &restored.descriptors;
        write(&fds[&602], b"x").unwrap();
        assert_eq!(reported(&fds[&600]), [], "{kind:?}");
        let mut buffer = [0; 4];
        assert_eq!(read(&fds[&601], &mut buffer), Ok(1), "{kind:?}");
        assert_eq!(&buffer[..1], b"x");
    }
}

/// A FIFO in a directory of its own.
struct Fifo(PathBuf);

impl Fifo {
    fn new(name: &str) -> Self {
        let name = format!("libepollcr-{}-{name}", std::process::id());
        let fifo = Self(std::env::temp_dir().join(name));
        mknodat(CWD, &fifo.0, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        fifo
    }

    fn open(&self, flags: OFlags) -> OwnedFd {
        let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
        open(&self.0, flags, Mode::empty()).unwrap()
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Its writers have closed it, and that is not forgotten.
#[test]
fn a_fifo_that_has_ended() {
    let Some(_alone) = alone() else { return };
    let fifo = Fifo::new("ended");
    for was_open in [false, true] {
        let set = set(600);
        let reader = at(601, fifo.open(OFlags::RDONLY));
        add(&set, &reader, 1, EventFlags::IN);
        if was_open {
            drop(fifo.open(OFlags::WRONLY));
        }
        let restored = again(vec![set, reader]);
        let expected: &[u64] = if was_open { &[1] } else { &[] };
        assert_eq!(reported(&restored.descriptors[&600]), expected);
    }
}

/// Another process has read them, and written as much.
#[test]
fn a_fifo_with_other_contents() {
    let Some(_alone) = alone() else { return };
    let fifo = Fifo::new("contents");
    let (set, reader) = (set(600), at(601, fifo.open(OFlags::RDONLY)));
    let keeper = fifo.open(OFlags::RDWR);
    write(&keeper, b"original").unwrap();
    add(&set, &reader, 1, EDGE);
    assert_eq!(reported(&set), [1]);
    let mut image = dump();
    drop((set, reader));
    let restored = restore(&mut image);
    assert_eq!(reported(&restored.descriptors[&600]), []);
    drop(restored);

    read(keeper.as_fd(), &mut [0; 16]).unwrap();
    write(&keeper, b"REPLACED").unwrap();
    let error = Restore::new(&image).run(None).unwrap_err();
    let error: &dyn std::error::Error = &error;
    let source = error.source().unwrap().to_string();
    assert_eq!(source, "it has other contents by now");
    let mut buffer = [0; 16];
    assert_eq!(read(&keeper, &mut buffer), Ok(8));
}
