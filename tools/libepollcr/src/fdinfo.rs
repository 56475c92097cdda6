// SPDX-License-Identifier: GPL-2.0

//! Parses `/proc/PID/fdinfo/FD` of files that are not in a file system.

use crate::image::{Kind, Timer};
use crate::types::{Clock, DeviceNumber, TimerFlags};
use std::collections::HashSet;
use std::time::Duration;

/// The value of the line `name: value`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn number<T: std::str::FromStr>(text: &str, name: &str) -> Option<T> {
    value(text, name)?.parse().ok()
}

fn hexadecimal(text: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(value(text, name)?, 16).ok()
}

/// `(1, 2)`: seconds and nanoseconds.
fn time(text: &str, name: &str) -> Option<Duration> {
    let pair = value(text, name)?.strip_prefix('(')?.strip_suffix(')')?;
    let (seconds, nanoseconds) = pair.split_once(',')?;
    let nanoseconds = nanoseconds.trim().parse().ok()?;
    let seconds = seconds.trim().parse().ok()?;
    (nanoseconds < 1_000_000_000).then(|| Duration::new(seconds, nanoseconds))
}

pub fn eventfd(text: &str) -> Option<Kind> {
    Some(Kind::EventFd {
        count: hexadecimal(text, "eventfd-count")?,
        // Before 6.5 it was not shown.
        semaphore: value(text, "eventfd-semaphore").is_some_and(|value| value != "0"),
    })
}

pub fn timerfd(text: &str) -> Option<Kind> {
    let flags = value(text, "settime flags")?;
    let mut timer = Timer {
        clock: Clock::from_raw(number(text, "clockid")?)?,
        ticks: number(text, "ticks")?,
        flags: TimerFlags::from_bits(u32::from_str_radix(flags, 8).ok()?)?,
        value: time(text, "it_value")?,
        interval: time(text, "it_interval")?,
    };
    // A timer that repeats and has expired is forwarded only when it is read: it shows
    // no time then, as one does that is disarmed and has not expired.
    if timer.ticks > 0 && timer.value.is_zero() {
        timer.value = timer.interval;
    }
    Some(Kind::TimerFd(timer))
}

/// How many times a timer has expired since it was last read.
pub fn ticks(text: &str) -> Option<u64> {
    number(text, "ticks")
}

pub fn signalfd(text: &str) -> Option<Kind> {
    let mask = hexadecimal(text, "sigmask")?;
    Some(Kind::SignalFd { mask })
}

/// The process that a pidfd refers to; 0 or less if it has none here.
pub fn process(text: &str) -> Option<i32> {
    number(text, "Pid")
}

/// A file or directory that an inotify instance watches.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    pub wd: u32,
    pub mask: u32,
    /// The device of its file system, which is not always that of stat(2).
    pub device: DeviceNumber,
    pub inode: u64,
    /// Type and bytes of its handle, if its file system has them: see open_by_handle_at(2).
    pub handle: Option<(i32, Vec<u8>)>,
}

/// What an inotify instance watches.
pub fn watches(text: &str) -> Option<Vec<Shown>> {
    let lines = text.lines();
    lines
        .filter_map(|l| l.strip_prefix("inotify "))
        .map(watch)
        .collect()
}

fn watch(line: &str) -> Option<Shown> {
    let text = |name: &str| {
        let mut fields = line.split_ascii_whitespace();
        fields.find_map(|field| field.strip_prefix(name)?.strip_prefix(':'))
    };
    let hexadecimal = |name| u64::from_str_radix(text(name)?, 16).ok();
    let word = |name| u32::try_from(hexadecimal(name)?).ok();
    // `MKDEV()` of the kernel.
    let device = word("sdev")?;
    let handle = match text("f_handle") {
        Some(bytes) => {
            let bytes = bytes
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
            Some((word("fhandle-type")? as i32, bytes.collect::<Option<_>>()?))
        }
        None => None,
    };
    Some(Shown {
        wd: word("wd")?,
        mask: word("mask")?,
        device: DeviceNumber {
            major: device >> 20,
            minor: device & 0xf_ffff,
        },
        inode: hexadecimal("ino")?,
        handle,
    })
}

/// The numbers of the inodes in `/proc/locks`: of the file systems that they are in, only
/// their device is shown, which is not always that of stat(2).
pub fn locked(locks: &str) -> HashSet<u64> {
    let fields = locks.lines().flat_map(str::split_ascii_whitespace);
    let inodes = fields.filter_map(|field| {
        let mut parts = field.split(':');
        let (_, _, inode) = (parts.next()?, parts.next()?, parts.next()?);
        inode.parse().ok()
    });
    inodes.collect()
}

/// Counts the locks and leases that are held through the file.
pub fn locks(text: &str) -> u32 {
    let lines = text.lines().filter(|line| line.starts_with("lock:"));
    lines.count().try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernel_shows_it() {
        let text = "pos:\t0\nflags:\t02004002\nmnt_id:\t16\nino:\t1052\n\
                    eventfd-count:               1f\neventfd-id: 7\neventfd-semaphore: 1\n";
        let (count, semaphore) = (0x1f, true);
        assert_eq!(eventfd(text), Some(Kind::EventFd { count, semaphore }));

        let text = "clockid: 1\nticks: 3\nsettime flags: 01\n\
                    it_value: (5, 999999999)\nit_interval: (0, 20)\n";
        assert_eq!(
            timerfd(text),
            Some(Kind::TimerFd(Timer {
                clock: Clock::Monotonic,
                ticks: 3,
                flags: TimerFlags::ABSTIME,
                value: Duration::new(5, 999_999_999),
                interval: Duration::from_nanos(20),
            }))
        );

        let text = "clockid: 1\nticks: 3\nsettime flags: 00\n\
                    it_value: (0, 0)\nit_interval: (7, 20)\n";
        let pair = |time: Duration| (time.as_secs(), time.subsec_nanos());
        let repeats = |text| match timerfd(text) {
            Some(Kind::TimerFd(timer)) => Some((pair(timer.value), pair(timer.interval))),
            _ => None,
        };
        assert_eq!(repeats(text), Some(((7, 20), (7, 20))));
        let off = text.replace("ticks: 3", "ticks: 0");
        assert_eq!(repeats(&off), Some(((0, 0), (7, 20))));
        let once = text.replace("(7, 20)", "(0, 0)");
        assert_eq!(repeats(&once), Some(((0, 0), (0, 0))));

        let text = "sigmask:\t0000000000000a00\n";
        assert_eq!(signalfd(text), Some(Kind::SignalFd { mask: 0xa00 }));

        let text = "pos:\t0\nPid:\t12\nNSpid:\t12\t3\n";
        assert_eq!((process(text), watches(text)), (Some(12), Some(vec![])));
        let text = "inotify wd:1f ino:2a sdev:fe00003 mask:4000002 ignored_mask:0 \
                    fhandle-bytes:4 fhandle-type:81 f_handle:0a00ff10\n\
                    inotify wd:1 ino:8 sdev:1b mask:2 ignored_mask:0 \n";
        let device = |major, minor| DeviceNumber { major, minor };
        let shown = [
            Shown {
                wd: 0x1f,
                mask: 0x400_0002,
                device: device(254, 3),
                inode: 0x2a,
                handle: Some((0x81, vec![0x0a, 0, 0xff, 0x10])),
            },
            Shown {
                wd: 1,
                mask: 2,
                device: device(0, 27),
                inode: 8,
                handle: None,
            },
        ];
        assert_eq!((process(text), watches(text)), (None, Some(shown.into())));

        let text = "lock:\t1: FLOCK  ADVISORY  WRITE 12 08:01:33 0 EOF\nlocks: no\n";
        assert_eq!(locks(text), 1);
        let text = "1: FLOCK  ADVISORY  WRITE 12 08:01:33 0 EOF\n\
                    1: -> FLOCK  ADVISORY  WRITE 13 08:01:33 0 EOF\n\
                    2: LEASE  ACTIVE    READ 0 00:0d:45 0 EOF\n";
        assert_eq!(locked(text), HashSet::from([33, 45]));
    }

    #[test]
    fn what_is_not_understood_is_nothing() {
        for text in [
            "",
            "eventfd-count:",
            "clockid: 1\nticks: 3\nsettime flags: 9\nit_value: (5, 9)\nit_interval: (0, 20)\n",
            "clockid: 1\nticks: 3\nsettime flags: 01\nit_value: (5 9)\nit_interval: (0, 20)\n",
            "sigmask: xyz",
        ] {
            assert_eq!(eventfd(text).or(timerfd(text)).or(signalfd(text)), None);
        }
        for text in [
            "inotify wd:1",
            "inotify wd:1 ino:8 sdev:100000000 mask:2",
            "inotify wd:1 ino:8 sdev:1 mask:2 fhandle-bytes:1 fhandle-type:1 f_handle:0g",
            "inotify wd:1 ino:8 sdev:1 mask:2 fhandle-bytes:1 f_handle:00",
        ] {
            assert_eq!(watches(text), None, "{text}");
        }
    }
}
