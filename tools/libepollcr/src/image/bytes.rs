// SPDX-License-Identifier: GPL-2.0

//! Contents of pipes, messages and memory.

use minicbor::{Decode, Encode};

/// A byte string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Bytes(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);
