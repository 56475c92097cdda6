// SPDX-License-Identifier: GPL-2.0

//! For people.

use crate::{Args, names};
use anyhow::Result;
use epoll_targets::fdinfo::Events;
use epoll_targets::resolve::{Number, Owner, Report, Resolved, Set};
use std::io::Write;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns that stand in the table, but for the last, which needs no width.
const HEAD: [&str; COLUMNS] = [
    "PID", "COMMAND", "EFD", "ID", "TFD", "TOFF", "EVENTS", "DATA", "STATE", "OWNER",
];
const COLUMNS: usize = 10;
/// Only if it is asked for.
const ID: usize = 3;
const STATE: usize = 8;
/// Those that stand right.
const NUMBERS: [usize; 6] = [0, 2, ID, 4, 5, 7];
const LAST: &str = "FILE";

type Row = [String; COLUMNS];

fn row(set: &Set, resolved: &Resolved, commands: &mut names::Commands) -> Row {
    let target = resolved.target;
    [
        set.pid.to_string(),
        names::printable(commands.of(set.pid)),
        set.efd.to_string(),
        id(set),
        target.tfd.to_string(),
        target.toff.to_string(),
        events(target.events),
        format!("{:#x}", target.data),
        state(resolved),
        owner(set, resolved),
    ]
}

fn id(set: &Set) -> String {
    set.id.map_or_else(|| "?".into(), |id| id.to_string())
}

/// Without what the kernel always adds.
fn events(events: Events) -> String {
    if events.is_disarmed() {
        return format!("{events} (off)");
    }
    events.without(Events::ALWAYS).to_string()
}

fn state(resolved: &Resolved) -> String {
    let states = [
        (resolved.is_zombie(), "zombie"),
        (matches!(resolved.owner, Owner::Others(_)), "moved"),
        (resolved.owner == Owner::Unknown, "unknown"),
        (resolved.is_stale(), "stale"),
        (resolved.changed, "changed"),
    ];
    let names: Vec<_> = states
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, name)| *name)
        .collect();
    if names.is_empty() {
        return "-".into();
    }
    names.join(",")
}

fn owner(set: &Set, resolved: &Resolved) -> String {
    let (first, more) = match &resolved.owner {
        Owner::SameNumber(first) => (first, 0),
        Owner::Others(owners) => (&owners[0], owners.len() - 1),
        Owner::NoOne => return "nobody".into(),
        Owner::Unknown => return "?".into(),
    };
    let place = if first.pid == set.pid {
        format!("fd {}", first.fd)
    } else {
        format!("pid {} fd {}", first.pid, first.fd)
    };
    match more {
        0 => place,
        more => format!("{place} +{more}"),
    }
}

/// The file of the owner, and what the number means if that is another one.
fn file(resolved: &Resolved) -> String {
    let owner = match &resolved.owner {
        Owner::SameNumber(owner) => Some(owner),
        Owner::Others(owners) => owners.first(),
        Owner::NoOne | Owner::Unknown => None,
    };
    let inode = || {
        let inode = resolved.target.inode?;
        let (ino, major, minor) = (inode.ino, inode.major, inode.minor);
        Some(format!("inode {ino} on device {major}:{minor}"))
    };
    let link = owner.and_then(|&owner| names::link(owner));
    let file = link.or_else(inode).unwrap_or_else(|| "?".into());
    let tfd = resolved.target.tfd;
    let text = match &resolved.number {
        Number::Other(link) => format!("{file} (now {tfd} is {})", link.to_string_lossy()),
        Number::Closed => format!("{file} ({tfd} is closed)"),
        Number::Target | Number::Unknown => file,
    };
    names::printable(&text)
}

/// A set without targets has a line as well.
fn empty(set: &Set, commands: &mut names::Commands) -> Row {
    let mut row = std::array::from_fn(|_| "-".to_owned());
    row[0] = set.pid.to_string();
    row[1] = names::printable(commands.of(set.pid));
    row[2] = set.efd.to_string();
    row[ID] = id(set);
    row
}

/// How the lines are made to fit.
struct Style {
    widths: [usize; COLUMNS],
    /// Columns of the terminal.
    fit: Option<usize>,
    colours: bool,
    ids: bool,
}

impl Style {
    fn widen(&mut self, row: &Row) {
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }

    fn print(&self, row: &Row, last: &str, out: &mut impl Write) -> Result<()> {
        let mut used = 0;
        for (column, (cell, &width)) in row.iter().zip(&self.widths).enumerate() {
            if column == ID && !self.ids {
                continue;
            }
            let blanks = width - cell.width();
            let colour = match cell.as_str() {
                _ if !self.colours || column != STATE => "",
                state if state.contains("zombie") => "\x1b[31m",
                state if state.contains("stale") => "\x1b[33m",
                "moved" => "\x1b[36m",
                _ => "",
            };
            let reset = if colour.is_empty() { "" } else { "\x1b[0m" };
            if NUMBERS.contains(&column) {
                write!(out, "{:blanks$}{cell} ", "")?;
            } else {
                write!(out, "{colour}{cell}{reset}{:blanks$} ", "")?;
            }
            used += width + 1;
        }
        // At least something of it: then the line is too long whatever is done.
        let room = self.fit.map(|fit| fit.saturating_sub(used).max(10));
        writeln!(out, "{}", shorten(last, room))?;
        Ok(())
    }
}

/// Takes out of the middle what is too much for `room` columns.
fn shorten(text: &str, room: Option<usize>) -> String {
    let Some(room) = room.filter(|&room| text.width() > room) else {
        return text.to_owned();
    };
    let width = |c: &char| c.width().unwrap_or(0);
    let fitting = |room: usize, chars: &mut dyn Iterator<Item = char>| {
        let mut used = 0;
        chars
            .take_while(|c| {
                used += width(c);
                used <= room
            })
            .collect::<Vec<_>>()
    };
    let end = fitting(room / 2, &mut text.chars().rev());
    let begin = fitting(room - 1 - room / 2, &mut text.chars());
    begin
        .into_iter()
        .chain(['…'])
        .chain(end.into_iter().rev())
        .collect()
}

pub fn print(args: &Args, report: &Report, is_terminal: bool, out: &mut impl Write) -> Result<()> {
    let filtered = args.zombies || args.stale;
    let mut commands = names::Commands::default();
    let mut style = Style {
        widths: HEAD.map(str::len),
        fit: is_terminal
            .then(|| rustix::termios::tcgetwinsize(std::io::stdout()).ok())
            .flatten()
            .map(|size| usize::from(size.ws_col))
            .filter(|&columns| columns > 0),
        colours: is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        ids: args.ids,
    };
    let mut any = false;
    // Twice each: a million of them all at once would need much memory.
    for set in &report.sets {
        if set.targets.is_empty() && !filtered {
            style.widen(&empty(set, &mut commands));
            any = true;
        }
        for target in set.targets.iter().filter(|target| args.shows(target)) {
            style.widen(&row(set, target, &mut commands));
            any = true;
        }
    }
    if !any {
        return Ok(());
    }
    style.print(&HEAD.map(str::to_owned), LAST, out)?;
    for set in &report.sets {
        if set.targets.is_empty() && !filtered {
            style.print(&empty(set, &mut commands), "no targets", out)?;
        }
        for target in set.targets.iter().filter(|target| args.shows(target)) {
            let row = row(set, target, &mut commands);
            style.print(&row, &file(target), out)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_loses_its_middle() {
        assert_eq!(shorten("/a/long/path", None), "/a/long/path");
        assert_eq!(shorten("/a/long/path", Some(12)), "/a/long/path");
        assert_eq!(shorten("/a/long/path", Some(9)), "/a/l…path");
        assert_eq!(shorten("/a/long/path", Some(10)), "/a/l…/path");
        // Two columns each.
        let short = shorten("漢字漢字漢字", Some(7));
        assert_eq!(short, "漢…字");
        assert!(short.width() <= 7);
    }

    #[test]
    fn events_without_what_is_always_there() {
        assert_eq!(events(Events(0x8000_0019)), "IN|ET");
        assert_eq!(events(Events(0x18)), "0");
        assert_eq!(events(Events(0x4000_0000)), "ONESHOT (off)");
    }
}
