// SPDX-License-Identifier: GPL-2.0

//! Edges that were reported before the dump, and must not be reported again, unlike those
//! that come while the image is restored.
//!
//! What a target must not report is taken off the ready list. That would take a new edge as
//! well: one that a file gets from outside of the image, such as a connection to a listening
//! socket, or by being restored, such as a pipe that was full of small pieces and has room
//! once they are put together. So only files that get nothing from outside are quiet, and in
//! the end each is compared with what the image says.

use super::plan;
use crate::image::{Image, Item, Kind};
use crate::types::PipeEnds;
use crate::{fdinfo, sys};
use rustix::event::PollFlags;
use rustix::io::ioctl_fionread;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Which files have no event but those that they had at the dump, or show if they have.
pub fn quiet(image: &Image, given: &[bool]) -> Vec<bool> {
    let pipes = plan::pipes(image);
    let files = image.files.iter().zip(given);
    let mut quiet: Vec<_> = files
        .map(|(file, &given)| {
            !given
                && match &file.kind {
                    // A device without a state. Others tell of changes in the system.
                    Kind::Path { place, .. } => place.mode & libc::S_IFMT == libc::S_IFCHR,
                    // What others read from a FIFO, or write to it, shows in its contents.
                    Kind::Pipe { pipe } => {
                        let pipe = *pipe as usize;
                        let ends = plan::ends(image, &pipes[pipe]);
                        image.pipes[pipe].place.is_none() || ends.contains(PipeEnds::READ)
                    }
                    Kind::TimerFd(timer) => timer.ticks > 0,
                    Kind::EventFd { .. } | Kind::Socket(_) => true,
                    _ => false,
                }
        })
        .collect();
    // Without an order, it is refused.
    for index in image.innermost_first().unwrap_or_default() {
        if let Kind::Epoll { items } = &image.files[index].kind {
            let mut targets = items.iter().map(|item| item.file as usize);
            quiet[index] = !given[index] && targets.all(|target| quiet[target]);
        }
    }
    quiet
}

/// Whether a target waits for an edge.
pub fn is_armed(item: &Item) -> bool {
    !item.has_fired() && item.events & libc::EPOLLET as u32 != 0
}

/// Whether a file has an event now that it had not at the dump.
pub fn has_changed(image: &Image, item: &Item, fd: BorrowedFd<'_>) -> io::Result<bool> {
    let file = &image.files[item.file as usize];
    let mut known = PollFlags::empty();
    match &file.kind {
        Kind::TimerFd(timer) => return Ok(ticks(fd)? != timer.ticks),
        Kind::Pipe { pipe } => {
            let size = image.pipes[*pipe as usize].size();
            if ioctl_fionread(fd)? != size as u64 {
                return Ok(true);
            }
            // An empty one had room, too.
            if size > 0 {
                known = PollFlags::OUT;
            }
        }
        // A unix socket tells of room whenever some of it is received.
        _ => return Ok(false),
    }
    let now = u32::from(sys::events(fd)?.bits());
    let before = file.events.unwrap_or(now & !u32::from(known.bits()));
    let wanted = item.events | (libc::EPOLLERR | libc::EPOLLHUP) as u32;
    Ok(now & !before & wanted != 0)
}

/// How many times a timer has expired.
fn ticks(timer: BorrowedFd<'_>) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", timer.as_raw_fd()))?;
    fdinfo::ticks(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
