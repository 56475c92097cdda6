// SPDX-License-Identifier: GPL-2.0
//! Whether everything is as it was: what the kernel shows of the sets, and what
//! they report.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use anyhow::Result;
use rustix::event::epoll::EventFlags;

use crate::world::{Mode, Shown, Source, World};

/// How often something differed, by what it is.
#[derive(Debug, Default)]
pub struct Report {
    counts: BTreeMap<&'static str, usize>,
    /// Whose events have come, by their data.
    heard: HashSet<u64>,
}

impl Report {
    fn count(&mut self, what: &'static str, n: usize) {
        if n > 0 {
            *self.counts.entry(what).or_default() += n;
        }
    }
}

/// Lines of the form `what N`, sorted; what there is none of is not in it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, n) in &self.counts {
            writeln!(f, "{what} {n}")?;
        }
        Ok(())
    }
}

/// Compare with what was shown `before`, and make every target report.
pub fn verify(world: &mut World, before: &[Vec<Shown>]) -> Result<Report> {
    world.land()?;
    let mut report = Report::default();
    report.count("targets", before.iter().map(Vec::len).sum());

    for (before, after) in before.iter().zip(world.snapshot()?) {
        compare(world, before, &after, &mut report);
    }

    // What reported before, or had reported.
    expect(world, &world.ready, &mut report)?;
    for source in 0..world.sources.len() {
        world.drain(source)?;
    }

    for source in 0..world.sources.len() {
        if !matches!(world.sources[source], Source::Set(_) | Source::Lost) {
            exercise(world, source, &mut report)?;
        }
    }
    report.count("heard", report.heard.len());
    Ok(report)
}

/// Each target has data of its own, which tells what became of it.
fn compare(world: &World, before: &[Shown], after: &[Shown], report: &mut Report) {
    let owners: HashMap<u64, _> = world.targets.iter().map(|t| (t.data, t.owner)).collect();
    let mut left: HashMap<u64, &Shown> = HashMap::new();
    for shown in after {
        if left.insert(shown.data, shown).is_some() {
            report.count("added", 1);
        }
    }
    for shown in before {
        let Some(now) = left.remove(&shown.data) else {
            report.count("dropped", 1);
            continue;
        };
        if now.events != shown.events {
            report.count("other-events", 1);
        }
        if now.tfd != shown.tfd {
            // A number that the file has is all that can be used then.
            let found = owners.get(&shown.data).copied().flatten() == Some(now.tfd);
            report.count(
                if found {
                    "other-number"
                } else {
                    "foreign-number"
                },
                1,
            );
        }
    }
    report.count("added", left.len());
}

/// Make a source ready again and again, and see which of its targets report.
fn exercise(world: &World, source: usize, report: &mut Report) -> Result<()> {
    let reached = world.reached_from(source);
    let of = |modes: &[Mode]| -> Vec<usize> {
        let mut targets = reached.clone();
        targets.retain(|&target| modes.contains(&world.targets[target].mode));
        targets
    };

    world.fire(source)?;
    let armed = of(&[Mode::Level, Mode::Edge, Mode::Oneshot]);
    expect(world, &armed, report)?;
    expect(world, &of(&[Mode::Level]), report)?;
    if !world.drain(source)? {
        return Ok(());
    }
    expect(world, &[], report)?;

    world.fire(source)?;
    expect(world, &of(&[Mode::Level, Mode::Edge]), report)?;

    // It reports once more if it is armed while its file is ready.
    let oneshots = of(&[Mode::Oneshot, Mode::Disarmed]);
    for &target in &oneshots {
        world.arm(target)?;
    }
    let level = of(&[Mode::Level, Mode::Oneshot, Mode::Disarmed]);
    expect(world, &level, report)?;
    world.drain(source)?;
    Ok(())
}

/// See whether just these targets report, each to its set with its data and
/// nothing but that it can be read.
fn expect(world: &World, targets: &[usize], report: &mut Report) -> Result<()> {
    for set in world.each_set() {
        let mut due: Vec<u64> = targets
            .iter()
            .map(|&target| &world.targets[target])
            .filter(|target| target.set == set)
            .map(|target| target.data)
            .collect();
        for (data, events) in world.collect(set, !due.is_empty())? {
            let Some(at) = due.iter().position(|&d| d == data) else {
                report.count("unexpected", 1);
                continue;
            };
            due.swap_remove(at);
            if events == EventFlags::IN.bits() {
                report.heard.insert(data);
            } else {
                report.count("wrong-events", 1);
            }
        }
        report.count("silent", due.len());
    }
    Ok(())
}
