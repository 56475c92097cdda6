// SPDX-License-Identifier: GPL-2.0

//! Whether all threads of a process are stopped.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A thread that is not stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Runs {
    /// The thread.
    pub tid: i32,
    /// Its state as `/proc/TID/stat` shows it: `S` for sleeping, and so on.
    pub state: char,
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {} is in state {}", self.tid, self.state)
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
        let stat = match fs::read(Path::new(&path).join("stat")) {
            // It has ended.
            Err(error) if is_gone(&error) => continue,
            stat => stat?,
        };
        let Some(state) = state(&stat) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        // Each thread can be in a group of its own.
        if !matches!(state, 'T' | 't' | 'Z' | 'X') && !is_frozen(&path) {
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

/// A pidfd for a thread.
pub(super) fn open(tid: i32) -> Result<OwnedFd, Errno> {
    let tid = (tid > 0).then(|| Pid::from_raw(tid)).flatten();
    let thread = PidfdFlags::from_bits_retain(libc::PIDFD_THREAD);
    pidfd_open(tid.ok_or(Errno::SRCH)?, thread)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The third field. The second is the name, and can contain anything.
fn state(stat: &[u8]) -> Option<char> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(end + 2).map(|&byte| char::from(byte))
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
    fn a_name_can_have_anything_in_it() {
        assert_eq!(state(b"12 (a) T 1 (b) S 1 12"), Some('S'));
        assert_eq!(state(b"12 (a"), None);
        assert_eq!(state(b"12 (a)"), None);
    }

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
