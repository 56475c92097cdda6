// SPDX-License-Identifier: GPL-2.0

//! An image: the open files of a process, its descriptors, its epoll instances.
//!
//! `Documentation/epollcr-image.rst` has the schema. [`Image::read`] refuses an image
//! that is damaged or contradicts itself, so that code that uses one need not check it
//! again. It never panics, and takes little more memory than the image has bytes.
//!
//! Structures that a later version of the schema may extend cannot be written as
//! literals outside of this crate: they have a constructor, and their fields can be set.
//! [`Kind`] and [`Peer`] can be matched exhaustively: another kind is another [`VERSION`].

mod check;
mod codec;
mod file;
mod nesting;

pub use check::Invalid;
pub(crate) use check::{FLAGS, check_alone};
pub use codec::{Error, VERSION};
pub use file::{Buffers, Bytes, Item, Kind, Message, OpenFile, Peer, Pipe, Place, Socket, Timer};

use minicbor::{Decode, Encode};

/// What a process had open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[non_exhaustive]
pub struct Image {
    /// The process, and the time of the dump.
    #[n(0)]
    pub origin: Origin,
    /// Open file descriptions, each once. Other parts of the image refer to one by its
    /// index here.
    #[n(1)]
    pub files: Vec<OpenFile>,
    /// The descriptor table, ascending.
    #[n(2)]
    pub descriptors: Vec<Descriptor>,
    /// Pipes and FIFOs; several open files can be ends of one.
    #[n(3)]
    pub pipes: Vec<Pipe>,
}

/// The process that was dumped, and the time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[non_exhaustive]
pub struct Origin {
    /// The process ID, in the namespace of the dump; never negative.
    #[n(0)]
    pub pid: i32,
    /// The name of the process: `/proc/PID/comm`.
    #[n(1)]
    pub command: String,
    /// The kernel release: `uname -r`.
    #[n(2)]
    pub kernel: String,
    /// The time of the dump, in seconds since 1970.
    #[n(3)]
    pub time: u64,
    /// Whether the process was running: then the image need not show a state that it
    /// ever had as a whole.
    #[n(4)]
    pub running: bool,
}

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Descriptor {
    /// The descriptor itself.
    #[n(0)]
    pub number: u32,
    /// The open file: an index of [`Image::files`].
    #[n(1)]
    pub file: u32,
    /// Whether execve(2) closes it.
    #[n(2)]
    pub cloexec: bool,
}

impl Image {
    /// Returns the descriptors of each open file, ascending, by its index.
    pub fn numbers(&self) -> Vec<Vec<u32>> {
        let mut numbers = vec![Vec::new(); self.files.len()];
        for descriptor in &self.descriptors {
            if let Some(numbers) = numbers.get_mut(descriptor.file as usize) {
                numbers.push(descriptor.number);
            }
        }
        numbers
    }

    /// Returns how many targets all epoll instances have.
    pub fn items(&self) -> usize {
        self.files
            .iter()
            .map(|file| match &file.kind {
                Kind::Epoll { items } => items.len(),
                _ => 0,
            })
            .sum()
    }
}
