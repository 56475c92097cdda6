// SPDX-License-Identifier: GPL-2.0

//! An image with something of everything in it.

// Each test uses some of it.
#![allow(dead_code)]

use libepollcr::image::{
    Buffers, Bytes, Descriptor, Image, Item, Kind, Message, OpenFile, Peer, Pipe, Place, Socket,
    Timer,
};
use libepollcr::types::{Clock, DeviceNumber, Opener, Owner, OwnerKind, SocketKind};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

pub fn file(kind: Kind, flags: i32) -> OpenFile {
    let mut file = OpenFile::new(kind, flags as u32);
    file.link = b"anon_inode:[something]".to_vec();
    file
}

pub fn place(path: &str) -> Place {
    let stat = std::fs::metadata(path).unwrap();
    let device = |dev: u64| DeviceNumber {
        major: rustix::fs::major(dev),
        minor: rustix::fs::minor(dev),
    };
    let mut place = Place::new(path, stat.mode());
    place.device = device(stat.dev());
    place.inode = stat.ino();
    place.special = (stat.rdev() != 0).then(|| device(stat.rdev()));
    place
}

pub fn socket(peer: Peer) -> Socket {
    let buffers = Buffers {
        send: 212_992,
        receive: 212_992,
    };
    Socket::new(SocketKind::Stream, peer, buffers)
}

fn items() -> Vec<Item> {
    vec![
        Item {
            tfd: 700,
            file: 0,
            events: 0x8000_0019,
            data: u64::MAX,
            ready: true,
            guessed: None,
        },
        Item {
            tfd: 12,
            file: 9,
            events: 0x4000_0000,
            data: 1,
            ready: false,
            guessed: None,
        },
    ]
}

fn files() -> Vec<OpenFile> {
    let mut timer = Timer::new(Clock::Monotonic);
    timer.value = Duration::new(3600, 5);
    timer.interval = Duration::from_secs(60);
    let message = Message {
        data: Bytes(b"with a file".to_vec()),
        files: vec![0, 3],
    };
    let mut with_message = socket(Peer::File(6));
    with_message.queue = vec![message];
    let mut files = vec![
        file(Kind::Pipe { pipe: 0 }, libc::O_RDONLY | libc::O_NONBLOCK),
        file(Kind::Pipe { pipe: 0 }, libc::O_WRONLY),
        file(
            Kind::EventFd {
                count: 5,
                semaphore: true,
            },
            libc::O_RDWR,
        ),
        file(Kind::TimerFd(timer), libc::O_RDWR),
        file(
            Kind::SignalFd { mask: 0xa00 },
            libc::O_RDWR | libc::O_NONBLOCK,
        ),
        file(Kind::Socket(with_message), libc::O_RDWR | libc::O_ASYNC),
        file(Kind::Socket(socket(Peer::File(5))), libc::O_RDWR),
        file(Kind::Socket(socket(Peer::Closed)), libc::O_RDWR),
        file(
            Kind::Path {
                place: place("/etc/passwd"),
                position: 17,
            },
            libc::O_RDONLY,
        ),
        file(Kind::Epoll { items: Vec::new() }, libc::O_RDWR),
        file(Kind::Epoll { items: items() }, libc::O_RDWR),
        file(
            Kind::Path {
                place: place("/dev/null"),
                position: 0,
            },
            libc::O_RDWR,
        ),
        file(Kind::Socket(socket(Peer::Nobody)), libc::O_RDWR),
    ];
    // No receiver: a signal might end a test.
    let owner = Some(Owner {
        kind: OwnerKind::Process,
        id: 0,
        signal: 10,
    });
    files[5].owner = owner;
    files[8].opener = Some(Opener { uid: 0, gid: 0 });
    files
}

/// All of it can be restored, except the targets of epoll instances, for which the device
/// is needed. Nothing else has its descriptors.
pub fn image() -> Image {
    let files = files();
    let descriptors = (0..files.len() as u32)
        .filter(|&file| file != 3)
        .map(|file| Descriptor {
            number: 600 + file,
            file,
            cloexec: file % 2 == 0,
        })
        .chain([Descriptor {
            number: 650,
            file: 0,
            cloexec: false,
        }])
        .collect();
    let mut pipe = Pipe::new(65536);
    pipe.data = vec![Bytes(b"in the pipe".to_vec())];
    let mut image = Image::default();
    image.origin.pid = 4321;
    image.origin.command = "a program".into();
    image.origin.kernel = "7.3.4".into();
    image.origin.time = 1_800_000_000;
    image.files = files;
    image.descriptors = descriptors;
    image.pipes = vec![pipe];
    image
}

pub fn bytes(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    bytes
}
