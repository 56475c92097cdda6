// SPDX-License-Identifier: GPL-2.0

//! Epoll's own calls, and the BPF iterator.

use super::{Table, compared, time};
use crate::record::{Layout, Measurement, Variant, What};
use crate::report::Results;
use crate::report::compare::ratio as by;
use crate::report::goals::{self, Count, at_least, at_most, within};
use crate::report::text::{duration, fine_ratio, ratio, thousands};
use crate::stats::Summary;

/// Epoll's own calls, in the order in which a target lives.
pub const OPS: [(What, &str); 4] = [
    (What::Add, "EPOLL_CTL_ADD"),
    (What::Mod, "EPOLL_CTL_MOD"),
    (What::Del, "EPOLL_CTL_DEL"),
    (What::Wait, "epoll_wait"),
];

pub fn ops(results: &Results, verdicts: &mut Count) -> Table {
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

pub fn iterate(results: &Results, verdicts: &mut Count) -> Table {
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
