// SPDX-License-Identifier: GPL-2.0
//! What the kernel records of the code that a task runs in it: `/sys/kernel/debug/kcov`.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use rustix::ioctl::{self, IntegerSetter, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap};

const FILE: &str = "/sys/kernel/debug/kcov";
/// Values of 64 bits that there is room for: one counts the others.
const WORDS: usize = 64 * 1024;
const TRACE_PC: usize = 0;

const INIT_TRACE: ioctl::Opcode = opcode::read::<u64>(b'c', 1);
const ENABLE: ioctl::Opcode = opcode::none(b'c', 100);

/// An area that the kernel fills for one task at a time.
#[derive(Debug)]
pub struct Area {
    file: File,
    words: &'static [AtomicU64],
}

impl Area {
    /// Whether this kernel records anything.
    pub fn exists() -> bool {
        Path::new(FILE).exists()
    }

    pub fn new() -> Result<Self> {
        let file = File::options().read(true).write(true).open(FILE);
        let file = file.context(FILE)?;
        // SAFETY: it takes a number, and changes nothing but the state of the file.
        unsafe { ioctl::ioctl(&file, IntegerSetter::<INIT_TRACE>::new_usize(WORDS)) }
            .context("KCOV_INIT_TRACE")?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let size = WORDS * size_of::<u64>();
        let anywhere = std::ptr::null_mut();
        // SAFETY: a new mapping at a place of the kernel's choice.
        let area = unsafe { mmap(anywhere, size, prot, MapFlags::SHARED, file.as_fd(), 0) };
        let area = area.context(FILE)?.cast::<AtomicU64>();
        // SAFETY: it has that many values, is aligned to a page, and is never unmapped.
        // Whoever else writes to it, the kernel and children, writes whole values.
        let words = unsafe { std::slice::from_raw_parts(area, WORDS) };
        Ok(Self { file, words })
    }

    /// Records what this task does in the kernel from now on, until it ends.
    pub fn enable(&self) -> Result<()> {
        self.clear();
        // SAFETY: it takes a number, and changes nothing that this program can see
        // but the area, which is made of atomics.
        unsafe { ioctl::ioctl(&self.file, IntegerSetter::<ENABLE>::new_usize(TRACE_PC)) }
            .context("KCOV_ENABLE")
    }

    pub fn clear(&self) {
        self.words[0].store(0, Ordering::Relaxed);
    }

    /// The addresses that were recorded, in order.
    pub fn addresses(&self) -> impl Iterator<Item = u64> {
        let count = self.words[0].load(Ordering::Relaxed) as usize;
        let recorded = &self.words[1..=count.min(WORDS - 1)];
        recorded.iter().map(|word| word.load(Ordering::Relaxed))
    }
}
