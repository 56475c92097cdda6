// SPDX-License-Identifier: GPL-2.0

//! How long a call takes, from samples that are long enough for the clock.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::stats::median;

/// A sample is at least this long.
pub const SAMPLE: Duration = Duration::from_millis(8);

/// A number below `n`, not the same for long: any few successive `i` give
/// numbers that are spread evenly, in an order without neighbours.
pub fn spread(i: u64, n: usize) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    ((u128::from(i.wrapping_mul(GOLDEN)) * n as u128) >> 64) as usize
}

/// Something that is called with 0, 1, 2 and so on, many times a sample.
#[derive(Debug)]
pub struct Timed<F> {
    call: F,
    /// How many times a sample calls; 0 if that is not known yet.
    calls: u64,
    next: u64,
    samples: u32,
}

impl<F: FnMut(u64) -> Result<()>> Timed<F> {
    pub fn new(call: F) -> Self {
        Self {
            call,
            calls: 0,
            next: 0,
            samples: 0,
        }
    }

    /// How many samples there are so far.
    pub fn samples(&self) -> u32 {
        self.samples
    }

    fn run(&mut self, calls: u64) -> Result<Duration> {
        let first = self.next;
        self.next += calls;
        let start = Instant::now();
        for i in first..first + calls {
            (self.call)(i)?;
        }
        Ok(start.elapsed())
    }

    /// Without taking a sample: what is slow the first time is slow here.
    pub fn warm_up(&mut self) -> Result<()> {
        // Few calls can be untypically cheap, or dear.
        const FEWEST: u64 = 4;
        let mut calls = self.calls.max(FEWEST);
        loop {
            let took = self.run(calls)?;
            if self.calls > 0 {
                return Ok(());
            }
            if took >= SAMPLE {
                self.calls = calls;
                return Ok(());
            }
            let wanted = SAMPLE.as_secs_f64() * 1.1 / took.as_secs_f64().max(1e-9);
            calls = (calls as f64 * wanted.clamp(1.2, 20.0)) as u64;
        }
    }

    /// Nanoseconds a call.
    pub fn sample(&mut self) -> Result<f64> {
        if self.calls == 0 {
            self.warm_up()?;
        }
        self.samples += 1;
        Ok(self.run(self.calls)?.as_nanos() as f64 / self.calls as f64)
    }
}

/// The medians of `count` samples of each, taken in turn.
pub fn in_turn(count: usize, timed: &mut [&mut dyn FnMut() -> Result<f64>]) -> Result<Vec<f64>> {
    let mut samples = vec![Vec::with_capacity(count); timed.len()];
    for _ in 0..count {
        for (sample, samples) in timed.iter_mut().zip(&mut samples) {
            samples.push(sample()?);
        }
    }
    samples
        .iter()
        .map(|values| median(values).context("no sample was taken"))
        .collect()
}

/// The processors that there are for us.
pub fn processors() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("cannot tell which processors may be used")?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu))
        .collect())
}

/// Keep the calling thread, and what it starts, on these processors.
pub fn stay_on(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    sched_setaffinity(None, &set).with_context(|| format!("cannot stay on processors {cpus:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successive_numbers_are_spread_evenly() {
        for n in [1, 10, 1000, 1_000_000] {
            let first = spread(12345, n);
            assert!(first < n);
            let mut tenths = [0; 10];
            for i in 12345..12345 + 1000 {
                let number = spread(i, n);
                assert!(number < n);
                tenths[number * 10 / n] += 1;
            }
            if n >= 10 {
                assert!(
                    tenths.iter().all(|&t| (95..=105).contains(&t)),
                    "{n}: {tenths:?}"
                );
            }
        }
    }

    #[test]
    fn a_thread_stays_where_it_is_told() {
        let all = processors().unwrap();
        stay_on(&all[..1]).unwrap();
        assert_eq!(processors().unwrap(), all[..1]);
        stay_on(&all).unwrap();
        assert_eq!(processors().unwrap(), all);
    }

    #[test]
    fn few_numbers_are_all_met() {
        let mut met = [false; 10];
        for i in 0..20 {
            met[spread(i, 10)] = true;
        }
        assert_eq!(met, [true; 10]);
    }

    #[test]
    fn a_sample_follows_calls_that_were_long_enough() {
        let pause = Duration::from_micros(100);
        let mut seen = Vec::new();
        let mut timed = Timed::new(|i| {
            seen.push(i);
            std::thread::sleep(pause);
            Ok(())
        });
        let start = Instant::now();
        let ns = timed.sample().unwrap();
        assert!(start.elapsed() >= SAMPLE);
        assert!(ns >= pause.as_nanos() as f64, "{ns}");
        assert_eq!(timed.samples(), 1);
        let calls = timed.calls;
        timed.sample().unwrap();
        assert_eq!((timed.calls, timed.samples()), (calls, 2));
        assert!(seen.iter().enumerate().all(|(at, &i)| at as u64 == i));
    }

    #[test]
    fn a_call_that_fails_ends_it() {
        let mut timed = Timed::new(|i| {
            anyhow::ensure!(i < 100, "enough");
            Ok(())
        });
        assert_eq!(timed.sample().unwrap_err().to_string(), "enough");
    }

    #[test]
    fn medians_are_those_of_each() {
        let mut up = 0.0;
        let mut a = || {
            up += 1.0;
            Ok(up)
        };
        let mut b = || Ok(7.0);
        assert_eq!(in_turn(5, &mut [&mut a, &mut b]).unwrap(), [3.0, 7.0]);
    }
}
