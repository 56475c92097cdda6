// SPDX-License-Identifier: GPL-2.0

//! Descriptors that an image does not have.

use crate::image::{Image, Kind};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Moves files to descriptors that an image does not use.
///
/// Files that are needed during a restore must have such descriptors.
#[derive(Debug)]
pub struct Parking {
    used: HashSet<i32>,
    /// All descriptors below are of the image, or were open a moment ago.
    next: i32,
}

impl Parking {
    /// Avoids the descriptors of `image`, and those that targets were added by.
    pub fn new(image: &Image) -> Self {
        let numbers = image.descriptors.iter().map(|d| d.number as i32);
        // Targets may have been added by other descriptors.
        let sets = image.files.iter().filter_map(|file| match &file.kind {
            Kind::Epoll { items } => Some(items),
            _ => None,
        });
        let targets = sets.flatten().map(|item| item.tfd as i32);
        Self {
            used: numbers.chain(targets).collect(),
            next: 0,
        }
    }

    /// The largest descriptor that the image uses; 0 if there is none.
    pub fn largest(&self) -> i32 {
        self.used.iter().copied().max().unwrap_or(0)
    }

    /// Whether the image uses the same descriptor.
    pub fn is_used(&self, fd: impl AsFd) -> bool {
        self.used.contains(&fd.as_fd().as_raw_fd())
    }

    /// Duplicates a descriptor, close-on-exec. If `fd` is passed by value, it is closed.
    ///
    /// # Errors
    ///
    /// `EMFILE` if no descriptor is left; the other errors of `F_DUPFD_CLOEXEC`.
    pub fn park(&mut self, fd: impl AsFd) -> io::Result<OwnedFd> {
        loop {
            while self.used.contains(&self.next) {
                self.next += 1;
            }
            let copy = match fcntl_dupfd_cloexec(&fd, self.next) {
                // The limit is lower than that.
                Err(Errno::INVAL) => return Err(Errno::MFILE.into()),
                copy => copy?,
            };
            if !self.is_used(&copy) {
                // It may be closed and free again the next time.
                self.next = copy.as_raw_fd();
                return Ok(copy);
            }
            self.next = copy.as_raw_fd() + 1;
        }
    }
}
