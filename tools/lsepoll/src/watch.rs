// SPDX-License-Identifier: GPL-2.0

//! What appears, changes and goes between two looks.

use crate::extra::Extra;
use crate::table::{self, Shape};
use epoll_cli::table::{Cell, Column};
use epoll_cli::text::quoted;
use epoll_targets::fdinfo::Inode;
use epoll_targets::resolve::{Instance, Owner, Resolved};
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::RawFd;

/// A line: an instance, and a target of it if it has any. Not by its toff, which changes
/// if another target with its tfd comes or goes, nor by what epoll_ctl(2) can change.
type Key = (i32, RawFd, Option<(RawFd, Option<Inode>)>);

fn key(instance: &Instance, target: Option<&Resolved>) -> Key {
    let target = target.map(|resolved| (resolved.target.tfd, resolved.target.inode));
    (instance.pid, instance.efd, target)
}

/// A line that was shown.
#[derive(Debug)]
struct Shown {
    state: Vec<String>,
    /// What tells targets apart that have one key, as two eventfds: data and owner.
    data: Option<u64>,
    owner: Option<Owner>,
    row: Vec<Cell>,
    notes: Vec<Cell>,
}

impl Shown {
    /// Of several with one key, those that are the most alike are taken for the same.
    fn likeness(&self, other: &Self) -> usize {
        if self.data != other.data {
            0
        } else if self.owner != other.owner {
            1
        } else if self.state != other.state {
            2
        } else {
            SAME
        }
    }
}

/// The likeness of what has not changed.
const SAME: usize = 3;

/// Of each of these lines, what it was before; what is gone stays in `old`.
fn pairs(old: &mut HashMap<Key, Vec<Shown>>, now: &[(Key, Shown)]) -> Vec<Option<Shown>> {
    let mut pairs: Vec<Option<Shown>> = now.iter().map(|_| None).collect();
    for likeness in (0..=SAME).rev() {
        for ((key, shown), pair) in now.iter().zip(&mut pairs) {
            let Some(old) = old.get_mut(key).filter(|_| pair.is_none()) else {
                continue;
            };
            let mut places = old.iter();
            let place = places.position(|was| was.likeness(shown) >= likeness);
            *pair = place.map(|place| old.remove(place));
        }
    }
    pairs
}

/// What was shown the last time.
#[derive(Debug, Default)]
pub struct Before {
    rows: Option<HashMap<Key, Vec<Shown>>>,
    /// Nobody reads the output any more.
    pub is_unread: bool,
    /// This is not the first time.
    pub is_again: bool,
}

pub fn print(extra: &mut Extra<'_>, before: &mut Before, out: &mut impl Write) -> io::Result<()> {
    let args = extra.args;
    let old = before.rows.take();
    let mut now = Vec::new();
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
            let shown = Shown {
                state,
                data: target.map(|resolved| resolved.target.data),
                owner: target.map(|resolved| resolved.owner.clone()),
                row,
                notes,
            };
            now.push((key(instance, target), shown));
        }
    }
    let is_first = old.is_none();
    let mut old = old.unwrap_or_default();
    for ((_, shown), was) in now.iter().zip(pairs(&mut old, &now)) {
        match was {
            None if is_first => show("", &shown.row, &shown.notes),
            None => show("new", &shown.row, &shown.notes),
            Some(was) if was.state != shown.state => show("now", &shown.row, &shown.notes),
            Some(_) => {}
        }
    }
    let mut gone: Vec<_> = old.into_iter().collect();
    gone.sort_by_key(|(key, _)| *key);
    for shown in gone.iter().flat_map(|(_, shown)| shown) {
        show("gone", &shown.row, &shown.notes);
    }
    let mut rest: HashMap<Key, Vec<Shown>> = HashMap::new();
    for (key, shown) in now {
        rest.entry(key).or_default().push(shown);
    }
    before.rows = Some(rest);
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

#[cfg(test)]
mod tests {
    use super::*;
    use epoll_targets::Descriptor;

    fn shown(data: u64, fd: RawFd, state: &str) -> Shown {
        Shown {
            state: vec![state.into()],
            data: Some(data),
            owner: Some(Owner::Others(vec![Descriptor { pid: 1, fd }])),
            row: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn what_stays_is_the_most_alike() {
        let key = (1, 3, Some((4, None)));
        let of = |pairs: &[Option<Shown>]| {
            let of = pairs
                .iter()
                .map(|was| was.as_ref().and_then(|was| was.data));
            of.collect::<Vec<_>>()
        };
        // Another target is now the first one with this tfd.
        let mut old = HashMap::from([(key, vec![shown(7, 8, "moved")])]);
        let now = [(key, shown(4, 4, "ok")), (key, shown(7, 8, "moved"))];
        assert_eq!(of(&pairs(&mut old, &now)), [None, Some(7)]);
        assert!(old[&key].is_empty());
        // It is gone again.
        let mut old = HashMap::from([(key, now.into_iter().map(|(_, shown)| shown).collect())]);
        let now = [(key, shown(7, 9, "moved"))];
        assert_eq!(of(&pairs(&mut old, &now)), [Some(7)]);
        assert_eq!(old[&key][0].data, Some(4));
        // Its data was changed.
        let mut old = HashMap::from([(key, vec![shown(7, 8, "moved")])]);
        assert_eq!(
            of(&pairs(&mut old, &[(key, shown(1, 8, "moved"))])),
            [Some(7)]
        );
        // That target has another tfd.
        let mut old = HashMap::from([(key, vec![shown(7, 8, "moved")])]);
        let other = (1, 3, Some((5, None)));
        assert_eq!(
            of(&pairs(&mut old, &[(other, shown(7, 8, "moved"))])),
            [None]
        );
        assert_eq!(old[&key].len(), 1);
    }
}
