// SPDX-License-Identifier: GPL-2.0

//! Files on anonymous inodes: what their fdinfo says beside their kind, which is in the
//! link.

use crate::names::Directories;
use epoll_cli::text::quoted;
use epoll_targets::{Descriptor, proc};

/// What there is to say of a descriptor whose link is this.
///
/// Only kinds are read whose fdinfo takes no lock that somebody could hold for long.
pub fn details(
    descriptor: Descriptor,
    link: &str,
    directories: &mut Directories,
) -> Option<String> {
    let kind = link.strip_prefix("anon_inode:")?;
    if !["[eventfd]", "[timerfd]", "[signalfd]", "[pidfd]", "inotify"].contains(&kind) {
        return None;
    }
    let text = directories.fdinfo(descriptor)?;
    describe(kind, &text, &|pid| proc::command(pid).ok())
}

fn describe(kind: &str, text: &str, command: &dyn Fn(i32) -> Option<String>) -> Option<String> {
    let field = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let mut lines = lines.filter(|(key, _)| *key == name);
        lines.next().map(|(_, value)| value.trim())
    };
    let hex = |name| u64::from_str_radix(field(name)?, 16).ok();
    match kind {
        "[eventfd]" => Some(format!("count {}", hex("eventfd-count")?)),
        "[timerfd]" => {
            let ticks = field("ticks")?;
            let is_armed = field("it_value")? != "(0, 0)";
            let state = if is_armed { "armed" } else { "disarmed" };
            Some(format!("{state}, ticks {ticks}"))
        }
        "[signalfd]" => {
            let mask = hex("sigmask")?;
            let signals = (1..=64).filter(|signal| (mask >> (signal - 1)) & 1 == 1);
            let signals: Vec<_> = signals.map(|signal| signal.to_string()).collect();
            Some(format!("signals {}", signals.join(",")))
        }
        "inotify" => {
            let watches = text.lines().filter(|line| line.starts_with("inotify wd:"));
            Some(format!("watches {}", watches.count()))
        }
        "[pidfd]" => match field("Pid")?.parse().ok()? {
            -1 => Some("of a process that has ended".into()),
            // Of another namespace.
            0 => None,
            pid => Some(match command(pid) {
                Some(command) => format!("of pid {pid} ({})", quoted(command.as_bytes())),
                None => format!("of pid {pid}"),
            }),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::AsRawFd;

    #[test]
    fn what_fdinfo_says() {
        let describe = |kind, text| {
            let command = |pid| (pid == 7).then(|| "a b".to_owned());
            describe(kind, text, &command)
        };
        let text = "pos:\t0\nflags:\t02\neventfd-count:               1f\neventfd-id: 5\n";
        assert_eq!(describe("[eventfd]", text).as_deref(), Some("count 31"));
        let text = "clockid: 1\nticks: 3\nit_value: (0, 0)\nit_interval: (0, 0)\n";
        assert_eq!(
            describe("[timerfd]", text).as_deref(),
            Some("disarmed, ticks 3")
        );
        let text = "sigmask:\t0000000000004002\n";
        assert_eq!(
            describe("[signalfd]", text).as_deref(),
            Some("signals 2,15")
        );
        let text = "inotify wd:2 ino:1\ninotify wd:1 ino:2\n";
        assert_eq!(describe("inotify", text).as_deref(), Some("watches 2"));
        assert_eq!(
            describe("[pidfd]", "Pid:\t7\n").as_deref(),
            Some("of pid 7 (\"a b\")")
        );
        assert_eq!(
            describe("[pidfd]", "Pid:\t8\n").as_deref(),
            Some("of pid 8")
        );
        assert_eq!(describe("[pidfd]", "Pid:\t0\n"), None);
        assert_eq!(describe("[eventfd]", ""), None);
    }

    #[test]
    fn of_this_process() {
        let file = eventfd(3, EventfdFlags::CLOEXEC).unwrap();
        let pid = std::process::id() as i32;
        let fd = file.as_raw_fd();
        let descriptor = Descriptor { pid, fd };
        let mut directories = Directories::default();
        let link = directories.link(descriptor).unwrap();
        let details = details(descriptor, link.to_str().unwrap(), &mut directories);
        assert_eq!(details.as_deref(), Some("count 3"));
    }
}
