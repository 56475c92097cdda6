// SPDX-License-Identifier: GPL-2.0

//! For people.

use crate::args::Args;
use crate::names;
use anstyle::{AnsiColor, Style};
use epoll_cli::events;
use epoll_cli::table::{Cell, Column, Table};
use epoll_cli::text::printable;
use epoll_targets::resolve::{Instance, Owner, Report, Resolved, TfdState};
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
    instance: &Instance,
    target: Option<&Resolved>,
    names: &mut names::Commands,
) -> Vec<Cell> {
    let mut row: Vec<Cell> = vec![
        instance.pid.to_string().into(),
        printable(names.of(instance.pid)).into(),
        instance.efd.to_string().into(),
    ];
    if args.ids {
        let id = instance.id.map_or_else(|| "?".into(), |id| id.to_string());
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
        owner(instance, resolved).into(),
    ]);
    row
}

fn state(resolved: &Resolved) -> Cell {
    let states = [
        (resolved.is_orphaned(), "orphaned"),
        (matches!(resolved.owner, Owner::Others(_)), "moved"),
        (resolved.is_stuck() && !resolved.is_orphaned(), "stuck"),
        (resolved.owner == Owner::Unknown, "unknown"),
        (resolved.is_stale(), "stale"),
        (resolved.changed, "changed"),
        (resolved.guessed, "guessed"),
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
        _ if resolved.is_orphaned() => AnsiColor::Red.on_default(),
        _ if resolved.is_stale() => AnsiColor::Yellow.on_default(),
        _ if resolved.is_stuck() => AnsiColor::Cyan.on_default(),
        _ => Style::new(),
    };
    Cell::from(names.join(",")).style(style)
}

fn owner(instance: &Instance, resolved: &Resolved) -> String {
    let (first, named) = match &resolved.owner {
        Owner::Tfd(first) => (first, 1),
        Owner::Others(owners) => (&owners[0], owners.len()),
        Owner::Orphaned => return "none".into(),
        _ => return "?".into(),
    };
    let place = if first.pid == instance.pid {
        format!("fd {}", first.fd)
    } else {
        format!("pid {} fd {}", first.pid, first.fd)
    };
    match (resolved.owners_total, named - 1) {
        (Some(..=1), _) | (None, 0) => place,
        (Some(total), _) => format!("{place} +{}", total - 1),
        // There may be more than these.
        (None, more) => format!("{place} +{more} or more"),
    }
}

/// The file of the owner, and what tfd means if that is another file.
fn file(resolved: &Resolved) -> String {
    let owner = match &resolved.owner {
        Owner::Tfd(owner) => Some(owner),
        Owner::Others(owners) => owners.first(),
        _ => None,
    };
    let inode = || {
        let inode = resolved.target.inode?;
        let (ino, major, minor) = (inode.ino, inode.major, inode.minor);
        Some(format!("inode {ino} on device {major}:{minor}"))
    };
    let link = owner.and_then(|&owner| names::link(owner));
    let file = link.or_else(inode).unwrap_or_else(|| "?".into());
    let tfd = resolved.target.tfd;
    let text = match &resolved.tfd_state {
        TfdState::Other(link) => format!("{file} (now {tfd} is {})", link.to_string_lossy()),
        TfdState::Closed => format!("{file} ({tfd} is closed)"),
        TfdState::Target => match resolved.stale_at.first() {
            Some(stale) => {
                let other = names::link(*stale).unwrap_or_else(|| "?".into());
                format!("{file} ({tfd} of pid {} is {other})", stale.pid)
            }
            None => file,
        },
        _ => file,
    };
    printable(&text)
}

/// The columns of the terminal that standard output is.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|&columns| columns > 0)
}

/// The targets of an instance that are shown. An instance without targets has a line
/// as well, unless only some targets are asked for.
fn lines<'a>(args: &'a Args, instance: &'a Instance) -> impl Iterator<Item = Option<&'a Resolved>> {
    let is_empty = instance.targets.is_empty() && !args.is_filtered();
    let shown = instance.targets.iter().filter(|target| args.shows(target));
    shown.map(Some).chain(is_empty.then_some(None))
}

pub fn print(args: &Args, report: &Report, out: &mut impl Write) -> io::Result<()> {
    let lines = || {
        let instances = report.instances.iter();
        instances.flat_map(|i| lines(args, i).map(move |target| (i, target)))
    };
    if lines().next().is_none() {
        return Ok(());
    }
    let columns = COLUMNS.into_iter().enumerate();
    let columns = columns.filter(|(column, _)| args.ids || *column != ID);
    let mut table = Table::new(columns.map(|(_, column)| column)).fit(terminal_width());
    let mut names = names::Commands::default();
    // Each row is made twice: a million at once would need much memory.
    for (instance, target) in lines() {
        table.measure(&row(args, instance, target, &mut names));
    }
    table.head(out)?;
    for (instance, target) in lines() {
        let mut row = row(args, instance, target, &mut names);
        row.push(target.map_or_else(|| "no targets".into(), file).into());
        table.row(&row, out)?;
    }
    Ok(())
}
