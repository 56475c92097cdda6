// SPDX-License-Identifier: GPL-2.0

//! For people.

use epoll_targets::fdinfo::Events;
use libepollcr::image::{Image, Item, Kind, Message, OpenFile, Peer, Pipe, Place, Timer};
use libepollcr::restore::printable;
use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

/// Lines of cells, made to stand below each other but for the last.
struct Columns<const N: usize> {
    rows: Vec<[String; N]>,
    /// Those that stand right.
    right: &'static [usize],
}

impl<const N: usize> Columns<N> {
    fn new(head: [&str; N], right: &'static [usize]) -> Self {
        let rows = vec![head.map(str::to_owned)];
        Self { rows, right }
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let mut widths = [0; N];
        for row in &self.rows {
            // However long the last one is, none is made longer for it.
            for (width, cell) in widths.iter_mut().zip(&row[..N - 1]) {
                *width = (*width).max(cell.width());
            }
        }
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let blanks = " ".repeat(width.saturating_sub(cell.width()));
                match self.right.contains(&column) {
                    true => line.extend([&blanks, cell, "  "]),
                    false => line.extend([cell, &blanks, "  "]),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

pub fn print(image: &Image, out: &mut impl Write) -> io::Result<()> {
    let origin = &image.origin;
    let time = i64::try_from(origin.time).ok();
    let time = time.and_then(|time| jiff::Timestamp::from_second(time).ok());
    writeln!(
        out,
        "process {} ({}), {}, at {}, Linux {}",
        origin.pid,
        printable(origin.command.as_bytes()),
        match origin.running {
            true => "NOT STOPPED",
            false => "stopped",
        },
        time.map_or_else(|| "?".into(), |time| time.to_string()),
        printable(origin.kernel.as_bytes()),
    )?;
    let sets = image.files.iter().filter(|file| is_set(file)).count();
    writeln!(
        out,
        "{}, {}, {} with {}",
        count(image.descriptors.len(), "descriptor"),
        count(image.files.len(), "open file"),
        count(sets, "epoll set"),
        count(image.items(), "item"),
    )?;

    let numbers = image.numbers();
    if !image.files.is_empty() {
        writeln!(out)?;
        files(image, &numbers).print(out)?;
    }
    if image.items() > 0 {
        writeln!(out)?;
        items(image, &numbers).print(out)?;
    }
    Ok(())
}

fn is_set(file: &OpenFile) -> bool {
    matches!(file.kind, Kind::Epoll { .. })
}

fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// A line a descriptor, and one a file that has none.
fn files(image: &Image, numbers: &[Vec<u32>]) -> Columns<6> {
    let head = ["FD", "FILE", "EXEC", "KIND", "FLAGS", "WHAT"];
    let mut columns = Columns::new(head, &[0, 1]);
    let mut row = |fd: String, exec: &str, index: usize| {
        let file = &image.files[index];
        columns.rows.push([
            fd,
            format!("f{index}"),
            exec.into(),
            file.kind.name().into(),
            flags(file.flags),
            about(image, file),
        ]);
    };
    for descriptor in &image.descriptors {
        let exec = if descriptor.cloexec { "closes" } else { "-" };
        row(
            descriptor.number.to_string(),
            exec,
            descriptor.file as usize,
        );
    }
    for (index, _) in numbers.iter().enumerate().filter(|(_, fds)| fds.is_empty()) {
        row("-".into(), "-", index);
    }
    columns
}

fn items(image: &Image, numbers: &[Vec<u32>]) -> Columns<7> {
    let head = ["SET", "TFD", "EVENTS", "DATA", "READY", "FILE", "NUMBER"];
    let mut columns = Columns::new(head, &[0, 1, 3, 5]);
    for (index, file) in image.files.iter().enumerate() {
        let Kind::Epoll { items } = &file.kind else {
            continue;
        };
        for item in items {
            columns.rows.push([
                set(index, &numbers[index]),
                item.tfd.to_string(),
                events(item.events),
                format!("{:#x}", item.data),
                if item.ready { "ready" } else { "-" }.into(),
                format!("f{}", item.file),
                number(image, item),
            ]);
        }
    }
    columns
}

fn set(index: usize, numbers: &[u32]) -> String {
    match numbers.first() {
        Some(number) => number.to_string(),
        None => format!("f{index}"),
    }
}

/// What the number of an item means now.
fn number(image: &Image, item: &Item) -> String {
    let found = image
        .descriptors
        .binary_search_by_key(&item.tfd, |d| d.number);
    match found.map(|at| image.descriptors[at].file) {
        Ok(file) if file == item.file => "-".into(),
        Ok(file) => format!("means f{file} now"),
        Err(_) => "closed".into(),
    }
}

/// Without what the kernel always adds.
pub fn events(bits: u32) -> String {
    let events = Events(bits);
    if events.is_disarmed() {
        return format!("{events} (off)");
    }
    events.without(Events::ALWAYS).to_string()
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

/// Access mode and status flags.
pub fn flag_names(bits: u32) -> Vec<&'static str> {
    let mode = ["RDONLY", "WRONLY", "RDWR", "3"][(bits & 3) as usize];
    let mut names = vec![mode];
    let mut left = bits;
    for (flag, name) in FLAGS {
        let flag = flag as u32;
        // One can have the bits of another in it.
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

fn about(image: &Image, file: &OpenFile) -> String {
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
            let semaphore = if *semaphore { ", a semaphore" } else { "" };
            format!("value {count}{semaphore}")
        }
        Kind::TimerFd(timer) => self::timer(timer),
        Kind::SignalFd { mask } => signals(*mask),
        Kind::Socket(socket) => {
            let peer = match socket.peer {
                Peer::File(peer) => format!("connected to f{peer}"),
                Peer::Closed => "its peer was closed".into(),
                Peer::Elsewhere => "connected to a socket that is not here".into(),
                Peer::Nobody => "not connected".into(),
            };
            format!("{peer}{}", queue(&socket.queue))
        }
        Kind::Epoll { items } => count(items.len(), "item"),
        Kind::Other { why } => {
            let link = printable(&file.link);
            let why = printable(why.as_bytes());
            match link.is_empty() {
                true => why,
                false => format!("{link}: {why}"),
            }
        }
    };
    if let Some(locks) = file.locks.filter(|&locks| locks > 0) {
        text += &format!(", {}", count(locks as usize, "lock"));
    }
    text
}

fn place(place: &Place) -> String {
    let path = printable(&place.path);
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
    let size: usize = pipe.data.iter().map(|data| data.0.len()).sum();
    if size > 0 {
        text += &format!(", {} in it", count(size, "byte"));
    }
    if pipe.elsewhere != 0 {
        text += ", the other end is not here";
    }
    text
}

fn timer(timer: &Timer) -> String {
    let time = |(seconds, nanoseconds): (u64, u32)| match nanoseconds {
        0 => format!("{seconds} s"),
        _ => format!("{seconds}.{nanoseconds:09} s"),
    };
    let mut text = match timer.value {
        (0, 0) => "off".into(),
        value => format!("in {}", time(value)),
    };
    if timer.interval != (0, 0) {
        text += &format!(", every {}", time(timer.interval));
    }
    if timer.ticks > 0 {
        text += &format!(", expired {}", count(timer.ticks as usize, "time"));
    }
    text
}

fn signals(mask: u64) -> String {
    let all = (0..64).filter(|bit| mask >> bit & 1 != 0);
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
    let mut text = format!(", {} to be received", count(size, "byte"));
    for file in files {
        text += &format!(", f{file}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_column_is_not_padded() {
        let mut columns = Columns::new(["A", "B"], &[0]);
        columns.rows.push(["1".into(), "x".repeat(100)]);
        columns.rows.push(["23".into(), "y".into()]);
        let mut out = Vec::new();
        columns.print(&mut out).unwrap();
        let expected = format!(" A  B\n 1  {}\n23  y\n", "x".repeat(100));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn values_as_people_read_them() {
        assert_eq!(
            flags(libc::O_RDWR as u32 | libc::O_NONBLOCK as u32),
            "RDWR|NONBLOCK"
        );
        assert_eq!(flags(libc::O_DSYNC as u32), "RDONLY|DSYNC");
        assert_eq!(flags((libc::O_WRONLY | libc::O_SYNC) as u32), "WRONLY|SYNC");
        assert_eq!(signals(0xa00), "signals 10,12");
        assert_eq!(events(0x4000_0000), "ONESHOT (off)");
        let timer = Timer {
            clock: 1,
            ticks: 2,
            flags: 0,
            value: (1, 5),
            interval: (2, 0),
        };
        assert_eq!(
            self::timer(&timer),
            "in 1.000000005 s, every 2 s, expired 2 times"
        );
    }
}
