// SPDX-License-Identifier: GPL-2.0

//! How many targets each process has, by state.

use crate::args::Args;
use crate::names::Commands;
use crate::table::states;
use epoll_cli::table::{Cell, Column, Table};
use epoll_cli::text::quoted;
use epoll_targets::resolve::Report;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The counts of a process, or of several.
#[derive(Debug, Default)]
pub struct Counts {
    pub instances: u64,
    pub targets: u64,
    /// A target can be in several states.
    pub states: BTreeMap<&'static str, u64>,
}

impl Counts {
    fn of(&self, state: &str) -> u64 {
        self.states.get(state).copied().unwrap_or_default()
    }
}

/// By what `key` makes of a process.
pub fn count<K: Ord>(report: &Report, mut key: impl FnMut(i32) -> K) -> BTreeMap<K, Counts> {
    let mut all: BTreeMap<K, Counts> = BTreeMap::new();
    for instance in &report.instances {
        let counts = all.entry(key(instance.pid)).or_default();
        counts.instances += 1;
        for target in &instance.targets {
            counts.targets += 1;
            for state in states(target) {
                *counts.states.entry(state).or_default() += 1;
            }
        }
    }
    all
}

#[derive(Serialize)]
struct Output<'a> {
    version: u32,
    complete: bool,
    processes: Vec<Process<'a>>,
}

#[derive(Serialize)]
struct Process<'a> {
    pid: i32,
    command: String,
    instances: u64,
    targets: u64,
    states: &'a BTreeMap<&'static str, u64>,
}

pub fn print(args: &Args, report: &Report, out: &mut impl Write) -> io::Result<()> {
    let mut commands = Commands::default();
    let counts = count(report, |pid| pid);
    let is_shown = |counts: &Counts| {
        !args.is_filtered()
            || args.orphaned && counts.of("orphaned") > 0
            || args.stale && counts.of("stale") > 0
            || args.stuck && counts.of("stuck") + counts.of("orphaned") > 0
    };
    let shown: Vec<_> = counts
        .iter()
        .filter(|(_, counts)| is_shown(counts))
        .collect();
    if args.json {
        let processes = shown.iter().map(|&(&pid, counts)| Process {
            pid,
            command: commands.of(pid).to_owned(),
            instances: counts.instances,
            targets: counts.targets,
            states: &counts.states,
        });
        let output = Output {
            version: 1,
            complete: report.is_complete(),
            processes: processes.collect(),
        };
        return epoll_cli::json::print(&output, out);
    }
    if shown.is_empty() {
        return Ok(());
    }
    // Every state that occurs has a column.
    let mut names: Vec<&'static str> = shown
        .iter()
        .flat_map(|(_, c)| c.states.keys())
        .copied()
        .collect();
    names.sort_unstable();
    names.dedup();
    let columns = ["PID", "INSTANCES", "TARGETS"]
        .into_iter()
        .map(Column::right);
    let columns = columns.chain(names.iter().map(|name| Column::right(heading(name))));
    let table = Table::new(columns.chain([Column::left("COMMAND")]));
    let rows = shown.iter().map(|&(&pid, counts)| {
        let numbers = [counts.instances, counts.targets].into_iter();
        let numbers = numbers.chain(names.iter().map(|name| counts.of(name)));
        let mut row: Vec<Cell> = vec![pid.to_string().into()];
        row.extend(numbers.map(|number| Cell::from(number.to_string())));
        row.push(quoted(commands.of(pid).as_bytes()).into());
        row
    });
    let rows: Vec<_> = rows.collect();
    table.print(&rows, out)
}

fn heading(state: &str) -> &'static str {
    match state {
        "orphaned" => "ORPHANED",
        "moved" => "MOVED",
        "stale" => "STALE",
        "stuck" => "STUCK",
        "guessed" => "GUESSED",
        "changed" => "CHANGED",
        "unknown" => "UNKNOWN",
        _ => "OTHER",
    }
}
