// SPDX-License-Identifier: GPL-2.0

//! An image: the open files of a process, its descriptors, its epoll instances.
//!
//! `Documentation/epollcr-image.rst` has the schema. [`Image::read`] refuses an image
//! that is damaged or contradicts itself, so that code that uses one need not check it
//! again. It never panics, and takes little more memory than the image has bytes.
//!
//! Structures that a later version of the schema may extend cannot be written as
//! literals outside of this crate: they have a constructor, and their fields can be set.
//! Another [`Kind`] or [`Peer`] is another [`VERSION`], which is written only if an image
//! has one.

mod bytes;
mod check;
mod codec;
mod file;
mod nesting;
mod socket;

pub use bytes::Bytes;
pub use check::Invalid;
pub(crate) use check::{FLAGS, check_alone};
pub use codec::{Error, VERSION};
pub use file::{Extent, Item, Kind, Memory, OpenFile, Pipe, Place, Timer, Watch};
pub use socket::{Buffers, Listener, Message, Peer, Socket, SocketOption};

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
    /// Files of memory; several open files can be of one.
    #[cbor(n(4), with = "list", has_nil)]
    pub memories: Vec<Memory>,
}

/// A list that an image need not have.
mod list {
    use minicbor::encode::Write;
    use minicbor::{Decode, Decoder, Encode, Encoder};

    pub fn encode<C, T: Encode<C>, W: Write>(
        list: &Vec<T>,
        encoder: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        list.encode(encoder, context)
    }

    pub fn decode<'b, C, T: Decode<'b, C>>(
        decoder: &mut Decoder<'b>,
        context: &mut C,
    ) -> Result<Vec<T>, minicbor::decode::Error> {
        Vec::decode(decoder, context)
    }

    #[expect(clippy::ptr_arg, reason = "that is the type of the field")]
    pub fn is_nil<T>(list: &Vec<T>) -> bool {
        list.is_empty()
    }

    #[expect(clippy::unnecessary_wraps, reason = "minicbor calls it")]
    pub fn nil<T>() -> Option<Vec<T>> {
        Some(Vec::new())
    }
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
