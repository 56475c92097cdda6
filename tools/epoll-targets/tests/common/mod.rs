// SPDX-License-Identifier: GPL-2.0

//! What the tests share. Not each of them uses all of it.
#![allow(dead_code)]

use epoll_targets::kcmp::{self, Support};
use epoll_targets::proc;
use epoll_targets::resolve::{Descriptor, HAS_BPF, Instance, Method, Report, Resolver};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::fmt::Display;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Says that a test is skipped, past the capture of its output: see `scripts/lib/results`.
pub fn skip(why: impl Display) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Whether the kernel can; says so if not.
pub fn can() -> bool {
    let support = kcmp::support();
    if support != Support::Epoll {
        skip(support);
    }
    support == Support::Epoll
}

/// How the owners are to be found: what the environment says, with the words of
/// lsepoll, so that all tests can be run both ways.
pub fn method() -> Method {
    match std::env::var("EPOLL_RESOLVER").as_deref() {
        Ok("kcmp") => Method::Kcmp,
        Ok("bpf") => Method::Bpf,
        Ok("walk") => Method::Walk,
        Ok(other) => panic!("EPOLL_RESOLVER={other}?"),
        Err(_) => Method::Auto,
    }
}

/// Held by each test: what others open and close is not to get in the way.
static ALONE: Mutex<()> = Mutex::new(());

/// The methods that work here; the test is skipped if none does. Where one is what the tests
/// are to be run with, it is no excuse that it does not.
pub fn methods() -> (MutexGuard<'static, ()>, Vec<Method>) {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let all = match self::method() {
        Method::Auto if has_items() => vec![Method::Walk, Method::Bpf, Method::Kcmp],
        Method::Auto => vec![Method::Walk, Method::Kcmp],
        method => vec![method],
    };
    let works = |method: &Method| match Resolver::new([pid()]).method(*method).resolve() {
        Ok(_) => true,
        Err(error) if self::method() == *method => panic!("{error}"),
        Err(error) => {
            // The test is not skipped: the other methods are tested.
            let _ = writeln!(std::io::stderr(), "without {method:?}: {error}");
            assert!(*method != Method::Walk || !HAS_BPF || !is_root() || !has_types());
            false
        }
    };
    let methods: Vec<Method> = all.into_iter().filter(works).collect();
    if methods.is_empty() {
        skip("no method works here");
    }
    (alone, methods)
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the module with the BPF iterator is loaded.
fn has_items() -> bool {
    HAS_BPF && std::fs::exists("/sys/module/epoll_iter").unwrap()
}

/// Whether the kernel has what BPF needs.
fn has_types() -> bool {
    std::fs::exists("/sys/kernel/btf/vmlinux").unwrap()
}

pub fn resolver(pids: impl IntoIterator<Item = i32>) -> Resolver<'static> {
    Resolver::new(pids).method(method())
}

pub fn everyone() -> Resolver<'static> {
    Resolver::all_processes().method(method())
}

pub fn pid() -> i32 {
    std::process::id() as i32
}

pub fn file() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

pub fn new_set() -> OwnedFd {
    epoll::create(CreateFlags::CLOEXEC).unwrap()
}

pub fn add(set: &OwnedFd, target: impl AsFd, data: u64) {
    epoll::add(set, target, EventData::new_u64(data), EventFlags::IN).unwrap();
}

pub fn copy(fd: &OwnedFd) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).unwrap()
}

pub fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
}

/// Sends a descriptor in a message.
pub fn send(socket: &OwnedFd, fd: &OwnedFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let text = [IoSlice::new(b"x")];
    sendmsg(socket, &text, &mut control, SendFlags::empty()).unwrap();
}

/// What came in a message.
pub fn receive(socket: impl AsFd) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut text = [IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut text, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.unwrap()
}

/// What the report says of this instance of ours.
pub fn found<'a>(report: &'a Report, set: &OwnedFd) -> &'a Instance {
    let efd = set.as_raw_fd();
    let mut sets = report.instances.iter();
    sets.find(|s| s.pid == pid() && s.efd == efd).unwrap()
}

/// A process whose descriptor 0 is this file.
pub struct Holder(Child);

impl Holder {
    pub fn new(file: OwnedFd) -> Self {
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::from(file));
        // Not to be held on to when something goes wrong here.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let holder = Self(command.spawn().unwrap());
        // Before that it has what we have.
        while proc::command(holder.descriptor().pid).unwrap() != "sleep" {
            std::thread::yield_now();
        }
        holder
    }

    pub fn descriptor(&self) -> Descriptor {
        let pid = self.0.id() as i32;
        Descriptor { pid, fd: 0 }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
