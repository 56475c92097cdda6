// SPDX-License-Identifier: GPL-2.0

//! What is asked about a process and its files: the device, if there is one, or what any
//! kernel has.

use super::stock::Stock;
use super::types::{Fetched, Listed, Source, Target};
use super::{Result, While, stopped};
use crate::device::{self, Description, Device, Process};
use epoll_targets::pidfd::PidFd;
use epoll_targets::proc::is_no_process;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// An epoll instance as the device takes it.
fn place<'a>(process: &'a PidFd, instance: &Source) -> (Process<'a>, u32) {
    match instance {
        Source::Theirs(fd) => (Process::Other(process.as_fd()), *fd),
        Source::Ours(fd) => (Process::Own, fd.as_raw_fd() as u32),
    }
}

/// Who answers.
pub enum Kernel<'a> {
    Device(&'a Device),
    Stock(Box<Stock>),
}

impl Kernel<'_> {
    /// Returns a thread that has another descriptor table than the process.
    pub fn other_table(&self, process: &PidFd, pid: i32) -> Result<Option<i32>> {
        let threads = || format!("inspect the threads of process {pid}");
        let device = match self {
            Self::Device(device) => device,
            Self::Stock(stock) => return stock.other_table().to(threads),
        };
        let table = device
            .table(Process::Other(process.as_fd()))
            .to(|| format!("list the descriptors of process {pid}"))?;
        for tid in stopped::threads(pid).to(threads)? {
            let thread = match PidFd::open_task(tid) {
                Err(error) if is_no_process(&error) => continue,
                // Before 6.9 a thread has no pidfd.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
                thread => thread.to(threads)?,
            };
            match device.table(Process::Other(thread.as_fd())) {
                // The thread has ended, or executes another program.
                Err(Errno::SRCH | Errno::STALE) => {}
                other if other.to(threads)? != table => return Ok(Some(tid)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Lists the descriptors of the process, ascending.
    pub fn files(&mut self, process: &PidFd) -> io::Result<Vec<Listed>> {
        let device = match self {
            Self::Device(device) => device,
            Self::Stock(stock) => return stock.files(),
        };
        let table = device.files(Process::Other(process.as_fd()))?;
        let listed = table.descriptors.iter().map(|descriptor| Listed {
            fd: descriptor.fd,
            cloexec: descriptor.cloexec,
            file: descriptor.file,
        });
        Ok(listed.collect())
    }

    /// Describes the files of the process's descriptors; `None` for those that are not
    /// open.
    pub fn describe(&self, process: &PidFd, fds: &[u32]) -> io::Result<Vec<Option<Description>>> {
        match self {
            Self::Device(device) => Ok(device.describe(Process::Other(process.as_fd()), fds)?),
            Self::Stock(stock) => fds.iter().map(|&fd| stock.describe(process, fd)).collect(),
        }
    }

    /// Describes an open file of ours.
    pub fn describe_own(&mut self, fd: BorrowedFd<'_>) -> io::Result<Option<Description>> {
        match self {
            Self::Device(device) => {
                let described = device.describe(Process::Own, &[fd.as_raw_fd() as u32])?;
                Ok(described.into_iter().next().flatten())
            }
            Self::Stock(stock) => stock.describe_own(fd),
        }
    }

    /// Reads an interest list.
    pub fn targets(&mut self, process: &PidFd, instance: &Source) -> io::Result<Vec<Target>> {
        match self {
            Self::Device(device) => {
                let (process, efd) = place(process, instance);
                let items = device.snapshot(process, efd)?.items.into_iter();
                let guessed = false;
                Ok(items.map(|item| Target { item, guessed }).collect())
            }
            Self::Stock(stock) => stock.targets(instance),
        }
    }

    /// Opens the file of a target that is in no table.
    pub fn fetch(
        &self,
        process: &PidFd,
        instance: &Source,
        item: &device::Item,
    ) -> io::Result<Fetched> {
        let device = match self {
            Self::Device(device) => device,
            Self::Stock(stock) => return stock.fetch(item.file),
        };
        let (process, efd) = place(process, instance);
        match device.fetch(process, efd, item) {
            // The interest list could be read: this is about the opener of the file.
            Err(Errno::PERM) => Ok(Fetched::Refused(
                "no process of the dump has a descriptor for it: only root may fetch it, and \
                 not from within a container"
                    .into(),
            )),
            fetched => Ok(Fetched::File(fetched?)),
        }
    }
}
