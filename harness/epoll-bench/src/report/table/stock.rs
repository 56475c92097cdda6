// SPDX-License-Identifier: GPL-2.0

//! lsepoll on the kernel as it is.

use super::{Table, cell, compared, time, times};
use crate::record::{Layout, Variant, What};
use crate::report::Results;
use crate::report::compare::ratio as by;
use crate::report::goals::{self, Count, at_least, at_most};
use crate::report::text::{fine_ratio, ratio, thousands};

pub fn lists(results: &Results, verdicts: &mut Count) -> Table {
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

pub fn watched(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Mean of an iteration of an event loop that is inspected all the time",
        &[
            "inspected by",
            "iteration",
            "to idle",
            "lsepoll at most 1.05",
        ],
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
