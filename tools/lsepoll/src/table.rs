// SPDX-License-Identifier: GPL-2.0

//! For people.

use crate::args::Args;
use crate::extra::Extra;
use crate::names;
use anstyle::{AnsiColor, Style};
use epoll_cli::events;
use epoll_cli::table::{Cell, Column, Table};
use epoll_cli::text::printable;
use epoll_targets::fdinfo::Events;
use epoll_targets::resolve::{Instance, Owner, Resolved, TfdState};
use std::io::{self, Write};

/// The columns that are shown only if they are asked for.
const ID: usize = 3;
const READY: usize = 10;

const COLUMNS: [Column; 12] = [
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
    Column::left("READY"),
    Column::left("FILE"),
];

/// All columns but the last.
fn row(instance: &Instance, target: Option<&Resolved>, extra: &mut Extra<'_>) -> Vec<Cell> {
    let args = extra.args;
    let mut row: Vec<Cell> = vec![
        instance.pid.to_string().into(),
        printable(extra.command(instance.pid)).into(),
        instance.efd.to_string().into(),
    ];
    if args.ids {
        let id = instance.id.map_or_else(|| "?".into(), |id| id.to_string());
        row.push(id.into());
    }
    let Some(resolved) = target else {
        let hidden = usize::from(!args.ids) + usize::from(!args.ready);
        row.resize(COLUMNS.len() - 1 - hidden, "-".into());
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
    if args.ready {
        row.push(
            extra
                .ready(instance, resolved)
                .map_or_else(|| "?".into(), ready),
        );
    }
    row
}

/// The events for which a target is ready.
fn ready(events: Events) -> Cell {
    match events {
        Events(0) => "-".into(),
        events => Cell::from(events.to_string()).style(AnsiColor::Green.on_default()),
    }
}

fn state(resolved: &Resolved) -> Cell {
    let names = states(resolved);
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

/// The states that a target is in; none if tfd means it.
pub fn states(resolved: &Resolved) -> Vec<&'static str> {
    let states = [
        (resolved.is_orphaned(), "orphaned"),
        (matches!(resolved.owner, Owner::Others(_)), "moved"),
        (resolved.is_stuck() && !resolved.is_orphaned(), "stuck"),
        (resolved.owner == Owner::Unknown, "unknown"),
        (resolved.is_stale(), "stale"),
        (resolved.changed, "changed"),
        (resolved.guessed, "guessed"),
    ];
    let is = states.into_iter().filter(|(is, _)| *is);
    is.map(|(_, name)| name).collect()
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
fn file(instance: &Instance, resolved: &Resolved, extra: &mut Extra<'_>) -> String {
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
    let link = link.map(|link| match extra.address(owner, &link) {
        Some(address) => format!("{link} {address}"),
        None => link,
    });
    let mut file = link.or_else(inode).unwrap_or_else(|| "?".into());
    let holders = extra.holders(instance, resolved);
    if !holders.is_empty() {
        let places = holders
            .iter()
            .map(|holder| match holder.strip_prefix("perhaps ") {
                Some(holder) => format!("perhaps in {holder}"),
                None => format!("in {holder}"),
            });
        let places: Vec<String> = places.collect();
        file = format!("{file}, {}", places.join(" and "));
    }
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
pub fn lines<'a>(
    args: &'a Args,
    instance: &'a Instance,
) -> impl Iterator<Item = Option<&'a Resolved>> {
    let is_empty = instance.targets.is_empty() && !args.is_filtered();
    let shown = instance.targets.iter().filter(|target| args.shows(target));
    shown.map(Some).chain(is_empty.then_some(None))
}

/// A table with the columns that were asked for, after `first`.
pub fn columns(args: &Args, first: Option<Column>) -> Table {
    let columns = COLUMNS.into_iter().enumerate();
    let columns = columns
        .filter(|(column, _)| (args.ids || *column != ID) && (args.ready || *column != READY));
    let columns = first.into_iter().chain(columns.map(|(_, column)| column));
    Table::new(columns).fit(terminal_width())
}

/// All cells of a row.
pub fn whole_row(
    instance: &Instance,
    target: Option<&Resolved>,
    extra: &mut Extra<'_>,
) -> Vec<Cell> {
    let mut row = row(instance, target, extra);
    let file = target.map(|target| file(instance, target, extra));
    row.push(file.unwrap_or_else(|| "no targets".into()).into());
    row
}

pub fn print(extra: &mut Extra<'_>, out: &mut impl Write) -> io::Result<()> {
    let (args, report) = (extra.args, extra.report);
    let lines = || {
        let instances = report.instances.iter();
        instances.flat_map(|i| lines(args, i).map(move |target| (i, target)))
    };
    if lines().next().is_none() {
        return Ok(());
    }
    let mut table = columns(args, None);
    // Each row is made twice: a million at once would need much memory.
    for (instance, target) in lines() {
        table.measure(&row(instance, target, extra));
    }
    table.head(out)?;
    for (instance, target) in lines() {
        let row = whole_row(instance, target, extra);
        table.row(&row, out)?;
    }
    Ok(())
}
