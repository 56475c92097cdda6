// SPDX-License-Identifier: GPL-2.0

//! What appears, changes and goes between two looks.

use crate::extra::Extra;
use crate::table::{self, Shape};
use epoll_cli::table::{Cell, Column};
use epoll_cli::text::quoted;
use epoll_targets::fdinfo::Inode;
use epoll_targets::resolve::{Instance, Resolved};
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::RawFd;

/// A line: an instance, and a target of it if it has any.
type Key = (i32, RawFd, Option<(RawFd, u32, Option<Inode>)>);

fn key(instance: &Instance, target: Option<&Resolved>) -> Key {
    let target = target.map(|resolved| {
        let target = &resolved.target;
        (target.tfd, target.toff, target.inode)
    });
    (instance.pid, instance.efd, target)
}

/// A line that was shown.
#[derive(Debug)]
struct Shown {
    state: Vec<String>,
    row: Vec<Cell>,
    notes: Vec<Cell>,
}

/// What was shown the last time.
#[derive(Debug, Default)]
pub struct Before {
    rows: Option<HashMap<Key, Shown>>,
    /// Nobody reads the output any more.
    pub is_unread: bool,
}

pub fn print(extra: &mut Extra<'_>, before: &mut Before, out: &mut impl Write) -> io::Result<()> {
    let args = extra.args;
    let mut old = before.rows.take();
    let mut now = HashMap::new();
    let mut rows: Vec<(Vec<Cell>, Vec<Cell>)> = Vec::new();
    let mut show = |what: &str, row: &[Cell], notes: &[Cell]| {
        let what = std::iter::once(Cell::from(what));
        rows.push((what.chain(row.iter().cloned()).collect(), notes.to_vec()));
    };
    // Every time the same columns, so that rows can be compared with earlier ones.
    let shape = Shape::whole(args);
    for instance in &extra.report.instances {
        let place: [Cell; 3] = [
            instance.pid.to_string().into(),
            quoted(extra.command(instance.pid).as_bytes()).into(),
            instance.efd.to_string().into(),
        ];
        for target in table::lines(args, instance) {
            let (row, notes) = table::whole_row(shape, instance, target, extra);
            let row: Vec<Cell> = place.iter().cloned().chain(row).collect();
            // What is compared: the state, not what the owner's link reads.
            let mut state: Vec<String> = Vec::new();
            if let Some(target) = target {
                state.extend(table::states(target).iter().map(ToString::to_string));
                state.push(format!("{:?}", target.target.events));
                if args.ready {
                    state.push(format!("{:?}", extra.ready(instance, target)));
                }
            }
            let key = key(instance, target);
            match old.as_mut().map(|old| old.remove(&key)) {
                None => show("", &row, &notes),
                Some(None) => show("new", &row, &notes),
                Some(Some(was)) if was.state != state => show("now", &row, &notes),
                Some(Some(_)) => {}
            }
            now.insert(key, Shown { state, row, notes });
        }
    }
    let mut gone: Vec<_> = old.into_iter().flatten().collect();
    gone.sort_by_key(|(key, _)| *key);
    for (_, shown) in &gone {
        show("gone", &shown.row, &shown.notes);
    }
    before.rows = Some(now);
    if rows.is_empty() {
        return Ok(());
    }
    let first = [
        Column::left("    "),
        Column::right("PID"),
        Column::left("COMMAND"),
        Column::right("EFD"),
    ];
    let mut table = shape.table(args, first);
    for (row, _) in &rows {
        table.measure(row);
    }
    table.head(out)?;
    for (row, notes) in &rows {
        table.row_with(row, notes, out)?;
    }
    Ok(())
}
