// SPDX-License-Identifier: GPL-2.0

//! Makes an image of a process.
//!
//! [`Dump`] is the interface. It asks the device, or uses what any kernel offers
//! (`kernel`, `stock`). It lists the descriptors and describes their files (`table`), reads
//! the state of each kind of file (`kind`), follows epoll instances and messages to further
//! files (`contents`), and finds out which sockets are connected (`connect`).

mod connect;
mod contents;
mod inotify;
mod kernel;
mod kind;
mod listener;
mod memory;
mod mounts;
mod name;
mod socket;
mod stock;
mod stopped;
mod table;
mod types;

pub use stopped::{Runs, running_thread};

use crate::device::Device;
use crate::image::{Image, Origin};
use crate::types::Progress;
use epoll_targets::pidfd::PidFd;
use epoll_targets::proc::{self, Stat, State, is_no_process};
use kernel::Kernel;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{SystemTime, UNIX_EPOCH};
use stock::Stock;
use table::Dumper;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A thread of the process is not stopped.
    #[error("the process is not stopped: {0}")]
    Running(Runs),
    /// The process has changed while it was inspected, though it was stopped.
    #[error("the process has changed during the dump")]
    Changed,
    /// A thread of the process has another descriptor table than the process, which the
    /// image would not have.
    #[error("thread {tid} has a descriptor table of its own")]
    Tables {
        /// The thread.
        tid: i32,
    },
    /// The id is that of a thread that does not lead its process.
    #[error("{tid} is a thread of process {pid}")]
    Thread {
        /// The thread.
        tid: i32,
        /// The process that it belongs to.
        pid: i32,
    },
    /// The process is a thread of the kernel, which has no descriptors.
    #[error("it is a thread of the kernel, which has no descriptors")]
    KernelThread,
    /// The process has ended, and its parent has not waited for it yet.
    #[error("it has ended, and its parent has not waited for it")]
    Ended,
    /// The first thread of the process has ended, and others go on, whose descriptors are
    /// not found by its pid.
    #[error("its first thread has ended, while others go on")]
    FirstThreadEnded,
    /// A system call failed. The source is its error.
    #[error("cannot {what}")]
    Io {
        /// What it was for.
        what: String,
        /// The error.
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, Error>;

trait While<T> {
    /// Says what the call was for, as the end of 'cannot ...'.
    fn to(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> While<T> for std::result::Result<T, E> {
    fn to(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io {
            what: what(),
            source: error.into(),
        })
    }
}

/// A dump: its options, then [`make`](Self::make).
pub struct Dump<'a> {
    pid: i32,
    running: bool,
    left_out: Vec<u32>,
    progress: Box<dyn FnMut(Progress) + 'a>,
}

impl fmt::Debug for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dump")
            .field("pid", &self.pid)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl<'a> Dump<'a> {
    /// A dump of process `pid`. If that is the caller, then the thread that calls
    /// [`make`](Self::make) counts as stopped.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use libepollcr::device::Device;
    /// use libepollcr::dump::Dump;
    ///
    /// let image = Dump::new(1234).make(&Device::open()?)?;
    /// println!("{} descriptors", image.descriptors.len());
    /// # Ok(()) }
    /// ```
    pub fn new(pid: i32) -> Self {
        Self {
            pid,
            running: false,
            left_out: Vec::new(),
            progress: Box::new(|_| {}),
        }
    }

    /// Dumps the process even if it is not stopped. The image says so:
    /// [`Origin::running`].
    #[must_use]
    pub fn even_if_running(mut self) -> Self {
        self.running = true;
        self
    }

    /// Leaves out a descriptor of the caller, which dumps itself. `device` is left out
    /// of such a dump anyway.
    #[must_use]
    pub fn leave_out(mut self, fd: BorrowedFd<'_>) -> Self {
        self.left_out.push(fd.as_raw_fd() as u32);
        self
    }

    /// Calls `tell` from time to time with the progress: first with the files of the
    /// descriptor table that were inspected, then with the targets that were looked up, for
    /// each epoll instance.
    #[must_use]
    pub fn on_progress(mut self, tell: impl FnMut(Progress) + 'a) -> Self {
        self.progress = Box::new(tell);
        self
    }

    /// Inspects the process and returns an image of it. The process is not changed,
    /// except that a socket's `SO_PEEK_OFF` is set and put back.
    ///
    /// Without the device, the files of targets are found with kcmp(2), and with BPF if
    /// the feature `bpf` is built in and the kernel allows it. The image then lacks the
    /// file of a target that no process has a descriptor for. Without BPF, it may not be
    /// known which edges were reported: see [`Item::guessed`](crate::image::Item::guessed).
    ///
    /// # Errors
    ///
    /// See [`enum@Error`].
    pub fn make<'d>(mut self, device: impl Into<Option<&'d Device>>) -> Result<Image> {
        let pid = self.pid;
        let open = || format!("open process {pid}");
        check_kind(pid)?;
        let process = PidFd::open(pid).to(open)?;
        if pid.unsigned_abs() == std::process::id() {
            self = self.leave_out(process.as_fd());
        }
        let kernel = match device.into() {
            Some(device) => {
                if pid.unsigned_abs() == std::process::id() {
                    self = self.leave_out(device.as_fd());
                }
                Kernel::Device(device)
            }
            None => {
                let stock = Stock::new(pid).to(|| format!("inspect process {pid}"))?;
                Kernel::Stock(Box::new(stock))
            }
        };
        let command = proc::command(pid).to(|| format!("read the name of process {pid}"))?;
        let mut running = self.runs()?;
        if let Some(tid) = kernel.other_table(&process, pid)? {
            if !self.running {
                return Err(Error::Tables { tid });
            }
            running = true;
        }
        let uname = rustix::system::uname();
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let origin = Origin {
            pid,
            command,
            kernel: uname.release().to_string_lossy().into_owned(),
            time: time.map_or(0, |time| time.as_secs()),
            running,
        };
        let mut dumper = Dumper::new(kernel, process, self, origin);
        dumper.descriptors()?;
        dumper.contents()?;
        dumper.connect();
        dumper.finish_pipes();
        dumper.finish()
    }

    /// The process.
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether a thread of the process runs, if that is allowed.
    fn runs(&self) -> Result<bool> {
        let pid = self.pid;
        match running_thread(pid).to(|| format!("inspect the threads of process {pid}"))? {
            Some(runs) if !self.running => Err(Error::Running(runs)),
            runs => Ok(runs.is_some()),
        }
    }
}

/// Checks that an id is that of a process, and that this has descriptors.
fn check_kind(pid: i32) -> Result<()> {
    let stat = match Stat::of(pid) {
        // Opening it tells why.
        Err(error) if is_no_process(&error) => return Ok(()),
        stat => stat.to(|| format!("inspect process {pid}"))?,
    };
    if stat.is_kernel_thread() {
        return Err(Error::KernelThread);
    }
    match proc::tgid(pid) {
        Ok(process) if process != pid => {
            return Err(Error::Thread {
                tid: pid,
                pid: process,
            });
        }
        _ => {}
    }
    match stat.state {
        State::Zombie | State::Dead if stat.threads <= 1 => Err(Error::Ended),
        State::Zombie | State::Dead => Err(Error::FirstThreadEnded),
        _ => Ok(()),
    }
}
