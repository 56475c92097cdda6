// SPDX-License-Identifier: GPL-2.0

//! An event loop that adds and removes targets: what does `lsepoll trace` cost it?
//!
//! `churn [SECONDS [CALLS]]` makes CALLS calls of epoll_ctl(2) a second, 100,000 by
//! default, half of them ADD, and works between them for the rest of the time. It
//! prints how many it made, with what it does not catch up with: if each call takes
//! longer, there are fewer.
//!
//! `churn compare LSEPOLL [TIMES [SECONDS [CALLS]]]` runs it alone and with
//! `LSEPOLL trace`, in turn, and compares.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use std::env;
use std::hint::black_box;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// What the loop does beside its calls.
fn work(rounds: u32) {
    let mut sum = 0u64;
    for round in 0..rounds {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(u64::from(round)));
    }
}

struct Loop {
    set: rustix::fd::OwnedFd,
    file: rustix::fd::OwnedFd,
}

impl Loop {
    fn turn(&self, rounds: u32) -> rustix::io::Result<()> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 8];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        epoll::add(&self.set, &self.file, EventData::new_u64(0), EventFlags::IN)?;
        epoll::wait(&self.set, &mut events, Some(&at_once))?;
        epoll::delete(&self.set, &self.file)?;
        work(rounds);
        Ok(())
    }

    /// The shortest time of a turn, of several tries: others use the CPU as well.
    fn measure(&self, turns: u32, rounds: u32) -> rustix::io::Result<Duration> {
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let begin = Instant::now();
            for _ in 0..turns {
                self.turn(rounds)?;
            }
            best = best.min(begin.elapsed() / turns);
        }
        Ok(best)
    }
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match &args[..] {
        [compare_them, lsepoll, rest @ ..] if compare_them == "compare" => compare(lsepoll, rest),
        args => run(args),
    }
}

fn run(args: &[String]) -> Result<()> {
    let mut args = args.iter();
    let seconds: u64 = args.next().map_or(Ok(5), |arg| arg.parse())?;
    let calls: u32 = args.next().map_or(Ok(100_000), |arg| arg.parse())?;
    let this = Loop {
        set: epoll::create(CreateFlags::CLOEXEC)?,
        file: eventfd(0, EventfdFlags::CLOEXEC)?,
    };
    let bare = this.measure(2000, 0)?;
    let begin = Instant::now();
    work(1_000_000);
    let round = begin.elapsed().as_secs_f64() / 1e6;
    let wanted = 2.0 / f64::from(calls);
    // As it would be without a tracer, whose cost is to be seen: ROUNDS of a run alone.
    let rounds = match env::var("ROUNDS") {
        Ok(rounds) => rounds.parse()?,
        Err(_) => ((wanted - bare.as_secs_f64()).max(0.0) / round) as u32,
    };
    let mut best = Duration::MAX;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        best = best.min(this.measure(500, rounds)?);
    }
    println!(
        "ADD, wait and DEL: {} ns; with ROUNDS={rounds} of work: {} ns, {:.0} calls a second",
        bare.as_nanos(),
        best.as_nanos(),
        2.0 / best.as_secs_f64()
    );
    Ok(())
}

/// What a run prints: the time of a bare turn, ROUNDS, and the time with work.
fn times(output: &Output) -> Result<(u64, u32, u64)> {
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u64> = numbers.filter_map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [bare, rounds, worked, _] => Ok((bare, rounds.try_into()?, worked)),
        _ => Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// The median of ratios, and the smallest and the greatest.
fn spread(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let (first, last) = (ratios[0], ratios[ratios.len() - 1]);
    format!("{:.3} ({first:.3} to {last:.3})", ratios[ratios.len() / 2])
}

fn compare(lsepoll: &str, args: &[String]) -> Result<()> {
    let (count, args) = args.split_at(args.len().min(1));
    let count: usize = count.first().map_or(Ok(7), |arg| arg.parse())?;
    let own = env::current_exe()?;
    let (mut bare, mut worked) = (Vec::new(), Vec::new());
    for _ in 0..count.max(1) {
        let alone = times(&Command::new(&own).args(args).output()?)?;
        let mut traced = Command::new(lsepoll);
        traced.args(["trace", "-o", "/dev/null", "--"]).arg(&own);
        traced.args(args).env("ROUNDS", alone.1.to_string());
        let traced = times(&traced.output()?)?;
        let ratio = |traced: u64, alone: u64| traced as f64 / alone.max(1) as f64;
        println!(
            "ADD, wait and DEL: {} ns, traced {} ns; with work: {} ns, traced {} ns",
            alone.0, traced.0, alone.2, traced.2
        );
        bare.push(ratio(traced.0, alone.0));
        worked.push(ratio(traced.2, alone.2));
    }
    println!("traced / alone, calls only: {}", spread(bare));
    println!("traced / alone, with work: {}", spread(worked));
    Ok(())
}
