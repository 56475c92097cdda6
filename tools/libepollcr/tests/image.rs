// SPDX-License-Identifier: GPL-2.0

//! What is written is read, and what is damaged is refused.

mod common;

use common::{bytes, file, image, place, socket};
use image_mutator::{HEAD, seal};
use libepollcr::image::{Descriptor, Error, Image, Item, Kind, Peer};
use proptest::prelude::*;

fn refused(bytes: &[u8]) -> String {
    Image::read(bytes).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read() {
    let image = image();
    assert_eq!(Image::read(&bytes(&image)[..]).unwrap(), image);
}

#[test]
fn each_error_is_a_sentence() {
    let good = bytes(&image());
    assert_eq!(refused(b""), "this is no image of epollcr");
    assert_eq!(refused(b"EPOLL"), "the image is cut off");
    assert_eq!(refused(&[0; 100]), "this is no image of epollcr");
    assert_eq!(refused(&good[..HEAD - 1]), "the image is cut off");
    assert_eq!(refused(&good[..good.len() - 1]), "the image is cut off");
    let longer = [&good[..], b"x"].concat();
    assert_eq!(
        refused(&longer),
        "there is something behind the end of the image"
    );

    let mut other = good.clone();
    other[8] = 2;
    assert_eq!(
        refused(&other),
        "the image has version 2, and only version 1 can be read"
    );

    // No more is read than there is, whatever the length says.
    let mut other = good.clone();
    other[16..24].fill(0xff);
    assert_eq!(refused(&other), "the image is cut off");

    let mut other = longer.clone();
    seal(&mut other);
    assert_eq!(
        refused(&other),
        "there is something behind the end of the image"
    );

    let mut other = good[..HEAD + 20].to_vec();
    seal(&mut other);
    let error = refused(&other);
    assert!(
        error.starts_with("the image does not follow its schema: "),
        "{error}"
    );
}

/// Nothing that lies is read.
#[test]
fn what_contradicts_itself_is_refused() {
    type Edit = fn(&mut Image);
    let edits: &[(&str, Edit)] = &[
        ("descriptor 600: there is no file 99", |image| {
            image.descriptors[0].file = 99;
        }),
        ("descriptor 600 comes twice, or too late", |image| {
            image.descriptors[1].number = 600;
        }),
        ("2147483648 cannot be the number of a descriptor", |image| {
            let number = 1 << 31;
            let last = image.descriptors.last_mut().unwrap();
            *last = Descriptor { number, ..*last };
        }),
        ("file 0: there is no pipe 7", |image| {
            image.files[0].kind = Kind::Pipe { pipe: 7 };
        }),
        ("pipe 0: 11 bytes are more than fit in it", |image| {
            image.pipes[0].capacity = 10;
        }),
        (
            "pipe 0: 2147483648 bytes are too much for a pipe",
            |image| {
                image.pipes[0].capacity = 1 << 31;
            },
        ),
        ("pipe 0: its path is not that of a FIFO", |image| {
            image.pipes[0].place = Some(place("/etc/passwd"));
        }),
        (
            "file 2: an eventfd cannot be given so high a value",
            |image| {
                image.files[2].kind = Kind::EventFd {
                    count: u64::MAX,
                    semaphore: false,
                };
            },
        ),
        ("file 3: 77 is no clock of a timer", |image| {
            if let Kind::TimerFd(timer) = &mut image.files[3].kind {
                timer.clock = 77;
            }
        }),
        ("file 3: 3600 s 1000000000 ns is no time", |image| {
            if let Kind::TimerFd(timer) = &mut image.files[3].kind {
                timer.value.1 = 1_000_000_000;
            }
        }),
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
        ("file 8: a path is none", |image| {
            if let Kind::Path { place, .. } = &mut image.files[8].kind {
                place.path = b"etc/passwd".to_vec();
            }
        }),
        ("file 2: it has unknown flags 0o100", |image| {
            image.files[2].flags |= libc::O_CREAT as u32;
        }),
        ("file 2: no eventfd is opened with O_PATH", |image| {
            image.files[2].flags |= libc::O_PATH as u32;
        }),
        ("file 10: file 0 is watched twice by number 700", |image| {
            if let Kind::Epoll { items } = &mut image.files[10].kind {
                items.push(items[0]);
            }
        }),
        (
            "file 10: the item of number 700: there is no file 40",
            |image| {
                if let Kind::Epoll { items } = &mut image.files[10].kind {
                    items[0].file = 40;
                }
            },
        ),
        ("epoll set 9 watches itself", |image| {
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
    for (why, edit) in edits {
        let mut image = image();
        edit(&mut image);
        let error = image.write(Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), *why);
    }
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
