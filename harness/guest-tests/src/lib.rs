// SPDX-License-Identifier: GPL-2.0
//! What the program `guest-tests` and the program that it dumps, `criu-subject`, share.

pub mod limits;
pub mod signal;
pub mod subject;
