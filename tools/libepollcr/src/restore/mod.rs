// SPDX-License-Identifier: GPL-2.0

//! Restores an image in the calling process.
//!
//! [`Restore`] is the interface. It finds out what cannot be restored (`plan`), makes
//! each file (`make`, `sockets`), gives it its descriptors (`maker`), and adds targets (`maker`,
//! `by_number`), which report no edge twice and lose none (`edges`).

mod by_number;
mod edges;
mod make;
mod maker;
mod parking;
mod plan;
mod sockets;

pub use parking::Parking;
pub use plan::Problem;

use crate::device::{Device, RestoreError};
use crate::image::Image;
use crate::types::Progress;
use maker::Maker;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Some things cannot be restored. Nothing was changed.
    #[error("{}", summary(.0))]
    Problems(Vec<Problem>),
    /// A file could not be made. The source is the error of a system call.
    #[error("file f{file} cannot be made")]
    File {
        /// Its index in the image.
        file: u32,
        /// The error.
        source: io::Error,
    },
    /// A file was made, but could not be given one of its descriptors. The source is the
    /// error of a system call.
    #[error("descriptor {number} cannot be opened")]
    Descriptor {
        /// The descriptor.
        number: u32,
        /// The error.
        source: io::Error,
    },
    /// An epoll instance could not be given its targets. The source is the error of the
    /// kernel.
    #[error("epoll instance f{instance} cannot be given its {}", targets(.tfd))]
    Items {
        /// The index of the epoll instance in the image.
        instance: u32,
        /// The descriptor of the target that was refused, if it was one.
        tfd: Option<u32>,
        /// The error.
        source: RestoreError,
    },
    /// A oneshot that has fired cannot be restored without the device, because its file
    /// has no event now that would make it fire.
    #[error(
        "epoll instance f{instance} cannot be given its target for descriptor {tfd}: it is a oneshot \
         that has fired, and its file has no event to make it fire again (load the kernel \
         module epoll_cr)"
    )]
    Fired {
        /// The index of the epoll instance in the image.
        instance: u32,
        /// The descriptor of the target.
        tfd: u32,
    },
    /// A target differs from the one in the image after it was added without the device.
    #[error(
        "epoll instance f{instance} was given its target for descriptor {tfd}, and the kernel \
         changed its events: perhaps EPOLLWAKEUP takes CAP_BLOCK_SUSPEND"
    )]
    Differs {
        /// The index of the epoll instance in the image.
        instance: u32,
        /// The descriptor of the target.
        tfd: u32,
    },
}

fn summary(problems: &[Problem]) -> String {
    match problems {
        [only] => only.to_string(),
        all => format!("{} things cannot be restored", all.len()),
    }
}

fn targets(tfd: &Option<u32>) -> String {
    match tfd {
        Some(tfd) => format!("target for descriptor {tfd}"),
        None => "targets".into(),
    }
}

/// A restore: its options, then [`run`](Self::run).
pub struct Restore<'a> {
    image: &'a Image,
    given: BTreeMap<u32, OwnedFd>,
    inherit: bool,
    progress: Box<dyn FnMut(Progress) + 'a>,
}

impl fmt::Debug for Restore<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Restore")
            .field("given", &self.given)
            .field("inherit", &self.inherit)
            .finish_non_exhaustive()
    }
}

/// What was restored. Dropping it closes all of it.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Restored {
    /// The descriptors of the image.
    pub descriptors: BTreeMap<u32, OwnedFd>,
    /// Files that are targets, and that neither a descriptor of the image nor a message
    /// in a socket refers to, by their index in the image. A target is removed when its
    /// file is released, so these descriptors keep them. Their numbers are none of the
    /// image.
    pub held: BTreeMap<u32, OwnedFd>,
}

impl<'a> Restore<'a> {
    /// A restore of `image`.
    ///
    /// ```
    /// use libepollcr::image::{Descriptor, Image, Kind, OpenFile};
    /// use libepollcr::restore::Restore;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut image = Image::default();
    /// let counter = Kind::EventFd { count: 7, semaphore: false };
    /// image.files.push(OpenFile::new(counter, libc::O_RDWR as u32));
    /// image.descriptors.push(Descriptor { number: 100, file: 0, cloexec: true });
    ///
    /// let restored = Restore::new(&image).run(None)?;
    /// let mut value = [0; 8];
    /// rustix::io::read(&restored.descriptors[&100], &mut value)?;
    /// assert_eq!(u64::from_ne_bytes(value), 7);
    /// # Ok(()) }
    /// ```
    pub fn new(image: &'a Image) -> Self {
        Self {
            image,
            given: BTreeMap::new(),
            inherit: false,
            progress: Box::new(|_| {}),
        }
    }

    /// Uses `fd` for a file of the image, by its index there, instead of making it. The
    /// file itself is not changed; an epoll instance is given no targets. [`Parking`]
    /// moves `fd` out of the way.
    pub fn give(&mut self, file: u32, fd: OwnedFd) {
        self.given.insert(file, fd);
    }

    /// Makes no descriptor close-on-exec.
    #[must_use]
    pub fn keep_across_exec(mut self) -> Self {
        self.inherit = true;
        self
    }

    /// Calls `tell` from time to time with the progress.
    #[must_use]
    pub fn on_progress(mut self, tell: impl FnMut(Progress) + 'a) -> Self {
        self.progress = Box::new(tell);
        self
    }

    /// Whether there are targets to add, for which [`run`](Self::run) uses the device.
    pub fn uses_device(&self) -> bool {
        plan::items(self.image, &self.is_given()) > 0
    }

    /// Returns everything that cannot be restored, and changes nothing. Without the
    /// device, that can be more.
    pub fn problems(&self, device: Option<&Device>) -> Vec<Problem> {
        plan::problems(self.image, &self.is_given(), device.is_none())
    }

    /// Counts the targets that only the device can restore: oneshots that have fired, and
    /// whose files have no event that would make them fire again. They are among the
    /// [`problems`](Self::problems) without it.
    pub fn only_by_device(&self) -> usize {
        plan::cannot_fire(self.image, &self.is_given()).count()
    }

    fn is_given(&self) -> Vec<bool> {
        let files = 0..self.image.files.len() as u32;
        files.map(|file| self.given.contains_key(&file)).collect()
    }

    /// Restores the image. Changes nothing if there are [`problems`](Self::problems).
    ///
    /// The descriptors of the image must not be open. If this fails later, everything
    /// that was made is closed again. Only FIFOs can then differ from what they were: a
    /// process that was waiting for a FIFO to be opened goes on, and the contents of the
    /// image are in a FIFO whose read end the image has.
    ///
    /// Without the device, targets are added with epoll_ctl(2). For that, the descriptor
    /// that a target was added by is opened for a moment, also if it is not in the image,
    /// or is one of another file.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`].
    pub fn run(self, device: Option<&Device>) -> Result<Restored, Error> {
        let problems = self.problems(device);
        if !problems.is_empty() {
            return Err(Error::Problems(problems));
        }
        let given = self.is_given();
        let mut maker = Maker::new(self.image, given, self.inherit, self.progress);
        maker.files(self.given)?;
        maker.messages()?;
        match device {
            Some(device) => maker.items(device)?,
            None => maker.items_by_number()?,
        }
        maker.signals()?;
        maker.restored()
    }
}
