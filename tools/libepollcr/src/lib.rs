// SPDX-License-Identifier: GPL-2.0

//! Checkpoint and restore of file descriptors and epoll instances.
//!
//! - [`device`] calls `/dev/epoll_cr`, the device of the module `epoll_cr`;
//! - [`dump`] makes an image of a process;
//! - [`image`] reads and writes images;
//! - [`restore`] makes the files of an image in the calling process, with the descriptors
//!   that they had;
//! - [`types`] has values that all of them use.
//!
//! The id of a process or a thread is an `i32`, as pid_t. The number of a descriptor is a
//! `u32`: it can be a target's, or that of another process, and is never negative.
//!
//! `Display` of an error type says only what this library has to add; `source()` returns
//! the cause. Print the chain to see both.
//!
//! A program can dump itself, if its other threads do not change its descriptors
//! meanwhile, and restore itself later. It leaves out what it is started with each time,
//! such as its standard streams:
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
//! // Later, when none of the other descriptors are open:
//! let image = Image::read(File::open("/tmp/image")?)?;
//! let device = Device::from(Parking::new(&image).park(Device::open()?)?);
//! let restored = Restore::new(&image).run(Some(&device))?;
//! # Ok(()) }
//! ```
//!
//! A program with several threads needs
//! [`even_if_running`](dump::Dump::even_if_running), and the image says so.

#![deny(missing_docs)]

pub mod device;
pub mod dump;
pub mod image;
pub mod restore;
pub mod types;

mod abi;
mod fdinfo;
mod pipe;
mod sys;

#[cfg(test)]
mod tests {
    use super::{device, dump, image, restore};
    use rustix::io::Errno;
    use std::error::Error;
    use std::io;

    /// The rule of all error types: the cause is in `source()`, and only there.
    #[test]
    fn each_cause_is_said_once() {
        let cause = || io::Error::from(Errno::ISDIR);
        let refused = || device::RestoreError {
            bad: Some(3),
            errno: Errno::EXIST,
        };
        let malformed = image::Image::read(&b"EPOLLCR\n\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..]);
        let errors: Vec<Box<dyn Error>> = vec![
            Box::new(image::Error::from(cause())),
            Box::new(malformed.unwrap_err()),
            Box::new(dump::Error::Io {
                what: "open process 1".into(),
                source: cause(),
            }),
            Box::new(restore::Error::File {
                file: 1,
                source: cause(),
            }),
            Box::new(restore::Error::Descriptor {
                number: 1,
                source: cause(),
            }),
            Box::new(restore::Error::Items {
                instance: 1,
                tfd: Some(2),
                source: refused(),
            }),
            Box::new(refused()),
        ];
        for error in errors {
            let mut said = vec![error.to_string()];
            let mut next = error.source();
            while let Some(cause) = next {
                said.push(cause.to_string());
                next = cause.source();
            }
            let whole = said.join(": ");
            for part in &said {
                assert_eq!(whole.matches(part.as_str()).count(), 1, "{whole}");
            }
        }
    }
}
