// SPDX-License-Identifier: GPL-2.0
//! execve(2) by a process whose threads make queries, and by one that is queried.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::Options;
use crate::handler::{self, Handler};
use crate::process::{exit_now, own_files};
use crate::sys::{self, Slot};
use crate::tap::note;

/// What a program does after an exec: make queries and exec, report that it runs, or exec
/// itself again and again.
const ASK: &str = "ask";
const REPORT: &str = "report";
const AGAIN: &str = "again";

/// The failure to detect is a hang.
const PATIENCE: Duration = Duration::from_secs(60);
const ASKERS: usize = 3;
const STATUS_REPORTED: i32 = 42;

/// The descriptors of the process that is queried. They stay open across its execs.
const EFD: i32 = 300;
const FD: i32 = 301;
const OTHER: i32 = 302;

pub fn run(options: &Options) -> Result<()> {
    handler::need_fixed()?;
    let seconds = Duration::from_secs(options.seconds.div_ceil(4));
    sys::renumber(sys::epoll_create()?, EFD)?;
    for fd in [FD, OTHER] {
        sys::renumber(sys::eventfd(0)?, fd)?;
    }
    sys::epoll_add(EFD, FD)?;
    for &handler in Handler::present() {
        let _answering = handler.answers()?;
        let execs = callers(seconds).with_context(|| format!("{handler}: callers"))?;
        let asked = task(seconds).with_context(|| format!("{handler}: task"))?;
        note(format!(
            "{handler}: {execs} execs of callers; {asked} right answers about a task in exec"
        ));
    }
    Ok(())
}

/// Runs processes with threads that make queries, until one thread execs.
fn callers(seconds: Duration) -> Result<u32> {
    let until = Instant::now() + seconds;
    let mut execs = 0;
    while Instant::now() < until || execs < 4 {
        // The thread that execs is the leader, or another one.
        let leader = if execs % 2 == 0 { "leader" } else { "other" };
        let mut child = spawn(&[ASK, leader])?;
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= until {
                let _ = child.kill();
                bail!("a process hangs in exec");
            }
            thread::sleep(Duration::from_millis(1));
        };
        ensure!(
            status.code() == Some(STATUS_REPORTED),
            "a process did not get through its exec: {status}"
        );
        execs += 1;
    }
    Ok(execs)
}

/// Queries a process that execs all the time.
fn task(seconds: Duration) -> Result<u64> {
    let truth = [(FD, own_files(FD, FD)?), (OTHER, own_files(OTHER, FD)?)];
    let me = sys::getpid();
    let mut child = spawn(&[AGAIN, "0"])?;
    let pid = child.id() as i32;
    let until = Instant::now() + seconds;
    let mut count = 0;
    let mut failed = None;
    while Instant::now() < until && failed.is_none() {
        for (fd, expect) in truth {
            for (pid1, pid2) in [(me, pid), (pid, me), (pid, pid)] {
                match sys::epoll_tfd(pid1, fd, pid2, Slot::new(EFD, FD, 0)) {
                    Ok(answer) if answer == expect => count += 1,
                    answer => failed = Some((fd, answer)),
                }
            }
        }
    }
    let ended = child.try_wait()?;
    let _ = child.kill();
    child.wait()?;
    ensure!(failed.is_none(), "a wrong answer: {failed:?}");
    ensure!(ended.is_none(), "the task has ended: {ended:?}");
    ensure!(count > 0, "there was no answer");
    Ok(count)
}

fn program(args: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--program").args(args).stdin(Stdio::null());
    command
}

fn spawn(args: &[&str]) -> Result<std::process::Child> {
    program(args).spawn().context("cannot start a program")
}

/// Runs as one of the programs above.
pub fn other_program(args: &[String]) -> Result<ExitCode> {
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args[..] {
        [ASK, leader] => ask(leader == "leader"),
        [REPORT] => Ok(ExitCode::from(STATUS_REPORTED as u8)),
        [AGAIN, count] => {
            let count: u32 = count.parse()?;
            Err(program(&[AGAIN, &(count + 1).to_string()]).exec().into())
        }
        _ => bail!("{args:?} is not a program"),
    }
}

/// Lets threads make queries about inherited descriptors, until one execs.
fn ask(leader: bool) -> Result<ExitCode> {
    let truth = [(FD, own_files(FD, FD)?), (OTHER, own_files(OTHER, FD)?)];
    let me = sys::getpid();
    for _ in 0..ASKERS {
        thread::spawn(move || {
            loop {
                for (fd, expect) in truth {
                    let answer = sys::epoll_tfd(me, fd, me, Slot::new(EFD, FD, 0));
                    if answer != Ok(expect) {
                        note(format!("{fd}: {answer:?}"));
                        exit_now(1);
                    }
                }
            }
        });
    }
    let exec = || {
        thread::sleep(Duration::from_millis(3));
        program(&[REPORT]).exec()
    };
    let err = if leader {
        exec()
    } else {
        match thread::spawn(exec).join() {
            Ok(err) => err,
            Err(_) => bail!("panic"),
        }
    };
    Err(err.into())
}
