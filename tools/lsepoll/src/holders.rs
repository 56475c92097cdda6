// SPDX-License-Identifier: GPL-2.0

//! What holds the files of orphaned targets, as far as `/proc` tells: where BPF cannot
//! be used.
//!
//! It shows files by their names. Only the inodes of sockets and pipes, and those of
//! other file systems, identify one; what is found by less is said to be possible.

use crate::names::Commands;
use epoll_targets::proc;
use epoll_targets::resolve::Resolved;
use std::fs;
use std::os::fd::RawFd;

/// A holder that was found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// What it holds.
    what: What,
    /// Its name.
    holder: String,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// An inode of this number; on this device, if that is known.
    Inode(u64, Option<(u32, u32)>),
    /// A file whose name the kernel made up: their inode is the same.
    Anonymous,
    /// Some files.
    Any,
}

/// What holds files without a descriptor.
#[derive(Debug, Default)]
pub struct Holders {
    found: Vec<Found>,
    /// The inode of files whose names the kernel made up, and its device.
    anonymous: Option<(u64, (u32, u32))>,
}

impl Holders {
    /// Looks at all processes.
    pub fn all() -> Self {
        let mut found = Vec::new();
        let mut commands = Commands::default();
        for pid in proc::pids().unwrap_or_default() {
            // Processes come and go, and some may not be looked into.
            for fd in proc::fds(pid).unwrap_or_default() {
                look_at(pid, fd, &mut commands, &mut found);
            }
            if let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) {
                let mappings = maps.lines().filter_map(mapping);
                found.extend(mappings.map(|(what, address)| {
                    let process = commands.process(pid);
                    let holder = format!("a mapping at {address:#x} of {process}");
                    Found { what, holder }
                }));
            }
        }
        Self {
            found,
            anonymous: anonymous(),
        }
    }

    /// Those of the file of a target.
    pub fn of(&self, resolved: &Resolved) -> Vec<String> {
        let Some(inode) = resolved.target.inode else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for Found { what, holder } in &self.found {
            let device = (inode.major, inode.minor);
            let is_anonymous = self.anonymous == Some((inode.ino, device));
            let holder = match *what {
                What::Inode(ino, of) if ino == inode.ino && of.is_none_or(|of| of == device) => {
                    holder.clone()
                }
                What::Anonymous if is_anonymous => format!("perhaps {holder}"),
                What::Any => format!("perhaps {holder}"),
                _ => continue,
            };
            if !all.contains(&holder) {
                all.push(holder);
            }
        }
        // What is certain says it all.
        if all.iter().any(|holder| !holder.starts_with("perhaps")) {
            all.retain(|holder| !holder.starts_with("perhaps"));
        }
        all
    }
}

fn anonymous() -> Option<(u64, (u32, u32))> {
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{fstat, major, minor};

    let stat = fstat(eventfd(0, EventfdFlags::CLOEXEC).ok()?).ok()?;
    Some((stat.st_ino, (major(stat.st_dev), minor(stat.st_dev))))
}

/// Adds what an io_uring has registered, or messages that wait at a socket.
fn look_at(pid: i32, fd: RawFd, commands: &mut Commands, found: &mut Vec<Found>) {
    let Ok(link) = proc::link(pid, fd) else {
        return;
    };
    let link = link.to_string_lossy();
    let is_ring = link == "anon_inode:[io_uring]";
    if !is_ring && !link.starts_with("socket:[") {
        return;
    }
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) else {
        return;
    };
    if is_ring {
        let process = commands.process(pid);
        let holder = format!("a registered file of the io_uring fd {fd} of {process}");
        found.extend(registered(&text).map(|what| Found {
            what,
            holder: holder.clone(),
        }));
    } else if waiting(&text) > 0 {
        let process = commands.process(pid);
        found.push(Found {
            what: What::Any,
            holder: format!("a message that waits at fd {fd} of {process}"),
        });
    }
}

/// How many files are in messages that wait at a socket.
fn waiting(fdinfo: &str) -> u64 {
    let mut lines = fdinfo.lines();
    let count = lines.find_map(|line| line.strip_prefix("scm_fds:"));
    count
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// The files in the fdinfo of an io_uring: lines `N: NAME` after `UserFiles:`.
fn registered(fdinfo: &str) -> impl Iterator<Item = What> {
    let lines = fdinfo.lines();
    let lines = lines.skip_while(|line| !line.starts_with("UserFiles:"));
    let files = lines.skip(1).map_while(|line| {
        let (number, name) = line.trim_start().split_once(':')?;
        number.parse::<u32>().ok()?;
        Some(name.trim_start())
    });
    files.filter_map(of_name)
}

/// What has a name. Before Linux 6.13, that is the last part of a path: `[eventfd]`, or the
/// protocol of a socket, which tells nothing more.
fn of_name(name: &str) -> Option<What> {
    let inode = |kind| name.strip_prefix(kind)?.strip_suffix(']')?.parse().ok();
    let inode = inode("socket:[").or_else(|| inode("pipe:["));
    if let Some(inode) = inode {
        return Some(What::Inode(inode, None));
    }
    match name {
        "<none>" => None,
        _ if name.starts_with("anon_inode:") || name.starts_with('[') => Some(What::Anonymous),
        // Regular files cannot be watched.
        _ => (!name.contains('/')).then_some(What::Any),
    }
}

/// What is mapped, and where: a line of maps that names an inode.
fn mapping(line: &str) -> Option<(What, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let address = fields.next()?.split_once('-')?.0;
    let address = u64::from_str_radix(address, 16).ok()?;
    let (major, minor) = fields.nth(2)?.split_once(':')?;
    let inode: u64 = fields.next()?.parse().ok()?;
    let hex = |digits| u32::from_str_radix(digits, 16).ok();
    let device = (hex(major)?, hex(minor)?);
    match fields.next() {
        // Nothing else of the kind can be mapped and watched.
        Some(name) if name.starts_with("anon_inode:") => {
            (name == "anon_inode:[perf_event]").then_some((What::Anonymous, address))
        }
        _ => (inode != 0).then_some((What::Inode(inode, Some(device)), address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_ring_has_registered() {
        let text = "pos:\t0\nSqMask:\t0x7\nUserFiles:\t4\n    0: socket:[53931]\n    \
                    1: pipe:[7]\n    2: anon_inode:[eventfd]\n    3: /dev/null\nUserBufs:\t0\n";
        let found: Vec<What> = registered(text).collect();
        let inode = |ino| What::Inode(ino, None);
        assert_eq!(found, [inode(53931), inode(7), What::Anonymous]);
        assert_eq!(registered("UserBufs:\t1\n    0: 7\n").count(), 0);
        // Linux 6.12
        let text = "UserFiles:\t3\n    0: <none>\n    1: [eventfd]\n    2: TCP\nUserBufs:\t0\n";
        let found: Vec<What> = registered(text).collect();
        assert_eq!(found, [What::Anonymous, What::Any]);
    }

    #[test]
    fn what_waits_at_a_socket() {
        assert_eq!(waiting("pos:\t0\nscm_fds: 3\n"), 3);
        assert_eq!(waiting("pos:\t0\n"), 0);
    }

    #[test]
    fn what_is_mapped() {
        let of = |rest| mapping(&format!("7f00-8000 rw-s 00000000 {rest}"));
        let socket = What::Inode(53931, Some((0, 8)));
        assert_eq!(of("00:08 53931   socket:[53931]"), Some((socket, 0x7f00)));
        let perf = Some((What::Anonymous, 0x7f00));
        assert_eq!(of("00:0f 1057 anon_inode:[perf_event]"), perf);
        assert_eq!(of("00:0f 1057 anon_inode:[io_uring]"), None);
        assert_eq!(of("00:00 0"), None);
        assert_eq!(mapping(""), None);
    }
}
