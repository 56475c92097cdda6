// SPDX-License-Identifier: GPL-2.0

//! For people.

use crate::{Args, names};
use anstyle::{AnsiColor, Style};
use epoll_cli::events;
use epoll_cli::table::{Cell, Column, Table};
use epoll_cli::text::printable;
use epoll_targets::resolve::{Number, Owner, Report, Resolved, Set};
use std::io::{self, Write};

/// The column that is shown only if it is asked for.
const ID: usize = 3;

const COLUMNS: [Column; 11] = [
    Column::right("PID"),
    Column::left("COMMAND"),
    Column::right("EFD"),
    Column::right("ID"),
    Column::right("TFD"),
    Column::right("TOFF"),
    Column::left("EVENTS"),
    Column::right("DATA"),
    Column::left("STATE"),
    Column::left("OWNER"),
    Column::left("FILE"),
];

/// All columns but the last.
fn row(
    args: &Args,
    set: &Set,
    target: Option<&Resolved>,
    names: &mut names::Commands,
) -> Vec<Cell> {
    let mut row: Vec<Cell> = vec![
        set.pid.to_string().into(),
        printable(names.of(set.pid)).into(),
        set.efd.to_string().into(),
    ];
    if args.ids {
        let id = set.id.map_or_else(|| "?".into(), |id| id.to_string());
        row.push(id.into());
    }
    let Some(resolved) = target else {
        row.resize(COLUMNS.len() - 1 - usize::from(!args.ids), "-".into());
        return row;
    };
    let target = resolved.target;
    row.extend([
        target.tfd.to_string().into(),
        target.toff.to_string().into(),
        events(target.events).into(),
        format!("{:#x}", target.data).into(),
        state(resolved),
        owner(set, resolved).into(),
    ]);
    row
}

fn state(resolved: &Resolved) -> Cell {
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
    let style = match names[..] {
        _ if resolved.is_zombie() => AnsiColor::Red.on_default(),
        _ if resolved.is_stale() => AnsiColor::Yellow.on_default(),
        ["moved"] => AnsiColor::Cyan.on_default(),
        _ => Style::new(),
    };
    Cell::from(names.join(",")).style(style)
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
    printable(&text)
}

/// The columns of the terminal that standard output is.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|&columns| columns > 0)
}

/// The targets of a set that are shown; a set that has none has a line as well,
/// unless only some targets are asked for.
fn lines<'a>(args: &'a Args, set: &'a Set) -> impl Iterator<Item = Option<&'a Resolved>> {
    let is_empty = set.targets.is_empty() && !args.is_filtered();
    let shown = set.targets.iter().filter(|target| args.shows(target));
    shown.map(Some).chain(is_empty.then_some(None))
}

pub fn print(args: &Args, report: &Report, out: &mut impl Write) -> io::Result<()> {
    let lines = || {
        let sets = report.sets.iter();
        sets.flat_map(|set| lines(args, set).map(move |target| (set, target)))
    };
    if lines().next().is_none() {
        return Ok(());
    }
    let columns = COLUMNS.into_iter().enumerate();
    let columns = columns.filter(|(column, _)| args.ids || *column != ID);
    let mut table = Table::new(columns.map(|(_, column)| column)).fit(terminal_width());
    let mut names = names::Commands::default();
    // Twice each: a million of them all at once would need much memory.
    for (set, target) in lines() {
        table.measure(&row(args, set, target, &mut names));
    }
    table.head(out)?;
    for (set, target) in lines() {
        let mut row = row(args, set, target, &mut names);
        row.push(target.map_or_else(|| "no targets".into(), file).into());
        table.row(&row, out)?;
    }
    Ok(())
}
