// SPDX-License-Identifier: GPL-2.0

//! Interest lists as the iterator of the module `epoll_iter` shows them: the BPF program
//! of `bpf/targets.bpf.c` and its records.

use super::programs::{File, Seen, Walk};
use crate::fdinfo::{Events, Inode, Target};
use crate::libbpf::{self, Aligned, FIRST, Loaded};
use crate::reader::Reader;
use libbpf_sys::bpf_iter_link_info;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::path::Path;
use zerocopy::FromBytes;

static PROGRAMS: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/targets.bpf.o")));

/// `struct target`: a target of an epoll instance.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
struct Record {
    file: u64,
    epitem: u64,
    data: u64,
    pos: i64,
    ino: u64,
    dev: u32,
    tfd: RawFd,
    events: u32,
    _pad: u32,
}

/// The interest list of an instance.
pub(super) struct List {
    pub(super) id: u64,
    pub(super) walk: Walk,
    /// The same targets, as fdinfo would show them.
    pub(super) shown: Vec<Target>,
}

/// The program, loaded.
pub(super) struct Items {
    loaded: Loaded,
}

impl Items {
    pub(super) fn load() -> io::Result<Self> {
        let missing = !Path::new("/sys/module/epoll_iter").exists();
        if missing {
            let why = "the module epoll_iter is not loaded";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let loaded = Loaded::load(&PROGRAMS.0)?;
        Ok(Self { loaded })
    }

    /// Reads the list of an instance.
    ///
    /// The iterator takes the mutex of the instance, so that this is left to `reader`.
    pub(super) fn read(&self, reader: &mut Reader, instance: BorrowedFd<'_>) -> io::Result<List> {
        let mut info = bpf_iter_link_info::default();
        // `epoll.epoll_fd` is at the same place; libbpf does not have it yet.
        info.map.map_fd = instance.as_raw_fd() as u32;
        let iter = libbpf::iterate(self.loaded.program("list_targets")?, info)?;
        let bytes = reader.read_descriptor(iter.as_fd())?;
        let mut id = 0u64;
        self.loaded.map("epoll_id")?.read(&FIRST, &mut id)?;

        let records = bytes.chunks_exact(size_of::<Record>());
        let records: Vec<Record> = records.flat_map(Record::read_from_bytes).collect();
        let mut counts = HashMap::new();
        let shown = records.iter().map(|record| {
            let count = counts.entry(record.tfd).or_insert(0);
            let toff = *count;
            *count += 1;
            Target {
                tfd: record.tfd,
                toff,
                events: Events(record.events),
                data: record.data,
                pos: Some(record.pos),
                inode: Some(Inode::new(record.ino, record.dev)),
            }
        });
        let shown = shown.collect();
        let seen = records.iter().map(|record| {
            Seen::new(
                record.tfd,
                File::new(record.file),
                record.epitem,
                record.events,
                record.data,
            )
        });
        let (targets, whole) = (seen.collect(), true);
        Ok(List {
            id,
            walk: Walk { targets, whole },
            shown,
        })
    }
}
