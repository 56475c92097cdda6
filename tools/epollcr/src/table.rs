// SPDX-License-Identifier: GPL-2.0

//! Output for people.

use epoll_cli::events;
use epoll_cli::table::{Cell, Column, Table};
use epoll_cli::text::{printable, printable_bytes};
use epoll_targets::fdinfo::Events;
use libepollcr::image::{
    Image, Item, Kind, Memory, Message, OpenFile, Peer, Pipe, Place, Timer, Watch,
};
use libepollcr::types::PipeEnds;
use rustix::fs::SealFlags;
use std::io::{self, Write};
use std::time::Duration;

pub fn print(image: &Image, out: &mut impl Write) -> io::Result<()> {
    let origin = &image.origin;
    let time = i64::try_from(origin.time).ok();
    let time = time.and_then(|time| jiff::Timestamp::from_second(time).ok());
    writeln!(
        out,
        "process {} ({}), {}, at {}, Linux {}",
        origin.pid,
        printable(&origin.command),
        match origin.running {
            true => "NOT STOPPED",
            false => "stopped",
        },
        time.map_or_else(|| "?".into(), |time| time.to_string()),
        printable(&origin.kernel),
    )?;
    let is_epoll = |file: &&OpenFile| matches!(file.kind, Kind::Epoll { .. });
    let instances = image.files.iter().filter(is_epoll).count();
    writeln!(
        out,
        "{}, {}, {} with {}",
        count(image.descriptors.len(), "descriptor"),
        count(image.files.len(), "open file"),
        count(instances, "epoll instance"),
        count(image.items(), "target"),
    )?;

    let numbers = image.numbers();
    if !image.files.is_empty() {
        writeln!(out)?;
        let head = [
            Column::right("FD"),
            Column::right("FILE"),
            Column::left("EXEC"),
            Column::left("KIND"),
            Column::left("FLAGS"),
            Column::left("CONTENTS"),
        ];
        Table::new(head).print(&files(image, &numbers), out)?;
    }
    if image.items() > 0 {
        writeln!(out)?;
        let head = [
            Column::right("EFD"),
            Column::right("TFD"),
            Column::left("EVENTS"),
            Column::right("DATA"),
            Column::left("READY"),
            Column::right("FILE"),
            Column::left("DESCRIPTOR"),
        ];
        Table::new(head).print(&targets(image, &numbers), out)?;
    }
    Ok(())
}

fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// A row for each descriptor, and for each file that has none.
fn files(image: &Image, numbers: &[Vec<u32>]) -> Vec<Vec<Cell>> {
    let row = |fd: String, exec: &str, index: usize| {
        let file = &image.files[index];
        vec![
            fd.into(),
            format!("f{index}").into(),
            exec.into(),
            file.kind.name().into(),
            flags(file.flags).into(),
            contents(image, file).into(),
        ]
    };
    let descriptors = image.descriptors.iter().map(|descriptor| {
        let exec = if descriptor.cloexec { "closes" } else { "-" };
        let fd = descriptor.number.to_string();
        row(fd, exec, descriptor.file as usize)
    });
    let without = numbers.iter().enumerate().filter(|(_, fds)| fds.is_empty());
    let without = without.map(|(index, _)| row("-".into(), "-", index));
    descriptors.chain(without).collect()
}

/// A row for each target of each epoll instance.
fn targets(image: &Image, numbers: &[Vec<u32>]) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for (index, file) in image.files.iter().enumerate() {
        let Kind::Epoll { items } = &file.kind else {
            continue;
        };
        for item in items {
            rows.push(vec![
                efd(index, &numbers[index]).into(),
                item.tfd.to_string().into(),
                events(Events(item.events)).into(),
                format!("{:#x}", item.data).into(),
                match (item.ready, item.guessed == Some(true)) {
                    (true, true) => "ready?",
                    (true, false) => "ready",
                    (false, _) => "-",
                }
                .into(),
                format!("f{}", item.file).into(),
                descriptor(image, item).into(),
            ]);
        }
    }
    rows
}

/// The first descriptor of an epoll instance, or its file if it has none.
fn efd(index: usize, numbers: &[u32]) -> String {
    match numbers.first() {
        Some(number) => number.to_string(),
        None => format!("f{index}"),
    }
}

/// What became of the descriptor that a target was added by.
fn descriptor(image: &Image, item: &Item) -> String {
    let found = image
        .descriptors
        .binary_search_by_key(&item.tfd, |d| d.number);
    match found.map(|at| image.descriptors[at].file) {
        Ok(file) if file == item.file => "-".into(),
        Ok(file) => format!("reused for f{file}"),
        Err(_) => "closed".into(),
    }
}

const FLAGS: [(i32, &str); 10] = [
    (libc::O_APPEND, "APPEND"),
    (libc::O_NONBLOCK, "NONBLOCK"),
    (libc::O_ASYNC, "ASYNC"),
    (libc::O_DIRECT, "DIRECT"),
    (libc::O_DIRECTORY, "DIRECTORY"),
    (libc::O_NOFOLLOW, "NOFOLLOW"),
    (libc::O_NOATIME, "NOATIME"),
    (libc::O_PATH, "PATH"),
    (libc::O_SYNC, "SYNC"),
    (libc::O_DSYNC, "DSYNC"),
];

/// The names of the access mode and of the status flags.
pub fn flag_names(bits: u32) -> Vec<&'static str> {
    let mode = ["RDONLY", "WRONLY", "RDWR", "3"][(bits & 3) as usize];
    let mut names = vec![mode];
    let mut left = bits;
    for (flag, name) in FLAGS {
        let flag = flag as u32;
        // O_SYNC includes O_DSYNC.
        if left & flag == flag {
            names.push(name);
            left &= !flag;
        }
    }
    names
}

fn flags(bits: u32) -> String {
    flag_names(bits).join("|")
}

/// The contents or state of a file.
fn contents(image: &Image, file: &OpenFile) -> String {
    let mut text = match &file.kind {
        Kind::Path { place, position } => {
            let what = self::place(place);
            match *position {
                0 => what,
                position => format!("{what}, at {position}"),
            }
        }
        Kind::Pipe { pipe } => {
            let end = match file.flags as i32 & libc::O_ACCMODE {
                libc::O_RDONLY => "reads",
                libc::O_WRONLY => "writes",
                _ => "reads and writes",
            };
            let text = self::pipe(&image.pipes[*pipe as usize]);
            format!("{end} pipe {pipe}{text}")
        }
        Kind::EventFd { count, semaphore } => {
            let semaphore = if *semaphore { ", semaphore" } else { "" };
            format!("value {count}{semaphore}")
        }
        Kind::TimerFd(timer) => self::timer(timer),
        Kind::SignalFd { mask } => signals(*mask),
        Kind::Socket(socket) => {
            let peer = match socket.peer {
                Peer::File(peer) => format!("connected to f{peer}"),
                Peer::Closed => "peer closed".into(),
                Peer::Elsewhere => "peer not in the image".into(),
                Peer::Nobody => "not connected".into(),
                _ => "unknown peer".into(),
            };
            let reset = match socket.reset {
                Some(true) => ", reset",
                _ => "",
            };
            format!("{peer}{reset}{}", queue(&socket.queue))
        }
        Kind::Epoll { items } => count(items.len(), "target"),
        Kind::PidFd => "the process itself".into(),
        Kind::Inotify { watches } => self::watches(watches),
        Kind::Listener(listener) => format!("TCP, listens at {}", listener.address),
        Kind::Memory { memory, position } => {
            let text = self::memory(&image.memories[*memory as usize]);
            let position = match *position {
                0 => String::new(),
                position => format!(", at {position}"),
            };
            format!("memory {memory}{text}{position}")
        }
        Kind::Other { why } => {
            let link = printable_bytes(&file.link);
            let why = printable(why);
            match link.is_empty() {
                true => why,
                false => format!("{link}: {why}"),
            }
        }
        // The column of kinds has its name.
        _ => String::new(),
    };
    if let Some(locks) = file.locks.filter(|&locks| locks > 0) {
        text += &format!(", {}", count(locks as usize, "lock"));
    }
    text
}

fn place(place: &Place) -> String {
    let path = printable_bytes(&place.path);
    match place.unlinked {
        true => format!("{path} (unlinked)"),
        false => path,
    }
}

fn pipe(pipe: &Pipe) -> String {
    let mut text = match &pipe.place {
        Some(place) => format!(", {}", self::place(place)),
        None => String::new(),
    };
    if pipe.size() > 0 {
        text += &format!(", contains {}", count(pipe.size(), "byte"));
    }
    if !pipe.elsewhere.is_empty() {
        let end = match pipe.elsewhere {
            ends if ends == PipeEnds::READ => "read end",
            ends if ends == PipeEnds::WRITE => "write end",
            _ => "ends",
        };
        text += &format!(", {end} not in the image");
    }
    text
}

fn memory(memory: &Memory) -> String {
    let mut text = match &memory.name[..] {
        [] => String::new(),
        name => format!(" ({})", printable_bytes(name)),
    };
    let length = usize::try_from(memory.length).unwrap_or(usize::MAX);
    text += &format!(", {}", count(length, "byte"));
    let seals = SealFlags::from_bits_retain(memory.seals);
    let names = seals.iter_names().map(|(name, _)| name);
    let names: Vec<_> = names.collect();
    if !names.is_empty() {
        text += &format!(", sealed: {}", names.join("|"));
    }
    text
}

fn watches(watches: &[Watch]) -> String {
    match watches {
        [] => "watches nothing".into(),
        [watch] => format!("watches {}", place(&watch.place)),
        _ => format!("watches {}", count(watches.len(), "file")),
    }
}

fn timer(timer: &Timer) -> String {
    let time = |time: Duration| match time.subsec_nanos() {
        0 => format!("{} s", time.as_secs()),
        nanoseconds => format!("{}.{nanoseconds:09} s", time.as_secs()),
    };
    let mut text = match timer.value.is_zero() {
        true => "disarmed".into(),
        false => format!("expires in {}", time(timer.value)),
    };
    if !timer.interval.is_zero() {
        text += &format!(", repeats every {}", time(timer.interval));
    }
    if timer.ticks > 0 {
        text += &format!(", expired {}", count(timer.ticks as usize, "time"));
    }
    text
}

fn signals(mask: u64) -> String {
    let all = (0..64).filter(|bit| (mask >> bit) & 1 != 0);
    let all: Vec<_> = all.map(|bit| (bit + 1).to_string()).collect();
    match all.is_empty() {
        true => "no signals".into(),
        false => format!("signals {}", all.join(",")),
    }
}

fn queue(queue: &[Message]) -> String {
    if queue.is_empty() {
        return String::new();
    }
    let size: usize = queue.iter().map(|message| message.data.0.len()).sum();
    let files: Vec<_> = queue.iter().flat_map(|message| &message.files).collect();
    let mut text = format!(", contains {}", count(size, "byte"));
    for file in files {
        text += &format!(", f{file}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use libepollcr::types::Clock;

    #[test]
    fn values_as_people_read_them() {
        assert_eq!(
            flags(libc::O_RDWR as u32 | libc::O_NONBLOCK as u32),
            "RDWR|NONBLOCK"
        );
        assert_eq!(flags(libc::O_DSYNC as u32), "RDONLY|DSYNC");
        assert_eq!(flags((libc::O_WRONLY | libc::O_SYNC) as u32), "WRONLY|SYNC");
        let watch = |path| Watch::new(1, 2, Place::new(path, 0));
        assert_eq!(watches(&[watch("/a")]), "watches /a");
        assert_eq!(watches(&[watch("/a"), watch("/b")]), "watches 2 files");
        assert_eq!(signals(0xa00), "signals 10,12");
        let mut timer = Timer::new(Clock::Monotonic);
        timer.ticks = 2;
        timer.value = Duration::new(1, 5);
        timer.interval = Duration::from_secs(2);
        assert_eq!(
            self::timer(&timer),
            "expires in 1.000000005 s, repeats every 2 s, expired 2 times"
        );
    }
}
