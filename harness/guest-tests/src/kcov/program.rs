// SPDX-License-Identifier: GPL-2.0
//! Programs of a few calls each: random ones, changes of them, and their text.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use fastrand::Rng;

/// The numbers of descriptors that programs use. Those of the fuzzer itself are higher.
pub const EPOLLS: std::ops::Range<u64> = 100..105;
pub const FILES: std::ops::Range<u64> = 105..117;
pub const SPARE: std::ops::Range<u64> = 117..125;
pub const DEVICE: u64 = 125;
pub const PEER: u64 = 126;
pub const OWN: u64 = 127;
pub const SOCKETS: [u64; 2] = [128, 129];
pub const PROGRAM: u64 = 130;
pub const LINK: u64 = 131;
pub const ITERATOR: u64 = 132;
pub const NUMBERS: std::ops::Range<u64> = 100..133;

/// How many places for an argument there are, see `Memory::place`.
const PLACES: u64 = 7;
/// Larger identities are taken as they are, smaller ones are of those seen so far.
pub const LEARNED: u64 = 64;

const MAX_CALLS: usize = 24;
const MAX_ARGS: usize = 8;

/// What an argument stands for, and so which values are of interest.
#[derive(Clone, Copy, Debug)]
enum Domain {
    Epoll,
    File,
    /// A descriptor, open or not.
    Number,
    /// A pidfd, or a number that stands for a process.
    Process,
    /// A process for kcmp: this one, the other one, none.
    Pid,
    Events,
    /// Less than this, mostly.
    Below(u64),
    /// The size of a struct, which this is.
    Size(u64),
    /// Zero, mostly.
    Flags,
    Place,
    Identity,
    Any,
}

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident: $text:literal [$($domain:ident $(($value:literal))?),*];)*) => {
        /// What a call does; its arguments are in this order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Op {
            $($(#[$doc])* $name,)*
        }

        const OPS: &[(Op, &str, &[Domain])] = &[
            $((Op::$name, $text, &[$(Domain::$domain $(($value))?),*]),)*
        ];
    };
}

ops! {
    Add: "add" [Epoll, Number, Events, Any];
    Modify: "modify" [Epoll, Number, Events, Any];
    Delete: "delete" [Epoll, Number];
    Wait: "wait" [Epoll, Below(4)];
    Duplicate: "duplicate" [File, Number];
    Close: "close" [Number];
    Write: "write" [File];
    Read: "read" [File];
    Send: "send" [Number];
    Receive: "receive" [];
    FdInfo: "fdinfo" [Number];
    Target: "kcmp-target" [Pid, Pid, Number, Epoll, Number, Below(4), Place];
    Compare: "kcmp" [Pid, Pid, Below(9), Number, Number];
    Snapshot: "snapshot" [Size(56), Flags, Process, Epoll, Place, Below(8), Size(32), Flags];
    Files: "files" [Size(48), Flags, Process, Size(16), Place, Below(40)];
    Describe: "describe" [Size(64), Flags, Process, Size(136), Place, Below(8), Number, Below(300)];
    Fetch: "fetch" [Size(32), Flags, Process, Epoll, Number, Below(4), Identity];
    Restore: "restore" [Size(40), Flags, Epoll, Number, Number, Events, Below(4), Any];
    /// The first words of an argument, as they are.
    Raw: "raw" [Below(6), Size(48), Any, Process, Any, Any, Any, Place];
    Link: "link" [Epoll, Flags, Below(8)];
    Iterate: "iterate" [Flags];
    Fetched: "read-iterator" [Below(70_000), Place];
    LinkInfo: "link-info" [Below(200), Place];
    /// Without privileges from now on.
    Drop: "drop" [];
}

/// A call, which makes its n-th allocation or access to memory fail if `fail` is not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub op: Op,
    pub args: [u64; MAX_ARGS],
    pub fail: u32,
}

fn of(rng: &mut Rng, range: std::ops::Range<u64>) -> u64 {
    rng.u64(range)
}

impl Domain {
    fn value(self, rng: &mut Rng) -> u64 {
        // What is wrong for any.
        if rng.u8(..48) == 0 {
            return match rng.u8(..5) {
                0 => rng.u64(..),
                1 => u64::from(rng.u32(..)),
                2 => 0,
                3 => u64::from(u32::MAX),
                _ => 1 << rng.u32(..64),
            };
        }
        match self {
            Self::Epoll => of(rng, EPOLLS),
            Self::File => of(rng, FILES),
            Self::Number => match rng.u8(..8) {
                0 => of(rng, NUMBERS),
                1 | 2 => of(rng, SPARE),
                3 => of(rng, EPOLLS),
                _ => of(rng, FILES),
            },
            Self::Process => match rng.u8(..8) {
                0 => of(rng, NUMBERS),
                // PIDFD_SELF_THREAD, and that of the group
                1 => -10_000_i64 as u64,
                2 | 3 => -10_001_i64 as u64,
                4 => OWN,
                _ => PEER,
            },
            Self::Pid => of(rng, 0..4),
            Self::Events => {
                let mut events = of(rng, 0..32);
                for flag in [31, 30, 29, 28, 13] {
                    events |= u64::from(rng.u8(..4) == 0) << flag;
                }
                events
            }
            Self::Below(limit) => of(rng, 0..limit),
            Self::Size(size) => match rng.u8(..12) {
                0 => size - 1,
                1 => size + 8,
                2 => 4096,
                3 => 4097,
                4 => of(rng, 0..200),
                _ => size,
            },
            Self::Flags => u64::from(rng.u8(..16) == 0),
            Self::Place => match rng.u8(..4) {
                0 => of(rng, 0..PLACES),
                _ => 0,
            },
            Self::Identity => of(rng, 0..LEARNED),
            Self::Any => match rng.u8(..4) {
                0 => rng.u64(..),
                1 => 1 << rng.u32(..64),
                _ => of(rng, 0..4),
            },
        }
    }
}

impl Op {
    fn entry(self) -> &'static (Op, &'static str, &'static [Domain]) {
        &OPS[self as usize]
    }
}

impl Call {
    fn random(rng: &mut Rng) -> Self {
        let op = match OPS[rng.usize(..OPS.len())].0 {
            // Once it has happened, most of the rest fails.
            Op::Drop if rng.u8(..8) != 0 => Op::Add,
            op => op,
        };
        let mut call = Self {
            op,
            args: [0; MAX_ARGS],
            fail: 0,
        };
        for (arg, domain) in call.args.iter_mut().zip(op.entry().2) {
            *arg = domain.value(rng);
        }
        call
    }

    fn change(&mut self, rng: &mut Rng) {
        let domains = self.op.entry().2;
        if domains.is_empty() || rng.u8(..6) == 0 {
            self.fail = match rng.u8(..3) {
                0 => 0,
                _ => rng.u32(1..12),
            };
            return;
        }
        let n = rng.usize(..domains.len());
        self.args[n] = match rng.u8(..4) {
            0 => self.args[n].wrapping_add(1),
            1 => self.args[n].wrapping_sub(1),
            _ => domains[n].value(rng),
        };
    }
}

/// A few calls, made one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    pub calls: Vec<Call>,
}

impl Program {
    pub fn random(rng: &mut Rng) -> Self {
        let len = rng.usize(1..MAX_CALLS / 2);
        Self {
            calls: (0..len).map(|_| Call::random(rng)).collect(),
        }
    }

    /// A program that differs a little, or has a part of another one.
    pub fn mutated(&self, rng: &mut Rng, other: &Self) -> Self {
        let mut calls = self.calls.clone();
        for _ in 0..rng.u32(1..4) {
            let len = calls.len();
            match rng.u8(..8) {
                0 if len > 1 => {
                    calls.remove(rng.usize(..len));
                }
                1 if len > 1 => calls.swap(rng.usize(..len), rng.usize(..len)),
                2 => {
                    let call = calls.get(rng.usize(..len.max(1))).cloned();
                    calls.extend(call);
                }
                3 => {
                    let from = rng.usize(..=other.calls.len());
                    let at = rng.usize(..=len);
                    calls.splice(at.., other.calls[from..].iter().cloned());
                }
                4 | 5 if len > 0 => calls[rng.usize(..len)].change(rng),
                _ => calls.insert(rng.usize(..=len), Call::random(rng)),
            }
        }
        calls.truncate(MAX_CALLS);
        Self { calls }
    }

    /// The program without one of its calls.
    pub fn without(&self, n: usize) -> Self {
        let mut calls = self.calls.clone();
        calls.remove(n);
        Self { calls }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name, domains) = self.op.entry();
        f.write_str(name)?;
        for arg in &self.args[..domains.len()] {
            write!(f, " {arg:#x}")?;
        }
        if self.fail != 0 {
            write!(f, " !{}", self.fail)?;
        }
        Ok(())
    }
}

impl FromStr for Call {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let name = words.next().context("an empty call")?;
        let Some((op, _, domains)) = OPS.iter().find(|(_, n, _)| *n == name) else {
            bail!("there is no call '{name}'");
        };
        let mut call = Self {
            op: *op,
            args: [0; MAX_ARGS],
            fail: 0,
        };
        let mut count = 0;
        for word in words {
            if let Some(n) = word.strip_prefix('!') {
                call.fail = n.parse().with_context(|| format!("'{word}'"))?;
                continue;
            }
            let digits = word.strip_prefix("0x").unwrap_or(word);
            let arg = call.args.get_mut(count).context("too many arguments")?;
            *arg = u64::from_str_radix(digits, 16).with_context(|| format!("'{word}'"))?;
            count += 1;
        }
        ensure!(
            count == domains.len(),
            "{name} takes {} arguments",
            domains.len()
        );
        Ok(call)
    }
}

/// The calls, separated by semicolons.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, call) in self.calls.iter().enumerate() {
            let separator = if n > 0 { "; " } else { "" };
            write!(f, "{separator}{call}")?;
        }
        Ok(())
    }
}

impl FromStr for Program {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let calls = text.split(';').map(str::trim).filter(|c| !c.is_empty());
        Ok(Self {
            calls: calls.map(str::parse).collect::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_all_of_a_program() -> Result<()> {
        let mut rng = Rng::with_seed(1);
        let mut last = Program::default();
        for _ in 0..2_000 {
            let program = Program::random(&mut rng).mutated(&mut rng, &last);
            assert!(program.calls.len() <= MAX_CALLS);
            assert_eq!(program.to_string().parse::<Program>()?, program);
            last = program;
        }
        Ok(())
    }

    #[test]
    fn all_calls_are_tried() {
        let mut rng = Rng::with_seed(1);
        let mut calls = Vec::new();
        for _ in 0..2_000 {
            calls.extend(Program::random(&mut rng).calls);
        }
        for (n, (op, name, domains)) in OPS.iter().enumerate() {
            assert_eq!(*op as usize, n);
            assert!(domains.len() <= MAX_ARGS, "{name}");
            assert!(calls.iter().any(|call| call.op == *op), "{name}");
        }
    }

    #[test]
    fn wrong_text_is_refused() {
        for text in ["nothing", "close", "close 1 2", "close x", "close 1 !x"] {
            assert!(text.parse::<Program>().is_err(), "{text}");
        }
    }
}
