// SPDX-License-Identifier: GPL-2.0

//! What epoll's own calls cost, on whichever kernel this is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event};
use std::os::fd::OwnedFd;

use super::{Kernel, Session, Subject};
use crate::record::{Layout, Suite, Variant, What};
use crate::timing::{SAMPLE, spread};
use crate::world::{add, allow_descriptors, modify, new_instance, targets};

/// How many targets an instance has, and how many such instances there are. Each gets
/// `BATCH / instances` more, and loses them again.
const SIZES: &[(usize, usize)] = &[(1, 256), (1_000, 32), (100_000, 1)];
const BATCH: usize = 256;
const SAMPLES: u32 = 101;

/// An instance, its targets, and those that come and go.
struct Crowd {
    epoll: OwnedFd,
    targets: Vec<OwnedFd>,
    extra: Vec<OwnedFd>,
}

impl Crowd {
    fn new(size: usize, extra: usize) -> Result<Self> {
        let instance = new_instance()?;
        let mut all: Vec<Option<OwnedFd>> = targets(size + extra)?.into_iter().map(Some).collect();
        // Those that come have numbers from everywhere among the others, and
        // come in an order that is not sorted.
        let step = all.len() as f64 / extra as f64;
        let mut order: Vec<usize> = (0..extra).collect();
        order.sort_by_key(|&i| spread(i as u64, 1 << 20));
        let extra = order
            .into_iter()
            .map(|i| all[(i as f64 * step) as usize].take())
            .collect::<Option<Vec<_>>>()
            .context("one number was drawn twice")?;
        let targets: Vec<OwnedFd> = all.into_iter().flatten().collect();
        for target in &targets {
            add(&instance, target)?;
        }
        Ok(Self {
            epoll: instance,
            targets,
            extra,
        })
    }

    /// One event, of `size` that could be.
    fn wait(&self) -> Result<()> {
        let mut events: [Event; 8] = [Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 8];
        let count = epoll::wait(&self.epoll, &mut events[..], Some(&Timespec::default()))?;
        ensure!(count == 1, "{count} events came, one should");
        Ok(())
    }
}

/// Nanoseconds a call, one value a sample.
#[derive(Default)]
struct Runs {
    add: Vec<f64>,
    modify: Vec<f64>,
    del: Vec<f64>,
    wait: Vec<f64>,
}

fn per_call(time: Duration, calls: usize) -> f64 {
    time.as_nanos() as f64 / calls as f64
}

fn sample_add_and_del(crowds: &[Crowd], runs: &mut Runs) -> Result<()> {
    let (mut adding, mut deleting) = (Duration::ZERO, Duration::ZERO);
    let mut calls = 0;
    while adding < SAMPLE || deleting < SAMPLE {
        let start = Instant::now();
        for crowd in crowds {
            for file in &crowd.extra {
                add(&crowd.epoll, file)?;
            }
        }
        adding += start.elapsed();
        let start = Instant::now();
        for crowd in crowds {
            for file in &crowd.extra {
                epoll::delete(&crowd.epoll, file).context("EPOLL_CTL_DEL failed")?;
            }
        }
        deleting += start.elapsed();
        calls += BATCH;
    }
    runs.add.push(per_call(adding, calls));
    runs.del.push(per_call(deleting, calls));
    Ok(())
}

/// Batches of calls for as long as a sample takes.
fn sample(mut call: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < SAMPLE {
        for i in calls..calls + BATCH {
            call(i)?;
        }
        calls += BATCH;
    }
    Ok(per_call(start.elapsed(), calls))
}

fn sample_all(crowds: &[Crowd], runs: &mut Runs) -> Result<()> {
    sample_add_and_del(crowds, runs)?;
    runs.modify.push(sample(|i| {
        let crowd = &crowds[i % crowds.len()];
        let place = spread(i as u64, crowd.targets.len());
        modify(&crowd.epoll, &crowd.targets[place])
    })?);

    let ready: Vec<&OwnedFd> = crowds
        .iter()
        .map(|crowd| &crowd.targets[crowd.targets.len() / 2])
        .collect();
    for &file in &ready {
        rustix::io::write(file, &1u64.to_ne_bytes())?;
    }
    runs.wait.push(sample(|i| crowds[i % crowds.len()].wait())?);
    for &file in &ready {
        rustix::io::read(file, &mut [0; 8])?;
    }
    // Those that are ready no more are off the list after the next look.
    for crowd in crowds {
        ensure!(crowd.wait().is_err(), "an event came that nobody caused");
    }
    Ok(())
}

pub fn run(session: &mut Session<'_>) -> Result<()> {
    let variant = match session.options.kernel {
        Kernel::Base => Variant::Base,
        Kernel::Stock => Variant::Stock,
    };
    let sizes: Vec<usize> = SIZES.iter().map(|&(size, _)| size).collect();
    let mut all = Vec::new();
    for size in session.sizes(&sizes) {
        let subject = Subject {
            suite: Suite::Ops,
            layout: Layout::Distinct,
            targets: size,
            asked: None,
            handler: None,
        };
        session.progress(&subject);
        let instances = SIZES
            .iter()
            .find(|&&(s, _)| s == size)
            .map_or(1, |&(_, instances)| instances);
        allow_descriptors(2 * instances * size + 4 * BATCH)?;
        let crowds = (0..instances)
            .map(|_| Crowd::new(size, BATCH / instances))
            .collect::<Result<Vec<_>>>()?;
        all.push((subject, crowds, Runs::default()));
    }

    let samples = if session.options.quick { 5 } else { SAMPLES };
    for (_, crowds, _) in &all {
        sample_all(crowds, &mut Runs::default())?;
    }
    for _ in 0..samples {
        for (_, crowds, runs) in &mut all {
            sample_all(crowds, runs)?;
        }
    }
    for (subject, _, runs) in &all {
        for (what, runs) in [
            (What::Add, &runs.add),
            (What::Mod, &runs.modify),
            (What::Del, &runs.del),
            (What::Wait, &runs.wait),
        ] {
            session.write(subject, what, variant, runs, samples)?;
        }
    }
    Ok(())
}
