// SPDX-License-Identifier: GPL-2.0

//! Shows measurements: as tables, against what is to be reached, and as charts.

mod charts;
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

    /// Measurements of everything that there are charts for.
    fn everything() -> Vec<Measurement> {
        let mut all = Vec::new();
        let mut put = |suite, what, variant, layout, targets: u32, boot, ns: f64| {
            all.push(Measurement {
                suite,
                what,
                variant,
                layout,
                targets,
                boot,
                median: ns,
                q1: ns,
                q3: ns,
                min: ns,
                max: ns,
                runs: vec![ns],
                ..example()
            });
        };
        let (distinct, one) = (Layout::Distinct, Layout::OneNumber);
        for (variant, ns) in [
            (Variant::C, 2000.0),
            (Variant::Rust, 1500.0),
            (Variant::KcmpFile, 1000.0),
            (Variant::CtlMod, 900.0),
            (Variant::RustByC, 0.75),
            (Variant::RustByLookup, 0.79),
        ] {
            put(Suite::Question, What::Call, variant, distinct, 1, 0, ns);
            put(Suite::Question, What::Call, variant, distinct, 1000, 0, ns);
        }
        for (variant, ns) in [
            (Variant::C, 900.0),
            (Variant::Rust, 950.0),
            (Variant::RustByC, 1.06),
        ] {
            put(Suite::OneNumber, What::Call, variant, one, 10, 0, ns);
            put(
                Suite::Resolve,
                What::ResolveInPlace,
                variant,
                distinct,
                1000,
                0,
                ns,
            );
            put(Suite::Criu, What::Dump, variant, distinct, 5000, 0, ns);
        }
        for (variant, ns) in [
            (Variant::Idle, 3e3),
            (Variant::C, 3e7),
            (Variant::Rust, 5e3),
            (Variant::CMinusIdle, 2.9997e7),
            (Variant::RustMinusIdle, 2e3),
        ] {
            for what in [What::WaitMedian, What::WaitP99, What::WaitMax] {
                put(Suite::Hold, what, variant, distinct, 1_000_000, 0, ns);
            }
        }
        for (variant, ns) in [
            (Variant::BpfIter, 800.0),
            (Variant::Fdinfo, 4800.0),
            (Variant::Kcmp, 2000.0),
            (Variant::FdinfoByBpfIter, 6.0),
            (Variant::KcmpByBpfIter, 2.5),
        ] {
            for targets in [1000, 100_000] {
                let what = What::Target;
                put(Suite::Iterate, what, variant, distinct, targets, 0, ns);
            }
        }
        for (variant, ns) in [
            (Variant::EpollCr, 1500.0),
            (Variant::EpollCrDescribe, 3500.0),
            (Variant::Fdinfo, 4800.0),
            (Variant::C, 2.4e6),
            (Variant::Rust, 9000.0),
            (Variant::FdinfoByEpollCr, 3.2),
            (Variant::FdinfoByDescribe, 1.4),
            (Variant::CByEpollCr, 1600.0),
            (Variant::RustByEpollCr, 6.0),
        ] {
            for targets in [1000, 100_000] {
                let (suite, what) = (Suite::Checkpoint, What::Checkpoint);
                put(suite, what, variant, distinct, targets, 0, ns);
            }
        }
        for (variant, ns) in [
            (Variant::EpollCr, 1300.0),
            (Variant::CtlAdd, 1200.0),
            (Variant::EpollCrByCtlAdd, 1.08),
        ] {
            for targets in [1000, 100_000] {
                let (suite, what) = (Suite::Checkpoint, What::Restore);
                put(suite, what, variant, distinct, targets, 0, ns);
            }
        }
        for what in [What::Add, What::Mod, What::Del, What::Wait] {
            put(Suite::Ops, what, Variant::Base, distinct, 1000, 0, 1010.0);
            put(Suite::Ops, what, Variant::Stock, distinct, 1000, 0, 1000.0);
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
        // question: two sizes and one more at 1; one number; hold: three; ops: four;
        // iterate: two sizes and one more of the larger; checkpoint: four of the larger.
        assert_eq!(verdicts.to_string(), "goals: 17 met, 1 missed");
        assert!(text.contains("1.06 [1.06 .. 1.06]  goal missed"), "{text}");
        assert!(text.contains("30.0 ms"), "{text}");
    }

    #[test]
    fn there_is_a_chart_of_every_suite() {
        let dir = tempfile::tempdir().unwrap();
        for results in group(everything()) {
            let files = charts::draw(&results, dir.path()).unwrap();
            assert!(!files.is_empty(), "{:?}", results.suite);
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
