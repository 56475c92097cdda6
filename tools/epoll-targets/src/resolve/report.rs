// SPDX-License-Identifier: GPL-2.0

//! What a resolver reports.

use super::{Method, task, visible};
use crate::descriptor::Descriptor;
use crate::fdinfo::Target;
use crate::holder::Holder;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;

/// Who has the open file description that a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Owner {
    /// Descriptor tfd of a process that has the epoll instance.
    ///
    /// Others may have the file too; they have not been looked for.
    Tfd(Descriptor),
    /// Other descriptors: at least one, those of the instance's process first.
    ///
    /// At most eight are named, and there may be more: the search ends with the
    /// process that has the file, or the inode that leads to it.
    Others(Vec<Descriptor>),
    /// None of the processes that were searched: the target is *orphaned*. Something
    /// else holds the file: a process that was not searched, or may not be; a
    /// message on a socket that was not received yet; io_uring; a system call that
    /// is still running.
    Orphaned,
    /// Unknown: the instance or the target went away before the kernel could answer,
    /// or no owner was found while descriptors kept changing what they mean.
    Unknown,
}

/// What descriptor tfd, by which a target was added, means now in the process of the
/// epoll instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TfdState {
    /// The target, still.
    Target,
    /// Nothing: it is closed.
    Closed,
    /// Another open file description. This is the descriptor's link in `/proc`.
    Other(OsString),
    /// It is open, and could not be compared with the target.
    Unknown,
}

/// A target, and who has its file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// The target.
    pub target: Target,
    /// Who has its file.
    pub owner: Owner,
    /// What descriptor tfd means.
    pub tfd_state: TfdState,
    /// How many descriptors have its file, those that are named included; `None` if
    /// there may be more than were found.
    pub owners_total: Option<usize>,
    /// Descriptors tfd of processes that have the epoll instance, and there mean
    /// another file: at most [`STALE`](Self::STALE).
    pub stale_at: Vec<Descriptor>,
    /// How many such descriptors there are.
    pub stale_total: usize,
    /// The target was added, or took the place of another, during the search.
    pub changed: bool,
    /// Whether the target was on the ready list, which epoll_wait(2) goes through: one
    /// with `EPOLLET` is not any more once it was reported. `None` if that was not seen;
    /// only [`Method::Walk`] can.
    pub on_ready_list: Option<bool>,
    /// The owner was guessed from the numbers of descriptors and inodes.
    pub guessed: bool,
    /// What holds the file of an orphaned target: see [`Report::holders`].
    pub holders: Vec<Holder>,
}

impl Resolved {
    /// How many descriptors that mean another file are named.
    pub const STALE: usize = 4;

    /// Whether no process was found to have the file open, so that events arrive
    /// for a descriptor that is closed.
    pub fn is_orphaned(&self) -> bool {
        self.owner == Owner::Orphaned
    }

    /// Whether descriptor tfd means another file now, in any process that has the epoll
    /// instance.
    pub fn is_stale(&self) -> bool {
        self.stale_total > 0 || matches!(self.tfd_state, TfdState::Other(_))
    }

    /// Whether the target cannot be removed any more: epoll_ctl(2) takes tfd and the
    /// file together, and in no process that has the instance does tfd mean the file.
    /// The target stays as long as something has the file open.
    pub fn is_stuck(&self) -> bool {
        matches!(self.owner, Owner::Others(_) | Owner::Orphaned)
    }
}

/// An epoll instance and its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance {
    /// The process in which the instance was found, by its id in the caller's PID
    /// namespace.
    pub pid: i32,
    /// Its descriptor there.
    pub efd: RawFd,
    /// The instance's id, which no other one gets until the system is rebooted; the
    /// same as in its fdinfo and in the link info of its BPF iterators. `None` if the
    /// kernel does not number instances.
    pub id: Option<u64>,
    /// Further descriptors of the instance, of any of the processes.
    pub also: Vec<Descriptor>,
    /// Its targets, in the order in which the kernel lists them.
    pub targets: Vec<Resolved>,
    /// Why the list of targets could not be compared with what fdinfo shows, which
    /// waits for the mutex of the instance.
    pub unconfirmed: Option<String>,
}

impl Instance {
    /// An instance of which nothing else is known yet, at `place` and at others.
    pub fn new(place: Descriptor, also: Vec<Descriptor>) -> Self {
        Self {
            pid: place.pid,
            efd: place.fd,
            id: None,
            also,
            targets: Vec::new(),
            unconfirmed: None,
        }
    }
}

/// A process or an epoll instance that could not be inspected.
#[derive(Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// The process, by its id in the caller's PID namespace.
    pub pid: i32,
    /// The descriptor of the epoll instance; `None` if it is the whole process.
    pub efd: Option<RawFd>,
    /// The reason: `PermissionDenied` if the caller lacks ptrace(2) access to the
    /// process, `NotFound` or `ESRCH` if the process or the instance is gone.
    pub error: io::Error,
}

impl Skipped {
    /// Whether the process or the instance was there and has ended meanwhile, or was
    /// closed: that is no failure.
    pub fn has_ended(&self) -> bool {
        let closed = self.error.kind() == io::ErrorKind::NotFound && self.efd.is_some();
        closed || self.may_have_moved() || self.error.raw_os_error() == Some(libc::ESRCH)
    }

    /// Whether the instance that was closed may be there by another descriptor.
    fn may_have_moved(&self) -> bool {
        self.error
            .get_ref()
            .is_some_and(|inner| inner.is::<Moved>())
    }

    /// Whether the mutex of the instance is held, so that whoever asked about its
    /// targets would wait for as long.
    pub fn is_held(&self) -> bool {
        crate::reader::is_held(&self.error)
    }

    /// Whether it is an instance of a process that may be inspected.
    pub(super) fn is_refused_instance(&self) -> bool {
        self.efd.is_some() && self.error.kind() == io::ErrorKind::PermissionDenied
    }
}

/// A descriptor of an instance was closed, and another one that was not seen may refer to it.
#[derive(Debug, thiserror::Error)]
#[error(
    "its descriptor was closed, and another one may refer to it: to be certain, stop the process"
)]
pub(super) struct Moved;

/// How many calls of kcmp(2) were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Calls {
    /// Comparisons of two descriptors: `KCMP_FILE`.
    pub file: u64,
    /// Comparisons of a descriptor with a target: `KCMP_EPOLL_TFD`.
    pub epoll_tfd: u64,
    /// Comparisons of two descriptor tables: `KCMP_FILES`. One for each process, to
    /// check whether it may be compared, and those between processes whose tables
    /// look the same.
    pub tables: u64,
}

/// What a resolver found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The epoll instances, sorted by pid and descriptor.
    pub instances: Vec<Instance>,
    /// What could not be inspected, or went away during the search.
    pub skipped: Vec<Skipped>,
    /// How many descriptor tables were listed. Processes and threads that share one
    /// count once.
    pub tables: usize,
    /// How many descriptors are in these tables.
    pub descriptors: usize,
    /// How many calls of kcmp(2) were made.
    pub calls: Calls,
    /// The method that was used.
    pub method: Method,
    /// Why [`Method::Auto`] did not use BPF.
    pub no_bpf: Option<io::Error>,
    /// Why [`Method::Auto`] did not use kcmp(2) either.
    pub no_kcmp: Option<io::Error>,
    /// Why not all processes could be seen: then nobody can say that a target is
    /// orphaned.
    pub partial: Option<String>,
    /// Whether [`Resolved::holders`] has all that holds orphaned targets, apart from system
    /// calls that still run, and what cannot be reached by the descriptors of processes:
    /// messages at a unix socket that is itself in a message. More than a program can look
    /// at is left out: the messages of a socket beyond the 256th, for instance. `None` if it
    /// was not looked for: see [`Resolver::find_holders`](super::Resolver::find_holders).
    pub holders: Option<bool>,
}

impl Report {
    /// Whether all that was asked for could be inspected.
    pub fn is_complete(&self) -> bool {
        self.partial.is_none()
            && self
                .skipped
                .iter()
                .all(|s| s.has_ended() && !s.may_have_moved())
            && self.instances.iter().all(|i| i.unconfirmed.is_none())
    }

    /// Says of processes of which nothing was reported that they have ended, if so. One that
    /// is giving up its descriptors looks like one that has closed its instances.
    pub(super) fn add_ended(&mut self, asked_for: &[i32]) {
        let instances = self.instances.iter();
        let places = instances.flat_map(|i| i.also.iter().map(|d| d.pid).chain([i.pid]));
        let mut known: BTreeSet<i32> = places.chain(self.skipped.iter().map(|s| s.pid)).collect();
        for &pid in asked_for {
            if !known.insert(pid) {
                continue;
            }
            if let Some(error) = visible::why_nothing(pid) {
                task::skip(&mut self.skipped, pid, error);
            }
        }
    }
}
