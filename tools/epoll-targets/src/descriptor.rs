// SPDX-License-Identifier: GPL-2.0

//! A descriptor of a process.

use std::fmt;
use std::os::fd::RawFd;

/// A descriptor of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Descriptor {
    /// The process, or a thread, by its id in the caller's PID namespace.
    pub pid: i32,
    /// The descriptor in its table.
    pub fd: RawFd,
}

impl Descriptor {
    /// As kcmp(2) takes it.
    pub(crate) fn index(self) -> usize {
        self.fd as u32 as usize
    }
}

impl fmt::Display for Descriptor {
    /// `PID:FD`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pid, self.fd)
    }
}
