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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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

/// The contents of a pipe.
#[derive(Debug, PartialEq, Eq)]
pub enum Contents {
    /// None, or one piece.
    Plain(Vec<Bytes>),
    /// A single byte, which may be a packet.
    Byte(Vec<Bytes>),
    /// Packets, each for one read(2) (`O_DIRECT`).
    Packets(Vec<Bytes>),
    /// Some of both, which cannot be told apart.
    Both,
}

/// Returns the contents.
pub fn contents(pipe: BorrowedFd<'_>, capacity: u32) -> io::Result<Contents> {
    let Some(first) = copy(pipe, capacity)? else {
        return Ok(Contents::Plain(Vec::new()));
    };
    // Not of the pipe: the process may run.
    let second = copy(first.as_fd(), capacity)?;
    let data: Vec<Bytes> = Reads::new(first, capacity as usize).collect::<io::Result<_>>()?;
    let total: usize = data.iter().map(|piece| piece.0.len()).sum();
    let Some(second) = second.filter(|_| total > 1) else {
        return Ok(Contents::Byte(data));
    };
    // Of a packet, all that is not read at once is lost. One is within a page; and a large
    // read ends with the first, so that in one piece only the last can be one.
    let passed = match data.len() {
        1 => total.saturating_sub(rustix::param::page_size()),
        _ => 0,
    };
    let mut rest = passed;
    while rest > 0 {
        let piece = Reads::new(second.try_clone()?, rest).next().transpose()?;
        rest -= piece.map_or(rest, |piece| piece.0.len());
    }
    let reads = Reads::new(second, 1).take(total).count();
    Ok(match data.len() {
        1 if reads == total - passed => Contents::Plain(data),
        pieces if reads == pieces && passed == 0 => Contents::Packets(data),
        _ => Contents::Both,
    })
}

/// A pipe with the same contents, whose other end is closed; `None` if there are none.
fn copy(pipe: BorrowedFd<'_>, capacity: u32) -> io::Result<Option<OwnedFd>> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let capacity = capacity as usize;
    fcntl_setpipe_size(&writer, capacity)?;
    match tee(pipe, &writer, capacity, SpliceFlags::NONBLOCK) {
        // It is empty, and the other end is open, or closed.
        Err(Errno::AGAIN) | Ok(0) => Ok(None),
        copied => copied.map(|_| Some(reader)).map_err(io::Error::from),
    }
}

/// What each read(2) of so many bytes returns.
struct Reads {
    pipe: OwnedFd,
    buffer: Vec<u8>,
}

impl Reads {
    fn new(pipe: OwnedFd, size: usize) -> Self {
        let buffer = vec![0; size];
        Self { pipe, buffer }
    }
}

impl Iterator for Reads {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        match rustix::io::read(&self.pipe, &mut self.buffer[..]) {
            Ok(0) => None,
            Ok(len) => Some(Ok(Bytes(self.buffer[..len].to_vec()))),
            Err(error) => Some(Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{read, write};

    #[test]
    fn it_stays_in_the_pipe() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let capacity = capacity(reader.as_fd()).unwrap();
        let empty = contents(reader.as_fd(), capacity).unwrap();
        assert_eq!(empty, Contents::Plain(Vec::new()));
        assert_eq!(
            other_end(reader.as_fd(), PipeEnds::READ).unwrap(),
            PipeEnds::WRITE
        );

        write(&writer, b"one").unwrap();
        write(&writer, b"two").unwrap();
        drop(writer);
        for _ in 0..2 {
            let found = contents(reader.as_fd(), capacity).unwrap();
            assert_eq!(found, Contents::Plain(vec![Bytes(b"onetwo".to_vec())]));
        }
        let mut buffer = [0; 16];
        assert_eq!(read(&reader, &mut buffer).unwrap(), 6);
        assert_eq!(
            other_end(reader.as_fd(), PipeEnds::READ).unwrap(),
            PipeEnds::empty()
        );
    }

    /// What is in the pipe counts, not what its ends write now.
    #[test]
    fn packets_and_others() {
        use rustix::fs::{OFlags, fcntl_setfl};

        let (plain, direct) = (OFlags::empty(), OFlags::DIRECT);
        let of = |writes: &[(OFlags, &[u8])], then| {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            for &(flags, bytes) in writes {
                fcntl_setfl(&writer, flags).unwrap();
                write(&writer, bytes).unwrap();
            }
            fcntl_setfl(&writer, then).unwrap();
            contents(reader.as_fd(), 65536).unwrap()
        };
        let ab = || vec![Bytes(b"ab".to_vec())];
        assert_eq!(of(&[(direct, b"ab")], plain), Contents::Packets(ab()));
        assert_eq!(of(&[(plain, b"ab")], direct), Contents::Plain(ab()));
        let byte = Contents::Byte(vec![Bytes(b"a".to_vec())]);
        assert_eq!(of(&[(direct, b"a")], direct), byte);
        // What fits behind other data is no packet.
        let plain_first = of(&[(plain, b"a"), (direct, b"b")], direct);
        assert_eq!(plain_first, Contents::Plain(ab()));
        for other in [&b"cd"[..], &[7; 9000]] {
            let both = of(&[(direct, b"ab"), (plain, other)], plain);
            assert_eq!(both, Contents::Both);
        }
        // What fills a page is not continued by a packet.
        let page = vec![7; rustix::param::page_size()];
        let both = of(&[(plain, &page), (direct, b"ab")], plain);
        assert_eq!(both, Contents::Both);
        let both = of(&[(plain, &page), (direct, &page)], plain);
        assert_eq!(both, Contents::Both);
        let long = vec![7; 9 * page.len() + 1];
        let plain_only = of(&[(plain, &long)], direct);
        assert_eq!(plain_only, Contents::Plain(vec![Bytes(long)]));
        let packets = of(&[(direct, &page), (direct, &page)], plain);
        assert_eq!(
            packets,
            Contents::Packets(vec![Bytes(page.clone()), Bytes(page)])
        );
    }

    #[test]
    fn packets_stay_apart() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT).unwrap();
        write(&writer, b"one").unwrap();
        write(&writer, b"two").unwrap();
        let found = contents(reader.as_fd(), 65536).unwrap();
        let pieces = vec![Bytes(b"one".to_vec()), Bytes(b"two".to_vec())];
        assert_eq!(found, Contents::Packets(pieces));
        assert_eq!(
            other_end(writer.as_fd(), PipeEnds::WRITE).unwrap(),
            PipeEnds::READ
        );
    }
}
