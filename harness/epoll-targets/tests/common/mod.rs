// SPDX-License-Identifier: GPL-2.0

use epoll_targets::kcmp::{self, Support};
use epoll_targets::resolve::{Report, Set};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Whether the kernel can; says so if not, past the capture of the test's output.
pub fn can() -> bool {
    let support = kcmp::support();
    if support != Support::Epoll {
        let mut stderr = std::io::stderr();
        writeln!(stderr, "SKIPPED: {support}").unwrap();
    }
    support == Support::Epoll
}

pub fn pid() -> i32 {
    std::process::id() as i32
}

pub fn file() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

pub fn new_set() -> OwnedFd {
    epoll::create(CreateFlags::CLOEXEC).unwrap()
}

pub fn add(set: &OwnedFd, target: impl AsFd, data: u64) {
    epoll::add(set, target, EventData::new_u64(data), EventFlags::IN).unwrap();
}

pub fn copy(fd: &OwnedFd) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).unwrap()
}

/// What the report says of this set of ours.
pub fn found<'a>(report: &'a Report, set: &OwnedFd) -> &'a Set {
    let efd = set.as_raw_fd();
    let mut sets = report.sets.iter();
    sets.find(|s| s.pid == pid() && s.efd == efd).unwrap()
}
