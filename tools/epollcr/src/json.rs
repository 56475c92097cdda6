// SPDX-License-Identifier: GPL-2.0

//! Output for programs, as epollcr(1) documents it in OUTPUT FOR PROGRAMS.

use crate::table::flag_names;
use epoll_cli::text::unicode;
use epoll_targets::fdinfo::Events;
use libepollcr::image::{self, Image, Kind, Peer};
use libepollcr::types::DeviceNumber;
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

#[derive(Serialize)]
struct Output<'a> {
    version: u32,
    process: Process<'a>,
    descriptors: Vec<Descriptor>,
    files: Vec<File<'a>>,
    pipes: Vec<Pipe<'a>>,
    memories: Vec<Memory<'a>>,
}

#[derive(Serialize)]
struct Process<'a> {
    pid: i32,
    command: &'a str,
    kernel: &'a str,
    time: u64,
    stopped: bool,
}

#[derive(Serialize)]
struct Descriptor {
    fd: u32,
    file: u32,
    cloexec: bool,
}

#[derive(Serialize)]
struct Bits {
    bits: u32,
    names: Vec<&'static str>,
}

#[derive(Serialize)]
struct File<'a> {
    kind: &'static str,
    link: Cow<'a, str>,
    flags: Bits,
    locks: u32,
    owner: Option<Owner>,
    #[serde(flatten)]
    about: About<'a>,
}

#[derive(Serialize)]
struct Owner {
    kind: u32,
    id: i32,
    signal: u32,
}

#[derive(Serialize)]
#[serde(untagged)]
enum About<'a> {
    Path {
        #[serde(flatten)]
        place: Place<'a>,
        position: u64,
    },
    Pipe {
        pipe: u32,
    },
    EventFd {
        value: u64,
        semaphore: bool,
    },
    TimerFd {
        clock: u32,
        ticks: u64,
        settime_flags: u32,
        value: [u64; 2],
        interval: [u64; 2],
    },
    SignalFd {
        mask: String,
    },
    Socket {
        r#type: u32,
        peer: &'static str,
        peer_file: Option<u32>,
        shutdown: u32,
        queue: Vec<Message>,
        options: Vec<SocketOption>,
        reset: bool,
    },
    Listener {
        address: &'a str,
        backlog: u32,
        options: Vec<SocketOption>,
    },
    Memory {
        memory: u32,
        position: u64,
    },
    Epoll {
        items: Vec<Item>,
    },
    PidFd {},
    Inotify {
        watches: Vec<Watch<'a>>,
    },
    Other {
        why: &'a str,
    },
}

#[derive(Serialize)]
struct Place<'a> {
    path: Cow<'a, str>,
    mode: u32,
    device: (u32, u32),
    inode: u64,
    special: Option<(u32, u32)>,
    unlinked: bool,
}

#[derive(Serialize)]
struct Watch<'a> {
    wd: u32,
    mask: String,
    #[serde(flatten)]
    place: Place<'a>,
}

#[derive(Serialize)]
struct Message {
    bytes: usize,
    files: Vec<u32>,
}

#[derive(Serialize)]
struct Item {
    tfd: u32,
    events: Bits,
    data: String,
    ready: bool,
    guessed: bool,
    file: u32,
}

#[derive(Serialize)]
struct Pipe<'a> {
    capacity: u32,
    bytes: usize,
    packets: usize,
    fifo: Option<Place<'a>>,
    elsewhere: u32,
}

#[derive(Serialize)]
struct SocketOption {
    level: Option<u32>,
    name: u32,
    value: Vec<u8>,
}

#[derive(Serialize)]
struct Memory<'a> {
    name: Cow<'a, str>,
    length: u64,
    bytes: usize,
    seals: u32,
    mode: u32,
}

/// Seconds and nanoseconds.
fn seconds(time: Duration) -> [u64; 2] {
    [time.as_secs(), time.subsec_nanos().into()]
}

const fn pair(device: DeviceNumber) -> (u32, u32) {
    (device.major, device.minor)
}

impl<'a> From<&'a image::Place> for Place<'a> {
    fn from(place: &'a image::Place) -> Self {
        Self {
            path: unicode(&place.path),
            mode: place.mode,
            device: pair(place.device),
            inode: place.inode,
            special: place.special.map(pair),
            unlinked: place.unlinked,
        }
    }
}

impl From<&image::SocketOption> for SocketOption {
    fn from(option: &image::SocketOption) -> Self {
        Self {
            level: option.level,
            name: option.name,
            value: option.value.0.clone(),
        }
    }
}

impl From<&image::Item> for Item {
    fn from(item: &image::Item) -> Self {
        let events = Events(item.events);
        Self {
            tfd: item.tfd,
            events: Bits {
                bits: events.0,
                names: events.names().collect(),
            },
            data: format!("{:#x}", item.data),
            ready: item.ready,
            guessed: item.guessed == Some(true),
            file: item.file,
        }
    }
}

impl<'a> From<&'a image::OpenFile> for File<'a> {
    fn from(file: &'a image::OpenFile) -> Self {
        Self {
            kind: file.kind.name(),
            link: unicode(&file.link),
            flags: Bits {
                bits: file.flags,
                names: flag_names(file.flags),
            },
            locks: file.locks.unwrap_or(0),
            owner: file.owner.map(|owner| Owner {
                kind: owner.kind.raw(),
                id: owner.id,
                signal: owner.signal,
            }),
            about: (&file.kind).into(),
        }
    }
}

/// What is shown of a kind that the library knows and this program does not.
const UNKNOWN: &str = "it is of a kind that this program does not know";

impl<'a> From<&'a Kind> for About<'a> {
    fn from(kind: &'a Kind) -> Self {
        match kind {
            Kind::Path { place, position } => Self::Path {
                place: place.into(),
                position: *position,
            },
            Kind::Pipe { pipe } => Self::Pipe { pipe: *pipe },
            Kind::EventFd { count, semaphore } => Self::EventFd {
                value: *count,
                semaphore: *semaphore,
            },
            Kind::TimerFd(timer) => Self::TimerFd {
                clock: timer.clock.raw(),
                ticks: timer.ticks,
                settime_flags: timer.flags.bits(),
                value: seconds(timer.value),
                interval: seconds(timer.interval),
            },
            Kind::SignalFd { mask } => Self::SignalFd {
                mask: format!("{mask:#x}"),
            },
            Kind::Socket(socket) => {
                let (peer, peer_file) = match socket.peer {
                    Peer::File(file) => ("file", Some(file)),
                    Peer::Closed => ("closed", None),
                    Peer::Elsewhere => ("elsewhere", None),
                    Peer::Nobody => ("nobody", None),
                    _ => ("unknown", None),
                };
                let message = |message: &image::Message| Message {
                    bytes: message.data.0.len(),
                    files: message.files.clone(),
                };
                let options = socket.options.iter().flatten();
                let options = options.map(SocketOption::from);
                Self::Socket {
                    r#type: socket.kind.raw(),
                    peer,
                    peer_file,
                    shutdown: socket.shutdown.bits(),
                    queue: socket.queue.iter().map(message).collect(),
                    options: options.collect(),
                    reset: socket.reset == Some(true),
                }
            }
            Kind::PidFd => Self::PidFd {},
            Kind::Inotify { watches } => {
                let watches = watches.iter().map(|watch| Watch {
                    wd: watch.wd,
                    mask: format!("{:#x}", watch.mask),
                    place: (&watch.place).into(),
                });
                Self::Inotify {
                    watches: watches.collect(),
                }
            }
            Kind::Listener(listener) => Self::Listener {
                address: &listener.address,
                backlog: listener.backlog,
                options: listener.options.iter().map(SocketOption::from).collect(),
            },
            Kind::Memory { memory, position } => Self::Memory {
                memory: *memory,
                position: *position,
            },
            Kind::Epoll { items } => Self::Epoll {
                items: items.iter().map(Item::from).collect(),
            },
            Kind::Other { why } => Self::Other { why },
            _ => Self::Other { why: UNKNOWN },
        }
    }
}

pub fn print(image: &Image, out: &mut impl Write) -> io::Result<()> {
    let descriptors = image.descriptors.iter();
    let output = Output {
        version: 1,
        process: Process {
            pid: image.origin.pid,
            command: &image.origin.command,
            kernel: &image.origin.kernel,
            time: image.origin.time,
            stopped: !image.origin.running,
        },
        descriptors: descriptors
            .map(|descriptor| Descriptor {
                fd: descriptor.number,
                file: descriptor.file,
                cloexec: descriptor.cloexec,
            })
            .collect(),
        files: image.files.iter().map(File::from).collect(),
        pipes: image
            .pipes
            .iter()
            .map(|pipe| Pipe {
                capacity: pipe.capacity,
                bytes: pipe.size(),
                packets: pipe.data.len(),
                fifo: pipe.place.as_ref().map(Place::from),
                elsewhere: pipe.elsewhere.bits(),
            })
            .collect(),
        memories: image
            .memories
            .iter()
            .map(|memory| Memory {
                name: unicode(&memory.name),
                length: memory.length,
                bytes: memory.size(),
                seals: memory.seals,
                mode: memory.mode,
            })
            .collect(),
    };
    epoll_cli::json::print(&output, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use epoll_cli::text::is_hidden;

    #[test]
    fn nothing_drives_a_terminal() {
        let command = "a\u{1b}[1m\u{9b}1m\u{7f}\u{202e}b\"\u{e9}".to_owned();
        let mut image = Image::default();
        image.origin.command = command.clone();
        let mut out = Vec::new();
        print(&image, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(!out.trim_end().contains(is_hidden), "{out}");
        assert!(out.contains("\\u009b") && out.contains('\u{e9}'), "{out}");
        let read: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(read["process"]["command"], command);
    }
}
