// SPDX-License-Identifier: GPL-2.0

//! Which open files does an epoll set of a process watch?
//!
//! An epoll set does not watch descriptors. It watches pairs of an open file and
//! the number that its descriptor had when epoll_ctl(2) added it. The number can
//! be closed since, or mean another file; the pair stays until nothing holds the
//! file any more. `/proc/PID/fdinfo/EFD` shows the number, not the file. kcmp(2)
//! knows the file.
//!
//! - [`resolve`] puts it all together: the owners of all targets of the epoll
//!   sets of some processes;
//! - [`kcmp`] asks the kernel;
//! - [`fdinfo`] reads what the kernel shows of a set;
//! - [`proc`] lists processes and their descriptors;
//! - [`pidfd`] holds on to a process while it is looked at.
//!
//! It needs Linux 5.6, `CONFIG_KCMP`, `CONFIG_EPOLL`, and for processes of others
//! the right to read them as with ptrace(2): root, in most cases. Some questions
//! are answered faster if the module `kcmp_epoll` is loaded, none differently.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! use epoll_targets::resolve::{Descriptor, Owner, Resolver};
//! use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
//! use std::os::fd::AsRawFd;
//! # use epoll_targets::kcmp::{self, Support};
//! # if kcmp::support() != Support::Epoll { return Ok(()) }
//!
//! let set = epoll::create(CreateFlags::CLOEXEC)?;
//! let (reader, _writer) = rustix::pipe::pipe()?;
//! epoll::add(&set, &reader, EventData::new_u64(1), EventFlags::IN)?;
//! // The number goes, but its file stays: another descriptor has it.
//! let copy = rustix::io::dup(&reader)?;
//! drop(reader);
//!
//! let pid = std::process::id() as i32;
//! let report = Resolver::new([pid]).resolve()?;
//! let found = report.sets.iter().find(|s| s.efd == set.as_raw_fd()).unwrap();
//! let fd = copy.as_raw_fd();
//! assert_eq!(
//!     found.targets[0].owner,
//!     Owner::Others(vec![Descriptor { pid, fd }])
//! );
//! # Ok(()) }
//! ```

#![deny(missing_docs)]

pub mod fdinfo;
pub mod kcmp;
pub mod pidfd;
pub mod proc;
pub mod resolve;

mod descriptor;
mod order;
