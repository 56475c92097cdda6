// SPDX-License-Identifier: GPL-2.0

//! The goals, and whether they were met.

use std::fmt;

use crate::stats::Summary;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Met,
    /// The median misses it, but a quarter of the rounds did not.
    Narrow,
    Missed,
    /// The reference varies by more than the goal allows.
    Unclear,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "goal met",
            Self::Narrow => "goal missed, within the spread",
            Self::Missed => "goal missed",
            Self::Unclear => "cannot tell: too much noise when idle",
        })
    }
}

/// Finding a target, next to the reference.
pub const LOOKUP: f64 = 1.00;
/// At one target, next to the handler in C.
pub const ONE_TARGET: f64 = 1.05;
/// Under one number, next to the handler in C.
pub const ONE_NUMBER: f64 = 1.00;
/// Nanoseconds that a query may keep others from the instance.
pub const HOLD: f64 = 100_000.0;
/// How many times as long as a pass of the iterator it takes to read fdinfo.
pub const FDINFO: f64 = 5.0;
/// What a target costs in a large instance, next to the least of the sizes.
pub const FLAT: f64 = 1.25;
/// In how large an instance there are goals for checkpoints.
pub const CHECKPOINT_TARGETS: u32 = 100_000;
/// How many times as long as the device it takes to ask the handler in C.
pub const CHECKPOINT_C: f64 = 1.0;
/// How many times as long as the device it takes to read fdinfo.
pub const CHECKPOINT_FDINFO: f64 = 1.00;
/// To restore an instance, next to as many EPOLL_CTL_ADD.
pub const RESTORE: f64 = 1.20;
/// Of how many targets there are goals for CRIU with the device: next to the same process
/// without targets, and how many times as long CRIU takes on an unpatched kernel.
pub const CRIU_TARGETS: u32 = 50_000;
pub const CRIU_BEYOND: f64 = 1.10;
pub const CRIU_FASTER: f64 = 10.0;
/// `lsepoll`, next to the faster one of lsfd and lsof.
pub const LIST: f64 = 1.00;
/// Of how many targets there is a goal for `lsepoll` next to kcmp(2), and how many times as
/// long that takes.
pub const LIST_TARGETS: u32 = 100_000;
pub const LIST_KCMP: f64 = 1_000.0;
/// An event loop that `lsepoll` looks at, next to one that is left alone.
pub const WATCHED: f64 = 1.05;
/// Epoll's own calls, next to the unpatched kernel.
pub const OPS: std::ops::RangeInclusive<f64> = 0.98..=1.02;

pub fn at_most(limit: f64, s: &Summary) -> Verdict {
    if s.median <= limit {
        Verdict::Met
    } else if s.q1 <= limit {
        Verdict::Narrow
    } else {
        Verdict::Missed
    }
}

pub fn at_least(limit: f64, s: &Summary) -> Verdict {
    if s.median >= limit {
        Verdict::Met
    } else if s.q3 >= limit {
        Verdict::Narrow
    } else {
        Verdict::Missed
    }
}

pub fn within(range: &std::ops::RangeInclusive<f64>, s: &Summary) -> Verdict {
    if range.contains(&s.median) {
        Verdict::Met
    } else if s.q1 <= *range.end() && s.q3 >= *range.start() {
        Verdict::Narrow
    } else {
        Verdict::Missed
    }
}

/// How much a query adds to the wait when idle.
pub fn hold(idle: &Summary, over: &Summary) -> Verdict {
    if idle.q3 - idle.q1 > HOLD {
        Verdict::Unclear
    } else {
        at_most(HOLD, over)
    }
}

/// How many of them there are.
#[derive(Debug, Default)]
pub struct Count {
    met: u32,
    missed: u32,
    unclear: u32,
}

impl Count {
    pub fn note(&mut self, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Met => self.met += 1,
            Verdict::Narrow | Verdict::Missed => self.missed += 1,
            Verdict::Unclear => self.unclear += 1,
        }
        verdict
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "goals: {} met, {} missed", self.met, self.missed)?;
        if self.unclear > 0 {
            write!(f, ", {} cannot be told", self.unclear)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Summary {
        Summary::of(values).unwrap()
    }

    #[test]
    fn a_limit_is_met_at_the_limit() {
        assert_eq!(at_most(1.0, &of(&[0.5, 1.0, 2.0])), Verdict::Met);
        assert_eq!(at_most(1.0, &of(&[0.5, 1.1, 2.0])), Verdict::Narrow);
        assert_eq!(at_most(1.0, &of(&[1.1, 1.1, 2.0])), Verdict::Missed);
    }

    #[test]
    fn a_least_value_is_met_there() {
        assert_eq!(at_least(5.0, &of(&[5.0])), Verdict::Met);
        assert_eq!(at_least(5.0, &of(&[4.0, 4.9, 6.0])), Verdict::Narrow);
        assert_eq!(at_least(5.0, &of(&[4.0, 4.5, 4.9])), Verdict::Missed);
    }

    #[test]
    fn noise_is_no_success() {
        let over = of(&[2e3]);
        assert_eq!(hold(&of(&[3e3, 4e3]), &over), Verdict::Met);
        assert_eq!(hold(&of(&[3e3, 4e3]), &of(&[1.1e5])), Verdict::Missed);
        assert_eq!(hold(&of(&[3e3, 9e6]), &over), Verdict::Unclear);
    }

    #[test]
    fn a_range_is_missed_on_either_side() {
        assert_eq!(within(&OPS, &of(&[1.0])), Verdict::Met);
        assert_eq!(within(&OPS, &of(&[0.97])), Verdict::Missed);
        assert_eq!(within(&OPS, &of(&[1.03])), Verdict::Missed);
        assert_eq!(within(&OPS, &of(&[1.0, 1.03, 1.05])), Verdict::Narrow);
        assert_eq!(within(&OPS, &of(&[0.9, 0.97, 1.0])), Verdict::Narrow);
    }
}
