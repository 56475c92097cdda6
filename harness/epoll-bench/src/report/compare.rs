// SPDX-License-Identifier: GPL-2.0

//! How two measurements compare: each round of one with the same round of the
//! other, then what these vary by.

use crate::record::{Measurement, Variant};
use crate::stats::Summary;

fn by_round(left: &[f64], right: &[f64], compare: impl Fn(f64, f64) -> f64) -> Option<Summary> {
    let rounds: Vec<f64> = left
        .iter()
        .zip(right)
        .map(|(&l, &r)| compare(l, r))
        .collect();
    Summary::of(&rounds)
}

/// The rounds that were taken while `handler` was in place, of what was
/// measured with either: those with the handler in C come first.
fn rounds_with(handler: Variant, m: &Measurement) -> &[f64] {
    let (c, rust) = m.runs.split_at(m.runs.len() / 2);
    if handler == Variant::C { c } else { rust }
}

/// One divided by the other.
pub fn ratio(left: Option<&Measurement>, right: Option<&Measurement>) -> Option<Summary> {
    by_round(&left?.runs, &right?.runs, |l, r| l / r)
}

/// What a handler takes beyond something that was measured with either.
pub fn beyond(handler: Option<&Measurement>, floor: Option<&Measurement>) -> Option<Summary> {
    let (handler, floor) = (handler?, floor?);
    by_round(
        &handler.runs,
        rounds_with(handler.variant, floor),
        |h, f| h - f,
    )
}

/// A handler divided by the sum of two things that were measured with either.
pub fn by_sum(
    handler: Option<&Measurement>,
    (first, second): (Option<&Measurement>, Option<&Measurement>),
) -> Option<Summary> {
    let (handler, first, second) = (handler?, first?, second?);
    let with = |m| rounds_with(handler.variant, m);
    let sums: Vec<f64> = with(first)
        .iter()
        .zip(with(second))
        .map(|(a, b)| a + b)
        .collect();
    by_round(&handler.runs, &sums, |h, sum| h / sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::example;

    fn of(variant: Variant, runs: &[f64]) -> Measurement {
        Measurement {
            variant,
            runs: runs.to_vec(),
            ..example()
        }
    }

    #[test]
    fn the_median_is_that_of_the_rounds() {
        let (c, rust) = (
            of(Variant::C, &[1.0, 10.0, 100.0]),
            of(Variant::Rust, &[2.0, 5.0, 100.0]),
        );
        let s = ratio(Some(&rust), Some(&c)).unwrap();
        assert_eq!((s.min, s.median, s.max), (0.5, 1.0, 2.0));
        assert_eq!(ratio(Some(&rust), None), None);
        // C may have fewer rounds.
        let c = of(Variant::C, &[4.0]);
        assert_eq!(ratio(Some(&rust), Some(&c)).unwrap().median, 0.5);
    }

    #[test]
    fn what_was_measured_with_either_is_compared_within_its_phase() {
        let (c, rust) = (
            of(Variant::C, &[10.0, 20.0]),
            of(Variant::Rust, &[12.0, 24.0]),
        );
        let floor = of(Variant::KcmpFile, &[1.0, 2.0, 4.0, 8.0]);
        assert_eq!(beyond(Some(&c), Some(&floor)).unwrap().min, 9.0);
        assert_eq!(beyond(Some(&c), Some(&floor)).unwrap().max, 18.0);
        assert_eq!(beyond(Some(&rust), Some(&floor)).unwrap().min, 8.0);
        let s = by_sum(Some(&rust), (Some(&floor), Some(&floor))).unwrap();
        assert_eq!((s.min, s.max), (1.5, 1.5));
    }
}
