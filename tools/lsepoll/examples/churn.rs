// SPDX-License-Identifier: GPL-2.0

//! An event loop that adds and removes targets: what does `lsepoll trace` cost it?
//!
//! `churn [SECONDS [CALLS]]` makes CALLS calls of epoll_ctl(2) a second, 100,000 by
//! default, half of them ADD, and works between them for the rest of the time. It
//! prints how many it made, with what it does not catch up with: if each call takes
//! longer, there are fewer. Run it alone, then as
//! `lsepoll trace -- churn [SECONDS [CALLS]]`.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use std::env;
use std::hint::black_box;
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
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
