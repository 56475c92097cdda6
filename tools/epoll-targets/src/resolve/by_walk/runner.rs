// SPDX-License-Identifier: GPL-2.0

//! Runs the BPF programs that write records to a map: see `bpf/walk.h`.

use crate::libbpf::{self, FIRST, Loaded, MapRef};
use libbpf_sys::bpf_iter_link_info;
use std::io::{self, Read as _};
use std::os::fd::RawFd;
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

/// The words of `struct control` that only the programs use.
const STATE: usize = 150;

/// How many words a chunk of the output has: `CHUNK_WORDS`.
const CHUNK: usize = 1 << 11;

/// `struct control` without what only the programs use.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(super) struct Control {
    pub(super) fops: u64,
    pub(super) own_efd: RawFd,
    pub(super) by_fd: u32,
    pass: u32,
    pub(super) kinds: u32,
    pub(super) left: u32,
    pub(super) only: u32,
    pub(super) instant: u64,
    filled: u32,
    pub(super) exiting: u32,
    pub(super) learned: u64,
    pub(super) cut: u64,
    _state: [u64; STATE],
}

/// `enum tag`
pub(super) enum Tag {
    Task,
    Fd,
    Instance,
    Target,
    End,
    Thread,
    Holder,
    Held,
}

/// Splits output into records: tag, the rest of the first word, the other words.
pub(super) fn records(mut words: &[u64]) -> impl Iterator<Item = (Tag, u64, &[u64])> {
    std::iter::from_fn(move || {
        let (&head, rest) = words.split_first()?;
        let (tag, more) = match head >> 56 {
            1 => (Tag::Task, 2),
            2 => (Tag::Fd, 1),
            3 => (Tag::Instance, 1),
            4 => (Tag::Target, 4),
            5 => (Tag::End, 0),
            6 => (Tag::Thread, 3),
            7 => (Tag::Holder, 2),
            8 => (Tag::Held, 1),
            _ => return None,
        };
        let (record, rest) = rest.split_at_checked(more)?;
        words = rest;
        Some((tag, head & (u64::MAX >> 8), record))
    })
}

/// Programs, loaded.
pub(super) struct Runner {
    loaded: Loaded,
    /// What they are told, and what they told last.
    pub(super) control: Control,
    chunk: Box<[u64; CHUNK]>,
}

impl Runner {
    pub(super) fn load(object: &'static [u8]) -> io::Result<Self> {
        Ok(Self {
            loaded: Loaded::load(object)?,
            control: Control::new_zeroed(),
            chunk: [0; CHUNK].into(),
        })
    }

    pub(super) fn map(&self, name: &str) -> io::Result<MapRef<'_>> {
        self.loaded.map(name)
    }

    /// Takes the output that there is.
    fn take(&mut self, tell: &mut impl FnMut(&[u64])) -> io::Result<()> {
        let control = self.loaded.map("control")?;
        control.read(&FIRST, &mut self.control)?;
        if self.control.filled == 0 {
            return Ok(());
        }
        let output = self.loaded.map("output")?;
        let filled = self.control.filled as usize;
        for number in 0..filled.div_ceil(CHUNK) {
            output.read(&(number as u32).to_ne_bytes(), &mut *self.chunk)?;
            tell(&self.chunk[..CHUNK.min(filled - number * CHUNK)]);
        }
        self.control.filled = 0;
        control.write(&FIRST, &self.control)
    }

    /// Runs a program until the iterator ends, or all instances were walked.
    pub(super) fn run(
        &mut self,
        program: &str,
        info: bpf_iter_link_info,
        mut tell: impl FnMut(&[u64]),
    ) -> io::Result<()> {
        self.control.pass += 1;
        self.control = Control {
            filled: 0,
            exiting: 0,
            learned: 0,
            cut: 0,
            _state: [0; STATE],
            ..self.control
        };
        self.map("control")?.write(&FIRST, &self.control)?;
        let mut iter = libbpf::iterate(self.loaded.program(program)?, info)?;
        let walks = self.control.left > 0;
        loop {
            let read = iter.read(&mut [0; 16]);
            self.take(&mut tell)?;
            match read {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // It has more to say.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if walks && self.control.left == 0 {
                return Ok(());
            }
        }
    }
}
