// SPDX-License-Identifier: GPL-2.0
//! The library `libepollcr` and the tool `epollcr`, with the module that they need.
//!
//! They restore every program of the group `criu` unchanged, including those that CRIU
//! refuses or changes. A case that does not test the tool dumps and restores its own
//! process. Cases of the group `epollcr-stock` are the same, without the module.

mod contents;
mod hostile;
mod limits;
mod rights;
mod sets;
mod tool;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use libepollcr::device::Device;
use libepollcr::dump::Dump;
use libepollcr::image::Image;
use libepollcr::restore::{Restore, Restored};

use crate::module::EPOLL_CR;
use crate::sys;
use crate::tap::Case;

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

/// Whether this process, which runs one case, does without the module.
static STOCK: AtomicBool = AtomicBool::new(false);

fn is_stock() -> bool {
    STOCK.load(Ordering::Relaxed)
}

/// A case with the module, and without it.
fn both(name: &str, run: impl Fn() -> Result<()> + Copy + 'static) -> [Case; 2] {
    let stock = move || {
        STOCK.store(true, Ordering::Relaxed);
        run()
    };
    [
        Case::new(format!("epollcr/{name}"), move |_| run()),
        Case::new(format!("epollcr-stock/{name}"), move |_| stock()),
    ]
}

/// The device, unless the case does without; skips if there is no module.
fn module() -> Result<Option<Device>> {
    match is_stock() {
        true => Ok(None),
        false => device().map(Some),
    }
}

/// Opens the device; skips if there is no module.
fn device() -> Result<Device> {
    if let Ok(device) = Device::open() {
        return Ok(device);
    }
    EPOLL_CR.need()?;
    Device::open().context("cannot open the device")
}

/// Dumps this process without its standard streams; the image was written and read.
fn dump<'d>(device: impl Into<Option<&'d Device>>) -> Result<Image> {
    dump_without(device, &[])
}

/// The same, and without these descriptors.
fn dump_without<'d>(device: impl Into<Option<&'d Device>>, others: &[&OwnedFd]) -> Result<Image> {
    let mut dump = Dump::new(sys::getpid());
    for other in others {
        dump = dump.leave_out(other.as_fd());
    }
    for number in 0..3 {
        // SAFETY: every process here has these, and never closes them.
        dump = dump.leave_out(unsafe { BorrowedFd::borrow_raw(number) });
    }
    let image = dump.make(device)?;
    ensure!(
        !image.origin.running,
        "the image says that this process was running"
    );
    let mut bytes = Vec::new();
    image.write(&mut bytes)?;
    Ok(Image::read(&bytes[..])?)
}

/// Dumps this process, closes `had`, and restores it.
fn again<'d>(device: impl Into<Option<&'d Device>>, had: Vec<OwnedFd>) -> Result<Restored> {
    let device = device.into();
    let image = dump(device)?;
    drop(had);
    let restored = Restore::new(&image).run(device)?;
    ensure!(
        restored.held.is_empty(),
        "a file that had a descriptor is held"
    );
    Ok(restored)
}

/// The numbers of descriptors, for use after they are closed.
fn numbers<const N: usize>(fds: [&OwnedFd; N]) -> [RawFd; N] {
    fds.map(AsRawFd::as_raw_fd)
}

/// Takes the descriptors with these numbers.
fn take<const N: usize>(restored: &mut Restored, numbers: [RawFd; N]) -> Result<[OwnedFd; N]> {
    let mut fds = Vec::new();
    for number in numbers {
        let fd = restored.descriptors.remove(&(number as u32));
        fds.push(fd.with_context(|| format!("descriptor {number} was not restored"))?);
    }
    fds.try_into().ok().context("as many as were asked for")
}
