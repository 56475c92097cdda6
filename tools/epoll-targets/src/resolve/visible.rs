// SPDX-License-Identifier: GPL-2.0

//! Whether all processes can be seen. If not, any of the others may have a file.

use crate::proc::{self, Stat, State};
use rustix::thread::CapabilitySet;
use std::fs;
use std::io;

/// The inodes of the first PID and user namespaces: `PROC_PID_INIT_INO` and
/// `PROC_USER_INIT_INO`, part of the kernel's ABI.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";

/// Why there may be processes that this one cannot see at all: it is in a PID namespace, as a
/// container has. `None` if there are none.
pub fn namespace() -> Option<String> {
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    (namespace.as_os_str() != FIRST_PID_NAMESPACE).then(|| {
        "this is a PID namespace: processes outside it cannot be seen; run it outside".into()
    })
}

/// Why what `/proc` shows is not about processes of the ids that this one uses, or nothing;
/// `None` if it is.
pub fn foreign() -> Option<String> {
    let own = fs::read_link("/proc/self").ok();
    let own = own.and_then(|own| own.to_str()?.parse::<u32>().ok());
    let why = match own {
        _ if !proc::is_mounted() => "no procfs is mounted at /proc; mount it",
        Some(pid) if pid == std::process::id() => return None,
        None if fs::exists("/proc/version").unwrap_or(false) => {
            "/proc is that of another PID namespace, where this process is not; mount this one's"
        }
        None => "/proc does not show this process; mount it anew",
        Some(_) => "/proc is that of another PID namespace; mount this one's",
    };
    Some(why.into())
}

/// Why `/proc` may not show all processes; `None` if it does.
pub(super) fn proc() -> Option<String> {
    if let Some(why) = namespace() {
        return Some(why);
    }
    if sees_hidden() {
        return None;
    }
    match mounted_with().as_deref() {
        Some(options) => hides(options)
            .map(|option| format!("/proc is mounted with {option}, which hides processes")),
        None => Some("how /proc is mounted is not known, and it may hide processes".into()),
    }
}

/// The options of the file system at `/proc`.
fn mounted_with() -> Option<String> {
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let device = rustix::fs::stat("/proc").ok()?.st_dev;
    let device = (rustix::fs::major(device), rustix::fs::minor(device));
    options(&String::from_utf8_lossy(&mounts), device)
}

/// The options of a file system, wherever it is mounted: `/proc` can be a link.
fn options(mounts: &str, (major, minor): (u32, u32)) -> Option<String> {
    let device = format!("{major}:{minor}");
    let mut lines = mounts.lines();
    let line = lines.find(|line| line.split(' ').nth(2) == Some(&device))?;
    let (_, of_filesystem) = line.split_once(" - ")?;
    of_filesystem.split(' ').nth(2).map(str::to_owned)
}

/// The option by which a procfs hides processes.
fn hides(options: &str) -> Option<&str> {
    let mut options = options.split(',');
    options.find(|option| {
        let value = option.strip_prefix("hidepid=");
        value.is_some_and(|value| !["0", "off"].contains(&value)) || *option == "subset=pid"
    })
}

/// Whether nothing is hidden from this process. Its capabilities count in its own user
/// namespace, and others may have processes, too.
fn sees_hidden() -> bool {
    let namespace = fs::read_link("/proc/self/ns/user");
    let sets = rustix::thread::capabilities(None);
    namespace.is_ok_and(|namespace| namespace.as_os_str() == FIRST_USER_NAMESPACE)
        && sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE))
}

/// Why a process that has no descriptors, as far as one can see, was not inspected.
pub(super) fn why_nothing(pid: i32) -> Option<io::Error> {
    let stat = match Stat::of(pid) {
        Ok(stat) => stat,
        Err(error) => return Some(error),
    };
    // Others may go on without the first thread.
    let tasks = proc::tasks(pid).unwrap_or_default();
    let runs = |tid: i32| {
        let stat = Stat::read(format!("/proc/{pid}/task/{tid}/stat"));
        stat.is_ok_and(|stat| !has_ended(&stat))
    };
    let ended = has_ended(&stat) && !tasks.into_iter().any(runs);
    ended.then(|| io::Error::other(Ended))
}

/// Whether a task has given up its descriptors, or is about to.
fn has_ended(stat: &Stat) -> bool {
    matches!(stat.state, State::Zombie | State::Dead) || stat.is_exiting()
}

/// A process has ended, and is still there.
#[derive(Debug, thiserror::Error)]
#[error("it has ended, and its parent has not waited for it")]
struct Ended;

/// Whether an error says that a process has no descriptors any more.
pub(super) fn is_ended(error: &io::Error) -> bool {
    proc::is_no_process(error) || error.get_ref().is_some_and(|inner| inner.is::<Ended>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_hide() {
        assert_eq!(hides("rw"), None);
        assert_eq!(hides("rw,hidepid=0"), None);
        assert_eq!(hides("rw,hidepid=off"), None);
        assert_eq!(hides("rw,gid=7,hidepid=2"), Some("hidepid=2"));
        assert_eq!(hides("rw,hidepid=invisible"), Some("hidepid=invisible"));
        assert_eq!(hides("rw,subset=pid"), Some("subset=pid"));
        // Not where it is mounted counts.
        let mounts = "21 1 0:19 / /sys rw - sysfs sysfs rw\n\
                      22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n\
                      23 1 0:21 / /kern/proc rw,nosuid - proc proc rw,hidepid=2\n";
        assert_eq!(options(mounts, (0, 20)).as_deref(), Some("rw"));
        assert_eq!(options(mounts, (0, 21)).as_deref(), Some("rw,hidepid=2"));
        assert_eq!(options(mounts, (0, 2)), None);
    }

    #[test]
    fn a_child_that_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        while Stat::of(pid).unwrap().state != State::Zombie {
            std::thread::yield_now();
        }
        let why = why_nothing(pid).unwrap();
        assert!(why.to_string().contains("has ended"));
        child.wait().unwrap();
        assert!(crate::proc::is_no_process(&why_nothing(pid).unwrap()));
        assert!(why_nothing(std::process::id() as i32).is_none());
    }
}
