// SPDX-License-Identifier: GPL-2.0

//! For people.

use crate::args::Args;
use crate::extra::{Extra, Ready};
use crate::names;
use anstyle::{AnsiColor, Style};
use epoll_cli::events;
use epoll_cli::table::{Cell, Column, Table};
use epoll_cli::text::quoted;
use epoll_targets::Descriptor;
use epoll_targets::fdinfo::{Events, Target};
use epoll_targets::resolve::{Early, Instance, Owner, Resolved, TfdState};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::iter;
use std::os::fd::RawFd;

/// How many processes a heading names that have the instance, or own targets, and how many
/// holders of an orphan a row names.
const NAMED: usize = 8;

/// Which columns there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    toff: bool,
    data: bool,
    ready: bool,
}

impl Shape {
    /// All that were not left out for want of something to say.
    pub fn whole(args: &Args) -> Self {
        Self {
            toff: true,
            data: true,
            ready: args.ready,
        }
    }

    /// What these targets have something to say in.
    fn of<'a>(args: &Args, targets: impl Iterator<Item = &'a Resolved>) -> Self {
        if args.wide {
            return Self::whole(args);
        }
        let mut shape = Self {
            ready: args.ready,
            ..Self::default()
        };
        for resolved in targets {
            let Target {
                tfd, toff, data, ..
            } = resolved.target;
            shape.toff |= toff > 0;
            // What is above the number is often not initialised.
            shape.data |= data != 0 && data as RawFd != tfd;
        }
        shape
    }

    fn columns(self) -> impl Iterator<Item = Column> {
        let columns = [
            Some(Column::right("TFD")),
            self.toff.then_some(Column::right("TOFF")),
            Some(Column::left("EVENTS").at_most(14)),
            self.data.then_some(Column::right("DATA")),
            Some(Column::left("STATE").at_most(14)),
            Some(Column::left("OWNER").at_most(20)),
            self.ready.then_some(Column::left("READY").at_most(14)),
            Some(Column::left("FILE")),
        ];
        columns.into_iter().flatten()
    }

    /// A table with these columns after the others.
    pub fn table(self, args: &Args, first: impl IntoIterator<Item = Column>) -> Table {
        let table = Table::new(first.into_iter().chain(self.columns()));
        table.fit(width(args))
    }

    /// All cells but that of the file.
    fn row(
        self,
        instance: &Instance,
        target: Option<&Resolved>,
        extra: &mut Extra<'_>,
    ) -> Vec<Cell> {
        let Some(resolved) = target else {
            return vec!["-".into(); self.columns().count() - 1];
        };
        let target = resolved.target;
        let ready = |extra: &mut Extra<'_>| ready(extra.ready(instance, resolved));
        let cells = [
            Some(target.tfd.to_string().into()),
            self.toff.then(|| target.toff.to_string().into()),
            Some(events(target.events).into()),
            self.data.then(|| format!("{:#x}", target.data).into()),
            Some(state(resolved)),
            Some(owner(instance, resolved).into()),
            self.ready.then(|| ready(extra)),
        ];
        cells.into_iter().flatten().collect()
    }
}

/// The columns of a terminal that lines are to fit.
fn width(args: &Args) -> Option<usize> {
    if args.wide {
        return None;
    }
    let wanted = env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let size = || {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        Some(usize::from(size.ws_col))
    };
    wanted.or_else(size).filter(|&columns| columns > 0)
}

fn ready(ready: Ready) -> Cell {
    let text = match ready {
        Ready::For(Events(0)) => return "-".into(),
        Ready::For(events) => events.to_string(),
        Ready::Listed(Some(true)) => "yes".into(),
        Ready::Listed(Some(false)) => return "no".into(),
        Ready::Listed(None) => return "?".into(),
    };
    Cell::from(text).style(AnsiColor::Green.on_default())
}

fn state(resolved: &Resolved) -> Cell {
    let mut names = states(resolved);
    if names.contains(&"stuck") {
        // Which is why; OWNER says where to.
        names.retain(|&name| name != "moved");
    }
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

/// The owner that the table shows.
fn first_owner(resolved: &Resolved) -> Option<Descriptor> {
    match &resolved.owner {
        Owner::Tfd(owner) => Some(*owner),
        Owner::Others(owners) => owners.first().copied(),
        _ => None,
    }
}

fn owner(instance: &Instance, resolved: &Resolved) -> String {
    let Some(first) = first_owner(resolved) else {
        let is_orphaned = resolved.is_orphaned();
        return if is_orphaned { "none" } else { "?" }.into();
    };
    let named = match &resolved.owner {
        Owner::Others(owners) => owners.len(),
        _ => 1,
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

/// The file of the owner, whose link this is.
fn file(resolved: &Resolved, link: Option<&OsStr>) -> String {
    let inode = || resolved.target.inode.map(names::inode);
    let name = link.map(|link| quoted(link.as_encoded_bytes()));
    name.or_else(inode).unwrap_or_else(|| "?".into())
}

/// What else there is to say of a target's file: what kind it is, what holds it, and what
/// tfd means if that is another file.
fn notes(
    instance: &Instance,
    resolved: &Resolved,
    link: Option<&OsStr>,
    extra: &mut Extra<'_>,
) -> Vec<Cell> {
    let mut notes: Vec<String> = Vec::new();
    let owner = first_owner(resolved).zip(link);
    notes.extend(owner.and_then(|(owner, link)| extra.details(owner, link)));
    let holders = extra.holders(instance, resolved);
    let holders = holders
        .iter()
        .map(|holder| match holder.strip_prefix("perhaps ") {
            Some(holder) => format!("perhaps in {holder}"),
            None => format!("in {holder}"),
        });
    notes.extend(some(holders.collect()));
    let tfd = resolved.target.tfd;
    let stale = resolved.stale_at.first().copied();
    notes.extend(match (&resolved.tfd_state, stale) {
        (TfdState::Other(link), stale) if stale.is_none_or(|s| s.pid == instance.pid) => Some(
            format!("(now {tfd} is {})", quoted(link.as_encoded_bytes())),
        ),
        (TfdState::Target | TfdState::Other(_), Some(stale)) => {
            let other = extra
                .link(stale)
                .map(|link| quoted(link.as_encoded_bytes()));
            let other = other.unwrap_or_else(|| "?".into());
            Some(format!("({tfd} of pid {} is {other})", stale.pid))
        }
        (TfdState::Closed, _) => Some(format!("({tfd} is closed)")),
        _ => None,
    });
    notes.into_iter().map(Cell::from).collect()
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

/// All cells of a row, and what there is to say beyond them.
pub fn whole_row(
    shape: Shape,
    instance: &Instance,
    target: Option<&Resolved>,
    extra: &mut Extra<'_>,
) -> (Vec<Cell>, Vec<Cell>) {
    let mut row = shape.row(instance, target, extra);
    let Some(resolved) = target else {
        row.push("no targets".into());
        return (row, Vec::new());
    };
    let link = first_owner(resolved).and_then(|owner| extra.link(owner));
    row.push(file(resolved, link.as_deref()).into());
    (row, notes(instance, resolved, link.as_deref(), extra))
}

/// Some of a list, and how many more there are.
fn some(mut items: Vec<String>) -> Vec<String> {
    let more = items.len().saturating_sub(NAMED);
    items.truncate(NAMED);
    if more > 0 {
        items.push(format!("and {more} more"));
    }
    items
}

/// What stands in a list, each with its comma.
fn list(mut items: Vec<String>) -> Vec<Cell> {
    if let Some((_, items)) = items.split_last_mut() {
        items.iter_mut().for_each(|item| item.push(','));
    }
    items.into_iter().map(Cell::from).collect()
}

/// What stands above the targets of an instance: who has it, and who owns targets of it.
struct Heading {
    instance: Vec<Cell>,
    owners: Vec<Cell>,
}

impl Heading {
    /// For the instance that is to be shown with these targets.
    fn new<'a>(
        instance: &Instance,
        targets: impl Iterator<Item = &'a Resolved>,
        extra: &mut Extra<'_>,
    ) -> Self {
        let Instance { pid, efd, .. } = *instance;
        let mut parts = vec![format!("epoll instance {efd}")];
        if extra.args.ids {
            let id = instance.id.map_or_else(|| "?".into(), |id| id.to_string());
            parts.push(format!("id {id}"));
        }
        // By process, of which this one comes first.
        let mut also: BTreeMap<(bool, i32), Vec<i32>> = BTreeMap::new();
        for place in &instance.also {
            let fds = also.entry((place.pid != pid, place.pid)).or_default();
            fds.push(place.fd);
        }
        let also = also.into_iter().map(|((is_other, pid), mut fds)| {
            fds.sort_unstable();
            let fd = fds[0];
            let more = match fds.len() {
                1 => String::new(),
                many => format!(" +{}", many - 1),
            };
            match is_other {
                true => format!(
                    "pid {pid} ({}) fd {fd}{more}",
                    quoted(extra.command(pid).as_bytes())
                ),
                false => format!("fd {fd}{more}"),
            }
        });
        let mut also = some(also.collect());
        if let Some(first) = also.first_mut() {
            first.insert_str(0, "also ");
        }
        parts.extend(also);
        let mut known: BTreeSet<i32> = instance.also.iter().map(|place| place.pid).collect();
        known.insert(pid);
        let command = quoted(extra.command(pid).as_bytes());
        let process = [format!("process {pid}"), format!("({command}):")];
        let cells = process.into_iter().map(Cell::from).chain(list(parts));

        let owners = targets.flat_map(|target| {
            let stale = target.stale_at.first().copied();
            first_owner(target).into_iter().chain(stale)
        });
        let owners: BTreeSet<i32> = owners.map(|owner| owner.pid).collect();
        let owners = owners.difference(&known).map(|&pid| {
            let command = quoted(extra.command(pid).as_bytes());
            format!("pid {pid} is {command}")
        });
        let owners: Vec<_> = owners.collect();
        Self {
            instance: cells.collect(),
            owners: list(some(owners)),
        }
    }

    fn print(&self, table: &Table, out: &mut impl Write) -> io::Result<()> {
        table.heading(&self.instance, out)?;
        if !self.owners.is_empty() {
            table.heading(&self.owners, out)?;
        }
        Ok(())
    }
}

/// By pid and efd of the instance, tfd and toff.
type Place = (i32, RawFd, RawFd, u32);

/// Rows that are printed while owners of other targets are still searched for.
pub struct Stream<'a> {
    shape: Shape,
    table: Table,
    extra: Extra<'a>,
    /// What was printed, in which states.
    printed: HashMap<Place, Vec<&'static str>>,
    last: Option<(i32, RawFd)>,
}

impl<'a> Stream<'a> {
    pub fn new(extra: Extra<'a>) -> Self {
        let shape = Shape::whole(extra.args);
        let mut table = shape.table(extra.args, None);
        // How wide the others are is not known yet: some usual cells.
        let usual = ["10000", "0", "IN|RDHUP|ET", "0x10000", "stuck", "fd 10000"];
        table.measure(&usual.map(Cell::from));
        Self {
            shape,
            table,
            extra,
            printed: HashMap::new(),
            last: None,
        }
    }

    /// Prints a target of an instance.
    fn row(
        &mut self,
        instance: &Instance,
        target: &Resolved,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let (pid, efd) = (instance.pid, instance.efd);
        let place = (pid, efd, target.target.tfd, target.target.toff);
        let states = states(target);
        if !self.extra.args.shows(target) || self.printed.get(&place) == Some(&states) {
            return Ok(());
        }
        if self.printed.is_empty() {
            self.table.head(out)?;
        }
        if self.last.replace((pid, efd)) != Some((pid, efd)) {
            let heading = Heading::new(instance, iter::empty(), &mut self.extra);
            heading.print(&self.table, out)?;
        }
        self.printed.insert(place, states);
        let (row, notes) = whole_row(self.shape, instance, Some(target), &mut self.extra);
        self.table.row_with(&row, &notes, out)
    }

    /// Prints what was found early.
    pub fn early(&mut self, early: &Early<'_>, out: &mut impl Write) -> io::Result<()> {
        let instance = Instance::new(early.instance, early.also.to_vec());
        self.row(&instance, &early.target, out)
    }

    /// Prints what was not printed yet, or is not any more what it was.
    pub fn rest(mut self, extra: Extra<'a>, out: &mut impl Write) -> io::Result<()> {
        self.extra = extra;
        for instance in &self.extra.report.instances {
            for target in &instance.targets {
                self.row(instance, target, out)?;
            }
        }
        Ok(())
    }
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
    let shape = Shape::of(args, lines().filter_map(|(_, target)| target));
    let mut table = shape.table(args, None);
    // Each row is made twice: a million at once would need much memory.
    for (instance, target) in lines() {
        table.measure(&shape.row(instance, target, extra));
    }
    table.head(out)?;
    let mut last = None;
    for (instance, target) in lines() {
        let place = (instance.pid, instance.efd);
        if last.replace(place) != Some(place) {
            let targets = instance.targets.iter().filter(|target| args.shows(target));
            Heading::new(instance, targets, extra).print(&table, out)?;
        }
        let (row, notes) = whole_row(shape, instance, target, extra);
        table.row_with(&row, &notes, out)?;
    }
    Ok(())
}
