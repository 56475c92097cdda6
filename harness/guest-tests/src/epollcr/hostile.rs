// SPDX-License-Identifier: GPL-2.0
//! Images that were edited: each is refused or restored, and leaves nothing behind: no
//! descriptor, and no target that counts for max_user_watches.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image_mutator::mutated;
use libepollcr::device::Device;
use libepollcr::image::Image;
use libepollcr::restore::Restore;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::{device, dump};
use crate::Options;
use crate::tap::{Case, note};

pub fn cases() -> Vec<Case> {
    vec![Case::new("epollcr/hostile", hostile)]
}

fn open_files() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

const WATCHES: &str = "/proc/sys/fs/epoll/max_user_watches";

/// Whether the image can be restored if a user can have that many targets.
fn fits(image: &Image, device: &Device, watches: u32) -> Result<bool> {
    fs::write(WATCHES, watches.to_string())?;
    Ok(Restore::new(image).run(Some(device)).is_ok())
}

/// The lowest limit with which the image can be restored. It includes the targets that
/// root's processes have already.
fn needed(image: &Image, device: &Device) -> Result<u32> {
    for watches in 1..100_000 {
        if fits(image, device, watches)? {
            return Ok(watches);
        }
    }
    anyhow::bail!("no limit is high enough")
}

/// An image with epoll instances and files of other kinds.
fn good(fifo: &Path) -> Result<Vec<u8>> {
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
    let path: OwnedFd = File::open("/etc/passwd")?.into();
    mkfifoat(CWD, fifo, Mode::RWXU)?;
    let mut open = File::options();
    let through: OwnedFd = open
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(fifo)?
        .into();
    rustix::io::write(&through, b"through it")?;
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let soon = Itimerspec {
        it_interval: Timespec {
            tv_sec: 5000,
            tv_nsec: 0,
        },
        it_value: Timespec {
            tv_sec: 0,
            tv_nsec: 1,
        },
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &soon)?;
    for (data, file) in [&inner, &reader, &near, &counter].into_iter().enumerate() {
        let events = EventFlags::IN | EventFlags::ET;
        epoll::add(&outer, file, EventData::new_u64(data as u64), events)?;
    }
    for file in [&reader, &counter] {
        let number = fcntl_dupfd_cloexec(file, 900)?;
        let events = EventFlags::IN | EventFlags::ONESHOT;
        epoll::add(&inner, &number, EventData::new_u64(5), events)?;
    }
    // At descriptors that are not used otherwise.
    for fd in [
        &outer, &inner, &reader, &writer, &near, &far, &counter, &path, &through, &timer,
    ] {
        let high = fcntl_dupfd_cloexec(fd, 600)?;
        ensure!(high.as_raw_fd() >= 600);
        fds.push(high);
    }
    drop((outer, inner, reader, writer, near, far, counter));
    drop((path, through, timer));
    let image = dump(&device)?;
    let mut bytes = Vec::new();
    image.write(&mut bytes)?;
    Ok(bytes)
}

fn hostile(options: &Options) -> Result<()> {
    let fifo = std::env::temp_dir().join(format!("epollcr-hostile-{}", std::process::id()));
    let good = good(&fifo)?;
    let device = device()?;
    let image = Image::read(&good[..])?;
    let restored = Restore::new(&image).run(Some(&device))?;
    ensure!(restored.descriptors.len() == 10);
    drop(restored);
    let allowed = fs::read_to_string(WATCHES)?;
    let least = needed(&image, &device)?;
    fs::write(WATCHES, allowed.trim())?;

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
    let as_before = fits(&image, &device, least)?;
    let too_few = least > 1 && fits(&image, &device, least - 1)?;
    fs::write(WATCHES, allowed.trim())?;
    fs::remove_file(&fifo).context("the FIFO was removed")?;
    ensure!(
        as_before,
        "targets are left: a limit of {least} was enough before"
    );
    ensure!(!too_few, "the limit has no effect");
    Ok(())
}
