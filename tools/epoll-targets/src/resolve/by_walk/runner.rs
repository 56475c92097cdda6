// SPDX-License-Identifier: GPL-2.0

//! Runs the BPF programs that write records to a map: see `bpf/walk.h`.

use crate::libbpf::{self, FIRST, failed};
use libbpf_rs::{MapCore as _, MapFlags, Object};
use libbpf_sys::bpf_iter_link_info;
use std::io::{self, Read as _};
use std::os::fd::RawFd;
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

/// The words of `struct control` that only the programs use.
const STATE: usize = 114;

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
    object: Object,
    /// What they are told, and what they told last.
    pub(super) control: Control,
}

impl Runner {
    pub(super) fn load(object: &'static [u8]) -> io::Result<Self> {
        let object = libbpf::load(object, |_| Ok(()));
        let runner = Self {
            object: object.map_err(failed("cannot load the BPF programs"))?,
            control: Control::new_zeroed(),
        };
        if runner.map("control")?.value_size() as usize != size_of::<Control>() {
            return Err(io::Error::other("the BPF programs are of another version"));
        }
        Ok(runner)
    }

    pub(super) fn map(&self, name: &str) -> io::Result<libbpf_rs::Map<'_>> {
        libbpf::map(&self.object, name)
    }

    /// Takes the output that there is.
    fn take(&mut self, tell: &mut impl FnMut(&[u64])) -> io::Result<()> {
        let control = libbpf::read(&self.map("control")?, &FIRST)?;
        let mut control: Control = control.ok_or(io::ErrorKind::InvalidData)?;
        if control.filled > 0 {
            let map = self.map("output")?;
            let filled = control.filled as usize;
            for chunk in 0..filled.div_ceil(CHUNK) {
                let key = (chunk as u32).to_ne_bytes();
                let output = map.lookup(&key, MapFlags::ANY);
                let output = output.map_err(failed("cannot read a BPF map"))?;
                let output = output.unwrap_or_default();
                let words = output.chunks_exact(8).take(filled - chunk * CHUNK);
                let words: Vec<u64> = words.flat_map(u64::read_from_bytes).collect();
                tell(&words);
            }
            control.filled = 0;
            libbpf::write(&self.map("control")?, &FIRST, control.as_bytes())?;
        }
        self.control = control;
        Ok(())
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
        libbpf::write(&self.map("control")?, &FIRST, self.control.as_bytes())?;
        let mut iter = libbpf::iterate(&self.object, program, info)?;
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
