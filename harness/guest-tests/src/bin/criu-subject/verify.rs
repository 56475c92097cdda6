// SPDX-License-Identifier: GPL-2.0
//! Checks that everything is unchanged: what fdinfo shows of the epoll instances, and the
//! events that they report.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use anyhow::Result;
use rustix::event::epoll::EventFlags;

use crate::world::{Mode, Shown, Source, World};

/// How often each kind of difference was found.
#[derive(Debug, Default)]
pub struct Report {
    counts: BTreeMap<&'static str, usize>,
    /// The data of the targets whose events came.
    heard: HashSet<u64>,
}

impl Report {
    fn count(&mut self, what: &'static str, n: usize) {
        if n > 0 {
            *self.counts.entry(what).or_default() += n;
        }
    }
}

/// Lines of the form `what N`, sorted, without those that would be 0.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, n) in &self.counts {
            writeln!(f, "{what} {n}")?;
        }
        Ok(())
    }
}

/// Compares fdinfo with what it showed `before`, and makes every target report.
pub fn verify(world: &mut World, before: &[Vec<Shown>]) -> Result<Report> {
    world.land()?;
    let mut report = Report::default();
    report.count("targets", before.iter().map(Vec::len).sum());

    for (before, after) in before.iter().zip(world.snapshot()?) {
        compare(world, before, &after, &mut report);
    }

    // Targets that were ready before.
    expect(world, &world.ready, &mut report)?;
    for source in 0..world.sources.len() {
        if !world.has_value(source)? {
            report.count("other-value", 1);
        }
    }

    for source in 0..world.sources.len() {
        if !matches!(world.sources[source], Source::Set(_) | Source::Lost) {
            exercise(world, source, &mut report)?;
        }
    }
    report.count("heard", report.heard.len());
    Ok(report)
}

/// Compares targets, which are told apart by their data.
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
            // It may be a descriptor that the file has, or an unrelated one.
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

/// Makes a source ready several times, and checks which of its targets report.
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

    // A oneshot target that is armed while its file is ready reports once more.
    let oneshots = of(&[Mode::Oneshot, Mode::Disarmed]);
    for &target in &oneshots {
        world.arm(target)?;
    }
    let level = of(&[Mode::Level, Mode::Oneshot, Mode::Disarmed]);
    expect(world, &level, report)?;
    world.drain(source)?;
    Ok(())
}

/// Checks that exactly these targets report, each to its epoll instance, with its data and
/// EPOLLIN only.
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
