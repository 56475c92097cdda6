// SPDX-License-Identifier: GPL-2.0

//! The BPF programs of `bpf/targets.bpf.c` and their records.

use crate::descriptor::Descriptor;
use crate::fdinfo::{Events, Inode, Target};
use crate::libbpf::{self, Aligned, FIRST, failed};
use libbpf_rs::Object;
use libbpf_sys::bpf_iter_link_info;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::path::Path;
use zerocopy::{FromBytes, Immutable, IntoBytes};

static PROGRAMS: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/targets.bpf.o")));

/// In how many processes that have an instance tfd is checked: `MAX_HOMES`. This is
/// done for each target, with the mutex of the instance held.
pub(super) const MAX_HOMES: usize = 16;

/// The size of a read: more than the kernel fills at a time.
const BUFFER: usize = 1 << 16;

/// The kind of a file, as far as it is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Other,
    Epoll,
    /// Its link in `/proc` shows the inode.
    Inode(u64),
}

/// `struct descriptor`: a descriptor, and numbers for its table and its open file.
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C)]
pub(super) struct Open {
    ino: u64,
    pub(super) pid: i32,
    pub(super) fd: RawFd,
    pub(super) table: u32,
    pub(super) file: u32,
    kind: u32,
    _pad: u32,
}

impl Open {
    pub(super) fn kind(&self) -> Kind {
        match self.kind {
            1 => Kind::Epoll,
            2 => Kind::Inode(self.ino),
            _ => Kind::Other,
        }
    }
}

/// `struct target`: a target of an epoll instance.
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C)]
pub(super) struct Seen {
    data: u64,
    pos: i64,
    ino: u64,
    dev: u32,
    pub(super) tfd: RawFd,
    events: u32,
    /// The number of its file, unless `home_same` is known.
    pub(super) file: u32,
    pid: i32,
    fd: RawFd,
    home_same: i32,
    home_open: i32,
}

impl Seen {
    /// The first of the homes in which tfd is the target.
    pub(super) fn home_same(&self) -> Option<usize> {
        self.home_same.try_into().ok()
    }

    /// The first of the homes in which tfd is open.
    pub(super) fn home_open(&self) -> Option<usize> {
        self.home_open.try_into().ok()
    }

    /// A descriptor that has the file.
    pub(super) fn owner(&self) -> Option<Descriptor> {
        let Self { pid, fd, .. } = *self;
        (pid != 0).then_some(Descriptor { pid, fd })
    }

    pub(super) fn target(&self, toff: u32) -> Target {
        Target {
            tfd: self.tfd,
            toff,
            events: Events(self.events),
            data: self.data,
            pos: Some(self.pos),
            inode: Some(Inode::new(self.ino, self.dev)),
        }
    }
}

/// `struct control`
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
struct Control {
    epoll_id: u64,
    processes: u32,
    nr_homes: u32,
    overflow: u32,
    last_file: u32,
    last_table: u32,
    _pad: u32,
}

const _: () = assert!(size_of::<Open>() == 32 && size_of::<Seen>() == 56);
const _: () = assert!(size_of::<Control>() == 32);

/// The programs, loaded.
pub(super) struct Programs {
    object: Object,
}

/// Checks what the programs need.
fn check() -> io::Result<()> {
    libbpf::check()?;
    if !Path::new("/sys/module/epoll_iter").exists() {
        let why = "the module epoll_iter is not loaded";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(())
}

/// The capacity of the maps: more than the files that are open.
fn room() -> io::Result<u32> {
    let files = fs::read_to_string("/proc/sys/fs/file-nr")?;
    let open: Option<u32> = files.split_whitespace().next().and_then(|n| n.parse().ok());
    let open = open.ok_or(io::ErrorKind::InvalidData)?;
    Ok(open.saturating_mul(2).saturating_add(4096))
}

impl Programs {
    pub(super) fn load() -> io::Result<Self> {
        check()?;
        let room = room()?;
        let object = libbpf::load(&PROGRAMS.0, |object| {
            for mut map in object.maps_mut() {
                if ["files", "tables"].map(OsStr::new).contains(&map.name()) {
                    map.set_max_entries(room)?;
                }
            }
            Ok(())
        });
        let object = object.map_err(failed("cannot load the BPF programs"))?;
        Ok(Self { object })
    }

    fn control(&self) -> io::Result<Control> {
        let control = libbpf::read(&libbpf::map(&self.object, "control")?, &FIRST)?;
        Ok(control.unwrap_or_default())
    }

    fn set_control(&self, control: &Control) -> io::Result<()> {
        let map = libbpf::map(&self.object, "control")?;
        libbpf::write(&map, &FIRST, control.as_bytes())
    }

    /// Runs a program with an iterator; returns the records that it writes.
    fn run<T: FromBytes>(&self, program: &str, info: bpf_iter_link_info) -> io::Result<Vec<T>> {
        let mut iter = libbpf::iterate(&self.object, program, info)?;
        let mut buffer = vec![0; BUFFER];
        let mut filled = 0;
        let mut all = Vec::new();
        loop {
            filled += match iter.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => break,
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                // The program wrote nothing for a long time.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let whole = filled - filled % size_of::<T>();
            let records = buffer[..whole].chunks_exact(size_of::<T>());
            all.extend(records.flat_map(T::read_from_bytes));
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
        }
        if self.control()?.overflow != 0 {
            let why = "files were opened faster than BPF could list them";
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, why));
        }
        Ok(all)
    }

    /// The descriptors of a process or thread; those of all processes if `None`.
    pub(super) fn descriptors(&self, pid: Option<i32>) -> io::Result<Vec<Open>> {
        let mut info = bpf_iter_link_info::default();
        info.task.tid = pid.unwrap_or(0) as u32;
        self.set_control(&Control {
            processes: pid.is_none().into(),
            ..self.control()?
        })?;
        self.run("list_descriptors", info)
    }

    /// The id of an instance, and its targets. `homes` are the processes that have it.
    pub(super) fn targets(
        &self,
        instance: BorrowedFd<'_>,
        homes: &[i32],
    ) -> io::Result<(u64, Vec<Seen>)> {
        let homes = &homes[..homes.len().min(MAX_HOMES)];
        let map = libbpf::map(&self.object, "homes")?;
        for (index, pid) in homes.iter().enumerate() {
            let index = (index as u32).to_ne_bytes();
            libbpf::write(&map, &index, &pid.to_ne_bytes())?;
        }
        self.set_control(&Control {
            nr_homes: homes.len() as u32,
            ..self.control()?
        })?;
        let mut info = bpf_iter_link_info::default();
        // `epoll.epoll_fd` is at the same place; libbpf does not have it yet.
        info.map.map_fd = instance.as_raw_fd() as u32;
        let all = self.run("list_targets", info)?;
        Ok((self.control()?.epoll_id, all))
    }
}
