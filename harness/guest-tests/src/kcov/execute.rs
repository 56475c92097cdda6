// SPDX-License-Identifier: GPL-2.0
//! Makes the calls of a program, in a process of its own.

use std::fs;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};

use super::program::{
    Call, DEVICE, EPOLLS, FILES, ITERATOR, LEARNED, LINK, OWN, Op, PEER, PROGRAM, Program, SOCKETS,
    SPARE,
};
use crate::fault::FailNth;
use crate::process;
use crate::sys::{self, Slot};

const PAGE: usize = 4096;

/// The sizes of elements of the device's arrays, and where two of them have an identity.
mod element {
    pub const ITEM: usize = 32;
    pub const ITEM_IDENTITY: usize = 24;
    pub const FILE: usize = 16;
    pub const FILE_IDENTITY: usize = 8;
    pub const DESCRIPTION: usize = 136;
    pub const ADD: u64 = 24;
}

/// The part of a mapping that can be written to.
const ROOM: usize = 16 * PAGE;
const NOBODY: u32 = 65534;

/// The numbers of the device's calls. They, and the layouts below, are not those of
/// `libepollcr`: its types would rule out most of what is tried here.
const CALLS: [u64; 5] = [0xec40, 0xec41, 0xec42, 0xec43, 0xec44];
const PINNED: &std::ffi::CStr = c"/sys/fs/bpf/fuzz";

/// Numbers of `enum bpf_cmd` and `enum bpf_attach_type`.
mod bpf {
    pub const OBJ_GET: u64 = 7;
    pub const OBJ_GET_INFO_BY_FD: u64 = 15;
    pub const LINK_CREATE: u64 = 28;
    pub const ITER_CREATE: u64 = 33;
    pub const TRACE_ITER: u32 = 28;
}

/// Memory that can be written to, followed by some that cannot be accessed. Nothing of
/// this program is in it, and there are no references to it.
#[derive(Debug)]
struct Memory {
    start: usize,
}

impl Memory {
    fn new() -> Result<Self> {
        let (anywhere, prot) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping at a place of the kernel's choice. It is large, so that
        // what the kernel writes behind the writable part meets no other one.
        let start = unsafe { mmap_anonymous(anywhere, 64 << 20, prot, MapFlags::PRIVATE) }?;
        // SAFETY: within that mapping, which is nobody else's.
        unsafe {
            mprotect(
                start.byte_add(ROOM),
                (64 << 20) - ROOM,
                MprotectFlags::empty(),
            )
        }?;
        Ok(Self {
            start: start.expose_provenance(),
        })
    }

    /// An address for `size` bytes, by what an argument says.
    fn place(&self, place: u64, size: usize) -> u64 {
        let (start, end) = (self.start as u64, (self.start + ROOM) as u64);
        match place {
            0 => start,
            // The last that fits.
            1 => end - size.min(ROOM) as u64,
            2 => 0,
            // Not all of it can be accessed.
            3 => end - (size as u64 / 2).min(ROOM as u64),
            4 => end + 8,
            5 => start + 1,
            _ => 0xffff_8880_0000_0000,
        }
    }

    /// Writes as much as can be written of `bytes` to such an address.
    fn put(&self, place: u64, bytes: &[u8]) -> u64 {
        let address = self.place(place, bytes.len());
        let (start, end) = (self.start as u64, (self.start + ROOM) as u64);
        if (start..end).contains(&address) {
            let len = bytes.len().min((end - address) as usize);
            let to = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
            // SAFETY: it stays within the writable part, which has no references.
            unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), len) };
        }
        address
    }

    /// Values of 64 bits at the start.
    fn words(&self, count: usize) -> Vec<u64> {
        let from = std::ptr::with_exposed_provenance::<u64>(self.start);
        let word = |n| {
            // SAFETY: it is in the writable part, which has no references, and is
            // initialized and aligned: the mapping begins with a page.
            unsafe { from.add(n).read() }
        };
        (0..count.min(ROOM / 8)).map(word).collect()
    }
}

/// A struct as the kernel reads it.
#[derive(Debug, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u32(mut self, value: impl TryInto<u32>, all: u64) -> Self {
        let value = value.try_into().unwrap_or(all as u32);
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn half(self, value: u64) -> Self {
        self.u32(value as u32, value)
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }
}

/// How many bytes an array takes, if that can be said.
fn size_of_array(count: u64, size: usize) -> usize {
    usize::try_from(count).map_or(usize::MAX, |count| count.saturating_mul(size))
}

fn result(ret: libc::c_long) -> rustix::io::Result<i32> {
    sys::check(ret)
}

/// ioctl(2) of any number with any argument.
fn ioctl(fd: u64, number: u64, arg: u64) -> rustix::io::Result<i32> {
    // SAFETY: the calls of the device access memory only through the argument and the
    // pointers in it, all of which are of `Memory` or not mapped.
    result(unsafe { libc::syscall(libc::SYS_ioctl, fd as i32, number, arg) })
}

fn bpf(command: u64, attributes: &Memory, bytes: &Bytes) -> rustix::io::Result<i32> {
    let address = attributes.put(0, &bytes.0);
    // SAFETY: as for `ioctl`.
    result(unsafe { libc::syscall(libc::SYS_bpf, command, address, bytes.0.len()) })
}

fn move_to(fd: rustix::io::Result<i32>, number: u64) -> rustix::io::Result<i32> {
    sys::renumber(fd?, number as i32)
}

/// Opens what exists before the programs start: files that their processes inherit, with
/// instances that all of them share, and the other process.
pub fn prepare_shared() -> Result<()> {
    for efd in EPOLLS.take(2) {
        move_to(sys::epoll_create(), efd)?;
    }
    let files: Vec<u64> = FILES.collect();
    move_to(sys::eventfd(0), files[0])?;
    move_to(sys::eventfd(1), files[1])?;
    for (pair, at) in [(sys::pipe()?, 2), (sys::socketpair()?, 4)] {
        for (n, fd) in pair.into_iter().enumerate() {
            sys::renumber(fd, files[at + n] as i32)?;
        }
    }
    move_to(sys::timerfd(), files[6])?;
    move_to(sys::signalfd(), files[7])?;
    // One that cannot be polled, and one without operations.
    move_to(open(c"/proc/self/exe", libc::O_RDONLY), files[8])?;
    move_to(open(c"/", libc::O_PATH), files[9])?;
    // No call waits for what another program has taken or filled.
    for fd in FILES {
        // SAFETY: takes numbers.
        let _ = unsafe { libc::fcntl(fd as i32, libc::F_SETFL, libc::O_NONBLOCK) };
    }
    Ok(())
}

fn open(path: &std::ffi::CStr, flags: i32) -> rustix::io::Result<i32> {
    // SAFETY: a path that ends with a NUL.
    sys::check(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) })
}

fn pidfd(pid: i32) -> rustix::io::Result<i32> {
    // SAFETY: takes numbers.
    result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Loads what can be loaded of a program for the iterator, which is then in the BPF file
/// system; where the modules are not, their calls fail.
pub fn prepare_process(peer: i32) {
    let _ = move_to(open(c"/dev/epoll_cr", libc::O_RDWR), DEVICE);
    let _ = move_to(pidfd(peer), PEER);
}

/// What the other process does: it uses what is shared, until it is killed.
pub fn disturb(seed: u64) -> ! {
    let mut rng = fastrand::Rng::with_seed(seed);
    loop {
        let (efd, fd) = (rng.u64(EPOLLS) as i32, rng.u64(FILES) as i32);
        // It does not matter what becomes of them.
        let _ = match rng.u8(..4) {
            0 => sys::epoll_add(efd, fd),
            1 => sys::epoll_del(efd, fd),
            2 => sys::epoll_add_as(efd, fd, rng.u64(SPARE) as i32),
            _ => wait(efd, 0),
        };
        std::thread::sleep(std::time::Duration::from_micros(rng.u64(..2_000)));
    }
}

fn wait(efd: i32, max: u64) -> rustix::io::Result<i32> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
    // SAFETY: there is room for four, and no more are asked for.
    sys::check(unsafe { libc::epoll_wait(efd, events.as_mut_ptr(), (max as i32).min(4), 0) })
}

/// The process that makes the calls of one program.
#[derive(Debug)]
pub struct Machine {
    args: Memory,
    arrays: Memory,
    peer: i32,
    faults: bool,
    learned: Vec<u64>,
}

impl Machine {
    pub fn new(peer: i32, faults: bool) -> Result<Self> {
        Ok(Self {
            args: Memory::new()?,
            arrays: Memory::new()?,
            peer,
            faults,
            learned: Vec::new(),
        })
    }

    /// Makes the calls. `begin` is called when all that they need is there.
    pub fn run(
        mut self,
        program: &Program,
        begin: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<i32>> {
        let fresh: Vec<u64> = EPOLLS.skip(2).collect();
        for efd in &fresh {
            move_to(sys::epoll_create(), *efd)?;
        }
        sys::epoll_add(fresh[0] as i32, fresh[2] as i32)?;
        sys::epoll_add_as(fresh[0] as i32, FILES.start as i32, SPARE.start as i32)?;
        move_to(pidfd(sys::getpid()), OWN)?;
        for (fd, number) in sys::socketpair()?.into_iter().zip(SOCKETS) {
            sys::renumber(fd, number as i32)?;
        }
        let faults = match self.faults {
            true => Some(FailNth::new()?),
            false => None,
        };
        begin()?;
        let mut results = Vec::with_capacity(program.calls.len());
        for call in &program.calls {
            if let (Some(faults), true) = (&faults, call.fail > 0) {
                faults.set(call.fail)?;
            }
            let answer = self.call(call);
            if let (Some(faults), true) = (&faults, call.fail > 0) {
                faults.set(0)?;
            }
            results.push(sys::code(answer));
        }
        Ok(results)
    }

    fn pid(&self, arg: u64) -> i32 {
        match arg {
            0 => sys::getpid(),
            1 => self.peer,
            2 => 1,
            other => other as i32,
        }
    }

    fn identity(&self, arg: u64) -> u64 {
        match arg {
            0..LEARNED if !self.learned.is_empty() => {
                self.learned[arg as usize % self.learned.len()]
            }
            other => other,
        }
    }

    /// Remembers the identities in an array that the kernel has written.
    fn learn(&mut self, size: usize, at: usize) {
        let words = self.arrays.words(40 * size / 8);
        let found = words.chunks(size / 8).map(|item| item[at / 8]);
        self.learned.extend(found.filter(|&id| id != 0));
    }

    fn device(&mut self, n: usize, place: u64, bytes: &Bytes) -> rustix::io::Result<i32> {
        let arg = self.args.put(place, &bytes.0);
        ioctl(DEVICE, CALLS[n], arg)
    }

    fn call(&mut self, call: &Call) -> rustix::io::Result<i32> {
        match call.op {
            Op::Add | Op::Modify | Op::Delete | Op::Wait => Self::call_epoll(call),
            Op::Target | Op::Compare => self.call_kcmp(call),
            Op::Snapshot | Op::Files | Op::Describe | Op::Fetch | Op::Restore | Op::Raw => {
                self.call_device(call)
            }
            Op::Link | Op::Iterate | Op::Fetched | Op::LinkInfo => self.call_iterator(call),
            Op::Duplicate
            | Op::Close
            | Op::Write
            | Op::Read
            | Op::Send
            | Op::Receive
            | Op::FdInfo => self.call_files(call),
            Op::Drop => process::become_user(NOBODY).map(|()| 0),
        }
    }

    /// Calls of epoll itself.
    fn call_epoll(call: &Call) -> rustix::io::Result<i32> {
        let a = call.args;
        match call.op {
            Op::Add | Op::Modify => {
                let op = match call.op {
                    Op::Add => libc::EPOLL_CTL_ADD,
                    _ => libc::EPOLL_CTL_MOD,
                };
                sys::epoll_ctl(a[0] as i32, op, a[1] as i32, a[2] as u32)
            }
            Op::Delete => sys::epoll_del(a[0] as i32, a[1] as i32),
            Op::Wait => wait(a[0] as i32, a[1]),
            _ => Err(Errno::NOSYS),
        }
    }

    /// Calls on descriptors, and reading fdinfo.
    fn call_files(&self, call: &Call) -> rustix::io::Result<i32> {
        let a = call.args;
        match call.op {
            Op::Duplicate => match a[1] {
                // What is this program's own stays.
                number @ 100..200 => sys::dup2(a[0] as i32, number as i32),
                _ => Err(Errno::BADF),
            },
            Op::Close => match a[0] {
                number @ 100..200 => sys::close(number as i32),
                _ => Err(Errno::BADF),
            },
            Op::Write if a[0] < EPOLLS.start => Err(Errno::BADF),
            Op::Write => {
                let one = 1_u64.to_ne_bytes();
                // SAFETY: it reads the eight bytes.
                result(unsafe { libc::syscall(libc::SYS_write, a[0] as i32, one.as_ptr(), 8) })
            }
            Op::Read => match sys::readable(a[0] as i32, std::time::Duration::ZERO)? {
                true => self.read(a[0], 8, 0),
                false => Err(Errno::AGAIN),
            },
            Op::Send => sys::send_fd(SOCKETS[0] as i32, a[0] as i32).map(|()| 0),
            Op::Receive => sys::receive_fd(SOCKETS[1] as i32),
            Op::FdInfo => {
                let path = format!("/proc/self/fdinfo/{}", a[0] as i32);
                match fs::read(path) {
                    Ok(text) => Ok(text.len() as i32),
                    Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
                }
            }
            _ => Err(Errno::NOSYS),
        }
    }

    /// kcmp(2).
    fn call_kcmp(&self, call: &Call) -> rustix::io::Result<i32> {
        let a = call.args;
        match call.op {
            Op::Target => {
                let slot = Slot {
                    efd: a[3] as u32,
                    tfd: a[4] as u32,
                    toff: a[5] as u32,
                };
                let idx2 = self.args.put(a[6], &slot.to_bytes());
                let (pid1, pid2) = (self.pid(a[0]), self.pid(a[1]));
                sys::kcmp(pid1, pid2, sys::KCMP_EPOLL_TFD, a[2], idx2)
            }
            Op::Compare => {
                let (pid1, pid2) = (self.pid(a[0]), self.pid(a[1]));
                match a[2] as i32 {
                    sys::KCMP_EPOLL_TFD => Err(Errno::INVAL),
                    kind => sys::kcmp(pid1, pid2, kind, a[3], a[4]),
                }
            }
            _ => Err(Errno::NOSYS),
        }
    }

    /// Calls of the device.
    fn call_device(&mut self, call: &Call) -> rustix::io::Result<i32> {
        let a = call.args;
        let new = Bytes::default;
        match call.op {
            Op::Snapshot => {
                let items = self.arrays.place(a[4], size_of_array(a[5], element::ITEM));
                let bytes = new().half(a[0]).half(a[1]).half(a[2]).half(a[3]).u64(items);
                let bytes = bytes.u64(a[5]).u64(0).u64(0).half(a[6]).half(a[7]);
                let answer = self.device(0, 0, &bytes);
                if answer.is_ok() && a[4] == 0 {
                    self.learn(element::ITEM, element::ITEM_IDENTITY);
                }
                answer
            }
            Op::Files => {
                let fds = self.arrays.place(a[4], size_of_array(a[5], element::FILE));
                let bytes = new().half(a[0]).half(a[1]).half(a[2]).half(a[3]).u64(fds);
                let answer = self.device(1, 0, &bytes.u64(a[5]).u64(0).u64(0));
                if answer.is_ok() && a[4] == 0 {
                    self.learn(element::FILE, element::FILE_IDENTITY);
                }
                answer
            }
            Op::Describe => {
                let mut numbers = new();
                for n in 0..a[5].min(8) {
                    numbers = numbers.half(a[6].wrapping_add(n));
                }
                // The numbers are read while the files are written: apart.
                let fds = self.args.put(0, &numbers.0);
                let files = self
                    .arrays
                    .place(a[4], size_of_array(a[5], element::DESCRIPTION));
                let paths = match a[7] % 8 {
                    0 => 0,
                    _ => self.arrays.place(0, 0) + 4 * PAGE as u64,
                };
                let bytes = new().half(a[0]).half(a[1]).half(a[2]).half(a[3]).u64(fds);
                let bytes = bytes.u64(files).u64(a[5]).u64(paths).u64(a[7]).u64(0);
                self.device(2, 1, &bytes)
            }
            Op::Fetch => {
                let bytes = new().half(a[0]).half(a[1]).half(a[2]).half(a[3]).half(a[4]);
                let bytes = bytes.half(a[5]).u64(self.identity(a[6]));
                self.device(3, 0, &bytes)
            }
            Op::Restore => {
                let mut items = new();
                for n in 0..a[6].min(4) {
                    let (fd, tfd) = (a[3].wrapping_add(n), a[4].wrapping_add(n));
                    items = items.half(fd).half(tfd).half(a[5]).half(n & 1).u64(a[7]);
                }
                let items = self.arrays.put(0, &items.0);
                let bytes = new()
                    .half(a[0])
                    .half(a[1])
                    .half(a[2])
                    .half(element::ADD)
                    .u64(items);
                self.device(4, 0, &bytes.u64(a[6]).u64(0))
            }
            Op::Raw => {
                let bytes = new().half(a[1]).half(a[2]).half(a[3]).half(a[4]);
                let bytes = bytes.u64(self.arrays.place(0, 0)).u64(a[5]).u64(a[6]);
                let arg = self.args.put(a[7], &bytes.0);
                let number = CALLS.get(a[0] as usize).copied().unwrap_or(0xec3f);
                ioctl(DEVICE, number, arg)
            }
            _ => Err(Errno::NOSYS),
        }
    }

    /// Calls for the BPF iterator.
    fn call_iterator(&self, call: &Call) -> rustix::io::Result<i32> {
        let a = call.args;
        let new = Bytes::default;
        match call.op {
            Op::Link => {
                let path = self.arrays.put(0, PINNED.to_bytes_with_nul());
                let get = new().u64(path).half(0).half(0);
                move_to(bpf(bpf::OBJ_GET, &self.args, &get), PROGRAM)?;
                let info = self.arrays.put(0, &new().half(a[0]).half(a[1]).0);
                let create = new().half(PROGRAM).half(0).u32(bpf::TRACE_ITER, 0).half(0);
                let create = create.u64(info).half(a[2]).half(0);
                move_to(bpf(bpf::LINK_CREATE, &self.args, &create), LINK)
            }
            Op::Iterate => {
                let create = new().half(LINK).half(a[0]);
                move_to(bpf(bpf::ITER_CREATE, &self.args, &create), ITERATOR)
            }
            Op::Fetched => self.read(ITERATOR, a[0], a[1]),
            Op::LinkInfo => {
                let info = self.arrays.place(a[1], a[0] as usize);
                let get = new().half(LINK).half(a[0]).u64(info);
                bpf(bpf::OBJ_GET_INFO_BY_FD, &self.args, &get)
            }
            _ => Err(Errno::NOSYS),
        }
    }

    fn read(&self, fd: u64, size: u64, place: u64) -> rustix::io::Result<i32> {
        let size = size.min(70_000) as usize;
        let to = self.arrays.place(place, size);
        // SAFETY: the kernel writes from there on, to `arrays` or to what cannot be
        // written to.
        result(unsafe { libc::syscall(libc::SYS_read, fd as i32, to, size) })
    }
}

/// Whether a program for the iterator is in the BPF file system.
pub fn has_iterator() -> bool {
    std::path::Path::new(PINNED.to_str().unwrap_or_default()).exists()
}

/// Puts one there: a program of the samples, by this bpftool.
pub fn pin_iterator(bpftool: &std::path::Path) -> Result<()> {
    let object = bpftool.with_file_name("epoll_list.bpf.o");
    let output = std::process::Command::new(bpftool)
        .args(["prog", "load"])
        .arg(&object)
        .arg(PINNED.to_str().unwrap_or_default())
        .output()
        .with_context(|| bpftool.display().to_string())?;
    anyhow::ensure!(
        output.status.success(),
        "{}: {}",
        bpftool.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
