// SPDX-License-Identifier: GPL-2.0

//! An image with something of everything in it.

// Each test uses some of it.
#![allow(dead_code)]

use libepollcr::image::{
    Bytes, Descriptor, Image, Item, Kind, Message, OpenFile, Opener, Origin, Owner, Peer, Pipe,
    Place, Socket, Timer,
};
use std::os::unix::fs::MetadataExt;

pub fn file(kind: Kind, flags: i32) -> OpenFile {
    OpenFile {
        kind,
        flags: flags as u32,
        link: b"anon_inode:[something]".to_vec(),
        owner: None,
        opener: None,
        locks: None,
    }
}

pub fn place(path: &str) -> Place {
    let stat = std::fs::metadata(path).unwrap();
    let device = |dev: u64| (rustix::fs::major(dev), rustix::fs::minor(dev));
    Place {
        path: path.into(),
        mode: stat.mode(),
        device: device(stat.dev()),
        inode: stat.ino(),
        special: (stat.rdev() != 0).then(|| device(stat.rdev())),
        unlinked: false,
    }
}

pub fn socket(peer: Peer) -> Socket {
    Socket {
        kind: libc::SOCK_STREAM as u32,
        peer,
        shutdown: 0,
        queue: Vec::new(),
        buffers: (212_992, 212_992),
        passcred: false,
    }
}

/// All of it can be restored, but for the items, which take the device. The
/// numbers are such as nothing else has.
pub fn image() -> Image {
    let timer = Timer {
        clock: libc::CLOCK_MONOTONIC as u32,
        ticks: 0,
        flags: 0,
        value: (3600, 5),
        interval: (60, 0),
    };
    let message = Message {
        data: Bytes(b"with a file".to_vec()),
        files: vec![0, 3],
    };
    let queue = vec![message];
    let position = 17;
    let items = vec![
        Item {
            tfd: 700,
            file: 0,
            events: 0x8000_0019,
            data: u64::MAX,
            ready: true,
        },
        Item {
            tfd: 12,
            file: 9,
            events: 0x4000_0000,
            data: 1,
            ready: false,
        },
    ];
    // Nobody: a signal might end a test.
    let owner = Some(Owner {
        kind: 1,
        id: 0,
        signal: 10,
    });
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
        file(
            Kind::Socket(Socket {
                queue,
                ..socket(Peer::File(6))
            }),
            libc::O_RDWR | libc::O_ASYNC,
        ),
        file(Kind::Socket(socket(Peer::File(5))), libc::O_RDWR),
        file(Kind::Socket(socket(Peer::Closed)), libc::O_RDWR),
        file(
            Kind::Path {
                place: place("/etc/passwd"),
                position,
            },
            libc::O_RDONLY,
        ),
        file(Kind::Epoll { items: Vec::new() }, libc::O_RDWR),
        file(Kind::Epoll { items }, libc::O_RDWR),
        file(
            Kind::Path {
                place: place("/dev/null"),
                position: 0,
            },
            libc::O_RDWR,
        ),
        file(Kind::Socket(socket(Peer::Nobody)), libc::O_RDWR),
    ];
    files[5].owner = owner;
    files[8].opener = Some(Opener { uid: 0, gid: 0 });
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
    Image {
        origin: Origin {
            pid: 4321,
            command: "a program".into(),
            kernel: "7.3.4".into(),
            time: 1_800_000_000,
            running: false,
        },
        files,
        descriptors,
        pipes: vec![Pipe {
            capacity: 65536,
            data: vec![Bytes(b"in the pipe".to_vec())],
            place: None,
            elsewhere: 0,
        }],
    }
}

pub fn bytes(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    bytes
}
