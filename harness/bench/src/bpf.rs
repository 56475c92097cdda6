// SPDX-License-Identifier: GPL-2.0

//! The BPF iterator for epoll sets, with a program that writes what each target
//! is, in binary.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{AsRawLibbpf, Object, ObjectBuilder};
use libbpf_sys::{BPF_TRACE_ITER, bpf_iter_link_info, bpf_link_create_opts};

/// As compiled by build.rs; libelf wants it aligned.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static PROGRAM: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/pass.bpf.o")));

/// What the kernel fills at a time, and more.
pub const BUFFER: usize = 1 << 16;

/// A target, as the program writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub tfd: u32,
    pub events: u32,
    pub data: u64,
}

impl Target {
    pub const SIZE: usize = 16;

    /// Of as many bytes.
    fn new(record: &[u8]) -> Self {
        let word = |at: usize| record[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
        let data = record[8..16].try_into().map_or(0, u64::from_ne_bytes);
        Self {
            tfd: word(0),
            events: word(4),
            data,
        }
    }
}

/// The program for one set. As long as this is there, the module is.
#[derive(Debug)]
pub struct EpollIter {
    // Not used any more, but to close the program's descriptor.
    _object: Object,
    link: OwnedFd,
}

impl EpollIter {
    /// The module has to be loaded.
    pub fn new(set: &OwnedFd) -> Result<Self> {
        let object = ObjectBuilder::default()
            .open_memory(&PROGRAM.0)
            .and_then(libbpf_rs::OpenObject::load)
            .context("cannot load the BPF program")?;
        let link = {
            let program = object.progs().next().context("there is no BPF program")?;
            let mut info = bpf_iter_link_info::default();
            // Where `epoll.epoll_fd` is, which libbpf does not know yet.
            info.map.map_fd = set.as_raw_fd() as u32;
            let opts = bpf_link_create_opts {
                sz: size_of::<bpf_link_create_opts>() as u64,
                iter_info: &raw mut info,
                iter_info_len: size_of::<bpf_iter_link_info>() as u32,
                ..Default::default()
            };
            // SAFETY: The program's pointer is good as long as the object is. It has
            // a descriptor, since the object is loaded.
            let fd = unsafe { libbpf_sys::bpf_program__fd(program.as_libbpf_object().as_ptr()) };
            // SAFETY: `opts` says its size, and of `info` where and how long it is.
            // Both live until this returns, and the kernel only reads them.
            let link =
                unsafe { libbpf_sys::bpf_link_create(fd, 0, BPF_TRACE_ITER, &raw const opts) };
            owned(link).context("cannot attach the BPF program to the set")?
        };
        Ok(Self {
            _object: object,
            link,
        })
    }

    /// One pass over the set.
    fn open(&self) -> Result<File> {
        // SAFETY: It takes an integer.
        let iter = owned(unsafe { libbpf_sys::bpf_iter_create(self.link.as_raw_fd()) });
        Ok(iter.context("cannot begin to iterate")?.into())
    }

    /// How many targets a pass has seen.
    pub fn count(&self, buffer: &mut [u8]) -> Result<usize> {
        let bytes = read_to_end(&mut self.open()?, buffer)?;
        ensure!(bytes % Target::SIZE == 0, "half a target");
        Ok(bytes / Target::SIZE)
    }

    /// Those targets.
    pub fn targets(&self) -> Result<Vec<Target>> {
        let mut bytes = Vec::new();
        self.open()?.read_to_end(&mut bytes)?;
        let records = bytes.chunks_exact(Target::SIZE);
        ensure!(records.remainder().is_empty(), "half a target");
        Ok(records.map(Target::new).collect())
    }
}

/// How many bytes there were.
pub fn read_to_end(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut bytes = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What libbpf returns: a descriptor, or what errno says.
fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: libbpf has just got it from the kernel, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
