// SPDX-License-Identifier: GPL-2.0
//! Named cases, each run in a process of its own, reported as TAP 13.
//!
//! So a panic, a hang, a leaked descriptor or a thread that does not end affects one case
//! only.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use epoll_targets::proc::{self, Stat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::Options;
use crate::outcome::Skip;
pub use crate::outcome::{note, skip};
use crate::process;

/// The exit status of a skipped case, as in the kernel's selftests.
const STATUS_SKIP: i32 = 4;

/// How long a case may take by default.
const DEADLINE: Duration = Duration::from_secs(600);

/// How long to read the output of processes that a case left behind.
const GRACE: Duration = Duration::from_secs(2);

type Run = Box<dyn Fn(&Options) -> Result<()>>;

/// A test with a name of the form `group/name`.
pub struct Case {
    pub name: String,
    deadline: Duration,
    run: Run,
}

impl Case {
    pub fn new(name: impl Into<String>, run: impl Fn(&Options) -> Result<()> + 'static) -> Self {
        Self {
            name: name.into(),
            deadline: DEADLINE,
            run: Box::new(run),
        }
    }

    /// Sets how long the case may take.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish()
    }
}

/// Runs one case in this process.
pub fn run_one(case: &Case, options: &Options) -> ExitCode {
    match (case.run)(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            note(format!("{err:#}"));
            if err.is::<Skip>() {
                ExitCode::from(STATUS_SKIP as u8)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

enum Verdict {
    Pass,
    Fail(String),
    Skip(String),
}

/// Runs the cases one after the other, with `after` after each. Returns whether none
/// failed.
pub fn run_all(cases: &[&Case], args: &[String], after: fn() -> Result<()>) -> Result<bool> {
    println!("TAP version 13");
    println!("1..{}", cases.len());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);

    for (n, case) in cases.iter().enumerate() {
        let n = n + 1;
        let began = Instant::now();
        let verdict = run_process(case, args, after)?;
        let took = began.elapsed().as_secs_f64();
        match verdict {
            Verdict::Pass => {
                passed += 1;
                note(format!("{}: {took:.1} s", case.name));
                println!("ok {n} - {}", case.name);
            }
            Verdict::Skip(why) => {
                skipped += 1;
                println!("ok {n} - {} # SKIP {why}", case.name);
            }
            Verdict::Fail(how) => {
                failed += 1;
                note(format!("{}: {how}, after {took:.1} s", case.name));
                println!("not ok {n} - {}", case.name);
            }
        }
    }
    note(format!(
        "{passed} passed, {failed} failed, {skipped} skipped"
    ));

    Ok(failed == 0)
}

/// Runs a case in a process of its own.
fn run_process(case: &Case, args: &[String], after: fn() -> Result<()>) -> Result<Verdict> {
    let (mut child, output) = spawn(case, args)?;
    let group = Pid::from_child(&child);
    let (status, last) = follow(&mut child, group, &lines_of(output), case.deadline)?;
    if status.is_none() {
        note(stacks(group));
        let _ = kill_process_group(group, Signal::KILL);
        // The kernel reports a task that cannot be killed.
        let until = Instant::now() + GRACE;
        while Instant::now() < until && child.try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let left = after();
    Ok(match status {
        None => Verdict::Fail("it did not end in time".into()),
        Some(status) if status.code() == Some(STATUS_SKIP) => Verdict::Skip(last),
        Some(status) if status.success() => match left {
            Ok(()) => Verdict::Pass,
            Err(err) => Verdict::Fail(format!("{err:#}")),
        },
        Some(status) => Verdict::Fail(how(status)),
    })
}

/// Starts the process of a case, and a process group with it; returns what its
/// output can be read from.
fn spawn(case: &Case, args: &[String]) -> Result<(Child, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = Command::new("/proc/self/exe")
        .args(args)
        .args(["--case", &case.name])
        .stdin(Stdio::null())
        .stdout(write.try_clone()?)
        .stderr(write)
        .process_group(0)
        .spawn()
        .context("cannot start the process of a case")?;
    Ok((child, read))
}

/// The lines that are written to a pipe, until it has no writer.
fn lines_of(output: OwnedFd) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(std::fs::File::from(output));
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
    lines
}

/// Passes on the output of a case until the case ends or is late. Returns how it
/// ended, if it did, and its last line.
fn follow(
    child: &mut Child,
    group: Pid,
    lines: &Receiver<String>,
    deadline: Duration,
) -> Result<(Option<ExitStatus>, String)> {
    let mut until = Instant::now() + deadline;
    let mut last = String::new();
    let mut status = None;
    loop {
        let wait = until.saturating_duration_since(Instant::now());
        match lines.recv_timeout(wait.min(Duration::from_millis(100))) {
            Ok(line) => {
                let text = line.strip_prefix("# ").unwrap_or(&line);
                note(text);
                last = text.to_owned();
            }
            Err(RecvTimeoutError::Disconnected) if status.is_some() => break,
            Err(RecvTimeoutError::Disconnected) => {
                // The output has ended, the process has not.
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if status.is_none() {
            status = child.try_wait()?;
            if status.is_some() {
                // Leftover processes must not disturb the next case.
                let _ = kill_process_group(group, Signal::KILL);
                until = Instant::now() + GRACE;
            }
        }
        if Instant::now() >= until {
            break;
        }
    }
    Ok((status, last))
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(1), _) => "failed".into(),
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("killed by signal {}", signal.unwrap_or(0)),
    }
}

/// Lists the processes of a case that did not end, with the system calls they are in.
fn stacks(group: Pid) -> String {
    let mut text = String::from("processes that were left:");
    for pid in proc::pids().unwrap_or_default() {
        let Ok(stat) = Stat::of(pid) else {
            continue;
        };
        if stat.pgrp != group.as_raw_pid() {
            continue;
        }
        let call = process::system_call(format!("/proc/{pid}"));
        let call = call.map_or_else(|| "none".into(), |call| call.to_string());
        text.push_str(&format!(
            " {pid} ({}) {:?} in {call};",
            stat.command.to_string_lossy(),
            stat.state
        ));
    }
    text
}

/// Selects cases by group, name, part of a name or shell pattern.
pub fn select<'a>(cases: &'a [Case], patterns: &[String]) -> Result<Vec<&'a Case>> {
    if patterns.is_empty() {
        return Ok(cases.iter().collect());
    }
    let mut globs = Vec::new();
    for pattern in patterns {
        let glob = glob::Pattern::new(pattern)
            .with_context(|| format!("'{pattern}' is not a shell pattern"))?;
        if !cases.iter().any(|case| matches(case, pattern, &glob)) {
            bail!("no case matches '{pattern}': see --list");
        }
        globs.push((pattern, glob));
    }
    Ok(cases
        .iter()
        .filter(|case| globs.iter().any(|(text, glob)| matches(case, text, glob)))
        .collect())
}

fn matches(case: &Case, text: &str, glob: &glob::Pattern) -> bool {
    glob.matches(&case.name) || case.name.contains(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(patterns: &[&str]) -> Result<Vec<String>> {
        let names = ["race/exec", "race/reload", "scale/million"];
        let cases: Vec<_> = names.map(|name| Case::new(name, |_| Ok(()))).into();
        let patterns: Vec<_> = patterns.iter().map(|text| text.to_string()).collect();
        let selected = select(&cases, &patterns)?;
        Ok(selected.iter().map(|case| case.name.clone()).collect())
    }

    #[test]
    fn cases_are_selected() -> Result<()> {
        assert_eq!(names(&[])?.len(), 3);
        assert_eq!(names(&["race"])?, ["race/exec", "race/reload"]);
        assert_eq!(names(&["race/exec"])?, ["race/exec"]);
        assert_eq!(names(&["*o*", "exec"])?.len(), 3);
        assert_eq!(names(&["*/m*"])?, ["scale/million"]);
        Ok(())
    }

    #[test]
    fn a_pattern_that_means_nothing_is_an_error() {
        assert!(names(&["race", "nothing"]).is_err());
        assert!(names(&["[race"]).is_err());
    }
}
