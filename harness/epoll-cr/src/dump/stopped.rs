// SPDX-License-Identifier: GPL-2.0

//! Does a process hold still?

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// A thread that runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    /// The thread.
    pub tid: i32,
    /// How the kernel calls its state: `S` for sleeping, and so on.
    pub state: char,
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {} is in state {}", self.tid, self.state)
    }
}

/// A thread of the process that is neither stopped, nor traced and stopped, nor
/// frozen with its group.
///
/// # Errors
///
/// `NotFound` if there is no such process.
pub fn running_thread(pid: i32) -> io::Result<Option<Runs>> {
    if is_frozen(pid) {
        return Ok(None);
    }
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        let stat = match fs::read(path.join("stat")) {
            // It ended.
            Err(error) if is_gone(&error) => continue,
            stat => stat?,
        };
        let Some(state) = state(&stat) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if !matches!(state, 'T' | 't' | 'Z' | 'X') {
            let name = path.file_name().and_then(|name| name.to_str());
            let tid = name.and_then(|name| name.parse().ok()).unwrap_or(pid);
            return Ok(Some(Runs { tid, state }));
        }
    }
    Ok(None)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The third field; the second is a name, and can have anything in it.
fn state(stat: &[u8]) -> Option<char> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(end + 2).map(|&byte| char::from(byte))
}

/// Whether the control group (version 2) that the process is in has been frozen,
/// wholly.
fn is_frozen(pid: i32) -> bool {
    let Ok(groups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
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
