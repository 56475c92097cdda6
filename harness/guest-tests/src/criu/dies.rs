// SPDX-License-Identifier: GPL-2.0
//! Processes that are killed while CRIU dumps them.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use epoll_targets::proc::{Stat, State};
use guest_tests::subject::Answer;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::Action::Dump;
use super::{Build, EXACT, Outcome, Scenario, ask, restart, restore, scenario};
use crate::module::EPOLL_CR;
use crate::process::wait_until;
use crate::tap::note;

/// Which process is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Parent,
    Child,
}

/// When a process is killed.
#[derive(Clone, Debug)]
enum When {
    /// So long after its dump begins.
    After(Duration),
    /// Once CRIU's log says that the process is dumped next: no image of it can be whole.
    InTurn,
}

impl When {
    /// Waits until a process is to be killed, or the dump has ended.
    fn wait(&self, pid: Pid, log: &Path, ended: &AtomicBool) {
        let turn = format!("Dumping task (pid: {pid} ");
        let came = || fs::read_to_string(log).is_ok_and(|log| log.contains(&turn));
        match self {
            Self::After(time) => thread::sleep(*time),
            Self::InTurn => {
                while !came() && !ended.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_micros(100));
                }
            }
        }
    }
}

/// A process that is killed while it is dumped. CRIU refuses, and the other process goes on,
/// or it makes an image that can be used.
pub(super) fn dies(build: Build) -> Result<()> {
    const TIMES: u32 = 8;
    let program = build.program()?;
    let _device = match build {
        Build::Device => Some(EPOLL_CR.while_loaded()?),
        _ => None,
    };
    let (mut subject, _held) = APART.start()?;
    let Answer::Done(took) = subject.dump(&program, &["-v4"])? else {
        bail!("criu should dump it");
    };
    drop(subject);
    note(format!("without a death, a dump takes {took:.1?}"));
    let times = (0..TIMES).map(|n| When::After(took * n / TIMES));
    let all: Vec<When> = times.chain([When::InTurn]).collect();
    for victim in [Victim::Child, Victim::Parent] {
        for when in &all {
            // The one that kills may come too late to its turn.
            let mut tries = match when {
                When::After(_) => 1,
                When::InTurn => TIMES,
            };
            while tries > 0 {
                let outcome = APART.dump_while_dying(&program, victim, when)?;
                note(format!("{victim:?} killed {when:.1?}: {outcome}"));
                match (&outcome, when) {
                    (Outcome::Refused(Dump, _), _) => break,
                    (_, When::After(_)) => {}
                    (_, When::InTurn) => ensure!(tries > 1, "no dump noticed the death"),
                }
                APART.judge(&EXACT, &outcome)?;
                tries -= 1;
            }
        }
    }
    Ok(())
}

/// A child has an epoll instance of its own, whose target only its parent has.
const APART: Scenario = scenario("apart", 1, EXACT, EXACT);

impl Scenario {
    /// Kills a process of the program while that is dumped.
    fn dump_while_dying(&self, by: &Path, victim: Victim, when: &When) -> Result<Outcome> {
        let (mut subject, _held) = self.start()?;
        let (parent, child) = (subject.pid(), child_of(subject.pid())?);
        let targets = targets_of(child)?;
        let killed = match victim {
            Victim::Parent => parent,
            Victim::Child => child,
        };
        let log = subject.dir.join("images").join("dump.log");
        let ended = AtomicBool::new(false);
        let answer = thread::scope(|scope| {
            scope.spawn(|| {
                when.wait(killed, &log, &ended);
                // It may have been dumped, and have ended.
                let _ = kill_process(killed, Signal::KILL);
            });
            let answer = subject.dump(by, &["-v4"]);
            ended.store(true, Ordering::Release);
            answer
        });
        match (answer?, victim) {
            (Answer::Refused(message), Victim::Parent) => {
                goes_on(child)?;
                kill_process(child, Signal::KILL)?;
                Ok(Outcome::Refused(Dump, message))
            }
            (Answer::Refused(message), Victim::Child) => {
                goes_on(parent)?;
                // It is intact: it can be dumped, and go on, once the remains of the first
                // dump are removed.
                let images = subject.dir.join("images");
                fs::remove_dir_all(&images)?;
                fs::create_dir(&images)?;
                if let Answer::Refused(again) = subject.dump(by, &["-v4"])? {
                    bail!("after '{message}', the other process cannot be dumped: {again}");
                }
                wait_until("the child", || test_kill_process(child).is_err())?;
                let outcome = restore(by, &mut subject, "again")?;
                note(format!("the other process, dumped again: {outcome}"));
                self.judge(&EXACT, &outcome)?;
                Ok(Outcome::Refused(Dump, message))
            }
            (Answer::Done(_), _) => {
                // An orphan by now, it is waited for by init, and its pid has to be free.
                wait_until("the child", || test_kill_process(child).is_err())?;
                if let Some(refused) = restart(by, &subject, "dying")? {
                    return Ok(refused);
                }
                // Unless it had ended before it was dumped. Its parent has the target, and
                // ends when it is asked.
                let ended =
                    || Stat::of(child.as_raw_pid()).is_ok_and(|stat| stat.state == State::Zombie);
                let as_before = || targets_of(child).is_ok_and(|now| now == targets);
                wait_until("the child to watch what it did", || ended() || as_before())?;
                Ok(Outcome::Restored(ask(&mut subject)?))
            }
        }
    }
}

/// The only child of a process.
fn child_of(pid: Pid) -> Result<Pid> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let child = children.trim().parse().ok().and_then(Pid::from_raw);
    child.with_context(|| format!("the children of {pid} are '{children}'"))
}

/// What the epoll instance at descriptor 0 watches.
fn targets_of(pid: Pid) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/0"))?;
    let lines = text.lines().filter(|line| line.starts_with("tfd:"));
    // Without the inode, which differs after a restore.
    let shown = lines.map(|line| line.split(" pos:").next().unwrap_or(line).to_owned());
    Ok(shown.collect())
}

/// Checks that a process sleeps, as before it was dumped.
fn goes_on(pid: Pid) -> Result<()> {
    let sleeps = || Stat::of(pid.as_raw_pid()).is_ok_and(|stat| stat.state == State::Sleeping);
    wait_until("the other process to go on", sleeps)
}
