// SPDX-License-Identifier: GPL-2.0

//! Queries, and what they keep others from.

use super::{Table, compared, time};
use crate::record::{Layout, Measurement, Variant, What};
use crate::report::Results;
use crate::report::compare::{beyond, by_sum, ratio as by};
use crate::report::goals::{self, Count, at_most};
use crate::report::text::{duration, ratio, spread, thousands};

pub fn query(results: &Results, verdicts: &mut Count) -> Table {
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

pub fn inside(results: &Results) -> Table {
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

pub fn one_number(results: &Results, verdicts: &mut Count) -> Table {
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

pub fn hold(results: &Results, verdicts: &mut Count) -> Table {
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
