// SPDX-License-Identifier: GPL-2.0

//! The BPF programs of `bpf/targets.bpf.c`, and what they say.

use libbpf_rs::{AsRawLibbpf as _, MapCore as _, MapFlags, Object, ObjectBuilder};
use libbpf_sys::{BPF_TRACE_ITER, bpf_iter_link_info, bpf_link_create_opts};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

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

/// A descriptor, and numbers for its table and its open file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) pid: i32,
    pub(super) fd: RawFd,
    pub(super) table: u32,
    pub(super) file: u32,
    pub(super) kind: Kind,
}

/// A target of a set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) tfd: u32,
    pub(super) events: u32,
    pub(super) data: u64,
    pub(super) pos: i64,
    pub(super) ino: u64,
    pub(super) dev: u32,
    /// The first of the homes in which its number is the target.
    pub(super) home_same: Option<usize>,
    /// The first of the homes in which its number is open.
    pub(super) home_open: Option<usize>,
    /// The number of its file, unless `home_same` is known.
    pub(super) file: u32,
    /// A descriptor that it is the file of.
    pub(super) owner: Option<(i32, RawFd)>,
}

/// Takes apart what a program wrote, in the order that it did.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("a record is whole");
        self.0 = rest;
        *field
    }

    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    fn i32(&mut self) -> i32 {
        i32::from_ne_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }

    fn index(&mut self) -> Option<usize> {
        self.i32().try_into().ok()
    }
}

impl Open {
    /// `struct descriptor`
    const SIZE: usize = 32;

    fn new(record: &[u8]) -> Self {
        let mut fields = Fields(record);
        let ino = fields.u64();
        Self {
            pid: fields.i32(),
            fd: fields.i32(),
            table: fields.u32(),
            file: fields.u32(),
            kind: match fields.u32() {
                1 => Kind::Epoll,
                2 => Kind::Inode(ino),
                _ => Kind::Other,
            },
        }
    }
}

impl Seen {
    /// `struct target`
    const SIZE: usize = 56;

    fn new(record: &[u8]) -> Self {
        let mut fields = Fields(record);
        let (data, pos, ino) = (fields.u64(), fields.u64() as i64, fields.u64());
        let (dev, tfd, events, file) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
        let (pid, fd) = (fields.i32(), fields.i32());
        Self {
            tfd,
            events,
            data,
            pos,
            ino,
            dev,
            home_same: fields.index(),
            home_open: fields.index(),
            file,
            owner: (pid != 0).then_some((pid, fd)),
        }
    }
}

/// `struct control`
#[derive(Default)]
struct Control {
    epoll_id: u64,
    processes: u32,
    nr_homes: u32,
    overflow: u32,
    last_file: u32,
    last_table: u32,
}

impl Control {
    const KEY: [u8; 4] = [0; 4];

    fn from_bytes(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            epoll_id: fields.u64(),
            processes: fields.u32(),
            nr_homes: fields.u32(),
            overflow: fields.u32(),
            last_file: fields.u32(),
            last_table: fields.u32(),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.epoll_id.to_ne_bytes().to_vec();
        for field in [
            self.processes,
            self.nr_homes,
            self.overflow,
            self.last_file,
            self.last_table,
            0,
        ] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes
    }
}

/// The programs, loaded.
pub(super) struct Programs {
    object: Object,
}

fn from_libbpf(what: &str, error: &libbpf_rs::Error) -> io::Error {
    let kind = match error.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        libbpf_rs::ErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("{what}: {error:#}"))
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
        let failed = |error| from_libbpf("cannot load the BPF programs", &error);
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
        let control = control.map_err(|error| from_libbpf("cannot read a BPF map", &error))?;
        Ok(control.map_or_else(Control::default, |bytes| Control::from_bytes(&bytes)))
    }

    fn set_control(&self, control: &Control) -> io::Result<()> {
        self.map("control")?
            .update(&Control::KEY, &control.to_bytes(), MapFlags::ANY)
            .map_err(|error| from_libbpf("cannot write a BPF map", &error))
    }

    /// Runs a program with an iterator; calls `each` with each record of `size`.
    fn run(
        &self,
        program: &str,
        mut info: bpf_iter_link_info,
        size: usize,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
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
        let link =
            owned(unsafe { libbpf_sys::bpf_link_create(fd, 0, BPF_TRACE_ITER, &raw const opts) })?;
        // SAFETY: It takes an integer.
        let iter = owned(unsafe { libbpf_sys::bpf_iter_create(link.as_raw_fd()) })?;

        let mut iter = fs::File::from(iter);
        let mut buffer = vec![0; BUFFER];
        let mut filled = 0;
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
            let whole = filled - filled % size;
            buffer[..whole].chunks_exact(size).for_each(&mut each);
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
        }
        if self.control()?.overflow != 0 {
            let why = "files were opened faster than BPF could list them";
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, why));
        }
        Ok(())
    }

    /// The descriptors of a process or thread; those of all processes if `None`.
    pub(super) fn descriptors(&self, pid: Option<i32>) -> io::Result<Vec<Open>> {
        let mut info = bpf_iter_link_info::default();
        info.task.tid = pid.unwrap_or(0) as u32;
        self.set_control(&Control {
            processes: pid.is_none().into(),
            ..self.control()?
        })?;
        let mut all = Vec::new();
        self.run("list_descriptors", info, Open::SIZE, |record| {
            all.push(Open::new(record));
        })?;
        Ok(all)
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
                .map_err(|error| from_libbpf("cannot write a BPF map", &error))?;
        }
        self.set_control(&Control {
            nr_homes: homes.len() as u32,
            ..self.control()?
        })?;
        let mut info = bpf_iter_link_info::default();
        // Where `epoll.epoll_fd` is, which libbpf does not know yet.
        info.map.map_fd = set.as_raw_fd() as u32;
        let mut all = Vec::new();
        self.run("list_targets", info, Seen::SIZE, |record| {
            all.push(Seen::new(record));
        })?;
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
