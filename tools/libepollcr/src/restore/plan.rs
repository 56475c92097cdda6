// SPDX-License-Identifier: GPL-2.0

//! What cannot be restored, all of it, before anything is.

use super::make;
use crate::dump::pipe::{self, READ};
use crate::image::{Image, Kind, OpenFile, Owner, Peer, Pipe, Timer};
use crate::sys;
use rustix::process::{Resource, getrlimit};
use std::collections::BTreeSet;
use std::fmt;

/// Something that keeps an image from being restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The index of the file in the image, if it is about one.
    pub file: Option<u32>,
    /// The descriptors that it has.
    pub numbers: Vec<u32>,
    /// What the file is.
    pub link: String,
    /// What is the matter, as a sentence of its own.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(file) = self.file else {
            return f.write_str(&self.why);
        };
        match self.numbers[..] {
            [] => write!(f, "f{file}, which has no descriptor")?,
            [number] => write!(f, "descriptor {number}")?,
            [number, ..] => write!(
                f,
                "descriptor {number} (and {} more)",
                self.numbers.len() - 1
            )?,
        }
        if !self.link.is_empty() {
            write!(f, ", {}", self.link)?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Whether a character drives a terminal, forges a line, or the order of what is
/// beside it.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Nothing [that would](is_hidden).
pub fn printable(text: &[u8]) -> String {
    let replace = |c: char| if is_hidden(c) { '?' } else { c };
    String::from_utf8_lossy(text).chars().map(replace).collect()
}

/// Everything that stands in the way, in the order of the image. `given` says
/// which files need not be made.
pub fn problems(image: &Image, given: &[bool]) -> Vec<Problem> {
    let numbers = image.numbers();
    let mut problems = Vec::new();
    let mut general = |why: String| {
        problems.push(Problem {
            file: None,
            numbers: Vec::new(),
            link: String::new(),
            why,
        });
    };
    if let Some(last) = image.descriptors.last() {
        let limit = getrlimit(Resource::Nofile).current;
        if limit.is_some_and(|limit| u64::from(last.number) >= limit) {
            general(format!(
                "there is a descriptor {}: the limit has to be higher (ulimit -n)",
                last.number
            ));
        }
    }
    let taken: Vec<_> = image
        .descriptors
        .iter()
        .map(|descriptor| descriptor.number)
        .filter(|&number| sys::is_open(number as i32))
        .map(|number| number.to_string())
        .collect();
    match &taken[..] {
        [] => {}
        [number] => general(format!("number {number} is taken in this process")),
        [first, rest @ ..] => general(format!(
            "{} numbers are taken in this process, {first} the first of them",
            rest.len() + 1
        )),
    }
    let items = items(image, given);
    if let Some(watches) = watches().filter(|&watches| items as u64 > watches) {
        general(format!(
            "there are {items} items: /proc/sys/fs/epoll/max_user_watches has to be higher \
             than {watches}"
        ));
    }
    let pipes = pipes(image);
    let checks = Checks {
        image,
        given,
        pipes: image
            .pipes
            .iter()
            .zip(&pipes)
            .map(|(pipe, files)| check_pipe(image, given, pipe, files))
            .collect(),
        ticks: sys::can_set_ticks(),
    };
    for (index, file) in image.files.iter().enumerate() {
        if given[index] {
            continue;
        }
        for why in checks.of(file) {
            problems.push(Problem {
                file: Some(index as u32),
                numbers: numbers[index].clone(),
                link: printable(&file.link),
                why,
            });
        }
    }
    problems
}

/// How many items are to be added.
pub fn items(image: &Image, given: &[bool]) -> usize {
    let files = image.files.iter().zip(given);
    let made = files.filter(|&(_, &given)| !given);
    made.map(|(file, _)| match &file.kind {
        Kind::Epoll { items } => items.len(),
        _ => 0,
    })
    .sum()
}

/// How many a user can have, all sets together.
fn watches() -> Option<u64> {
    let limit = std::fs::read_to_string("/proc/sys/fs/epoll/max_user_watches");
    limit.ok()?.trim().parse().ok()
}

/// The ends that these files of a pipe are.
pub fn ends(image: &Image, files: &[usize]) -> u32 {
    let mode = |&file: &usize| image.files[file].flags as i32 & libc::O_ACCMODE;
    files
        .iter()
        .map(mode)
        .map(pipe::ends)
        .fold(0, |all, end| all | end)
}

/// Whether one of these files of a pipe writes packets.
pub fn writes_packets(image: &Image, files: &[usize]) -> bool {
    files.iter().any(|&file| {
        let flags = image.files[file].flags as i32;
        flags & libc::O_DIRECT != 0 && pipe::ends(flags & libc::O_ACCMODE) & pipe::WRITE != 0
    })
}

/// What keeps a pipe from being restored, for all its files.
fn check_pipe(image: &Image, given: &[bool], pipe: &Pipe, files: &[usize]) -> Option<String> {
    if files.iter().all(|&file| given[file]) {
        return None;
    }
    if files.iter().any(|&file| given[file]) {
        return Some("another file of this pipe is given: give this one, too".into());
    }
    let (size, capacity) = (make::size(pipe), make::capacity(pipe));
    if size > capacity as usize {
        return Some(format!(
            "there are {size} bytes in it: /proc/sys/fs/pipe-max-size has to be higher than \
             {capacity}"
        ));
    }
    if let Some(place) = &pipe.place {
        let ends = ends(image, files);
        return make::fifo(pipe, place, ends).err();
    }
    let what = match pipe.elsewhere {
        0 => return None,
        READ => "the end to be read is open elsewhere, and not in the image",
        pipe::WRITE => "the end to be written is open elsewhere, and not in the image",
        _ => "its ends are open elsewhere, and not in the image",
    };
    Some(what.into())
}

/// The files of each pipe.
pub fn pipes(image: &Image) -> Vec<Vec<usize>> {
    let mut pipes = vec![Vec::new(); image.pipes.len()];
    for (index, file) in image.files.iter().enumerate() {
        if let Kind::Pipe { pipe } = file.kind {
            pipes[pipe as usize].push(index);
        }
    }
    pipes
}

struct Checks<'a> {
    image: &'a Image,
    given: &'a [bool],
    /// What is the matter with each.
    pipes: Vec<Option<String>>,
    ticks: bool,
}

impl Checks<'_> {
    fn of(&self, file: &OpenFile) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(locks) = file.locks.filter(|&locks| locks > 0) {
            found.push(match locks {
                1 => "there is a lock on it, which would be lost".into(),
                locks => format!("there are {locks} locks on it, which would be lost"),
            });
        }
        found.extend(file.owner.and_then(|owner| self.owner(owner)));
        found.extend(match &file.kind {
            Kind::Path { place, .. } => make::path(file, place).err(),
            Kind::Pipe { pipe } => self.pipes[*pipe as usize].clone(),
            Kind::TimerFd(timer) => self.timer(timer),
            Kind::Socket(socket) => match socket.peer {
                Peer::Elsewhere => {
                    Some("the socket that it is connected to is not in the image".into())
                }
                Peer::File(peer) if self.given[peer as usize] => {
                    Some("the socket that it is connected to is given: give this one, too".into())
                }
                _ => None,
            },
            Kind::Other { why } => Some(printable(why.as_bytes())),
            Kind::EventFd { .. } | Kind::SignalFd { .. } | Kind::Epoll { .. } => None,
        });
        found
    }

    fn owner(&self, owner: Owner) -> Option<String> {
        let itself = owner.kind != sys::F_OWNER_PGRP as u32 && owner.id == self.image.origin.pid;
        let what = match owner.kind as i32 {
            sys::F_OWNER_PGRP => "process group",
            sys::F_OWNER_TID => "thread",
            _ => "process",
        };
        (owner.id != 0 && !itself).then(|| format!("its signals go to {what} {}", owner.id))
    }

    fn timer(&self, timer: &Timer) -> Option<String> {
        if timer.ticks > 0 && !self.ticks {
            return Some("it has expired, and this kernel cannot say so of a new one".into());
        }
        let made = make::timer_of(timer.clock);
        made.err()
            .map(|error| format!("no such timer can be made: {error}"))
    }
}

/// The epoll sets, those that are watched before those that watch them.
pub fn order(image: &Image) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let mut order = Vec::new();
    // The sets that are open, each with its next item. An image has no cycles.
    let mut path: Vec<(usize, usize)> = Vec::new();
    for first in 0..image.files.len() {
        if matches!(image.files[first].kind, Kind::Epoll { .. }) && seen.insert(first) {
            path.push((first, 0));
        }
        while let Some((set, next)) = path.last_mut() {
            let Kind::Epoll { items } = &image.files[*set].kind else {
                path.pop();
                continue;
            };
            let Some(item) = items.get(*next) else {
                order.push(*set);
                path.pop();
                continue;
            };
            *next += 1;
            let inner = item.file as usize;
            if matches!(image.files[inner].kind, Kind::Epoll { .. }) && seen.insert(inner) {
                path.push((inner, 0));
            }
        }
    }
    order
}
