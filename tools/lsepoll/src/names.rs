// SPDX-License-Identifier: GPL-2.0

//! Names of processes and files.

use epoll_cli::text::printable;
use epoll_targets::proc;
use epoll_targets::resolve::Descriptor;
#[cfg(feature = "bpf")]
use epoll_targets::trace::Holder;
use std::collections::HashMap;

/// The link of a descriptor; `None` if it is closed by now.
pub fn link(descriptor: Descriptor) -> Option<String> {
    let link = proc::link(descriptor.pid, descriptor.fd).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// A process, with its command if it runs.
pub fn process(pid: i32) -> String {
    match proc::command(pid) {
        Ok(command) => format!("process {pid} ({})", printable(&command)),
        Err(_) => format!("process {pid}"),
    }
}

/// What holds a file.
#[cfg(feature = "bpf")]
pub fn holder(holder: &Holder) -> String {
    match *holder {
        Holder::Descriptor(Descriptor { pid, fd }) => format!("fd {fd} of {}", process(pid)),
        Holder::Message { socket, sender } => {
            let Descriptor { pid, fd } = socket;
            let sent = sender.map(|pid| format!(", sent by {}", process(pid)));
            let sent = sent.unwrap_or_default();
            format!("a message that waits at fd {fd} of {}{sent}", process(pid))
        }
        Holder::Ring(Descriptor { pid, fd }) => {
            format!(
                "a registered file of the io_uring fd {fd} of {}",
                process(pid)
            )
        }
        Holder::Mapping { pid, address } => {
            format!("a mapping at {address:#x} of {}", process(pid))
        }
        _ => "something else".into(),
    }
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
