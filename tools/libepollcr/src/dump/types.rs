// SPDX-License-Identifier: GPL-2.0

//! What the device and any other kernel are asked about, and what they answer.

use crate::device;
use std::os::fd::OwnedFd;

/// A descriptor for a file that is inspected.
#[derive(Debug)]
pub enum Source {
    /// A descriptor of the process.
    Theirs(u32),
    /// A descriptor of ours; no other process need have one.
    Ours(OwnedFd),
}

/// A descriptor of the process.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    pub fd: u32,
    pub cloexec: bool,
    /// The identity of the open file description.
    pub file: u64,
}

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub item: device::Item,
    /// Whether it is not known that the target is on the ready list, and only assumed.
    pub guessed: bool,
}

/// The file of a target that no descriptor of the process refers to.
#[derive(Debug)]
pub enum Fetched {
    File(OwnedFd),
    /// It cannot be had, for this reason.
    Refused(String),
}
