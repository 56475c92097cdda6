// SPDX-License-Identifier: GPL-2.0

//! Files of memory, see memfd_create(2).

use crate::image::{Bytes, Extent, Memory};
use crate::types::{DeviceNumber, Opener};
use rustix::fs::{
    MemfdFlags, Mode, OFlags, SeekFrom, fcntl_get_seals, fstat, memfd_create, open, seek,
};
use rustix::io::{Errno, pread};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// What the path of such a file begins with.
pub const PREFIX: &[u8] = b"/memfd:";

/// How many bytes of one an image can have.
pub const MOST: u64 = 1 << 30;

/// How many bytes are read at a time.
const PIECE: usize = 1 << 20;

/// The device of such files.
pub fn device() -> Option<DeviceNumber> {
    let own = memfd_create("", MemfdFlags::CLOEXEC).ok()?;
    Some(DeviceNumber::of(fstat(own).ok()?.st_dev))
}

/// Reads one. Its position stays where it is.
pub fn read(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<Memory> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let own = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&own)?;
    let length = stat.st_size.try_into().unwrap_or(0);
    let mut memory = Memory {
        name: name.to_vec(),
        length,
        data: Vec::new(),
        seals: fcntl_get_seals(&own)?.bits(),
        mode: stat.st_mode & 0o7777,
        owner: Some(Opener {
            uid: stat.st_uid,
            gid: stat.st_gid,
        }),
    };
    let mut at = 0;
    while at < length {
        at = match seek(&own, SeekFrom::Data(at)) {
            // There is nothing but a hole.
            Err(Errno::NXIO) => break,
            at => at?,
        };
        let end = seek(&own, SeekFrom::Hole(at))?.min(length);
        let data = piece(&own, at, end)?;
        if data.is_empty() {
            break;
        }
        let offset = at;
        at += data.len() as u64;
        let data = Bytes(data);
        memory.data.push(Extent { offset, data });
    }
    Ok(memory)
}

/// Reads what is between two positions, or the first part of it.
fn piece(fd: &OwnedFd, begin: u64, end: u64) -> io::Result<Vec<u8>> {
    let size = usize::try_from(end - begin).map_or(PIECE, |size| size.min(PIECE));
    let mut data = vec![0; size];
    let len = pread(fd, &mut data[..], begin)?;
    data.truncate(len);
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};
    use rustix::io::pwrite;
    use std::os::fd::AsFd;

    #[test]
    fn holes_are_left_out() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create("some", flags).unwrap();
        ftruncate(&memory, 10 << 20).unwrap();
        let block = vec![7; 3 << 19];
        pwrite(&memory, b"begin", 0).unwrap();
        pwrite(&memory, &block, 4 << 20).unwrap();
        fcntl_add_seals(&memory, SealFlags::GROW | SealFlags::WRITE).unwrap();
        let read = read(memory.as_fd(), b"some").unwrap();
        assert_eq!(read.length, 10 << 20);
        assert_eq!(read.seals, (SealFlags::GROW | SealFlags::WRITE).bits());
        assert_eq!(read.mode & 0o777, 0o777);
        assert!(read.data[0].data.0.starts_with(b"begin\0"));
        let block: usize = read.data[1..]
            .iter()
            .map(|extent| extent.data.0.len())
            .sum();
        assert_eq!(block, 3 << 19);
        assert_eq!(read.data[1].offset, 4 << 20);
        assert_eq!(seek(&memory, SeekFrom::Current(0)), Ok(0));
    }
}
