// SPDX-License-Identifier: GPL-2.0

use crate::descriptor::Descriptor;

/// What keeps a file open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Holder {
    /// A descriptor.
    Descriptor(Descriptor),
    /// A message that waits at this unix socket, or on a connection that waits to be accepted
    /// from it.
    Message {
        /// Who can receive it.
        socket: Descriptor,
        /// The process that sent it, if it is known.
        sender: Option<i32>,
    },
    /// It is registered with an io_uring.
    Ring(Descriptor),
    /// It is mapped.
    Mapping {
        /// The process.
        pid: i32,
        /// Where.
        address: u64,
    },
}
