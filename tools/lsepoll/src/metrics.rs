// SPDX-License-Identifier: GPL-2.0

//! Counts in the OpenMetrics text format, for node_exporter's textfile directory.
//!
//! They are sums by command name: a fleet is to be watched by them, and pids would make
//! a new series for each process.

use crate::names::Commands;
use crate::summary::{Counts, count};
use epoll_targets::resolve::Report;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A value of a label.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn text(counts: &BTreeMap<String, Counts>, is_complete: bool, time: u64) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, samples: &[(String, u64)]| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let by_command = |value: fn(&Counts) -> u64| {
        let samples = counts.iter();
        let samples = samples.map(|(command, counts)| {
            let labels = format!("{{command=\"{}\"}}", escaped(command));
            (labels, value(counts))
        });
        samples.collect::<Vec<_>>()
    };
    family(
        "lsepoll_instances",
        "Epoll instances.",
        &by_command(|counts| counts.instances),
    );
    family(
        "lsepoll_targets",
        "Targets of epoll instances.",
        &by_command(|counts| counts.targets),
    );
    // Those that matter are there even if they are 0.
    let states = counts.iter().flat_map(|(command, counts)| {
        let mut states =
            BTreeMap::from([("moved", 0), ("orphaned", 0), ("stale", 0), ("stuck", 0)]);
        states.extend(&counts.states);
        let labels = move |state| format!("{{command=\"{}\",state=\"{state}\"}}", escaped(command));
        states
            .into_iter()
            .map(move |(state, count)| (labels(state), count))
    });
    family(
        "lsepoll_odd_targets",
        "Targets by state. One can be in several states.",
        &states.collect::<Vec<_>>(),
    );
    family(
        "lsepoll_complete",
        "Whether all processes could be inspected.",
        &[(String::new(), u64::from(is_complete))],
    );
    family(
        "lsepoll_last_run_timestamp_seconds",
        "When this was written.",
        &[(String::new(), time)],
    );
    text.push_str("# EOF\n");
    text
}

/// Replaces a file at once: who reads it sees the old or the new one.
pub fn write(path: &Path, report: &Report) -> io::Result<()> {
    let mut commands = Commands::default();
    let counts = count(report, |pid| commands.of(pid).to_owned());
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = time.map_or(0, |time| time.as_secs());
    replace(path, &text(&counts, report.is_complete(), time))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "that is no file name",
        ));
    };
    // node_exporter reads what ends in .prom only.
    let mut new = name.to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(new);
    let written = (|| {
        let options = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&new);
        let mut file = options?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        // What was not made cannot be removed.
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format() {
        let counts = Counts {
            instances: 2,
            targets: 5,
            states: BTreeMap::from([("orphaned", 3)]),
        };
        let counts = BTreeMap::from([("a\"b\\\n".to_owned(), counts)]);
        let text = text(&counts, true, 7);
        let label = "command=\"a\\\"b\\\\\\n\"";
        for line in [
            format!("lsepoll_instances{{{label}}} 2"),
            format!("lsepoll_targets{{{label}}} 5"),
            format!("lsepoll_odd_targets{{{label},state=\"moved\"}} 0"),
            format!("lsepoll_odd_targets{{{label},state=\"orphaned\"}} 3"),
            "lsepoll_complete 1".into(),
            "lsepoll_last_run_timestamp_seconds 7".into(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
    }
}
