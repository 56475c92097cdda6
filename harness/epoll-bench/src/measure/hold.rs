// SPDX-License-Identifier: GPL-2.0

//! How long one query keeps others from the epoll instance.
//!
//! One thread calls EPOLL_CTL_MOD on the instance without a pause, and notes the
//! longest call during each query. The other asks one query at a time,
//! and waits until the first got through: what follows is the next query.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::{Session, Subject};
use crate::handler::{Handler, Switch};
use crate::record::{Layout, Suite, Variant, What};
use crate::stats::{Summary, quantile};
use crate::timing::{spread, stay_on};
use crate::world::{Instance, add, modify, target};

const DISTINCT: &[usize] = &[10_000, 1_000_000];
const ONE_NUMBER: &[usize] = &[10_000, 100_000];
const ROUNDS: u32 = 9;
const RUN: Duration = Duration::from_millis(400);
const FEWEST_QUERIES: u64 = 20;

/// Of the queries of one run, their longest waits.
#[derive(Debug, Default)]
struct Waits {
    median: Vec<f64>,
    p99: Vec<f64>,
    max: Vec<f64>,
    queries: u32,
}

impl Waits {
    fn runs(&self, what: What) -> &[f64] {
        match what {
            What::WaitMedian => &self.median,
            What::WaitP99 => &self.p99,
            _ => &self.max,
        }
    }

    fn push(&mut self, mut waits: Vec<f64>) -> Result<()> {
        let s = Summary::of(&waits).context("nothing was asked")?;
        waits.sort_by(f64::total_cmp);
        self.median.push(s.median);
        self.p99
            .push(quantile(&waits, 0.99).context("nothing was asked")?);
        self.max.push(s.max);
        self.queries += u32::try_from(waits.len())?;
        Ok(())
    }
}

pub fn run(session: &mut Session<'_>, switch: &mut Switch) -> Result<()> {
    let &[other, .., _] = &session.cpus[..] else {
        bail!("there has to be a second processor: one thread asks, another one waits");
    };
    for (layout, sizes) in [
        (Layout::Distinct, DISTINCT),
        (Layout::OneNumber, ONE_NUMBER),
    ] {
        let build_id = switch.build_id().to_string();
        let Some(targets) = session.sizes(sizes).last() else {
            continue;
        };
        let subject = Subject {
            suite: Suite::Hold,
            layout,
            targets,
            asked: None,
            handler: Some(&build_id),
        };
        session.progress(&subject);
        let mut instance = match layout {
            Layout::Distinct => Instance::distinct()?,
            Layout::OneNumber => Instance::one_number()?,
        };
        instance.grow(targets)?;
        // The waiting thread has a target of its own.
        instance.files.push(target()?);
        add(&instance.epoll, &instance.files[targets])?;
        measure(session, switch, &subject, &instance, other)?;
    }
    Ok(())
}

fn measure(
    session: &mut Session<'_>,
    switch: &mut Switch,
    subject: &Subject<'_>,
    instance: &Instance,
    asker_cpu: usize,
) -> Result<()> {
    // The last ones: a walk of the interest list passes all others.
    let last = (subject.targets / 100).max(1);
    let place = |i| subject.targets - 1 - spread(i, last);
    let ask = |i| match subject.layout {
        Layout::Distinct => instance.ask(place(i)),
        Layout::OneNumber => instance.ask_offset(place(i)),
    };

    let (mut c, mut idle_c) = (Waits::default(), Waits::default());
    let (mut rust, mut idle_rust) = (Waits::default(), Waits::default());
    for round in 0..session.rounds(ROUNDS) {
        for &handler in Handler::order(round) {
            switch.to(handler)?;
            let (asked, idle) = match handler {
                Handler::C => (&mut c, &mut idle_c),
                Handler::Rust => (&mut rust, &mut idle_rust),
            };
            let (waits, time) = watch(instance, asker_cpu, &ask)?;
            asked.push(waits)?;
            // As long as a query, without one.
            let (waits, _) = watch(instance, asker_cpu, &|_| {
                let start = Instant::now();
                while start.elapsed() < time {
                    spin_loop();
                }
                Ok(())
            })?;
            idle.push(waits)?;
        }
    }

    for what in [What::WaitMedian, What::WaitP99, What::WaitMax] {
        let (c_runs, rust_runs) = (c.runs(what), rust.runs(what));
        let (idle_of_c, idle_of_rust) = (idle_c.runs(what), idle_rust.runs(what));
        for (variant, runs, samples) in [
            (Variant::C, c_runs, c.queries),
            (Variant::Rust, rust_runs, rust.queries),
            (
                Variant::Idle,
                &[idle_of_c, idle_of_rust].concat(),
                idle_c.queries + idle_rust.queries,
            ),
        ] {
            session.write(subject, what, variant, runs, samples)?;
        }
    }
    Ok(())
}

/// The longest wait during each of many queries, in nanoseconds, and how long
/// a query took. We are not on the processor of the thread that asks.
fn watch(
    instance: &Instance,
    asker_cpu: usize,
    ask: &(impl Fn(u64) -> Result<()> + Sync),
) -> Result<(Vec<f64>, Duration)> {
    // The number of the query, from 1; it stays until the next one.
    let query = AtomicU64::new(0);
    let calls = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let own = instance.files.last().context("the instance is empty")?;

    let asker = || -> Result<Duration> {
        stay_on(&[asker_cpu])?;
        let mut asking = Duration::ZERO;
        let begin = Instant::now();
        let mut asked = 0;
        while !done.load(Ordering::SeqCst) && (begin.elapsed() < RUN || asked < FEWEST_QUERIES) {
            query.store(asked + 1, Ordering::SeqCst);
            let start = Instant::now();
            ask(asked)?;
            asking += start.elapsed();
            asked += 1;
            // The call that the query held up has ended, and one more.
            let through = calls.load(Ordering::SeqCst) + 2;
            while calls.load(Ordering::SeqCst) < through && !done.load(Ordering::SeqCst) {
                spin_loop();
            }
        }
        Ok(asking.div_f64(asked.max(1) as f64))
    };

    thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let result = asker();
            done.store(true, Ordering::SeqCst);
            result
        });
        let mut longest: Vec<f64> = Vec::new();
        let mut result = Ok(());
        while !done.load(Ordering::SeqCst) {
            let start = Instant::now();
            result = modify(&instance.epoll, own);
            if result.is_err() {
                done.store(true, Ordering::SeqCst);
                break;
            }
            let wait = start.elapsed().as_nanos() as f64;
            // A call that began before the query, and was held up by it, ends
            // before the next one.
            let during = query.load(Ordering::SeqCst) as usize;
            calls.fetch_add(1, Ordering::SeqCst);
            if during > 0 {
                if longest.len() < during {
                    longest.resize(during, 0.0);
                }
                longest[during - 1] = longest[during - 1].max(wait);
            }
        }
        let asked = asker.join();
        result?;
        let time = asked.map_err(|_| anyhow!("the thread that asks panicked"))??;
        Ok((longest, time))
    })
}
