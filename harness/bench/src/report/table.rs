// SPDX-License-Identifier: GPL-2.0

//! A table of each suite.

use super::Results;
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

/// What is shown if there is something, and if there is not.
fn cell(m: Option<&Measurement>, show: impl FnOnce(&Measurement) -> String) -> String {
    m.map_or_else(|| "-".into(), show)
}

fn time(m: Option<&Measurement>) -> String {
    cell(m, |m| duration(m.median))
}

fn ratio_of(m: Option<&Measurement>) -> String {
    cell(m, |m| ratio(&m.into()))
}

pub fn of(results: &Results, verdicts: &mut Count) -> String {
    let tables = match results.suite {
        Suite::Question if results.accelerator == Accelerator::Um => vec![inside(results)],
        Suite::Question => vec![question(results, verdicts)],
        Suite::OneNumber => vec![one_number(results, verdicts)],
        Suite::Hold => vec![hold(results, verdicts)],
        Suite::Ops => vec![ops(results, verdicts)],
        Suite::Resolve => vec![resolve(results)],
        Suite::Criu => vec![criu(results)],
        Suite::Iterate => vec![iterate(results, verdicts)],
        Suite::Checkpoint => vec![checkpoint(results, verdicts), restore(results, verdicts)],
    };
    let caption = results.caption();
    tables.iter().map(|table| table.text(&caption)).collect()
}

fn question(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time of a question; each target has its own number",
        &[
            "targets",
            "C",
            "Rust",
            "KCMP_FILE",
            "EPOLL_CTL_MOD",
            "Rust / C",
            "Rust / (KCMP_FILE + EPOLL_CTL_MOD)",
            "at most 1.00; at 1 target Rust / C at most 1.05",
        ],
    );
    for targets in results.sizes(What::Call, Layout::Distinct) {
        let find = |variant| results.find(What::Call, variant, Layout::Distinct, targets);
        let (by_c, by_lookup) = (find(Variant::RustByC), find(Variant::RustByLookup));
        let mut words = Vec::new();
        if let Some(m) = by_lookup {
            words.push(verdicts.note(at_most(goals::LOOKUP, &m.into())).to_string());
        }
        if let (Some(m), 1) = (by_c, targets) {
            let verdict = verdicts.note(at_most(goals::ONE_TARGET, &m.into()));
            words.push(format!("next to C: {verdict}"));
        }
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(find(Variant::C)),
            time(find(Variant::Rust)),
            time(find(Variant::KcmpFile)),
            time(find(Variant::CtlMod)),
            ratio_of(by_c),
            ratio_of(by_lookup),
            words.join("; "),
        ]);
    }
    table
}

fn inside(results: &Results) -> Table {
    let mut table = Table::new(
        "Time of a question beyond that of KCMP_FILE: what it costs inside the kernel",
        &["targets", "C", "Rust", "KCMP_FILE itself", ""],
    );
    for targets in results.sizes(What::Call, Layout::Distinct) {
        let find = |variant| results.find(What::Call, variant, Layout::Distinct, targets);
        let show = |variant| cell(find(variant), |m| spread(&m.into()));
        table.rows.push(vec![
            thousands(f64::from(targets)),
            show(Variant::CMinusKcmpFile),
            show(Variant::RustMinusKcmpFile),
            time(find(Variant::KcmpFile)),
            String::new(),
        ]);
    }
    table
}

fn one_number(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time of a question; all targets have the same number",
        &["targets", "C", "Rust", "Rust / C", "at most 1.00"],
    );
    for targets in results.sizes(What::Call, Layout::OneNumber) {
        let find = |variant| results.find(What::Call, variant, Layout::OneNumber, targets);
        let by_c = find(Variant::RustByC);
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(find(Variant::C)),
            time(find(Variant::Rust)),
            ratio_of(by_c),
            cell(by_c, |m| {
                verdicts
                    .note(at_most(goals::ONE_NUMBER, &m.into()))
                    .to_string()
            }),
        ]);
    }
    table
}

fn hold(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "The longest wait for the set during one question",
        &[
            "targets",
            "of the questions",
            "idle",
            "C",
            "Rust",
            "C over idle",
            "Rust over idle",
            "at most 100 µs",
        ],
    );
    for (layout, name) in [
        (Layout::Distinct, "own numbers"),
        (Layout::OneNumber, "one number"),
    ] {
        for targets in results.sizes(What::WaitMedian, layout) {
            for (what, of) in [
                (What::WaitMedian, "the median"),
                (What::WaitP99, "99 %"),
                (What::WaitMax, "the maximum"),
            ] {
                let find = |variant| results.find(what, variant, layout, targets);
                let over = find(Variant::RustMinusIdle);
                table.rows.push(vec![
                    format!("{}, {name}", thousands(f64::from(targets))),
                    of.into(),
                    time(find(Variant::Idle)),
                    time(find(Variant::C)),
                    time(find(Variant::Rust)),
                    time(find(Variant::CMinusIdle)),
                    cell(over, |m| spread(&m.into())),
                    match (find(Variant::Idle), over) {
                        (Some(idle), Some(over)) => verdicts
                            .note(goals::hold(&idle.into(), &over.into()))
                            .to_string(),
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
        "Time to find the owners of all targets of a set",
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
        (What::ResolveInPlace, "at the numbers of the targets"),
        (What::ResolveMoved, "elsewhere"),
    ] {
        for targets in results.sizes(what, Layout::Distinct) {
            let find = |variant| results.find(what, variant, Layout::Distinct, targets);
            table.rows.push(vec![
                thousands(f64::from(targets)),
                time(find(Variant::C)),
                time(find(Variant::Rust)),
                time(find(Variant::Bpf)),
                ratio_of(find(Variant::RustByC)),
                ratio_of(find(Variant::BpfByRust)),
                where_from.into(),
            ]);
        }
    }
    table
}

fn criu(results: &Results) -> Table {
    let mut table = Table::new(
        "Time of criu dump",
        &["targets", "C", "Rust", "Rust / C", ""],
    );
    for targets in results.sizes(What::Dump, Layout::Distinct) {
        let find = |variant| results.find(What::Dump, variant, Layout::Distinct, targets);
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(find(Variant::C)),
            time(find(Variant::Rust)),
            ratio_of(find(Variant::RustByC)),
            String::new(),
        ]);
    }
    table
}

fn iterate(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time to get all targets of a set, for each of them",
        &[
            "targets",
            "BPF iterator",
            "fdinfo",
            "kcmp",
            "fdinfo / iterator",
            "kcmp / iterator",
            "iterator / that of the smallest set",
            "fdinfo at least 5.00; next to the smallest set at most 1.25",
        ],
    );
    let find = |variant, targets| results.find(What::Target, variant, Layout::Distinct, targets);
    let mut smallest = None;
    for targets in results.sizes(What::Target, Layout::Distinct) {
        let of = |variant| find(variant, targets);
        let by_fdinfo = of(Variant::FdinfoByBpfIter);
        let mut words = Vec::new();
        if let Some(m) = by_fdinfo {
            let verdict = verdicts.note(at_least(goals::FDINFO, &m.into()));
            words.push(verdict.to_string());
        }
        let grown = match (of(Variant::BpfIter), smallest) {
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
            time(of(Variant::BpfIter)),
            time(of(Variant::Fdinfo)),
            time(of(Variant::Kcmp)),
            ratio_of(by_fdinfo),
            ratio_of(of(Variant::KcmpByBpfIter)),
            grown.map_or_else(|| "-".into(), |s| ratio(&s)),
            words.join("; "),
        ]);
    }
    table
}

/// What its runs are next to the median of another size.
fn growth(m: &Measurement, least: f64) -> Option<Summary> {
    let ratios: Vec<f64> = m.runs.iter().map(|run| run / least).collect();
    Summary::of(&ratios)
}

fn checkpoint(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time to see all targets of a process's set and its descriptors for them, for each target",
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
            "at 100,000: fdinfo at least 1.00 for both, C at least 1,000",
        ],
    );
    let what = What::Checkpoint;
    for targets in results.sizes(what, Layout::Distinct) {
        let find = |variant| results.find(what, variant, Layout::Distinct, targets);
        let (by_fdinfo, by_c) = (find(Variant::FdinfoByEpollCr), find(Variant::CByEpollCr));
        let described = find(Variant::FdinfoByDescribe);
        let mut words = Vec::new();
        if targets == goals::CHECKPOINT_TARGETS {
            for (name, limit, m) in [
                ("fdinfo", goals::CHECKPOINT_FDINFO, by_fdinfo),
                ("described", goals::CHECKPOINT_FDINFO, described),
                ("C", goals::CHECKPOINT_C, by_c),
            ] {
                if let Some(m) = m {
                    let verdict = verdicts.note(at_least(limit, &m.into()));
                    words.push(format!("{name}: {verdict}"));
                }
            }
        }
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(find(Variant::EpollCr)),
            time(find(Variant::EpollCrDescribe)),
            time(find(Variant::Fdinfo)),
            time(find(Variant::C)),
            cell(find(Variant::C), |m| {
                m.asked
                    .map_or_else(|| "all".into(), |asked| thousands(f64::from(asked)))
            }),
            time(find(Variant::Rust)),
            ratio_of(by_fdinfo),
            ratio_of(described),
            ratio_of(by_c),
            ratio_of(find(Variant::RustByEpollCr)),
            words.join("; "),
        ]);
    }
    table
}

fn restore(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time to restore a set, for each target",
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
        let by_calls = find(Variant::EpollCrByCtlAdd);
        let mut words = String::new();
        if let (Some(m), goals::CHECKPOINT_TARGETS) = (by_calls, targets) {
            words = verdicts
                .note(at_most(goals::RESTORE, &m.into()))
                .to_string();
        }
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(find(Variant::EpollCr)),
            time(find(Variant::CtlAdd)),
            cell(by_calls, |m| fine_ratio(&m.into())),
            words,
        ]);
    }
    table
}
