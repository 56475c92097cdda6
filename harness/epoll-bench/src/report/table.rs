// SPDX-License-Identifier: GPL-2.0

//! A table of each suite.

use super::Results;
use super::compare::{beyond, by_sum, ratio as by};
use super::goals::{self, Count, at_least, at_most, within};
use super::text::{duration, fine_ratio, ratio, spread, thousands};
use crate::record::{Accelerator, Layout, Measurement, Suite, Variant, What};
use crate::stats::Summary;

/// Cells in columns as wide as they need to be. The first and the last are
/// words, the others numbers.
struct Table {
    title: &'static str,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(title: &'static str, headings: &[&str]) -> Self {
        Self {
            title,
            rows: vec![headings.iter().map(ToString::to_string).collect()],
        }
    }

    fn text(&self, caption: &str) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let of = |row: &Vec<String>| row[column].chars().count();
            self.rows.iter().map(of).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = format!("{}\n{caption}\n\n", self.title);
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => line += &format!("  {cell:<width$}"),
                    _ if column == columns - 1 => line += &format!("  {cell}"),
                    _ => line += &format!("  {cell:>width$}"),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text.push('\n');
        text
    }
}

/// A cell, or a dash if there is no measurement.
fn cell(m: Option<&Measurement>, show: impl FnOnce(&Measurement) -> String) -> String {
    m.map_or_else(|| "-".into(), show)
}

fn time(m: Option<&Measurement>) -> String {
    cell(m, |m| duration(m.median))
}

/// What compares two, if both are there.
fn compared(s: Option<Summary>, show: impl FnOnce(&Summary) -> String) -> String {
    s.map_or_else(|| "-".into(), |s| show(&s))
}

pub fn of(results: &Results, verdicts: &mut Count) -> String {
    let tables = match results.suite {
        Suite::Query if results.accelerator == Accelerator::Um => vec![inside(results)],
        Suite::Query => vec![query(results, verdicts)],
        Suite::OneNumber => vec![one_number(results, verdicts)],
        Suite::Hold => vec![hold(results, verdicts)],
        Suite::Ops => vec![ops(results, verdicts)],
        Suite::Resolve => vec![resolve(results)],
        Suite::Criu => [What::Dump, What::CriuRestore]
            .into_iter()
            .filter(|&what| !results.sizes(what, Layout::Distinct).is_empty())
            .map(|what| criu(results, what, verdicts))
            .collect(),
        Suite::Iterate => vec![iterate(results, verdicts)],
        Suite::Checkpoint => vec![checkpoint(results, verdicts), restore(results, verdicts)],
        Suite::Stock => vec![lists(results, verdicts), watched(results, verdicts)],
    };
    let caption = results.caption();
    tables.iter().map(|table| table.text(&caption)).collect()
}

fn query(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time of a query; each target has its own descriptor",
        &[
            "targets",
            "mainline",
            "C",
            "Rust",
            "KCMP_FILE",
            "EPOLL_CTL_MOD",
            "mainline / C, each by KCMP_FILE",
            "Rust / C",
            "Rust / (KCMP_FILE + EPOLL_CTL_MOD)",
            "at most 1.00; at 1 target Rust / C at most 1.05",
        ],
    );
    for targets in results.sizes(What::Call, Layout::Distinct) {
        let find = |variant| results.find(What::Call, variant, Layout::Distinct, targets);
        let rust = find(Variant::Rust);
        let by_c = by(rust, find(Variant::C));
        let by_lookup = by_sum(rust, (find(Variant::KcmpFile), find(Variant::CtlMod)));
        let mut words = Vec::new();
        if let Some(s) = by_lookup {
            words.push(verdicts.note(at_most(goals::LOOKUP, &s)).to_string());
        }
        if let (Some(s), 1) = (by_c, targets) {
            let verdict = verdicts.note(at_most(goals::ONE_TARGET, &s));
            words.push(format!("next to C: {verdict}"));
        }
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(find(Variant::Mainline)),
            time(find(Variant::C)),
            time(rust),
            time(find(Variant::KcmpFile)),
            time(find(Variant::CtlMod)),
            by_floor(
                (find(Variant::Mainline), find(Variant::MainlineFile)),
                (find(Variant::C), find(Variant::KcmpFile)),
            )
            .map_or_else(|| "-".into(), |ratio| format!("{ratio:.1}")),
            compared(by_c, ratio),
            compared(by_lookup, ratio),
            words.join("; "),
        ]);
    }
    table
}

/// How one compares to another that was measured in another boot: each is divided by what
/// is the same system call without an epoll instance there.
fn by_floor(
    (left, left_floor): (Option<&Measurement>, Option<&Measurement>),
    (right, right_floor): (Option<&Measurement>, Option<&Measurement>),
) -> Option<f64> {
    Some(left?.median / left_floor?.median / (right?.median / right_floor?.median))
}

fn inside(results: &Results) -> Table {
    let mut table = Table::new(
        "Time of a query beyond that of KCMP_FILE: what it costs inside the kernel",
        &["targets", "C", "Rust", "KCMP_FILE itself", ""],
    );
    for targets in results.sizes(What::Call, Layout::Distinct) {
        let find = |variant| results.find(What::Call, variant, Layout::Distinct, targets);
        let floor = find(Variant::KcmpFile);
        let show = |variant| compared(beyond(find(variant), floor), spread);
        table.rows.push(vec![
            thousands(f64::from(targets)),
            show(Variant::C),
            show(Variant::Rust),
            time(floor),
            String::new(),
        ]);
    }
    table
}

fn one_number(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time of a query; all targets have the same descriptor",
        &[
            "targets",
            "mainline",
            "C",
            "Rust",
            "Rust / C",
            "at most 1.00",
        ],
    );
    for targets in results.sizes(What::Call, Layout::OneNumber) {
        let find = |variant| results.find(What::Call, variant, Layout::OneNumber, targets);
        let by_c = by(find(Variant::Rust), find(Variant::C));
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(find(Variant::Mainline)),
            time(find(Variant::C)),
            time(find(Variant::Rust)),
            compared(by_c, ratio),
            compared(by_c, |s| {
                verdicts.note(at_most(goals::ONE_NUMBER, s)).to_string()
            }),
        ]);
    }
    table
}

fn hold(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "The longest wait for the epoll instance during one query",
        &[
            "targets",
            "of the queries",
            "idle",
            "C",
            "Rust",
            "C over idle",
            "Rust over idle",
            "at most 100 µs",
        ],
    );
    for (layout, name) in [
        (Layout::Distinct, "own descriptors"),
        (Layout::OneNumber, "one descriptor"),
    ] {
        for targets in results.sizes(What::WaitMedian, layout) {
            for (what, of) in [
                (What::WaitMedian, "the median"),
                (What::WaitP99, "99 %"),
                (What::WaitMax, "the maximum"),
            ] {
                let find = |variant| results.find(what, variant, layout, targets);
                let idle = find(Variant::Idle);
                let over = |handler| beyond(find(handler), idle);
                let over_rust = over(Variant::Rust);
                table.rows.push(vec![
                    format!("{}, {name}", thousands(f64::from(targets))),
                    of.into(),
                    time(idle),
                    time(find(Variant::C)),
                    time(find(Variant::Rust)),
                    compared(over(Variant::C), |s| duration(s.median)),
                    compared(over_rust, spread),
                    match (idle, over_rust) {
                        (Some(idle), Some(over)) => {
                            verdicts.note(goals::hold(&idle.into(), &over)).to_string()
                        }
                        _ => "-".into(),
                    },
                ]);
            }
        }
    }
    table
}

/// Epoll's own calls, in the order in which a target lives.
pub const OPS: [(What, &str); 4] = [
    (What::Add, "EPOLL_CTL_ADD"),
    (What::Mod, "EPOLL_CTL_MOD"),
    (What::Del, "EPOLL_CTL_DEL"),
    (What::Wait, "epoll_wait"),
];

fn ops(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Epoll's own calls, on the patched kernel and on the unpatched one",
        &[
            "call",
            "targets",
            "unpatched",
            "patched",
            "boots",
            "patched / unpatched",
            "0.98 to 1.02",
        ],
    );
    for (what, name) in OPS {
        for targets in results.sizes(what, Layout::Distinct) {
            let of = |variant| {
                let medians: Vec<f64> = results
                    .all
                    .iter()
                    .filter(|m| (m.what, m.variant, m.targets) == (what, variant, targets))
                    .map(|m| m.median)
                    .collect();
                Summary::of(&medians).map_or_else(|| "-".into(), |s| duration(s.median))
            };
            let ratios = results.of_boots(what, targets);
            let (ratio, verdict) = match Summary::of(&ratios) {
                Some(s) => (
                    fine_ratio(&s),
                    verdicts.note(within(&goals::OPS, &s)).to_string(),
                ),
                None => ("-".into(), "only one of the kernels was measured".into()),
            };
            table.rows.push(vec![
                name.into(),
                thousands(f64::from(targets)),
                of(Variant::Stock),
                of(Variant::Base),
                ratios.len().to_string(),
                ratio,
                verdict,
            ]);
        }
    }
    table
}

fn resolve(results: &Results) -> Table {
    let mut table = Table::new(
        "Time to find the owners of all targets of an epoll instance",
        &[
            "targets",
            "C",
            "Rust",
            "BPF",
            "Rust / C",
            "BPF / Rust",
            "descriptors",
        ],
    );
    for (what, where_from) in [
        (What::ResolveInPlace, "at the descriptors of the targets"),
        (What::ResolveMoved, "elsewhere"),
    ] {
        for targets in results.sizes(what, Layout::Distinct) {
            let find = |variant| results.find(what, variant, Layout::Distinct, targets);
            table.rows.push(vec![
                thousands(f64::from(targets)),
                time(find(Variant::C)),
                time(find(Variant::Rust)),
                time(find(Variant::Bpf)),
                compared(by(find(Variant::Rust), find(Variant::C)), ratio),
                compared(by(find(Variant::Bpf), find(Variant::Rust)), ratio),
                where_from.into(),
            ]);
        }
    }
    table
}

fn criu(results: &Results, what: What, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        match what {
            What::CriuRestore => "Time of criu restore",
            _ => "Time of criu dump",
        },
        &[
            "targets",
            "mainline",
            "C",
            "Rust",
            "with the series",
            "and the device",
            "and no targets",
            "Rust / C",
            "mainline / device",
            "device / no targets",
            "with 50,000 targets: at most 1.10 of no targets; a dump a tenth of mainline",
        ],
    );
    for targets in results.sizes(what, Layout::Distinct) {
        let find = |variant| results.find(what, variant, Layout::Distinct, targets);
        let device = find(Variant::CriuDevice);
        let faster = times(find(Variant::Mainline), device);
        let beyond = by(device, find(Variant::CriuUnwatched));
        let mut words = Vec::new();
        if targets == goals::CRIU_TARGETS {
            if let Some(s) = &beyond {
                words.push(verdicts.note(at_most(goals::CRIU_BEYOND, s)).to_string());
            }
            if let (Some(s), What::Dump) = (&faster, what) {
                let verdict = verdicts.note(at_least(goals::CRIU_FASTER, s));
                words.push(format!("next to mainline: {verdict}"));
            }
        }
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(find(Variant::Mainline)),
            time(find(Variant::C)),
            time(find(Variant::Rust)),
            time(find(Variant::CriuSeries)),
            time(device),
            time(find(Variant::CriuUnwatched)),
            compared(by(find(Variant::Rust), find(Variant::C)), ratio),
            compared(faster, ratio),
            compared(beyond, ratio),
            words.join("; "),
        ]);
    }
    table
}

fn iterate(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time to get all targets of an epoll instance, for each of them",
        &[
            "targets",
            "BPF iterator",
            "fdinfo",
            "kcmp",
            "fdinfo / iterator",
            "kcmp / iterator",
            "iterator / that of the smallest instance",
            "fdinfo at least 5.00; next to the smallest instance at most 1.25",
        ],
    );
    let find = |variant, targets| results.find(What::Target, variant, Layout::Distinct, targets);
    let mut smallest = None;
    for targets in results.sizes(What::Target, Layout::Distinct) {
        let of = |variant| find(variant, targets);
        let passes = of(Variant::BpfIter);
        let by_fdinfo = by(of(Variant::Fdinfo), passes);
        let mut words = Vec::new();
        if let Some(s) = by_fdinfo {
            let verdict = verdicts.note(at_least(goals::FDINFO, &s));
            words.push(verdict.to_string());
        }
        let grown = match (passes, smallest) {
            (Some(m), Some(least)) => growth(m, least),
            (Some(m), None) => {
                smallest = Some(m.median);
                None
            }
            (None, _) => None,
        };
        if let Some(s) = &grown {
            let verdict = verdicts.note(at_most(goals::FLAT, s));
            words.push(format!("next to the smallest: {verdict}"));
        }
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(passes),
            time(of(Variant::Fdinfo)),
            time(of(Variant::Kcmp)),
            compared(by_fdinfo, ratio),
            compared(by(of(Variant::Kcmp), passes), ratio),
            compared(grown, ratio),
            words.join("; "),
        ]);
    }
    table
}

/// Its runs divided by the median of another size.
fn growth(m: &Measurement, least: f64) -> Option<Summary> {
    let ratios: Vec<f64> = m.runs.iter().map(|run| run / least).collect();
    Summary::of(&ratios)
}

fn checkpoint(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time to see all targets of a process's epoll instance and its descriptors for them, for each target",
        &[
            "targets",
            "epoll_cr",
            "described",
            "fdinfo",
            "kcmp, C",
            "C asked about",
            "kcmp, Rust",
            "fdinfo / epoll_cr",
            "fdinfo / described",
            "C / epoll_cr",
            "Rust / epoll_cr",
            "at 100,000: fdinfo at least 1.00 for both, C at least 1.00",
        ],
    );
    let what = What::Checkpoint;
    for targets in results.sizes(what, Layout::Distinct) {
        let find = |variant| results.find(what, variant, Layout::Distinct, targets);
        let (device, fdinfo) = (find(Variant::EpollCr), find(Variant::Fdinfo));
        let (by_fdinfo, by_c) = (by(fdinfo, device), by(find(Variant::C), device));
        let described = by(fdinfo, find(Variant::EpollCrDescribe));
        let mut words = Vec::new();
        if targets == goals::CHECKPOINT_TARGETS {
            for (name, limit, s) in [
                ("fdinfo", goals::CHECKPOINT_FDINFO, by_fdinfo),
                ("described", goals::CHECKPOINT_FDINFO, described),
                ("C", goals::CHECKPOINT_C, by_c),
            ] {
                if let Some(s) = s {
                    let verdict = verdicts.note(at_least(limit, &s));
                    words.push(format!("{name}: {verdict}"));
                }
            }
        }
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(device),
            time(find(Variant::EpollCrDescribe)),
            time(fdinfo),
            time(find(Variant::C)),
            cell(find(Variant::C), |m| {
                m.asked
                    .map_or_else(|| "all".into(), |asked| thousands(f64::from(asked)))
            }),
            time(find(Variant::Rust)),
            compared(by_fdinfo, ratio),
            compared(described, ratio),
            compared(by_c, ratio),
            compared(by(find(Variant::Rust), device), ratio),
            words.join("; "),
        ]);
    }
    table
}

fn restore(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time to restore an epoll instance, for each target",
        &[
            "targets",
            "epoll_cr",
            "EPOLL_CTL_ADD",
            "epoll_cr / EPOLL_CTL_ADD",
            "at 100,000 at most 1.20",
        ],
    );
    let what = What::Restore;
    for targets in results.sizes(what, Layout::Distinct) {
        let find = |variant| results.find(what, variant, Layout::Distinct, targets);
        let by_calls = by(find(Variant::EpollCr), find(Variant::CtlAdd));
        let mut words = String::new();
        if let (Some(s), goals::CHECKPOINT_TARGETS) = (by_calls, targets) {
            words = verdicts.note(at_most(goals::RESTORE, &s)).to_string();
        }
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(find(Variant::EpollCr)),
            time(find(Variant::CtlAdd)),
            compared(by_calls, fine_ratio),
            words,
        ]);
    }
    table
}

/// Of two medians, which need not be of the same rounds.
fn times(m: Option<&Measurement>, other: Option<&Measurement>) -> Option<Summary> {
    Summary::of(&[m?.median / other?.median])
}

fn lists(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time of a whole command that lists what processes have open",
        &[
            "targets",
            "lsepoll",
            "lsfd",
            "lsof",
            "lsepoll by kcmp",
            "extrapolated from",
            "lsepoll / the faster",
            "kcmp / lsepoll",
            "at most 1.00; 100,000 moved: kcmp at least 1,000",
        ],
    );
    for (what, name) in [
        (What::ListSame, "at their descriptors"),
        (What::ListMoved, "moved"),
        (What::ListOrphaned, "orphaned"),
    ] {
        for targets in results.sizes(what, Layout::Distinct) {
            let find = |variant| results.find(what, variant, Layout::Distinct, targets);
            let (own, kcmp) = (find(Variant::Lsepoll), find(Variant::LsepollKcmp));
            let others = [find(Variant::Lsfd), find(Variant::Lsof)];
            let others = others.into_iter().flatten();
            let faster = others.min_by(|a, b| a.median.total_cmp(&b.median));
            let by_faster = by(own, faster);
            let by_kcmp = times(kcmp, own);
            let mut words = Vec::new();
            if let Some(s) = &by_faster {
                words.push(verdicts.note(at_most(goals::LIST, s)).to_string());
            }
            let is_judged = (what, targets) == (What::ListMoved, goals::LIST_TARGETS);
            if let Some(s) = by_kcmp.as_ref().filter(|_| is_judged) {
                let verdict = verdicts.note(at_least(goals::LIST_KCMP, s));
                words.push(format!("kcmp: {verdict}"));
            }
            table.rows.push(vec![
                format!("{}, {name}", thousands(f64::from(targets))),
                time(own),
                time(find(Variant::Lsfd)),
                time(find(Variant::Lsof)),
                time(kcmp),
                cell(kcmp, |m| {
                    m.asked
                        .map_or_else(|| "all".into(), |asked| thousands(f64::from(asked)))
                }),
                compared(by_faster, ratio),
                compared(by_kcmp, |s| thousands(s.median)),
                words.join("; "),
            ]);
        }
    }
    table
}

fn watched(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Mean of an iteration of an event loop that is inspected all the time",
        &["inspected by", "iteration", "to idle", "lsepoll at most 1.05"],
    );
    let what = What::Iteration;
    for targets in results.sizes(what, Layout::Distinct) {
        let find = |variant| results.find(what, variant, Layout::Distinct, targets);
        for (variant, name) in [
            (Variant::Idle, "none"),
            (Variant::Busy, "none, another program is busy"),
            (Variant::Lsepoll, "lsepoll"),
            (Variant::Lsfd, "lsfd"),
            (Variant::Lsof, "lsof"),
            (Variant::LsepollKcmp, "lsepoll by kcmp"),
        ] {
            let to_idle = by(find(variant), find(Variant::Idle));
            let verdict = match (&to_idle, variant) {
                (Some(s), Variant::Lsepoll) => {
                    verdicts.note(at_most(goals::WATCHED, s)).to_string()
                }
                _ => String::new(),
            };
            table.rows.push(vec![
                format!("{name}, {} targets", thousands(f64::from(targets))),
                time(find(variant)),
                compared(to_idle, fine_ratio),
                verdict,
            ]);
        }
    }
    table
}
