// SPDX-License-Identifier: GPL-2.0
//! Images that somebody has edited: each is refused, or restored, and nothing is
//! left of it, in the process and in the kernel.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Result, ensure};
use epoll_cr::image::Image;
use epoll_cr::restore::Restore;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use super::mutate::mutated;
use super::{device, dump};
use crate::Options;
use crate::tap::{Case, note};

pub fn cases() -> Vec<Case> {
    vec![Case::new("epollcr/hostile", hostile)]
}

fn open_files() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// An image that is mostly about epoll sets.
fn good() -> Result<Vec<u8>> {
    let device = device()?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    let (outer, inner) = (
        epoll::create(CreateFlags::CLOEXEC)?,
        epoll::create(CreateFlags::CLOEXEC)?,
    );
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::write(&writer, b"data")?;
    let (near, far) = socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::write(&far, b"message")?;
    let counter = eventfd(1, EventfdFlags::CLOEXEC)?;
    for (data, file) in [&inner, &reader, &near, &counter].into_iter().enumerate() {
        let events = EventFlags::IN | EventFlags::ET;
        epoll::add(&outer, file, EventData::new_u64(data as u64), events)?;
    }
    for file in [&reader, &counter] {
        let number = fcntl_dupfd_cloexec(file, 900)?;
        let events = EventFlags::IN | EventFlags::ONESHOT;
        epoll::add(&inner, &number, EventData::new_u64(5), events)?;
    }
    // At numbers that nothing else has.
    for fd in [&outer, &inner, &reader, &writer, &near, &far, &counter] {
        let high = fcntl_dupfd_cloexec(fd, 600)?;
        ensure!(high.as_raw_fd() >= 600);
        fds.push(high);
    }
    drop((outer, inner, reader, writer, near, far, counter));
    let image = dump(&device)?;
    let mut bytes = Vec::new();
    image.write(&mut bytes)?;
    Ok(bytes)
}

fn hostile(options: &Options) -> Result<()> {
    let good = good()?;
    let device = device()?;
    let restored = Restore::new(&Image::read(&good[..])?).run(Some(&device))?;
    ensure!(restored.descriptors.len() == 7);
    drop(restored);

    let before = open_files()?;
    let (mut read, mut restored) = (0u64, 0u64);
    for n in 0..options.mutations {
        let bytes = mutated(&good, options.seed().wrapping_add(n));
        let Ok(image) = Image::read(&bytes[..]) else {
            continue;
        };
        read += 1;
        restored += u64::from(Restore::new(&image).run(Some(&device)).is_ok());
        let open = open_files()?;
        ensure!(
            open == before,
            "edit {n} leaves {open} files open, not {before}"
        );
    }
    note(format!(
        "{} edits: {read} could be read, {restored} restored",
        options.mutations
    ));
    ensure!(restored > 0, "no edit was harmless");
    Ok(())
}
