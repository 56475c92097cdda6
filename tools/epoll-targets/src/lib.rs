// SPDX-License-Identifier: GPL-2.0

//! Finds out which open files an epoll instance of any process watches.
//!
//! A *target* is an open file description, and the descriptor, *tfd*, by which epoll_ctl(2)
//! added it, which may have been closed or reused since. `/proc/PID/fdinfo/EFD` shows only
//! tfd. `Documentation/glossary.rst` explains this and all terms.
//!
//! - [`resolve`] combines the other modules: it finds the owners of all targets of the
//!   epoll instances of some processes;
//! - [`kcmp`] is the system call;
//! - [`fdinfo`] parses what the kernel shows of an epoll instance;
//! - [`proc`] lists processes and their descriptors;
//! - [`ready`] asks which targets are ready;
//! - `trace`, with the feature `bpf`, watches which closing leaves targets behind, and
//!   finds who holds a file without a descriptor;
//! - [`unix_diag`] tells which unix sockets are connected to each other;
//! - [`pidfd`] holds a process while it is inspected, [`stop`] stops it.
//!
//! Process ids are those of the caller's PID namespace.
//!
//! This needs Linux 4.13 with `CONFIG_KCMP` and `CONFIG_EPOLL`, and ptrace(2) access
//! (`PTRACE_MODE_READ_REALCREDS`) to the processes, which root has in most cases. [`stop`]
//! and [`pidfd`] need Linux 5.3, [`ready`] and [`PidFd::getfd`](pidfd::PidFd::getfd) 5.6. The
//! kernel module `kcmp_epoll` makes some queries faster; it changes no answer.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! use epoll_targets::resolve::{Descriptor, Owner, Resolver};
//! use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
//! use std::os::fd::AsRawFd;
//! # use epoll_targets::kcmp::{self, Support};
//! # if kcmp::support() != Support::Epoll { return Ok(()) }
//!
//! let instance = epoll::create(CreateFlags::CLOEXEC)?;
//! let (reader, _writer) = rustix::pipe::pipe()?;
//! epoll::add(&instance, &reader, EventData::new_u64(1), EventFlags::IN)?;
//! // Descriptor tfd is closed, but its file stays open by another.
//! let copy = rustix::io::dup(&reader)?;
//! drop(reader);
//!
//! let pid = std::process::id() as i32;
//! let report = Resolver::new([pid]).resolve()?;
//! let efd = instance.as_raw_fd();
//! let found = report.instances.iter().find(|i| i.efd == efd).unwrap();
//! let fd = copy.as_raw_fd();
//! assert_eq!(
//!     found.targets[0].owner,
//!     Owner::Others(vec![Descriptor { pid, fd }])
//! );
//! # Ok(()) }
//! ```

#![deny(missing_docs)]

pub use descriptor::Descriptor;

pub mod fdinfo;
pub mod kcmp;
pub mod pidfd;
pub mod proc;
pub mod ready;
pub mod resolve;
pub mod stop;
#[cfg(feature = "bpf")]
pub mod trace;
pub mod unix_diag;

mod descriptor;
mod holder;
#[cfg(feature = "bpf")]
mod libbpf;
mod order;
mod question;
mod reader;

/// Says that a test is skipped, past the capture of its output: see `scripts/lib/results`.
#[cfg(test)]
fn skipped(why: impl std::fmt::Display) {
    use std::io::Write as _;

    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
