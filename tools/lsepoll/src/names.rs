// SPDX-License-Identifier: GPL-2.0

//! Names that others have chosen.

use epoll_targets::proc;
use epoll_targets::resolve::Descriptor;
use std::collections::HashMap;

/// Nothing that drives the terminal, or forges a line.
pub fn printable(name: &str) -> String {
    let replace = |c: char| if c.is_control() { '?' } else { c };
    name.chars().map(replace).collect()
}

/// What the link of a descriptor says; nothing if it is closed by now.
pub fn link(descriptor: Descriptor) -> Option<String> {
    let link = proc::link(descriptor.pid, descriptor.fd).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// The names of processes, each looked up once.
#[derive(Debug, Default)]
pub struct Commands(HashMap<i32, String>);

impl Commands {
    /// The name of a process; `?` if it has gone.
    pub fn of(&mut self, pid: i32) -> &str {
        let look = || proc::command(pid).unwrap_or_else(|_| "?".into());
        self.0.entry(pid).or_insert_with(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drives_a_terminal_is_replaced() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}d é"), "a?[2Jb?c?d é");
    }
}
