// SPDX-License-Identifier: GPL-2.0

//! Names of processes and files.

use epoll_cli::text::printable;
use epoll_targets::fdinfo::Inode;
use epoll_targets::proc;
use epoll_targets::resolve::{Descriptor, Holder};
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{self, Mode, OFlags, fstat, major, minor};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::OnceLock;

/// The link of a descriptor; `None` if it is closed by now.
pub fn link(descriptor: Descriptor) -> Option<OsString> {
    proc::link(descriptor.pid, descriptor.fd).ok()
}

/// The directories of the process that was asked about last: many descriptors in a row are of
/// the same one, and looking up its path takes about as long as reading one of its files.
#[derive(Debug, Default)]
pub struct Directories(Option<(i32, Directory)>);

#[derive(Debug)]
struct Directory {
    fd: OwnedFd,
    fdinfo: OwnedFd,
}

impl Directory {
    fn open(pid: i32) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |name| fs::open(format!("/proc/{pid}/{name}"), flags, Mode::empty());
        Ok(Self {
            fd: open("fd")?,
            fdinfo: open("fdinfo")?,
        })
    }

    fn link(&self, fd: RawFd) -> rustix::io::Result<OsString> {
        let link = fs::readlinkat(&self.fd, fd.to_string(), Vec::new())?;
        Ok(OsString::from_vec(link.into_bytes()))
    }

    fn fdinfo(&self, fd: RawFd) -> rustix::io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = fs::openat(&self.fdinfo, fd.to_string(), flags, Mode::empty())?;
        let mut text = Vec::with_capacity(1 << 10);
        while rustix::io::read(&file, spare_capacity(&mut text))? > 0 {
            text.reserve(1 << 10);
        }
        Ok(text)
    }
}

impl Directories {
    fn of(&mut self, pid: i32) -> Option<&Directory> {
        if self.0.as_ref().is_none_or(|known| known.0 != pid) {
            self.0 = Directory::open(pid).ok().map(|of| (pid, of));
        }
        self.0.as_ref().map(|known| &known.1)
    }

    /// As [`link`].
    pub fn link(&mut self, descriptor: Descriptor) -> Option<OsString> {
        let Descriptor { pid, fd } = descriptor;
        let link = self.of(pid).and_then(|of| of.link(fd).ok());
        // Others may have the table of a first thread that has ended.
        link.or_else(|| self::link(descriptor))
    }

    /// What fdinfo says of a descriptor.
    pub fn fdinfo(&mut self, descriptor: Descriptor) -> Option<String> {
        let Descriptor { pid, fd } = descriptor;
        String::from_utf8(self.of(pid)?.fdinfo(fd).ok()?).ok()
    }
}

/// The file of an inode that nobody has open, as its link would name it, as far as that
/// is known.
pub fn inode(inode: Inode) -> String {
    static KINDS: OnceLock<Option<Kinds>> = OnceLock::new();
    let Inode {
        ino, major, minor, ..
    } = inode;
    let device = (major, minor);
    match KINDS.get_or_init(Kinds::of_this_system) {
        Some(kinds) if device == kinds.sockets => format!("socket:[{ino}]"),
        Some(kinds) if device == kinds.pipes => format!("pipe:[{ino}]"),
        // Files of most kinds share it.
        Some(kinds) if device == kinds.anonymous => "anon_inode:?".into(),
        _ => format!("inode {ino} on device {major}:{minor}"),
    }
}

/// The devices of the kernel's own file systems, as major and minor numbers.
#[derive(Debug)]
struct Kinds {
    sockets: (u32, u32),
    pipes: (u32, u32),
    anonymous: (u32, u32),
}

impl Kinds {
    fn of_this_system() -> Option<Self> {
        let device = |fd: &dyn AsFd| {
            let device = fstat(fd.as_fd()).ok()?.st_dev;
            Some((major(device), minor(device)))
        };
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
        let (pipe, _) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        Some(Self {
            sockets: device(&socket)?,
            pipes: device(&pipe)?,
            anonymous: device(&eventfd(0, EventfdFlags::CLOEXEC).ok()?)?,
        })
    }
}

/// What holds a file.
pub fn holder(holder: &Holder, commands: &mut Commands) -> String {
    let mut process = |pid| commands.process(pid);
    match *holder {
        Holder::Descriptor(Descriptor { pid, fd }) => format!("fd {fd} of {}", process(pid)),
        Holder::Message { socket, sender } => {
            let Descriptor { pid, fd } = socket;
            let sent = sender.map(|pid| format!(", sent by {}", process(pid)));
            let sent = sent.unwrap_or_default();
            format!("a message that waits at fd {fd} of {}{sent}", process(pid))
        }
        Holder::Ring(Descriptor { pid, fd }) => {
            format!(
                "a registered file of the io_uring fd {fd} of {}",
                process(pid)
            )
        }
        Holder::Mapping { pid, address } => {
            format!("a mapping at {address:#x} of {}", process(pid))
        }
        _ => "something else".into(),
    }
}

/// Command names of processes, each read once.
#[derive(Debug, Default)]
pub struct Commands(HashMap<i32, Option<String>>);

impl Commands {
    fn get(&mut self, pid: i32) -> Option<&str> {
        let known = self.0.entry(pid);
        known.or_insert_with(|| proc::command(pid).ok()).as_deref()
    }

    /// The name of a process; `?` if it is gone.
    pub fn of(&mut self, pid: i32) -> &str {
        self.get(pid).unwrap_or("?")
    }

    /// A process, with its command if it runs.
    pub fn process(&mut self, pid: i32) -> String {
        match self.get(pid) {
            Some(command) => format!("process {pid} ({})", printable(command)),
            None => format!("process {pid}"),
        }
    }
}
