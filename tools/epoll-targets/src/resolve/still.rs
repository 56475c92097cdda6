// SPDX-License-Identifier: GPL-2.0

//! Which processes have not run for some time, as `/proc` shows it.
//!
//! Descriptors are read one after the other, and a file that is moved from one to
//! another all the time can escape that. But a table of descriptors is only changed by
//! the tasks that have it: if none of them has run, it is what it was.

use crate::proc::{self, Stat, State};
use std::fs;
use std::io;

/// How often each thread of a process has left its CPU.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Still(Vec<(i32, u64)>);

/// A process none of whose threads is running; `None` if one is, or it cannot be told.
/// The thread that calls this is left out.
///
/// If this returns the same twice, the process did not run from the return of the first
/// call until the second one: a thread that is not running now, and was not then, has
/// left its CPU in between if it ran at all.
pub(super) fn still(pid: i32) -> Option<Still> {
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let mut threads = Vec::new();
    for tid in proc::tasks(pid).ok()? {
        if tid != own {
            threads.push((tid, switches(pid, tid)?));
        }
    }
    Some(Still(threads))
}

/// How often a thread that is not running has left its CPU.
fn switches(pid: i32, tid: i32) -> Option<u64> {
    // First, so that what is counted includes the last time. A state alone does not
    // tell: a thread says that it sleeps some time before it does. For this one, the
    // kernel waits until it has left its CPU.
    let call = fs::read(format!("/proc/{pid}/task/{tid}/syscall"));
    let status = fs::read(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let field = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        value.map(str::trim)
    };
    let state: State = field("State")?.chars().next()?.into();
    if matches!(state, State::Zombie | State::Dead) {
        // It has no descriptors any more.
        return Some(u64::MAX);
    }
    if call.ok()?.starts_with(b"running") {
        return None;
    }
    let count = |name| field(name)?.parse::<u64>().ok();
    Some(count("voluntary_ctxt_switches")? + count("nonvoluntary_ctxt_switches")?)
}

/// The processes that have descriptors, or had.
pub(super) fn processes() -> io::Result<Vec<i32>> {
    let mut pids = proc::pids()?;
    // One that has ended is no reason to look at it.
    pids.retain(|&pid| Stat::of(pid).is_ok_and(|stat| !stat.is_kernel_thread()));
    Ok(pids)
}

/// The id of the task that was created last: as long as it is the same, there is no new
/// one.
pub(super) fn newest_task() -> Option<u64> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    load.split_ascii_whitespace().nth(4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    #[test]
    fn what_runs_is_not_still() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        let mut pipes = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut wake = || {
            io::Write::write_all(&mut pipes.0, b"x").unwrap();
            io::Read::read_exact(&mut pipes.1, &mut [0]).unwrap();
        };
        // It has started once it answers, and sleeps soon.
        wake();
        let before = loop {
            let before = still(pid);
            std::thread::sleep(Duration::from_millis(100));
            if before.is_some() && still(pid) == before {
                break before;
            }
        };

        wake();
        assert_ne!(still(pid), before);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(still(pid), None);

        let mut command = Command::new("sh");
        let mut child = command.args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = child.id() as i32;
        // It never sleeps once it is loaded.
        while still(pid).is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_new_process_is_the_newest_task() {
        let before = newest_task().unwrap();
        Command::new("true").status().unwrap();
        assert_ne!(newest_task(), Some(before));
        assert!(processes().unwrap().contains(&(std::process::id() as i32)));
    }
}
