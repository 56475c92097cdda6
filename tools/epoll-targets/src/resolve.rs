// SPDX-License-Identifier: GPL-2.0

//! Who has the open files that epoll sets watch?
//!
//! For each target of each epoll set of some processes, [`Resolver`] finds the
//! descriptors whose open file it is. There are two ways to it, with the same
//! answers: see [`Method`].
//!
//! # With kcmp(2)
//!
//! kcmp(2) alone decides; everything else that is known only says whom to ask
//! about first:
//!
//! 1. The descriptor of the number that the target was added by, in the process
//!    of the set. That is it, most often, for one call.
//! 2. Sockets and pipes whose inode is the target's: up to four of them. (Other
//!    inodes say little, and stat(2) can hang on a file system whose server is
//!    gone; the links in `/proc` show these.)
//! 3. The process's other descriptors: they are sorted by their files, once, and
//!    searched.
//! 4. All descriptors of all processes that may be searched, likewise.
//! 5. The descriptors are listed again, and their order is checked. New ones are
//!    asked about. If one has come to mean another file, it may have led a search
//!    astray: then the search is repeated without it, and it is asked about by
//!    itself. (If the search can tell by itself, it asks about each one instead.)
//!
//! Steps 3 to 5 are for the targets that are left, and if none is, nothing is
//! sorted. Processes or threads that share a table of descriptors count as one.
//!
//! # How many calls
//!
//! For *n* targets and *m* descriptors, with processes that hold still, at most
//!
//! - *m* (⌈log₂ *m*⌉ + 3) to sort descriptors, and
//! - *n* (28 + 2 ⌈log₂ (*m* + 1)⌉) to ask about targets, and one more for each
//!   further process that has inherited the set,
//!
//! where *m* leaves out processes that need not be searched. It is *n* if each
//! target still is what its number means. To this add *e* ⌈log₂ *e*⌉ to tell *e*
//! descriptors of epoll sets apart, and a call to see that a process may be looked
//! into, with some more if others have descriptors that look just the same.
//! [`Report::calls`] counts.
//!
//! # With BPF
//!
//! Two programs are run by iterators in the kernel. One sees all descriptors and
//! numbers the open files by their addresses. The other sees the targets of a set
//! and looks their files up: both take time in proportion to what there is to
//! see. An address is the name of a file only while that file is held. So what
//! counts is what a table of descriptors has while the iterator holds the target,
//! be it the number that the target was added by, or a descriptor that was seen
//! to have that address. If there are further owners, kcmp(2) is asked whether
//! they are the same file as the first, and the set is looked at once more, to see
//! that the first one still is.
//!
//! [`Owner::NoOne`] says that all descriptors were listed between two looks at
//! the target, and before, and none had it. What cannot be told is looked at
//! again, eight times at most.
//!
//! # While the processes run on
//!
//! An owner that is named was the owner when kcmp(2) said so, and may not be now.
//! [`Owner::NoOne`] says that none was found, though the order held from before
//! the search until after it. If descriptors came or went in that time, up to 64
//! such targets are asked about with each descriptor there is, as no order can
//! mislead that; but one that is sent to and fro over a socket can escape still.
//! At the end each set is read
//! again: targets that have gone are left out, and those that have come, or taken
//! the place of others, are resolved then and marked as
//! [`changed`](Resolved::changed). BPF sees a target and its owner at one time,
//! and has no need of that. Stop the processes first to be sure.

#[cfg(feature = "bpf")]
mod by_bpf;
mod by_kcmp;
mod kernel;
mod tables;
mod task;

pub use crate::descriptor::Descriptor;

use crate::fdinfo::Target;
use crate::kcmp::{self, Support};
use by_kcmp::ByKcmp;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::RawFd;

/// How many calls a hint is worth.
const HINTS: usize = 4;

/// How often a search is repeated because a descriptor led it astray.
const ROUNDS: u32 = 8;

/// How many owners are named. Each is asked about, however many targets it has.
const OWNERS: usize = 8;

/// How the owners are found.
///
/// The answers are the same, if the processes hold still. (If more descriptors
/// have a file than are named, it need not be the same ones that are.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// With BPF if that works here, and for all sets, otherwise with kcmp(2).
    #[default]
    Auto,
    /// With kcmp(2), one question at a time.
    Kcmp,
    /// With the BPF iterators over descriptors and over epoll sets, in a few passes
    /// over all of them. For those with `CAP_BPF` and `CAP_PERFMON` and ptrace(2)
    /// access to attach, that is root, on a kernel with the module `epoll_iter`,
    /// if this crate was built with the feature `bpf`.
    Bpf,
}

/// Who has the open file that a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The number that it was added by, in a process that has the set.
    ///
    /// Others may have the file too; they have not been looked for.
    SameNumber(Descriptor),
    /// Other descriptors: one at least, those of the set's process first.
    ///
    /// At most eight are named, and there may be more: the search ends with the
    /// process that has it, or the inode that leads to it.
    Others(Vec<Descriptor>),
    /// None of the processes that were searched: a *zombie*. Something else holds
    /// the file: a process that was not searched, or may not be; a message on a
    /// socket that was not received yet; io_uring; a system call going on.
    NoOne,
    /// The set or the target went away before the kernel could tell, or no owner
    /// was found while descriptors kept changing what they mean.
    Unknown,
}

/// What the number that a target was added by means now, in the set's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Number {
    /// The target, still.
    Target,
    /// Nothing: it is closed.
    Closed,
    /// Another open file: what the link of the descriptor says.
    Other(OsString),
    /// It is open, and could not be compared with the target.
    Unknown,
}

/// A target, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The target.
    pub target: Target,
    /// Who has it.
    pub owner: Owner,
    /// What its number means.
    pub number: Number,
    /// It came, or took the place of another, while we looked.
    pub changed: bool,
}

impl Resolved {
    /// Whether nobody was found to have it open, so that its events come for a
    /// descriptor that is closed.
    pub fn is_zombie(&self) -> bool {
        self.owner == Owner::NoOne
    }

    /// Whether its number means another file now.
    pub fn is_stale(&self) -> bool {
        matches!(self.number, Number::Other(_))
    }
}

/// An epoll set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The process that it was looked at in.
    pub pid: i32,
    /// Its descriptor there.
    pub efd: RawFd,
    /// Which set it is: a number that no other one gets, as in its fdinfo and that
    /// of BPF iterators for it. `None` if the kernel does not number them.
    pub id: Option<u64>,
    /// Further descriptors of the same set, of any of the processes.
    pub also: Vec<Descriptor>,
    /// Its targets, in the order of the kernel.
    pub targets: Vec<Resolved>,
}

/// A process or a set that could not be looked into.
#[derive(Debug)]
pub struct Skipped {
    /// The process.
    pub pid: i32,
    /// The epoll set; the whole process if there is none.
    pub efd: Option<RawFd>,
    /// Why: `PermissionDenied` if the caller may not read the process as with
    /// ptrace(2), `NotFound` or `ESRCH` if it does not exist.
    pub error: io::Error,
}

impl Skipped {
    /// Whether it is a set of a process that may be looked into.
    fn is_refused_set(&self) -> bool {
        self.efd.is_some() && self.error.kind() == io::ErrorKind::PermissionDenied
    }
}

/// How many times the kernel was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Comparisons of two descriptors: `KCMP_FILE`.
    pub file: u64,
    /// Comparisons of a descriptor with a target: `KCMP_EPOLL_TFD`.
    pub epoll_tfd: u64,
    /// Comparisons of two tables of descriptors: `KCMP_FILES`. One for each
    /// process, to see whether it may be compared, and those between processes
    /// whose tables look the same.
    pub tables: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// The epoll sets, by pid and descriptor.
    pub sets: Vec<Set>,
    /// What could not be looked into, or went away meanwhile.
    pub skipped: Vec<Skipped>,
    /// How many tables of descriptors were listed.
    pub tables: usize,
    /// How many descriptors are in them.
    pub descriptors: usize,
    /// How many times the kernel was asked by kcmp(2).
    pub calls: Calls,
    /// How it was found out: with [`Method::Kcmp`] or [`Method::Bpf`].
    pub method: Method,
    /// Why it was not [`Method::Bpf`], if that was the resolver's choice.
    pub no_bpf: Option<io::Error>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Targets are being resolved.
    Targets {
        /// So many are.
        done: usize,
        /// Of so many.
        total: usize,
    },
    /// Descriptors are being sorted.
    Sorting {
        /// So many calls were needed for it.
        done: u64,
        /// Of at most so many.
        total: u64,
    },
}

/// Which processes?
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    These(Vec<i32>),
    All,
}

/// Resolves the targets of epoll sets. See the [module](self).
pub struct Resolver<'a> {
    sets_of: Scope,
    search_all: bool,
    method: Method,
    progress: Box<dyn FnMut(Progress) + 'a>,
}

impl fmt::Debug for Resolver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("sets_of", &self.sets_of)
            .field("search_all", &self.search_all)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

impl<'a> Resolver<'a> {
    fn with(sets_of: Scope) -> Self {
        Self {
            sets_of,
            search_all: false,
            method: Method::Auto,
            progress: Box::new(|_| {}),
        }
    }

    /// Whether all processes are searched for owners.
    fn searches_all(&self) -> bool {
        self.search_all || self.sets_of == Scope::All
    }

    /// Looks at the epoll sets of these processes, and searches them for owners.
    /// Threads whose table of descriptors is their own can be named like
    /// processes.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use epoll_targets::resolve::Resolver;
    /// # use epoll_targets::kcmp::{self, Support};
    /// # if kcmp::support() != Support::Epoll { return Ok(()) }
    ///
    /// let report = Resolver::new([std::process::id() as i32]).resolve()?;
    /// for set in &report.sets {
    ///     let zombies = set.targets.iter().filter(|t| t.is_zombie()).count();
    ///     println!("{}: {zombies} that nobody has open", set.efd);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn new(pids: impl IntoIterator<Item = i32>) -> Self {
        Self::with(Scope::These(pids.into_iter().collect()))
    }

    /// Looks at the epoll sets of all processes, and searches them for owners.
    pub fn everyone() -> Self {
        Self::with(Scope::All)
    }

    /// Searches all processes for the owners of what is left unresolved.
    #[must_use]
    pub fn search_everyone(mut self) -> Self {
        self.search_all = true;
        self
    }

    /// Finds owners in this way.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Tells how far it is from time to time.
    #[must_use]
    pub fn on_progress(mut self, tell: impl FnMut(Progress) + 'a) -> Self {
        self.progress = Box::new(tell);
        self
    }

    /// Resolves all targets.
    ///
    /// # Errors
    ///
    /// - `Unsupported` if the kernel has no `KCMP_EPOLL_TFD`, and
    ///   `PermissionDenied` if kcmp(2) is forbidden altogether; both with the
    ///   message of [`Support`]
    /// - what kcmp(2) has no reason to return, [`kcmp::Unordered`] among them
    /// - those of listing `/proc`, if all processes are meant
    /// - with [`Method::Bpf`], why it cannot be used: `Unsupported` if it was not
    ///   built in or the module is not loaded, `PermissionDenied`, or an error of
    ///   loading or running the programs
    ///
    /// What belongs to one process or set only is in [`Report::skipped`].
    pub fn resolve(mut self) -> io::Result<Report> {
        let kind = match kcmp::support() {
            Support::Epoll => return self.resolve_by_method(),
            Support::NoEpoll | Support::Missing => io::ErrorKind::Unsupported,
            Support::Forbidden => io::ErrorKind::PermissionDenied,
        };
        Err(io::Error::new(kind, kcmp::support().to_string()))
    }

    fn resolve_by_method(&mut self) -> io::Result<Report> {
        let no_bpf = match self.method {
            Method::Kcmp => None,
            Method::Bpf => return self.by_bpf(),
            Method::Auto => match self.by_bpf() {
                Ok(mut report) => match report.skipped.iter().position(Skipped::is_refused_set) {
                    // kcmp(2) asks for less.
                    Some(refused) => Some(report.skipped.swap_remove(refused).error),
                    None => return Ok(report),
                },
                Err(error) => Some(error),
            },
        };
        let report = ByKcmp::new(self).run()?;
        Ok(Report { no_bpf, ..report })
    }

    #[cfg(feature = "bpf")]
    fn by_bpf(&mut self) -> io::Result<Report> {
        by_bpf::ByBpf::new(self)?.run()
    }

    #[cfg(not(feature = "bpf"))]
    fn by_bpf(&mut self) -> io::Result<Report> {
        let kind = io::ErrorKind::Unsupported;
        Err(io::Error::new(
            kind,
            "this was built without the feature bpf",
        ))
    }
}
