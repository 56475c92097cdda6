// SPDX-License-Identifier: GPL-2.0

//! For programs. The manual page documents it: epollcr.1, OUTPUT FOR PROGRAMS.

use crate::table::flag_names;
use epoll_targets::fdinfo::Events;
use libepollcr::image::{self, Image, Kind, Peer};
use libepollcr::restore::is_hidden;
use serde::Serialize;
use serde_json::ser::Formatter;
use std::borrow::Cow;
use std::io::{self, Write};

#[derive(Serialize)]
struct Output<'a> {
    version: u32,
    process: Process<'a>,
    descriptors: Vec<Descriptor>,
    files: Vec<File<'a>>,
    pipes: Vec<Pipe<'a>>,
}

#[derive(Serialize)]
struct Process<'a> {
    pid: u32,
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
    id: u32,
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
    },
    Epoll {
        items: Vec<Item>,
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

impl<'a> From<&'a image::Place> for Place<'a> {
    fn from(place: &'a image::Place) -> Self {
        Self {
            path: String::from_utf8_lossy(&place.path),
            mode: place.mode,
            device: place.device,
            inode: place.inode,
            special: place.special,
            unlinked: place.unlinked,
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
            file: item.file,
        }
    }
}

impl<'a> From<&'a image::OpenFile> for File<'a> {
    fn from(file: &'a image::OpenFile) -> Self {
        Self {
            kind: file.kind.name(),
            link: String::from_utf8_lossy(&file.link),
            flags: Bits {
                bits: file.flags,
                names: flag_names(file.flags),
            },
            locks: file.locks.unwrap_or(0),
            owner: file.owner.map(|owner| Owner {
                kind: owner.kind,
                id: owner.id,
                signal: owner.signal,
            }),
            about: (&file.kind).into(),
        }
    }
}

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
                clock: timer.clock,
                ticks: timer.ticks,
                settime_flags: timer.flags,
                value: [timer.value.0, timer.value.1.into()],
                interval: [timer.interval.0, timer.interval.1.into()],
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
                };
                let message = |message: &image::Message| Message {
                    bytes: message.data.0.len(),
                    files: message.files.clone(),
                };
                Self::Socket {
                    r#type: socket.kind,
                    peer,
                    peer_file,
                    shutdown: socket.shutdown,
                    queue: socket.queue.iter().map(message).collect(),
                }
            }
            Kind::Epoll { items } => Self::Epoll {
                items: items.iter().map(Item::from).collect(),
            },
            Kind::Other { why } => Self::Other { why },
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
                bytes: pipe.data.iter().map(|data| data.0.len()).sum(),
                packets: pipe.data.len(),
                fifo: pipe.place.as_ref().map(Place::from),
                elsewhere: pipe.elsewhere,
            })
            .collect(),
    };
    let mut to = serde_json::Serializer::with_formatter(&mut *out, Plain);
    // serde_json hides what kind of error it is otherwise.
    output.serialize(&mut to).map_err(io::Error::from)?;
    writeln!(out)
}

/// One line, as a terminal can be shown it: whatever drives one is escaped.
struct Plain;

impl Formatter for Plain {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_hidden) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut chars = from.chars();
            let mut units = [0; 2];
            if let Some(hidden) = chars.next() {
                for unit in hidden.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
