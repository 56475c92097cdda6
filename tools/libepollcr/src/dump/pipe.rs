// SPDX-License-Identifier: GPL-2.0

//! The state of a pipe, whose contents stay in it.

use crate::image::Bytes;
use crate::types::PipeEnds;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, tee,
};
use std::io;
use std::os::fd::BorrowedFd;

/// Returns the capacity in bytes.
pub fn capacity(pipe: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(fcntl_getpipe_size(pipe)?.try_into().unwrap_or(u32::MAX))
}

/// Returns the ends that are open besides `end`, as far as they are others.
pub fn other_end(pipe: BorrowedFd<'_>, end: PipeEnds) -> io::Result<PipeEnds> {
    let mut fds = [PollFd::new(&pipe, PollFlags::empty())];
    let now = Timespec::default();
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)))?;
    let closed = fds[0].revents();
    Ok(match end {
        PipeEnds::READ if !closed.contains(PollFlags::HUP) => PipeEnds::WRITE,
        PipeEnds::WRITE if !closed.contains(PollFlags::ERR) => PipeEnds::READ,
        _ => PipeEnds::empty(),
    })
}

/// Returns the contents: as one piece, or as packets if packets were written.
pub fn data(pipe: BorrowedFd<'_>, capacity: u32) -> io::Result<Vec<Bytes>> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let capacity = capacity as usize;
    fcntl_setpipe_size(&writer, capacity)?;
    match tee(pipe, &writer, capacity, SpliceFlags::NONBLOCK) {
        // It is empty, and the other end is open, or closed.
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
        assert_eq!(
            other_end(reader.as_fd(), PipeEnds::READ).unwrap(),
            PipeEnds::WRITE
        );

        write(&writer, b"one").unwrap();
        write(&writer, b"two").unwrap();
        drop(writer);
        for _ in 0..2 {
            let found = data(reader.as_fd(), capacity).unwrap();
            assert_eq!(found, [Bytes(b"onetwo".to_vec())]);
        }
        let mut buffer = [0; 16];
        assert_eq!(read(&reader, &mut buffer).unwrap(), 6);
        assert_eq!(
            other_end(reader.as_fd(), PipeEnds::READ).unwrap(),
            PipeEnds::empty()
        );
    }

    #[test]
    fn packets_stay_apart() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT).unwrap();
        write(&writer, b"one").unwrap();
        write(&writer, b"two").unwrap();
        let found = data(reader.as_fd(), 65536).unwrap();
        assert_eq!(found, [Bytes(b"one".to_vec()), Bytes(b"two".to_vec())]);
        assert_eq!(
            other_end(writer.as_fd(), PipeEnds::WRITE).unwrap(),
            PipeEnds::READ
        );
    }
}
