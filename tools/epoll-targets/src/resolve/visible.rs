// SPDX-License-Identifier: GPL-2.0

//! Whether all processes can be seen. If not, any of the others may have a file.

use crate::proc::{self, Stat, State};
use rustix::thread::CapabilitySet;
use std::fs;
use std::io;

/// The inode of the first PID namespace: `PROC_PID_INIT_INO`, part of the kernel's ABI.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Why there may be processes that this one cannot see at all; `None` if there are none.
pub(super) fn namespace() -> Option<String> {
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    (namespace.as_os_str() != FIRST_PID_NAMESPACE).then(|| {
        "this is a PID namespace: processes outside it cannot be seen; run it outside".into()
    })
}

/// Why what `/proc` shows is not about processes of these ids, or nothing; `None` if it is.
pub(super) fn foreign() -> Option<String> {
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
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    hides(&mounts)
        .filter(|_| !sees_hidden())
        .map(|option| format!("/proc is mounted with {option}, which hides processes"))
}

/// The option by which the last mount on `/proc` hides processes.
fn hides(mounts: &str) -> Option<&str> {
    let on_proc = mounts.lines().rev();
    let mut on_proc = on_proc.filter(|line| line.split(' ').nth(4) == Some("/proc"));
    let (_, of_filesystem) = on_proc.next()?.split_once(" - ")?;
    let options = of_filesystem.split(' ').nth(2)?;
    let mut options = options.split(',');
    options.find(|option| {
        let value = option.strip_prefix("hidepid=");
        value.is_some_and(|value| !["0", "off"].contains(&value)) || *option == "subset=pid"
    })
}

fn sees_hidden() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE))
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
        let mount = |options| {
            format!(
                "21 1 0:19 / /sys rw - sysfs sysfs rw\n\
                 22 1 0:20 / /proc rw,nosuid shared:5 - proc proc {options}\n"
            )
        };
        assert_eq!(hides(&mount("rw")), None);
        assert_eq!(hides(&mount("rw,hidepid=0")), None);
        assert_eq!(hides(&mount("rw,hidepid=off")), None);
        assert_eq!(hides(&mount("rw,gid=7,hidepid=2")), Some("hidepid=2"));
        assert_eq!(
            hides(&mount("rw,hidepid=invisible")),
            Some("hidepid=invisible")
        );
        // The last one counts.
        assert_eq!(hides(&(mount("rw,hidepid=2") + &mount("rw"))), None);
        assert_eq!(hides(""), None);
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
