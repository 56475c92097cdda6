// SPDX-License-Identifier: GPL-2.0

//! What is written is read, and what is damaged is refused.

mod common;

use common::{bytes, file, image, place, socket};
use image_mutator::{HEAD, seal};
use libepollcr::image::{Descriptor, Error, Image, Item, Kind, Peer, Watch};
use libepollcr::types::{Clock, DeviceNumber, Directions, PipeEnds, SocketKind, TimerFlags};
use proptest::prelude::*;
use std::error::Error as _;
use std::time::Duration;

/// The error and its causes, as the tool prints them.
fn refused(bytes: &[u8]) -> String {
    let error = Image::read(bytes).unwrap_err();
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

/// An image with the bytes `from` replaced, checksum included.
fn edited(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes(&image());
    let at: Vec<_> = (HEAD..bytes.len() - from.len())
        .filter(|&at| bytes[at..].starts_with(from))
        .collect();
    assert_eq!(at.len(), 1, "{from:x?} is there once");
    bytes.splice(at[0]..at[0] + from.len(), to.iter().copied());
    seal(&mut bytes);
    bytes
}

#[test]
fn what_is_written_is_read() {
    let image = image();
    assert_eq!(Image::read(&bytes(&image)[..]).unwrap(), image);
}

#[test]
fn each_error_is_a_sentence() {
    let good = bytes(&image());
    assert_eq!(refused(b""), "this is not an image of epollcr");
    assert_eq!(refused(b"EPOLL"), "the image is truncated");
    assert_eq!(refused(&[0; 100]), "this is not an image of epollcr");
    assert_eq!(refused(&good[..HEAD - 1]), "the image is truncated");
    assert_eq!(refused(&good[..good.len() - 1]), "the image is truncated");
    let longer = [&good[..], b"x"].concat();
    assert_eq!(refused(&longer), "the image has data after its end");

    let mut other = good.clone();
    other[8] = 4;
    assert_eq!(
        refused(&other),
        "the image has version 4, and only versions up to 3 can be read"
    );

    // No more is read than there is, whatever the length says.
    let mut other = good.clone();
    other[16..24].fill(0xff);
    assert_eq!(refused(&other), "the image is truncated");

    let mut other = longer.clone();
    seal(&mut other);
    assert_eq!(refused(&other), "the image has data after its end");

    let mut other = good[..HEAD + 20].to_vec();
    seal(&mut other);
    let error = refused(&other);
    assert!(
        error.starts_with("the image does not follow its schema: "),
        "{error}"
    );
}

type Edit = fn(&mut Image);

/// What is wrong after each edit of the image.
const CONTRADICTIONS: &[(&str, Edit)] = &[
    ("-1 is not the id of a process", |image| {
        image.origin.pid = -1;
    }),
    ("file 5: -7 is not an id", |image| {
        image.files[5].owner.as_mut().unwrap().id = -7;
    }),
    ("descriptor 600: there is no file 99", |image| {
        image.descriptors[0].file = 99;
    }),
    ("descriptor 600 is not in ascending order", |image| {
        image.descriptors[1].number = 600;
    }),
    ("2147483648 is too large for a descriptor", |image| {
        let number = 1 << 31;
        let last = image.descriptors.last_mut().unwrap();
        *last = Descriptor { number, ..*last };
    }),
    ("file 0: there is no pipe 7", |image| {
        image.files[0].kind = Kind::Pipe { pipe: 7 };
    }),
    ("pipe 0: its 11 bytes exceed its capacity", |image| {
        image.pipes[0].capacity = 10;
    }),
    (
        "pipe 0: its capacity of 2147483648 bytes is too large",
        |image| {
            image.pipes[0].capacity = 1 << 31;
        },
    ),
    ("pipe 0: its path does not name a FIFO", |image| {
        image.pipes[0].place = Some(place("/etc/passwd"));
    }),
    ("file 2: the value of an eventfd is too large", |image| {
        image.files[2].kind = Kind::EventFd {
            count: u64::MAX,
            semaphore: false,
        };
    }),
    (
        "file 3: 2305843009213693952 s is too long for a timer",
        |image| {
            if let Kind::TimerFd(timer) = &mut image.files[3].kind {
                timer.value = Duration::from_secs(1 << 61);
            }
        },
    ),
    ("file 5: file 7 is not its peer", |image| {
        if let Kind::Socket(socket) = &mut image.files[5].kind {
            socket.peer = Peer::File(7);
        }
    }),
    ("file 12: file 12 is not its peer", |image| {
        image.files[12].kind = Kind::Socket(socket(Peer::File(12)));
    }),
    ("file 5: there is no file 4000", |image| {
        if let Kind::Socket(socket) = &mut image.files[5].kind {
            socket.queue[0].files.push(4000);
        }
    }),
    (
        "file 8: a path is not absolute, too long, or contains NUL",
        |image| {
            if let Kind::Path { place, .. } = &mut image.files[8].kind {
                place.path = b"etc/passwd".to_vec();
            }
        },
    ),
    (
        "file 2: watch descriptor 1 is too large, or not in ascending order",
        |image| {
            let watch = Watch::new(1, libc::IN_OPEN, place("/etc/passwd"));
            let watches = vec![watch.clone(), watch];
            image.files[2].kind = Kind::Inotify { watches };
        },
    ),
    (
        "file 2: watch 1: 0x20000002 is not a mask of events",
        |image| {
            let mask = libc::IN_MODIFY | libc::IN_MASK_ADD;
            let watches = vec![Watch::new(1, mask, place("/etc/passwd"))];
            image.files[2].kind = Kind::Inotify { watches };
        },
    ),
    ("file 2: it has unknown flags 0o100", |image| {
        image.files[2].flags |= libc::O_CREAT as u32;
    }),
    ("file 2: O_PATH does not open eventfd files", |image| {
        image.files[2].flags |= libc::O_PATH as u32;
    }),
    (
        "file 10: file 0 is a target twice by descriptor 700",
        |image| {
            if let Kind::Epoll { items } = &mut image.files[10].kind {
                items.push(items[0]);
            }
        },
    ),
    (
        "file 10: the target of descriptor 700: there is no file 40",
        |image| {
            if let Kind::Epoll { items } = &mut image.files[10].kind {
                items[0].file = 40;
            }
        },
    ),
    ("epoll instance 9 is its own target", |image| {
        let Kind::Epoll { items } = &image.files[10].kind else {
            unreachable!();
        };
        let item = Item {
            file: 10,
            ..items[0]
        };
        image.files[9].kind = Kind::Epoll { items: vec![item] };
    }),
];

#[test]
fn what_contradicts_itself_is_refused() {
    for (why, edit) in CONTRADICTIONS {
        let mut image = image();
        edit(&mut image);
        let error = image.write(Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), *why);
    }
}

/// Invalid values that the types exclude.
#[test]
fn what_no_type_can_hold_is_refused() {
    // A timer is an array of its clock, ticks, flags, and two arrays of seconds and
    // nanoseconds.
    let timer = b"\x85\x01\x00\x00\x82\x19\x0e\x10\x05\x82\x18\x3c\x00";
    let clock = b"\x85\x18\x4d\x00\x00\x82\x19\x0e\x10\x05\x82\x18\x3c\x00";
    let nanoseconds = b"\x85\x01\x00\x00\x82\x19\x0e\x10\x1a\x3b\x9a\xca\x00\x82\x18\x3c\x00";
    let owner = b"\x83\x01\x00\x0a";
    for (from, to, why) in [
        (&timer[..], &clock[..], "77 is not a clock of a timer"),
        (timer, nanoseconds, "1000000000 ns are a second or more"),
        (owner, b"\x83\x03\x00\x0a", "3 is not a kind of owner"),
    ] {
        let error = refused(&edited(from, to));
        assert!(error.ends_with(why), "{error}");
        assert!(
            error.starts_with("the image does not follow its schema: "),
            "{error}"
        );
    }
}

/// An image that an earlier version of this library has written, when most fields were
/// integers: it can still be read, and would be written just the same.
#[test]
fn the_format_stays() {
    const EARLIER: &[u8] = include_bytes!("version-1.image");

    let mut image = image();
    for file in &mut image.files {
        if let Kind::Path { place, .. } = &mut file.kind {
            place.device = DeviceNumber { major: 8, minor: 1 };
            place.inode = 1234;
            place.mode = 0o100_644;
        }
    }
    if let Kind::Socket(socket) = &mut image.files[7].kind {
        socket.shutdown = Directions::all();
        socket.kind = SocketKind::SeqPacket;
        socket.passcred = true;
    }
    image.pipes[0].elsewhere = PipeEnds::WRITE;
    if let Kind::TimerFd(timer) = &mut image.files[3].kind {
        timer.clock = Clock::BoottimeAlarm;
        timer.flags = TimerFlags::all();
        timer.ticks = 7;
    }
    let why = "it is a socket".into();
    let mut other = file(Kind::Other { why }, 0);
    other.locks = Some(2);
    image.files.push(other);
    assert_eq!(Image::read(EARLIER).unwrap(), image);
    assert_eq!(bytes(&image), EARLIER);
}

#[test]
fn a_chain_of_sets_takes_no_stack() {
    let mut image = Image::default();
    for n in 0..200_000 {
        let items = vec![Item {
            tfd: 3,
            file: n + 1,
            events: 0x19,
            data: 0,
            ready: false,
            guessed: None,
        }];
        image.files.push(file(Kind::Epoll { items }, libc::O_RDWR));
    }
    let items = Vec::new();
    image.files.push(file(Kind::Epoll { items }, libc::O_RDWR));
    assert_eq!(Image::read(&bytes(&image)[..]).unwrap().items(), 200_000);
}

proptest! {
    #[test]
    fn any_bytes_are_refused(body: Vec<u8>) {
        let head = &bytes(&Image::default())[..HEAD];
        let mut bytes = [head, &body].concat();
        seal(&mut bytes);
        prop_assert!(matches!(
            Image::read(&bytes[..]),
            Err(Error::Malformed(_) | Error::TooLong | Error::Invalid(_))
        ));
    }

    #[test]
    fn any_flipped_bit_is_found(at in 0..10_000usize, bit in 0..8u32) {
        let mut bytes = bytes(&image());
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(Image::read(&bytes[..]).is_err());
    }
}
