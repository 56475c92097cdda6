// SPDX-License-Identifier: GPL-2.0
//! Many descriptors and targets.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use anyhow::{Result, ensure};
use guest_tests::limits::allow_descriptors;
use libepollcr::restore::Restore;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::sets::shape;
use super::{device, dump};
use crate::scale::large;
use crate::tap::{Case, note};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("epollcr/10000-sockets", |_| sockets(10_000)),
        Case::new("epollcr/50000-sockets", |_| sockets(50_000)),
        Case::new("epollcr/100000-items", |_| items(100_000)),
    ]
}

fn sockets(count: u32) -> Result<()> {
    let mut fds = Vec::new();
    let count = large(count);
    many(count.into(), |set| {
        for n in 0..count / 2 {
            let kind = SocketType::STREAM;
            let (a, b) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
            for (fd, events) in [(&a, EventFlags::IN), (&b, EventFlags::OUT | EventFlags::ET)] {
                epoll::add(set, fd, EventData::new_u64(n.into()), events)?;
            }
            if n % 100 == 0 {
                rustix::io::write(&a, b"some data")?;
            }
            fds.extend([a, b]);
        }
        Ok(std::mem::take(&mut fds))
    })
}

/// Each target was added by a number that was closed.
fn items(count: u32) -> Result<()> {
    let count = large(count);
    many(u64::from(count) + 1, |set| {
        let mut fds = Vec::new();
        for n in 0..count {
            let file = eventfd(0, EventfdFlags::CLOEXEC)?;
            let number = fcntl_dupfd_cloexec(&file, count as i32 + 100)?;
            let data = EventData::new_u64(n.into());
            epoll::add(set, &number, data, EventFlags::IN | EventFlags::ET)?;
            fds.push(file);
        }
        Ok(fds)
    })
}

fn many(count: u64, build: impl FnOnce(&OwnedFd) -> Result<Vec<OwnedFd>>) -> Result<()> {
    let device = device()?;
    allow_descriptors(2 * count + 1000)?;
    let set = epoll::create(CreateFlags::CLOEXEC)?;
    let fds = build(&set)?;
    let number = set.as_raw_fd();
    let before = shape(&device, &[number])?;
    let began = Instant::now();
    let image = dump(&device)?;
    let dumped = began.elapsed().as_secs_f64();
    drop(fds);
    drop(set);
    let began = Instant::now();
    let restored = Restore::new(&image).run(Some(&device))?;
    let took = began.elapsed().as_secs_f64();
    note(format!(
        "{} descriptors, {} targets: dumped in {dumped:.2} s, restored in {took:.2} s",
        restored.descriptors.len(),
        image.items()
    ));
    let after = shape(&device, &[number])?;
    ensure!(before == after, "the targets differ");
    Ok(())
}
