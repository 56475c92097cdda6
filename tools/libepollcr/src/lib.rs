// SPDX-License-Identifier: GPL-2.0

//! Checkpoints and restores descriptors and epoll sets.
//!
//! - [`device`] is what the kernel tells and does: `/dev/epoll_cr`;
//! - [`dump`] makes an image of a process;
//! - [`image`] reads and writes it;
//! - [`restore`] makes what is in it in this process, at the numbers that it had.
//!
//! A program can dump itself, as long as nothing changes its descriptors while it
//! does so, and restore itself. What it had when it began, its standard streams for
//! instance, it has again the next time, and so leaves it out:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use libepollcr::device::Device;
//! use libepollcr::dump::Dump;
//! use libepollcr::image::Image;
//! use libepollcr::restore::{Parking, Restore};
//! use std::fs::File;
//! use std::os::fd::AsFd;
//!
//! let device = Device::open()?;
//! let pid = std::process::id() as i32;
//! let image = Dump::new(pid)
//!     .leave_out(std::io::stdin().as_fd())
//!     .leave_out(std::io::stdout().as_fd())
//!     .leave_out(std::io::stderr().as_fd())
//!     .make(&device)?;
//! image.write(File::create("/tmp/image")?)?;
//!
//! // Some other time, with the numbers of all others free:
//! let image = Image::read(File::open("/tmp/image")?)?;
//! let device = Device::from(Parking::new(&image).park(Device::open()?)?);
//! let restored = Restore::new(&image).run(Some(&device))?;
//! # Ok(()) }
//! ```
//!
//! Of a program with several threads that takes
//! [`even_if_running`](dump::Dump::even_if_running), and the image says so.

#![deny(missing_docs)]

pub mod device;
pub mod dump;
pub mod image;
pub mod restore;

mod abi;
mod sys;
