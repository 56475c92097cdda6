// SPDX-License-Identifier: GPL-2.0

//! The BPF iterator for epoll instances, with a program that writes what each target
//! is, in binary.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{Iter, Link, Object, ObjectBuilder};

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

/// The program for one instance. As long as this is there, the module is.
#[derive(Debug)]
pub struct EpollIter {
    // Not used any more, but to close the program's descriptor.
    _object: Object,
    link: Link,
}

impl EpollIter {
    /// The module has to be loaded.
    pub fn new(instance: &OwnedFd) -> Result<Self> {
        let object = ObjectBuilder::default()
            .open_memory(&PROGRAM.0)
            .and_then(libbpf_rs::OpenObject::load)
            .context("cannot load the BPF program")?;
        let program = object.progs_mut().next();
        let program = program.context("there is no BPF program")?;
        // It says 'map', but `epoll.epoll_fd` is at the same place.
        let link = program.attach_iter(instance.as_fd());
        let link = link.context("cannot attach the BPF program to the instance")?;
        Ok(Self {
            _object: object,
            link,
        })
    }

    /// One pass over the instance.
    fn open(&self) -> Result<Iter> {
        Iter::new(&self.link).context("cannot begin to iterate")
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
pub fn read_to_end(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
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
