// SPDX-License-Identifier: GPL-2.0

//! Numbers as people read them.

use crate::record::Measurement;
use crate::stats::Summary;

/// With three digits or more, in the unit that suits it.
pub fn duration(ns: f64) -> String {
    let (value, unit) = match ns.abs() {
        a if a < 9_999.5 => return format!("{} ns", thousands(ns)),
        a if a < 999_950.0 => (ns / 1e3, "µs"),
        a if a < 999_950_000.0 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    if value.abs() < 9.995 {
        format!("{value:.2} {unit}")
    } else if value.abs() < 99.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{} {unit}", thousands(value))
    }
}

/// Rounded, in groups of three digits.
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    if value < 0.0 && digits != "0" {
        text.push('-');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A ratio, and what half of the rounds were between.
pub fn ratio(s: &Summary) -> String {
    if s.median >= 99.995 {
        return format!(
            "{} [{} .. {}]",
            thousands(s.median),
            thousands(s.q1),
            thousands(s.q3)
        );
    }
    // As many digits as it takes to see one.
    let digits = match s.median {
        small if small > 0.0 && small < 0.095 => (1.0 - small.log10().floor()) as usize,
        _ => 2,
    };
    format!(
        "{:.digits$} [{:.digits$} .. {:.digits$}]",
        s.median, s.q1, s.q3
    )
}

/// The same if what matters is the second digit.
pub fn fine_ratio(s: &Summary) -> String {
    format!("{:.3} [{:.3} .. {:.3}]", s.median, s.q1, s.q3)
}

/// A time with its quartiles.
pub fn spread(s: &Summary) -> String {
    format!(
        "{} [{} .. {}]",
        duration(s.median),
        duration(s.q1),
        duration(s.q3)
    )
}

impl From<&Measurement> for Summary {
    fn from(m: &Measurement) -> Self {
        Self {
            min: m.min,
            q1: m.q1,
            median: m.median,
            q3: m.q3,
            max: m.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_unit_that_suits_them() {
        for (ns, text) in [
            (0.0, "0 ns"),
            (999.6, "1,000 ns"),
            (9_999.4, "9,999 ns"),
            (9_999.6, "10.0 µs"),
            (138_200.0, "138 µs"),
            (999_960.0, "1.00 ms"),
            (29_600_000.0, "29.6 ms"),
            (9_950_000_000.0, "9.95 s"),
            (1_234_000_000_000.0, "1,234 s"),
            (-4_711.0, "-4,711 ns"),
            (-0.2, "0 ns"),
            (-12_340.0, "-12.3 µs"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn small_ratios_keep_two_digits() {
        let of = |value| ratio(&Summary::of(&[value]).unwrap());
        assert_eq!(of(1.0), "1.00 [1.00 .. 1.00]");
        assert_eq!(of(0.1), "0.10 [0.10 .. 0.10]");
        assert_eq!(of(0.000_354), "0.00035 [0.00035 .. 0.00035]");
        assert_eq!(of(0.0), "0.00 [0.00 .. 0.00]");
    }

    #[test]
    fn large_ratios_have_no_fraction() {
        let of = |value| ratio(&Summary::of(&[value]).unwrap());
        assert_eq!(of(99.99), "99.99 [99.99 .. 99.99]");
        assert_eq!(of(99.999), "100 [100 .. 100]");
        assert_eq!(of(1234.5), "1,234 [1,234 .. 1,234]");
    }

    #[test]
    fn thousands_are_grouped() {
        for (value, text) in [
            (1.0, "1"),
            (100.0, "100"),
            (1_000.0, "1,000"),
            (-100.0, "-100"),
            (1_000_000.0, "1,000,000"),
        ] {
            assert_eq!(thousands(value), text);
        }
    }
}
