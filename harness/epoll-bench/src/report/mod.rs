// SPDX-License-Identifier: GPL-2.0

//! Shows measurements: as tables, against the goals, and as charts.

mod charts;
mod compare;
mod goals;
mod plot;
mod table;
mod text;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::record::{Accelerator, Layout, Measurement, Suite, Variant, What, load};

/// Measurements of one suite that were taken in the same way.
struct Results {
    suite: Suite,
    accelerator: Accelerator,
    all: Vec<Measurement>,
}

impl Results {
    /// The measurement of this, of the first boot if there are several.
    fn find(
        &self,
        what: What,
        variant: Variant,
        layout: Layout,
        targets: u32,
    ) -> Option<&Measurement> {
        self.all
            .iter()
            .find(|m| (m.what, m.variant, m.layout, m.targets) == (what, variant, layout, targets))
    }

    /// Those that have a measurement, in ascending order.
    fn sizes(&self, what: What, layout: Layout) -> Vec<u32> {
        let mut sizes: Vec<u32> = self
            .all
            .iter()
            .filter(|m| (m.what, m.layout) == (what, layout))
            .map(|m| m.targets)
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// How the patched kernel compares to the unpatched one, of each pair of
    /// boots with the same number.
    fn of_boots(&self, what: What, targets: u32) -> Vec<f64> {
        let medians = |variant| -> BTreeMap<u32, f64> {
            self.all
                .iter()
                .filter(|m| (m.what, m.variant, m.targets) == (what, variant, targets))
                .map(|m| (m.boot, m.median))
                .collect()
        };
        let stock = medians(Variant::Stock);
        medians(Variant::Base)
            .iter()
            .filter_map(|(boot, base)| Some(base / stock.get(boot)?))
            .collect()
    }

    /// When, where and on what this was measured.
    fn caption(&self) -> String {
        let mut days: Vec<String> = self
            .all
            .iter()
            .map(|m| m.date.strftime("%Y-%m-%d").to_string())
            .collect();
        let mut kernels: Vec<&str> = self
            .all
            .iter()
            .map(|m| m.kernel.split(' ').next().unwrap_or(&m.kernel))
            .collect();
        let mut machines: Vec<String> = self
            .all
            .iter()
            .map(|m| format!("{}, {} CPUs", m.machine.cpu, m.machine.cpus))
            .collect();
        let mut modules: Vec<&str> = self
            .all
            .iter()
            .filter_map(|m| m.handler.as_deref())
            .map(|id| id.get(..12).unwrap_or(id))
            .collect();
        days.sort();
        days.dedup();
        kernels.sort();
        kernels.dedup();
        machines.sort();
        machines.dedup();
        modules.sort();
        modules.dedup();
        let mut caption = format!(
            "{} · Linux {} · {} · {}",
            days.join(", "),
            kernels.join(", "),
            self.accelerator,
            machines.join("; ")
        );
        if !modules.is_empty() {
            caption += &format!(" · module {}", modules.join(", "));
        }
        caption
    }
}

fn group(all: Vec<Measurement>) -> Vec<Results> {
    let mut groups: BTreeMap<(Suite, Accelerator), Vec<Measurement>> = BTreeMap::new();
    for m in all {
        groups.entry((m.suite, m.accelerator)).or_default().push(m);
    }
    groups
        .into_iter()
        .map(|((suite, accelerator), all)| Results {
            suite,
            accelerator,
            all,
        })
        .collect()
}

pub fn run(paths: &[PathBuf], svg: Option<&Path>) -> Result<()> {
    let groups = group(load(paths)?);
    let mut verdicts = goals::Count::default();
    let mut out = stdout().lock();
    for results in &groups {
        write!(out, "{}", table::of(results, &mut verdicts))?;
    }
    writeln!(out, "{verdicts}")?;
    if let Some(dir) = svg {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for results in &groups {
            for file in charts::draw(results, dir)? {
                writeln!(out, "{}", file.display())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::example;

    fn ops(variant: Variant, boot: u32, median: f64) -> Measurement {
        Measurement {
            suite: Suite::Ops,
            what: What::Add,
            variant,
            boot,
            median,
            ..example()
        }
    }

    #[test]
    fn boots_are_compared_in_pairs() {
        let groups = group(vec![
            ops(Variant::Base, 0, 110.0),
            ops(Variant::Stock, 0, 100.0),
            ops(Variant::Base, 1, 50.0),
            ops(Variant::Stock, 1, 100.0),
            ops(Variant::Base, 2, 70.0),
        ]);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].of_boots(What::Add, 1000), [1.1, 0.5]);
        assert!(groups[0].of_boots(What::Del, 1000).is_empty());
    }

    #[test]
    fn accelerators_are_not_mixed() {
        let um = Measurement {
            accelerator: Accelerator::Um,
            ..example()
        };
        let groups = group(vec![example(), um, example()]);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].all.len(), 2);
        assert_eq!(groups[1].accelerator, Accelerator::Um);
    }

    #[test]
    fn a_caption_says_when_and_where_and_nothing_twice() {
        let groups = group(vec![example(), example()]);
        assert_eq!(
            groups[0].caption(),
            "2026-11-21 · Linux 7.3.4 · QEMU TCG · A CPU, 2 CPUs · module 0123456789ab"
        );
    }

    /// What takes this long, of two rounds: some are measured with either handler.
    fn taking(ns: f64) -> Measurement {
        Measurement {
            median: ns,
            q1: ns,
            q3: ns,
            min: ns,
            max: ns,
            runs: vec![ns; 2],
            ..example()
        }
    }

    /// Measurements that differ in targets and variant, and how long these took.
    type Row<'a> = (Suite, What, Layout, &'a [u32], &'a [(Variant, f64)]);

    const QUERIES: &[(Variant, f64)] = &[
        (Variant::C, 2000.0),
        (Variant::Rust, 1500.0),
        (Variant::KcmpFile, 1000.0),
        (Variant::CtlMod, 900.0),
    ];
    const HANDLERS: &[(Variant, f64)] = &[(Variant::C, 900.0), (Variant::Rust, 950.0)];
    const WAITS: &[(Variant, f64)] = &[
        (Variant::Idle, 3e3),
        (Variant::C, 3e7),
        (Variant::Rust, 5e3),
    ];
    const WAYS: &[(Variant, f64)] = &[
        (Variant::BpfIter, 800.0),
        (Variant::Fdinfo, 4800.0),
        (Variant::Kcmp, 2000.0),
    ];
    const CHECKPOINTS: &[(Variant, f64)] = &[
        (Variant::EpollCr, 1500.0),
        (Variant::EpollCrDescribe, 3500.0),
        (Variant::Fdinfo, 4800.0),
        (Variant::C, 2.4e6),
        (Variant::Rust, 9000.0),
    ];
    const RESTORES: &[(Variant, f64)] = &[(Variant::EpollCr, 1300.0), (Variant::CtlAdd, 1200.0)];
    const KERNELS: &[(Variant, f64)] = &[(Variant::Base, 1010.0), (Variant::Stock, 1000.0)];
    const LISTERS: &[(Variant, f64)] = &[
        (Variant::Lsepoll, 1e8),
        (Variant::Lsfd, 2e8),
        (Variant::Lsof, 1.5e8),
        (Variant::LsepollKcmp, 2e11),
    ];
    const LOOPS: &[(Variant, f64)] = &[
        (Variant::Idle, 1e3),
        (Variant::Busy, 1.01e3),
        (Variant::Lsepoll, 1.1e3),
        (Variant::Lsfd, 1e3),
    ];

    /// Measurements of everything that there are charts for.
    fn everything() -> Vec<Measurement> {
        use Layout::{Distinct, OneNumber};
        let large = &[1000, 100_000];
        let million = &[1_000_000];
        let table: &[Row<'_>] = &[
            (Suite::Query, What::Call, Distinct, &[1, 1000], QUERIES),
            (Suite::OneNumber, What::Call, OneNumber, &[10], HANDLERS),
            (
                Suite::Resolve,
                What::ResolveInPlace,
                Distinct,
                &[1000],
                HANDLERS,
            ),
            (Suite::Criu, What::Dump, Distinct, &[5000], HANDLERS),
            (Suite::Criu, What::CriuRestore, Distinct, &[5000], HANDLERS),
            (Suite::Hold, What::WaitMedian, Distinct, million, WAITS),
            (Suite::Hold, What::WaitP99, Distinct, million, WAITS),
            (Suite::Hold, What::WaitMax, Distinct, million, WAITS),
            (Suite::Iterate, What::Target, Distinct, large, WAYS),
            (
                Suite::Checkpoint,
                What::Checkpoint,
                Distinct,
                large,
                CHECKPOINTS,
            ),
            (Suite::Checkpoint, What::Restore, Distinct, large, RESTORES),
            (Suite::Stock, What::ListMoved, Distinct, large, LISTERS),
            (Suite::Stock, What::Iteration, Distinct, &[5000], LOOPS),
            (Suite::Ops, What::Add, Distinct, &[1000], KERNELS),
            (Suite::Ops, What::Mod, Distinct, &[1000], KERNELS),
            (Suite::Ops, What::Del, Distinct, &[1000], KERNELS),
            (Suite::Ops, What::Wait, Distinct, &[1000], KERNELS),
        ];
        let mut all = Vec::new();
        for &(suite, what, layout, sizes, variants) in table {
            for &targets in sizes {
                all.extend(variants.iter().map(|&(variant, ns)| Measurement {
                    suite,
                    what,
                    variant,
                    layout,
                    targets,
                    ..taking(ns)
                }));
            }
        }
        all
    }

    #[test]
    fn tables_judge_every_goal() {
        let mut verdicts = goals::Count::default();
        let text: String = group(everything())
            .iter()
            .map(|results| table::of(results, &mut verdicts))
            .collect();
        // query: two sizes and one more at 1; one number; hold: three; ops: four;
        // iterate: two sizes and one more of the larger; checkpoint: four of the larger;
        // stock: two sizes, one more of the larger, and the loop.
        assert_eq!(verdicts.to_string(), "goals: 20 met, 2 missed");
        assert!(text.contains("1.06 [1.06 .. 1.06]  goal missed"), "{text}");
        assert!(text.contains("30.0 ms"), "{text}");
    }

    #[test]
    fn there_is_a_chart_of_every_suite() {
        let dir = tempfile::tempdir().unwrap();
        for results in group(everything()) {
            let files = charts::draw(&results, dir.path()).unwrap();
            let has_none = results.suite == Suite::Stock;
            assert_eq!(files.is_empty(), has_none, "{:?}", results.suite);
            for file in files {
                let svg = fs::read_to_string(&file).unwrap();
                assert!(svg.trim_end().ends_with("</svg>"), "{}", file.display());
                assert!(
                    svg.contains("2026-11-21 · Linux 7.3.4"),
                    "{}",
                    file.display()
                );
            }
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 9);
    }

    #[test]
    fn what_cannot_be_compared_has_no_chart() {
        let dir = tempfile::tempdir().unwrap();
        for results in group(vec![ops(Variant::Base, 0, 20.0)]) {
            assert!(charts::draw(&results, dir.path()).unwrap().is_empty());
        }
    }
}
