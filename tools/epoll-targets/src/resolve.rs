// SPDX-License-Identifier: GPL-2.0

//! Resolves the targets of epoll instances: which descriptors have their files?
//!
//! For each target of each epoll instance of some processes, [`Resolver`] finds the
//! descriptors that refer to the target's open file description. There are several ways
//! to find them, with the same results: see [`Method`].
//!
//! # With BPF programs that walk interest lists
//!
//! [`Method::Walk`]. One program lists the descriptors of all tasks, with the addresses
//! of their files, the other walks the interest lists. It does not take the mutex of an
//! instance, so what it sees can be incomplete if the list changes meanwhile.
//! Therefore each list is walked twice. In between, the descriptors are listed, and
//! fdinfo is read, which takes the mutex and has to agree. Targets that kept changing
//! are marked as [`changed`](Resolved::changed), and their owners are
//! [`Unknown`](Owner::Unknown): kcmp(2), which is asked for the *n*th target of a
//! number, could answer for another one that has taken its place.
//!
//! [`Owner::Orphaned`] means that the target was still there after there was proof that
//! nobody had its file: see below.
//!
//! # With kcmp(2)
//!
//! [`Method::Kcmp`].
//! Only the answers of kcmp(2) count. Everything else that is known only determines
//! which descriptors are compared first:
//!
//! 1. Descriptor tfd of the process that has the instance. In most cases, this is
//!    the owner, found with one call.
//! 2. Sockets and pipes that have the inode of the target, up to four of them. (Other
//!    inodes say little, and stat(2) can hang on a file system whose server is gone;
//!    the links in `/proc` show these.)
//! 3. The other descriptors of the process: they are sorted by their files, once, and
//!    searched.
//! 4. The descriptors of all processes that may be searched, in the same way.
//! 5. The descriptors are listed again, and their order is checked. New ones are
//!    compared. A descriptor that means another file by now may have misled a search:
//!    then the search is repeated without it, and it is compared separately. (If the
//!    search notices this itself, it compares each descriptor instead.)
//!
//! Steps 3 to 5 apply to the targets that are left; if none is, nothing is sorted.
//! Processes or threads that share a descriptor table count as one.
//!
//! # Number of calls
//!
//! For *n* targets and *m* descriptors of processes that do not change them, at most
//!
//! - *m* (⌈log₂ *m*⌉ + 3) to sort descriptors, and
//! - *n* (28 + 2 ⌈log₂ (*m* + 1)⌉) to compare targets, and one more for each further
//!   process that has inherited the instance,
//!
//! where *m* leaves out processes that need not be searched. It is *n* if each tfd
//! still means its target. Add *e* ⌈log₂ *e*⌉ to tell *e* descriptors of epoll
//! instances apart, and one call for each process to check that it may be inspected,
//! with some more if others have descriptors that look the same.
//! [`Report::calls`] has the counts.
//!
//! # With BPF
//!
//! Programs in the kernel list all descriptors with the addresses of their open file
//! descriptions, and the targets of epoll instances with the same. They walk the
//! interest lists without the mutex, or run in the iterator of a module, which takes it.
//! Both take time in proportion to what they visit.
//!
//! An address identifies a file only while that is held. So each interest list is read
//! before the descriptors are listed and after: a target that is in both was there in
//! between, and held its file. Without the mutex, a list that changes can be read
//! wrongly; so what fdinfo shows has to agree. What does not is read again, eight times
//! at most.
//!
//! # Nobody has it
//!
//! Descriptors are looked at one after the other, and a file that a program moves from
//! one to another all the time can escape that. But only the tasks that have a table of
//! descriptors change it, and none of them does as long as it does not run. So a target
//! is [`Owner::Orphaned`] if there was a moment at which no table had its file: the
//! tasks of each table did not run from before it was looked at until after that
//! moment, and no task was created. `/proc` tells how often a task has left its CPU,
//! and whether it is on one.
//!
//! If processes run all the time, kcmp(2) cannot tell, and [`Owner::Unknown`] is the
//! answer; stop the processes, or use BPF. That sees how many references a file has: if it
//! has one, and that is the one of a message, of an io_uring or of a mapping, no descriptor
//! has it. If it has more, or it is not seen what has it, BPF cannot tell either, though it
//! looks 32 times at the descriptors of those that ran: a file can be moved as fast as
//! descriptors are looked at, and always be where they do not look.
//!
//! [`Resolver::find_holders`] tells what holds the file of such a target instead. BPF programs
//! look at the messages that wait at unix sockets, at what is registered with io_urings, and at
//! mappings, before each list is read for the last time: a target that is still there then
//! held its file all the time, so that what had its address was that file.
//!
//! # While the processes run
//!
//! An owner that is named was the owner when it was looked at, and may not be any more.
//! At the end kcmp(2) reads each instance again: targets that are gone are left out, and
//! those that were added, or took the place of others, are resolved then and marked as
//! [`changed`](Resolved::changed). With BPF, what changed during the last of the eight
//! readings is. To be certain, stop the processes first.

mod by_fdinfo;
mod by_kcmp;
#[cfg(feature = "bpf")]
mod by_walk;
mod kernel;
mod named;
mod report;
mod still;
mod tables;
mod task;
mod visible;

pub use crate::descriptor::Descriptor;
pub use crate::holder::Holder;
pub use report::{Calls, Instance, Owner, Report, Resolved, Skipped, TfdState};
pub use visible::{foreign as foreign_proc, namespace as pid_namespace};

use crate::kcmp::{self, Support};
use by_kcmp::ByKcmp;
use std::fmt;
use std::io;
use std::time::Duration;

/// Whether BPF was built in: the feature `bpf`.
pub const HAS_BPF: bool = cfg!(feature = "bpf");

/// How many descriptors are compared because of their inode.
const HINTS: usize = 4;

/// How often a search is repeated because a descriptor misled it.
const ROUNDS: u32 = 8;

/// How many owners are named: each costs a call for each target.
const OWNERS: usize = 8;

/// How the owners are found.
///
/// The results are the same if the processes do not change. (If more descriptors have
/// a file than are named, the methods may name different ones.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// With BPF if that works, otherwise with kcmp(2): [`Walk`](Self::Walk) where it
    /// can be had, then [`Bpf`](Self::Bpf), then [`Kcmp`](Self::Kcmp).
    #[default]
    Auto,
    /// With BPF programs that walk the interest lists, on a kernel as it comes: this
    /// needs Linux 5.17 with type information (`CONFIG_DEBUG_INFO_BTF`), `CAP_BPF`,
    /// `CAP_PERFMON` and `CAP_SYS_PTRACE`, which root has, and the feature `bpf` of this
    /// crate.
    Walk,
    /// With kcmp(2), one query at a time.
    Kcmp,
    /// With BPF iterators over descriptors and over epoll instances, in a few passes
    /// over all of them. This needs `CAP_BPF`, `CAP_PERFMON` and `CAP_SYS_PTRACE`,
    /// which root has, the kernel module `epoll_iter`, and the feature `bpf` of this
    /// crate.
    Bpf,
    /// By what fdinfo shows alone, where nothing else can be used: by the numbers of
    /// descriptors and inodes. Owners are guessed, see [`Resolved::guessed`].
    Fdinfo,
}

/// How far a resolver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Targets are being resolved.
    Targets {
        /// The number of targets that are resolved.
        done: usize,
        /// The number of all targets.
        total: usize,
    },
    /// Descriptors are being sorted.
    Sorting {
        /// The number of calls made for it.
        done: u64,
        /// The number of calls that it takes at most.
        total: u64,
    },
    /// Searching for owners with kcmp(2) has begun, and takes about this long. Each query
    /// holds the mutex of the epoll instance, which its process needs.
    Long(Duration),
}

/// A target whose owner was found, while others are still searched for.
#[derive(Debug)]
#[non_exhaustive]
pub struct Early<'a> {
    /// The descriptor of the epoll instance: [`Instance::pid`] and [`Instance::efd`].
    pub instance: Descriptor,
    /// Further descriptors of the instance.
    pub also: &'a [Descriptor],
    /// The target.
    pub target: Resolved,
}

/// The processes whose epoll instances are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    These(Vec<i32>),
    All,
}

/// Resolves the targets of epoll instances. See the [module](self).
pub struct Resolver<'a> {
    scope: Scope,
    search_all: bool,
    holders: bool,
    method: Method,
    progress: Box<dyn FnMut(Progress) + 'a>,
    early: Box<dyn FnMut(&Early<'_>) + 'a>,
}

impl fmt::Debug for Resolver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("scope", &self.scope)
            .field("search_all", &self.search_all)
            .field("holders", &self.holders)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

impl<'a> Resolver<'a> {
    fn with(scope: Scope) -> Self {
        Self {
            scope,
            search_all: false,
            holders: false,
            method: Method::Auto,
            progress: Box::new(|_| {}),
            early: Box::new(|_| {}),
        }
    }

    /// Whether all processes are searched for owners.
    fn searches_all(&self) -> bool {
        self.search_all || self.scope == Scope::All
    }

    /// Resolves the epoll instances of these processes, and searches them for owners.
    /// The ids are those of the caller's PID namespace. A thread that has a
    /// descriptor table of its own can be named like a process; any other thread stands
    /// for its process.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use epoll_targets::resolve::Resolver;
    /// # use epoll_targets::kcmp::{self, Support};
    /// # if kcmp::support() != Support::Epoll { return Ok(()) }
    ///
    /// let report = Resolver::new([std::process::id() as i32]).resolve()?;
    /// for instance in &report.instances {
    ///     let orphaned = instance.targets.iter().filter(|t| t.is_orphaned()).count();
    ///     println!("{}: {orphaned} orphaned", instance.efd);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn new(pids: impl IntoIterator<Item = i32>) -> Self {
        Self::with(Scope::These(pids.into_iter().collect()))
    }

    /// Resolves the epoll instances of all processes, and searches them for owners.
    /// Those that the caller may not inspect are in [`Report::skipped`].
    pub fn all_processes() -> Self {
        Self::with(Scope::All)
    }

    /// Searches all processes for the owners of targets that are left.
    #[must_use]
    pub fn search_all_processes(mut self) -> Self {
        self.search_all = true;
        self
    }

    /// Finds what else than descriptors holds the files of orphaned targets, too:
    /// [`Resolved::holders`]. Only [`Method::Walk`] and [`Method::Bpf`] can.
    #[must_use]
    pub fn find_holders(mut self) -> Self {
        self.holders = true;
        self
    }

    /// Finds owners with this method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Calls `tell` from time to time with how far the resolver is.
    #[must_use]
    pub fn on_progress(mut self, tell: impl FnMut(Progress) + 'a) -> Self {
        self.progress = Box::new(tell);
        self
    }

    /// Calls `tell` with what is found, if it takes long to find the rest: for each target
    /// whose owner is known when [`Progress::Long`] was told, and then for each other one
    /// once it is. The report, which is what counts, has them all.
    #[must_use]
    pub fn on_early(mut self, tell: impl FnMut(&Early<'_>) + 'a) -> Self {
        self.early = Box::new(tell);
        self
    }

    /// Resolves all targets.
    ///
    /// # Errors
    ///
    /// - `Unsupported` if the kernel has no `KCMP_EPOLL_TFD`, and `PermissionDenied`
    ///   if kcmp(2) is forbidden altogether, both with the message of [`Support`]
    /// - any errno that kcmp(2) has no reason to return, or [`kcmp::Unordered`]
    /// - those of reading `/proc`, if all processes are resolved or searched
    /// - with [`Method::Bpf`], why it cannot be used: `Unsupported` if it was not
    ///   built in or the module is not loaded, `PermissionDenied`, or an error of
    ///   loading or running the programs
    ///
    /// An error of one process or instance is in [`Report::skipped`] instead. If `/proc` is
    /// missing, or that of another PID namespace, the report is empty, and
    /// [`Report::partial`] says why.
    ///
    /// The message of an error does not include its cause, which is the
    /// [`source`](std::error::Error::source).
    pub fn resolve(mut self) -> io::Result<Report> {
        let partial = visible::foreign();
        if partial.is_some() {
            // Whatever is read there would be said of other processes.
            return Ok(Report {
                partial,
                ..Report::default()
            });
        }
        if let Scope::These(pids) = &mut self.scope {
            pids.iter_mut().for_each(|pid| *pid = named::table(*pid));
            pids.sort_unstable();
            pids.dedup();
        }
        let asked_for = match &self.scope {
            Scope::These(pids) => pids.clone(),
            Scope::All => Vec::new(),
        };
        let mut report = self.look()?;
        report.add_ended(&asked_for);
        Ok(report)
    }

    fn look(mut self) -> io::Result<Report> {
        match self.method {
            Method::Walk => return self.by_walk(),
            Method::Bpf => {
                supported()?;
                return self.by_bpf();
            }
            Method::Kcmp => {
                supported()?;
                return ByKcmp::new(&mut self)?.run();
            }
            Method::Fdinfo => return by_fdinfo::resolve(&self),
            Method::Auto => {}
        }
        let mut no_bpf = match self.by_walk() {
            Ok(report) => return Ok(report),
            Err(error) => error,
        };
        if let Err(no_kcmp) = supported() {
            let report = by_fdinfo::resolve(&self)?;
            let (no_bpf, no_kcmp) = (Some(no_bpf), Some(no_kcmp));
            return Ok(Report {
                no_bpf,
                no_kcmp,
                ..report
            });
        }
        if let Ok(mut report) = self.by_bpf() {
            match report.skipped.iter().position(Skipped::is_refused_instance) {
                // kcmp(2) asks for less.
                Some(refused) => no_bpf = report.skipped.swap_remove(refused).error,
                None => return Ok(report),
            }
        }
        let no_bpf = Some(no_bpf);
        let report = ByKcmp::new(&mut self)?.run()?;
        Ok(Report { no_bpf, ..report })
    }

    #[cfg(feature = "bpf")]
    fn by_walk(&mut self) -> io::Result<Report> {
        by_walk::ByWalk::new(self)?.run()
    }

    #[cfg(feature = "bpf")]
    fn by_bpf(&mut self) -> io::Result<Report> {
        by_walk::ByWalk::with_items(self)?.run()
    }

    #[cfg(not(feature = "bpf"))]
    fn by_walk(&mut self) -> io::Result<Report> {
        self.by_bpf()
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

/// Whether kcmp(2) can do what is needed.
fn supported() -> io::Result<()> {
    let support = kcmp::support();
    let kind = match support {
        Support::Epoll => return Ok(()),
        Support::NoEpoll | Support::Missing => io::ErrorKind::Unsupported,
        Support::Forbidden => io::ErrorKind::PermissionDenied,
    };
    Err(io::Error::new(kind, support.to_string()))
}
