// SPDX-License-Identifier: GPL-2.0

//! What `lsepoll trace` prints.

use super::Tally;
use super::code::Trace;
use crate::names::{Commands, holder};
use anyhow::Result;
use epoll_cli::text::printable;
use epoll_targets::Descriptor;
use epoll_targets::trace::{Call, Closed, Counts, Exists, Holder};
use serde::Serialize;
use std::io::Write;
use std::os::fd::RawFd;

/// How many holders are named.
const HOLDERS: usize = 8;

pub struct Printer<'a> {
    out: Box<dyn Write + 'a>,
    json: bool,
}

/// What closes, as a reader would say it.
pub fn closing(closed: &Closed) -> String {
    const NAMES: [(i64, &str); 6] = [
        (calls::CLOSE, "close()"),
        (calls::DUP2, "dup2()"),
        (calls::DUP3, "dup3()"),
        (calls::CLOSE_RANGE, "close_range()"),
        (calls::EXECVE, "execve()"),
        (calls::EXECVEAT, "execveat()"),
    ];
    if closed.is_exit {
        // A thread can have descriptors of its own.
        return match super::runs(closed.closed.pid) {
            true => format!("the end of thread {}", closed.closed.tid),
            false => "the end of the process".into(),
        };
    }
    let number = closed.closed.syscall.map(i64::from);
    let name = NAMES.iter().find(|(nr, _)| Some(*nr) == number);
    name.map_or("a system call", |(_, name)| name).into()
}

/// The numbers of x86-64: the calls of other architectures are not traced.
mod calls {
    pub const CLOSE: i64 = 3;
    pub const DUP2: i64 = 33;
    pub const EXECVE: i64 = 59;
    pub const DUP3: i64 = 292;
    pub const EXECVEAT: i64 = 322;
    pub const CLOSE_RANGE: i64 = 436;
}

/// Where a descriptor was closed.
pub fn closed_at(closed: &Closed, by: &Trace) -> String {
    match by.place() {
        Some(place) if !closed.is_exit => format!("{place}, by {}", closing(closed)),
        _ => closing(closed),
    }
}

fn process(call: &Call) -> String {
    let command = printable(&call.command);
    match call.tid {
        tid if tid == call.pid => format!("process {} ({command})", call.pid),
        tid => format!("process {} ({command}), thread {tid}", call.pid),
    }
}

#[derive(Serialize)]
struct JsonCall<'a> {
    pid: i32,
    tid: i32,
    command: &'a str,
    /// Seconds since boot; null if it was before the trace.
    time: Option<f64>,
    stack: Vec<JsonFrame<'a>>,
}

#[derive(Serialize)]
struct JsonFrame<'a> {
    function: &'a str,
    line: Option<&'a str>,
    module: &'a str,
}

fn json_call<'a>(call: &'a Call, trace: &'a Trace) -> JsonCall<'a> {
    let frames = trace.0.iter().map(|frame| JsonFrame {
        function: &frame.function,
        line: frame.line.as_deref(),
        module: &frame.module,
    });
    JsonCall {
        pid: call.pid,
        tid: call.tid,
        command: &call.command,
        time: call.time.map(|time| time.as_secs_f64()),
        stack: frames.collect(),
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Json<'a> {
    Left {
        tfd: RawFd,
        instance: Vec<Place>,
        added: JsonCall<'a>,
        by: String,
        closed: JsonCall<'a>,
        holders: Vec<String>,
        removable_by: Vec<Place>,
        count: u64,
    },
    Exists {
        efd: RawFd,
        tfd: RawFd,
        call: JsonCall<'a>,
        added: Option<JsonCall<'a>>,
        left_at: Option<&'a str>,
    },
    Summary {
        left: Vec<Sum<'a>>,
        exists: Vec<Sum<'a>>,
        left_behind: u64,
        adds: u64,
        dels: u64,
        forgotten: u64,
        lost: u64,
        raced: u64,
        cut: u64,
        late: u64,
    },
}

#[derive(Serialize)]
struct Place {
    pid: i32,
    fd: i32,
}

impl From<&Descriptor> for Place {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            pid: descriptor.pid,
            fd: descriptor.fd,
        }
    }
}

#[derive(Serialize)]
struct Sum<'a> {
    count: u64,
    added: &'a str,
    then: &'a str,
}

/// The most frequent first.
fn sums(tally: &Tally) -> Vec<Sum<'_>> {
    let sums = tally
        .iter()
        .map(|((added, then), &count)| Sum { count, added, then });
    let mut sums: Vec<_> = sums.collect();
    sums.sort_by_key(|sum| (std::cmp::Reverse(sum.count), sum.added, sum.then));
    sums
}

/// A target that was left behind.
pub struct Left<'a> {
    pub closed: &'a Closed,
    /// Where it was added.
    pub added: &'a Trace,
    /// Where its descriptor was closed.
    pub by: &'a Trace,
    pub instance: &'a [Descriptor],
    pub holders: &'a [Holder],
    /// The descriptors by which other processes can remove it.
    pub removers: &'a [Descriptor],
    /// How many were left behind at these places so far.
    pub count: u64,
}

impl<'a> Printer<'a> {
    pub fn new(out: Box<dyn Write + 'a>, json: bool) -> Self {
        Self { out, json }
    }

    fn json(&mut self, json: &Json<'_>) -> Result<()> {
        epoll_cli::json::print(json, &mut self.out)?;
        Ok(self.out.flush()?)
    }

    fn stack(&mut self, trace: &Trace) -> Result<()> {
        for frame in &trace.0 {
            writeln!(self.out, "      {frame}")?;
        }
        Ok(())
    }

    fn added(&mut self, added: &Call, trace: &Trace, at: &Call) -> Result<()> {
        match (added.time, at.time) {
            (Some(then), Some(now)) => {
                let before = now.saturating_sub(then).as_secs_f64();
                writeln!(
                    self.out,
                    "  added {before:.3} s before, by {}:",
                    process(added)
                )?;
                self.stack(trace)
            }
            _ => Ok(writeln!(self.out, "  added before the trace began")?),
        }
    }

    pub fn left(&mut self, left: &Left<'_>) -> Result<()> {
        let Left {
            closed,
            added,
            by,
            instance,
            holders,
            removers,
            count,
        } = *left;
        let mut commands = Commands::default();
        let mut name = |h| holder(h, &mut commands);
        let named = holders.iter().take(HOLDERS).map(&mut name);
        let mut named: Vec<String> = named.collect();
        if self.json {
            return self.json(&Json::Left {
                tfd: closed.tfd,
                instance: instance.iter().map(Place::from).collect(),
                added: json_call(&closed.added, added),
                by: closing(closed),
                closed: json_call(&closed.closed, by),
                holders: holders.iter().map(name).collect(),
                removable_by: removers.iter().map(Place::from).collect(),
                count,
            });
        }
        let own = instance.iter().find(|d| d.pid == closed.closed.pid);
        let Some(own) = own.or(instance.first()) else {
            return Ok(());
        };
        let (tfd, efd) = (closed.tfd, own.fd);
        let of = match own.pid {
            pid if pid == closed.closed.pid => String::new(),
            pid => format!(" of process {pid}"),
        };
        writeln!(
            self.out,
            "{}: target {tfd} stays in epoll instance {efd}{of}",
            process(&closed.closed)
        )?;
        if count > 1 {
            writeln!(self.out, "  at these places so far: {count}")?;
        } else {
            self.added(&closed.added, added, &closed.closed)?;
            let colon = if by.0.is_empty() { "" } else { ":" };
            writeln!(
                self.out,
                "  descriptor {tfd} closed by {}{colon}",
                closing(closed)
            )?;
            self.stack(by)?;
        }
        if holders.len() > HOLDERS {
            named.push(format!("{} more", holders.len() - HOLDERS));
        }
        if named.is_empty() {
            named.push("something that cannot be seen".into());
        }
        writeln!(self.out, "  its file is held by {}", named.join("; "))?;
        if let [first, others @ ..] = removers {
            let others = match others.len() {
                0 => String::new(),
                others => format!(" (and by {others} more)"),
            };
            writeln!(
                self.out,
                "  it can be removed by fd {} of process {}{others}, which has the instance, too",
                first.fd, first.pid
            )?;
        }
        Ok(self.out.flush()?)
    }

    /// An ADD that failed; `closed`: where the target in the way was left behind.
    pub fn exists(
        &mut self,
        exists: &Exists,
        call: &Trace,
        added: Option<&Trace>,
        closed: Option<&String>,
    ) -> Result<()> {
        if self.json {
            let pair = exists.added.as_ref().zip(added);
            return self.json(&Json::Exists {
                efd: exists.efd,
                tfd: exists.tfd,
                call: json_call(&exists.call, call),
                added: pair.map(|(added, trace)| json_call(added, trace)),
                left_at: closed.map(String::as_str),
            });
        }
        let (who, tfd, efd) = (process(&exists.call), exists.tfd, exists.efd);
        writeln!(
            self.out,
            "{who}: EEXIST: descriptor {tfd} is in epoll instance {efd} already, with the same file"
        )?;
        self.stack(call)?;
        match exists.added.as_ref().zip(added) {
            Some((added, trace)) => self.added(added, trace, &exists.call)?,
            None => writeln!(self.out, "  who added it is not remembered")?,
        }
        if let Some(closed) = closed {
            writeln!(self.out, "  and left behind at {closed}")?;
        }
        Ok(self.out.flush()?)
    }

    pub fn summary(
        &mut self,
        left: &Tally,
        exists: &Tally,
        counts: Counts,
        left_behind: u64,
        late: u64,
    ) -> Result<()> {
        if self.json {
            return self.json(&Json::Summary {
                left: sums(left),
                exists: sums(exists),
                left_behind,
                adds: counts.adds,
                dels: counts.dels,
                forgotten: counts.forgotten,
                lost: counts.lost,
                raced: counts.raced,
                cut: counts.cut,
                late,
            });
        }
        let out = &mut self.out;
        let total = |tally: &Tally| tally.values().sum::<u64>();
        writeln!(
            out,
            "targets added: {}, removed: {}, left behind: {}, EEXIST: {}",
            counts.adds,
            counts.dels,
            left_behind,
            total(exists)
        )?;
        for (tally, then) in [(left, "closed"), (exists, "added again")] {
            for sum in sums(tally) {
                writeln!(out, "{:7}  added  {}", sum.count, sum.added)?;
                writeln!(out, "         {then} {}", sum.then)?;
            }
        }
        let missed = [
            (
                counts.forgotten,
                "targets were not remembered: raise --remember",
            ),
            (counts.lost, "events were lost, as there were too many"),
            (
                counts.raced,
                "calls raced with a change of their descriptors",
            ),
            (
                counts.cut,
                "searches ended early, as there was too much to see",
            ),
            (
                late,
                "closings were judged late, or not at all: what they left behind may have been gone by then",
            ),
        ];
        for (count, what) in missed.iter().filter(|(count, _)| *count > 0) {
            writeln!(out, "incomplete: {count} {what}")?;
        }
        Ok(out.flush()?)
    }
}
