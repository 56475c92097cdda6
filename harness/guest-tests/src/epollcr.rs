// SPDX-License-Identifier: GPL-2.0
//! The library `libepollcr` and the tool `epollcr`, with the module they need.
//!
//! Programs that CRIU cannot dump or restore, or not as they were (group `criu`
//! has its messages), are restored as they were. A case that is not about the
//! tool dumps and restores its own process.

mod contents;
mod hostile;
mod limits;
mod rights;
mod sets;
mod tool;

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use libepollcr::device::Device;
use libepollcr::dump::Dump;
use libepollcr::image::Image;
use libepollcr::restore::{Restore, Restored};

use crate::sys;
use crate::tap::{Case, skip};

const MODULE: &str = "epoll_cr";

pub fn cases() -> Vec<Case> {
    [
        tool::cases(),
        contents::cases(),
        sets::cases(),
        limits::cases(),
        rights::cases(),
        hostile::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The device; skips where there is no module.
fn device() -> Result<Device> {
    if let Ok(device) = Device::open() {
        return Ok(device);
    }
    let output = Command::new("modprobe").arg(MODULE).output();
    let output = output.context("cannot run modprobe")?;
    match Device::open() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let error = String::from_utf8_lossy(&output.stderr);
            skip(format!("no module {MODULE}: {}", error.trim()))
        }
        device => device.context("cannot open the device"),
    }
}

/// What this process has, but for its standard streams, as an image that was
/// written and read.
fn dump(device: &Device) -> Result<Image> {
    dump_without(device, &[])
}

/// The same without these.
fn dump_without(device: &Device, others: &[&OwnedFd]) -> Result<Image> {
    let mut dump = Dump::new(sys::getpid());
    for other in others {
        dump = dump.leave_out(other.as_fd());
    }
    for number in 0..3 {
        // SAFETY: every process here has these, and never closes them.
        dump = dump.leave_out(unsafe { BorrowedFd::borrow_raw(number) });
    }
    let image = dump.make(device)?;
    ensure!(!image.origin.running, "it holds still as long as it looks");
    let mut bytes = Vec::new();
    image.write(&mut bytes)?;
    Ok(Image::read(&bytes[..])?)
}

/// Dumps this process, closes `had`, and restores it.
fn again(device: &Device, had: Vec<OwnedFd>) -> Result<Restored> {
    let image = dump(device)?;
    drop(had);
    let restored = Restore::new(&image).run(Some(device))?;
    ensure!(
        restored.held.is_empty(),
        "something is held that had a descriptor"
    );
    Ok(restored)
}

/// The numbers of descriptors that will be closed.
fn numbers<const N: usize>(fds: [&OwnedFd; N]) -> [RawFd; N] {
    fds.map(AsRawFd::as_raw_fd)
}

/// The descriptors of these numbers.
fn take<const N: usize>(restored: &mut Restored, numbers: [RawFd; N]) -> Result<[OwnedFd; N]> {
    let mut fds = Vec::new();
    for number in numbers {
        let fd = restored.descriptors.remove(&(number as u32));
        fds.push(fd.with_context(|| format!("descriptor {number} was not restored"))?);
    }
    fds.try_into().ok().context("as many as were asked for")
}
