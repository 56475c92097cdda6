// SPDX-License-Identifier: GPL-2.0

//! Names of processes and files.

use epoll_targets::proc;
use epoll_targets::resolve::Descriptor;
use std::collections::HashMap;

/// The link of a descriptor; `None` if it is closed by now.
pub fn link(descriptor: Descriptor) -> Option<String> {
    let link = proc::link(descriptor.pid, descriptor.fd).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Command names of processes, each read once.
#[derive(Debug, Default)]
pub struct Commands(HashMap<i32, String>);

impl Commands {
    /// The name of a process; `?` if it is gone.
    pub fn of(&mut self, pid: i32) -> &str {
        let look = || proc::command(pid).unwrap_or_else(|_| "?".into());
        self.0.entry(pid).or_insert_with(look)
    }
}
