// SPDX-License-Identifier: GPL-2.0

//! What is in a pipe, without taking it out.

use crate::image::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, tee,
};
use std::io;
use std::os::fd::BorrowedFd;

/// The ends of a pipe.
pub const READ: u32 = 1;
pub const WRITE: u32 = 2;

/// Those that a file of this access mode is.
pub fn ends(mode: i32) -> u32 {
    match mode {
        libc::O_RDONLY => READ,
        libc::O_WRONLY => WRITE,
        _ => READ | WRITE,
    }
}

pub fn capacity(pipe: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(fcntl_getpipe_size(pipe)?.try_into().unwrap_or(u32::MAX))
}

/// The end that this one is not, if anybody has it open.
pub fn other_end(pipe: BorrowedFd<'_>, mode: i32) -> io::Result<u32> {
    let mut fds = [PollFd::new(&pipe, PollFlags::empty())];
    let now = Timespec::default();
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)))?;
    let closed = fds[0].revents();
    Ok(match mode {
        libc::O_RDONLY if !closed.contains(PollFlags::HUP) => WRITE,
        libc::O_WRONLY if !closed.contains(PollFlags::ERR) => READ,
        _ => 0,
    })
}

/// What can be read from the pipe: as one piece, or as packets if that is what
/// was written.
pub fn data(pipe: BorrowedFd<'_>, capacity: u32) -> io::Result<Vec<Bytes>> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let capacity = capacity as usize;
    fcntl_setpipe_size(&writer, capacity)?;
    match tee(pipe, &writer, capacity, SpliceFlags::NONBLOCK) {
        // Empty, with and without somebody who could write.
        Err(Errno::AGAIN) | Ok(0) => return Ok(Vec::new()),
        result => result?,
    };
    drop(writer);
    let mut data = Vec::new();
    let mut buffer = vec![0; capacity];
    loop {
        match rustix::io::read(&reader, &mut buffer)? {
            0 => return Ok(data),
            len => data.push(Bytes(buffer[..len].to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{read, write};
    use std::os::fd::AsFd;

    #[test]
    fn it_stays_in_the_pipe() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let capacity = capacity(reader.as_fd()).unwrap();
        assert_eq!(data(reader.as_fd(), capacity).unwrap(), []);
        assert_eq!(other_end(reader.as_fd(), libc::O_RDONLY).unwrap(), WRITE);

        write(&writer, b"one").unwrap();
        write(&writer, b"two").unwrap();
        drop(writer);
        for _ in 0..2 {
            let found = data(reader.as_fd(), capacity).unwrap();
            assert_eq!(found, [Bytes(b"onetwo".to_vec())]);
        }
        let mut buffer = [0; 16];
        assert_eq!(read(&reader, &mut buffer).unwrap(), 6);
        assert_eq!(other_end(reader.as_fd(), libc::O_RDONLY).unwrap(), 0);
    }

    #[test]
    fn packets_stay_apart() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT).unwrap();
        write(&writer, b"one").unwrap();
        write(&writer, b"two").unwrap();
        let found = data(reader.as_fd(), 65536).unwrap();
        assert_eq!(found, [Bytes(b"one".to_vec()), Bytes(b"two".to_vec())]);
        assert_eq!(other_end(writer.as_fd(), libc::O_WRONLY).unwrap(), READ);
    }
}
