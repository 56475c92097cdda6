// SPDX-License-Identifier: GPL-2.0

//! Whether all threads of a process are stopped.

use epoll_targets::proc::{Stat, State, is_no_process};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// A thread that is not stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Runs {
    /// The thread.
    pub tid: i32,
    /// What it does instead.
    pub state: State,
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Running => "running",
            State::Sleeping => "sleeping",
            State::Uninterruptible => "in an uninterruptible sleep",
            _ => "in another state",
        };
        write!(f, "thread {} is {state}", self.tid)
    }
}

/// Returns a thread of process `pid` that is neither stopped, by a signal or a tracer,
/// nor frozen with its control group. The calling thread does not count.
///
/// # Errors
///
/// `NotFound` if there is no such process; those of reading `/proc`.
pub fn running_thread(pid: i32) -> io::Result<Option<Runs>> {
    let own = rustix::thread::gettid().as_raw_pid();
    for tid in threads(pid)? {
        if tid == own {
            continue;
        }
        let path = format!("/proc/{pid}/task/{tid}");
        let state = match Stat::read(Path::new(&path).join("stat")) {
            // It has ended.
            Err(error) if is_no_process(&error) => continue,
            stat => stat?.state,
        };
        let is_stopped = matches!(
            state,
            State::Stopped | State::Tracing | State::Zombie | State::Dead
        );
        // Each thread can be in a group of its own.
        if !is_stopped && !is_frozen(&path) {
            return Ok(Some(Runs { tid, state }));
        }
    }
    Ok(None)
}

/// The threads of a process.
pub(super) fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = entry?.file_name();
        let tid = name.to_str().and_then(|name| name.parse().ok());
        threads.push(tid.ok_or(io::ErrorKind::InvalidData)?);
    }
    Ok(threads)
}

/// Whether the control group (version 2) of the thread is completely frozen.
fn is_frozen(thread: &str) -> bool {
    let Ok(groups) = fs::read_to_string(format!("{thread}/cgroup")) else {
        return false;
    };
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let Some(group) = group.filter(|group| !group.is_empty()) else {
        return false;
    };
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .filter_map(|root| {
            fs::read_to_string(Path::new(root).join(group).join("cgroup.events")).ok()
        })
        .any(|events| events.lines().any(|line| line == "frozen 1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn another_thread_of_our_own_runs() {
        let own = std::process::id() as i32;
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || receive.recv());
        let runs = running_thread(own).unwrap().unwrap();
        assert_ne!(runs.tid, rustix::thread::gettid().as_raw_pid());
        send.send(()).unwrap();
        thread.join().unwrap().unwrap();
        assert!(threads(own).unwrap().contains(&own));
    }

    #[test]
    fn a_process_that_runs_and_one_that_is_stopped() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let runs = running_thread(pid).unwrap().unwrap();
        assert_eq!(runs.tid, pid);

        let process = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
        while running_thread(pid).unwrap().is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(running_thread(pid).is_err());
    }
}
