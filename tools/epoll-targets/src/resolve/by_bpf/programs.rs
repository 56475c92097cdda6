// SPDX-License-Identifier: GPL-2.0

//! The BPF programs of `bpf/targets.bpf.c`, and what they say.

use crate::descriptor::Descriptor;
use crate::fdinfo::{Events, Inode, Target};
use libbpf_rs::{AsRawLibbpf as _, MapCore as _, MapFlags, Object, ObjectBuilder};
use libbpf_sys::{BPF_TRACE_ITER, bpf_iter_link_info, bpf_link_create_opts};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// As compiled by build.rs; libelf wants it aligned.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static PROGRAMS: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/targets.bpf.o")));

/// How many processes that have a set are asked about a number: `MAX_HOMES`.
/// That is done for each target, and whoever uses the set has to wait.
pub(super) const MAX_HOMES: usize = 16;

/// What libbpf says with is one for the process.
static PRINT: Mutex<()> = Mutex::new(());

/// What the kernel fills at a time, and more.
const BUFFER: usize = 1 << 16;

/// What kind of file a descriptor means, if that is of interest.
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
    pub(super) tfd: u32,
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

impl Control {
    const KEY: [u8; 4] = [0; 4];
}

const _: () = assert!(size_of::<Open>() == 32 && size_of::<Seen>() == 56);
const _: () = assert!(size_of::<Control>() == 32);

/// The programs, loaded.
pub(super) struct Programs {
    object: Object,
}

/// An error of libbpf.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct BpfError {
    what: &'static str,
    source: libbpf_rs::Error,
}

fn from_libbpf(what: &'static str, source: libbpf_rs::Error) -> io::Error {
    let kind = match source.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        libbpf_rs::ErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, BpfError { what, source })
}

/// Without which there is no use to try.
fn check() -> io::Result<()> {
    let unsupported = |why| Err(io::Error::new(io::ErrorKind::Unsupported, why));
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return unsupported("the kernel has no type information (CONFIG_DEBUG_INFO_BTF)");
    }
    if !Path::new("/sys/module/epoll_iter").exists() {
        return unsupported("the module epoll_iter is not loaded");
    }
    Ok(())
}

/// How many open files there can be, with room for more.
fn room() -> io::Result<u32> {
    let files = fs::read_to_string("/proc/sys/fs/file-nr")?;
    let open: Option<u32> = files.split_whitespace().next().and_then(|n| n.parse().ok());
    let open = open.ok_or(io::ErrorKind::InvalidData)?;
    Ok(open.saturating_mul(2).saturating_add(4096))
}

impl Programs {
    pub(super) fn load() -> io::Result<Self> {
        check()?;
        let failed = |error| from_libbpf("cannot load the BPF programs", error);
        let room = room()?;
        // libbpf says on standard error what we say better.
        let alone = PRINT.lock().unwrap_or_else(PoisonError::into_inner);
        let print = libbpf_rs::set_print(None);
        let object = ObjectBuilder::default()
            .open_memory(&PROGRAMS.0)
            .and_then(|mut object| {
                for mut map in object.maps_mut() {
                    if ["files", "tables"].map(OsStr::new).contains(&map.name()) {
                        map.set_max_entries(room)?;
                    }
                }
                object.load()
            });
        libbpf_rs::set_print(print);
        drop(alone);
        Ok(Self {
            object: object.map_err(failed)?,
        })
    }

    fn map(&self, name: &str) -> io::Result<libbpf_rs::Map<'_>> {
        let map = self.object.maps().find(|map| map.name() == name);
        map.ok_or_else(|| io::Error::other(format!("there is no BPF map {name}")))
    }

    fn control(&self) -> io::Result<Control> {
        let control = self.map("control")?.lookup(&Control::KEY, MapFlags::ANY);
        let control = control.map_err(|error| from_libbpf("cannot read a BPF map", error))?;
        let control = control.and_then(|bytes| Control::read_from_bytes(&bytes).ok());
        Ok(control.unwrap_or_default())
    }

    fn set_control(&self, control: &Control) -> io::Result<()> {
        self.map("control")?
            .update(&Control::KEY, control.as_bytes(), MapFlags::ANY)
            .map_err(|error| from_libbpf("cannot write a BPF map", error))
    }

    /// Runs a program with an iterator; returns the records that it writes.
    fn run<T: FromBytes>(&self, program: &str, mut info: bpf_iter_link_info) -> io::Result<Vec<T>> {
        let program = self.object.progs().find(|p| p.name() == program);
        let program = program.ok_or_else(|| io::Error::other("a BPF program is missing"))?;
        let opts = bpf_link_create_opts {
            sz: size_of::<bpf_link_create_opts>() as u64,
            iter_info: &raw mut info,
            iter_info_len: size_of::<bpf_iter_link_info>() as u32,
            ..Default::default()
        };
        // SAFETY: The program's pointer is good as long as the object is, which we
        // borrow. It has a descriptor, since the object is loaded.
        let fd = unsafe { libbpf_sys::bpf_program__fd(program.as_libbpf_object().as_ptr()) };
        // SAFETY: `opts` says its size, and of `info` where and how long it is. Both
        // live until this returns, and the kernel only reads them.
        let link = unsafe { libbpf_sys::bpf_link_create(fd, 0, BPF_TRACE_ITER, &raw const opts) };
        let link = owned(link)?;
        // SAFETY: It takes an integer.
        let iter = owned(unsafe { libbpf_sys::bpf_iter_create(link.as_raw_fd()) })?;

        let mut iter = fs::File::from(iter);
        let mut buffer = vec![0; BUFFER];
        let mut filled = 0;
        let mut all = Vec::new();
        loop {
            filled += match iter.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => break,
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                // The kernel had nothing to tell for a long time.
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

    /// The id of a set, and its targets. `homes` are the processes that have it.
    pub(super) fn targets(
        &self,
        set: BorrowedFd<'_>,
        homes: &[i32],
    ) -> io::Result<(u64, Vec<Seen>)> {
        let homes = &homes[..homes.len().min(MAX_HOMES)];
        let map = self.map("homes")?;
        for (index, pid) in homes.iter().enumerate() {
            let index = (index as u32).to_ne_bytes();
            map.update(&index, &pid.to_ne_bytes(), MapFlags::ANY)
                .map_err(|error| from_libbpf("cannot write a BPF map", error))?;
        }
        self.set_control(&Control {
            nr_homes: homes.len() as u32,
            ..self.control()?
        })?;
        let mut info = bpf_iter_link_info::default();
        // Where `epoll.epoll_fd` is, which libbpf does not know yet.
        info.map.map_fd = set.as_raw_fd() as u32;
        let all = self.run("list_targets", info)?;
        Ok((self.control()?.epoll_id, all))
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
