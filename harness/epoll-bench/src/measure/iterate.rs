// SPDX-License-Identifier: GPL-2.0

//! The time to get all targets of an epoll instance, by the number of targets.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{Session, Subject};
use crate::bpf::{BUFFER, EpollIter, read_to_end};
use crate::handler::{Handler, Switch};
use crate::record::{Layout, Suite, Variant, What};
use crate::timing::{SAMPLE, in_turn, spread};
use crate::world::{Instance, number};

const SIZES: &[usize] = &[1_000, 10_000, 100_000, 1_000_000];
const ROUNDS: u32 = 7;

/// No more queries than that a pass: in an instance of 1,000,000 they would take longer
/// than everything else together.
const MOST_QUERIES: usize = 100_000;

pub fn run(session: &mut Session<'_>, switch: &mut Switch) -> Result<()> {
    let build_id = switch.iterator()?;
    // One query a target, to the handler that finds it without a walk.
    switch.to(Handler::Rust)?;
    let mut instance = Instance::distinct()?;
    for targets in session.sizes(SIZES) {
        let subject = Subject {
            suite: Suite::Iterate,
            layout: Layout::Distinct,
            targets,
            asked: None,
            handler: Some(&build_id),
        };
        session.progress(&subject);
        instance.grow(targets)?;
        measure(session, &subject, &instance)?;
    }
    Ok(())
}

fn measure(session: &mut Session<'_>, subject: &Subject<'_>, instance: &Instance) -> Result<()> {
    let n = subject.targets;
    let iterator = EpollIter::new(&instance.epoll)?;
    check(instance, &iterator, n)?;

    let queries = n.min(MOST_QUERIES);
    let mut buffer = vec![0; BUFFER];
    let mut other_buffer = vec![0; BUFFER];
    let path = format!("/proc/self/fdinfo/{}", number(&instance.epoll));
    let mut pass = || {
        let seen = iterator.count(&mut buffer)?;
        ensure!(seen == n, "{seen} targets were seen, not {n}");
        Ok(())
    };
    let mut fdinfo = || {
        read_to_end(&mut File::open(&path)?, &mut other_buffer)?;
        Ok(())
    };
    let mut kcmp = || (0..queries).try_for_each(|i| instance.ask(spread(i as u64, n)));

    let (mut passes, mut fdinfos, mut kcmps) = (Vec::new(), Vec::new(), Vec::new());
    let (mut samples, mut query_samples) = (0, 0);
    for _ in 0..session.rounds(ROUNDS) {
        let medians = in_turn(
            3,
            &mut [&mut || sample(n, &mut samples, &mut pass), &mut || {
                sample(n, &mut 0, &mut fdinfo)
            }],
        )?;
        passes.push(medians[0]);
        fdinfos.push(medians[1]);
        kcmps.push(sample(queries, &mut query_samples, &mut kcmp)?);
    }

    let what = What::Target;
    for (variant, runs, samples) in [
        (Variant::BpfIter, &passes, samples),
        (Variant::Fdinfo, &fdinfos, samples),
        (Variant::Kcmp, &kcmps, query_samples),
    ] {
        session.write(subject, what, variant, runs, samples)?;
    }
    Ok(())
}

/// Nanoseconds a target, from as many passes as make a sample long enough.
fn sample(targets: usize, samples: &mut u32, pass: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut passes = 0u32;
    while passes == 0 || start.elapsed() < SAMPLE {
        pass()?;
        passes += 1;
    }
    *samples += 1;
    Ok(start.elapsed().as_nanos() as f64 / f64::from(passes) / targets as f64)
}

/// Everybody has to see the same: each target once, with its events and data.
fn check(instance: &Instance, iterator: &EpollIter, targets: usize) -> Result<()> {
    let mut seen = iterator.targets()?;
    let path = format!("/proc/self/fdinfo/{}", instance.epoll.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let lines = text.lines().filter(|line| line.starts_with("tfd:")).count();
    ensure!(lines == targets, "{lines} targets in {path}, not {targets}");

    seen.sort_unstable_by_key(|target| target.tfd);
    seen.dedup_by_key(|target| target.tfd);
    let numbers: Vec<u32> = seen.iter().map(|target| target.tfd).collect();
    let mut wanted: Vec<u32> = instance.files.iter().map(number).collect();
    wanted.sort_unstable();
    ensure!(numbers == wanted, "the iterator has missed targets");
    // EPOLLIN, and what epoll adds.
    let right = seen
        .iter()
        .all(|target| target.data == u64::from(target.tfd) && target.events == 0x19);
    ensure!(right, "the iterator tells wrong events or data");
    Ok(())
}
