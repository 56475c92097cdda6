// SPDX-License-Identifier: GPL-2.0

//! What the tests of the program share. Not each of them uses all of it.
#![allow(dead_code)]

use epoll_targets::kcmp::{self, Support};
use epoll_targets::proc::{Stat, State};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub const LSEPOLL: &str = env!("CARGO_BIN_EXE_lsepoll");

/// The program, with the resolver that the environment says.
pub fn lsepoll() -> Command {
    let mut command = Command::new(LSEPOLL);
    if let Ok(resolver) = std::env::var("EPOLL_RESOLVER") {
        command.args(["--resolver", &resolver]);
    }
    command
}

/// One test at a time: the program lists all sets of the process.
pub static ALONE: Mutex<()> = Mutex::new(());

pub fn say(text: &str) {
    // Past the capture of the test's output.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "SKIPPED: {text}").unwrap();
}

pub fn start() -> Option<MutexGuard<'static, ()>> {
    let support = kcmp::support();
    if support != Support::Epoll {
        say(&support.to_string());
        return None;
    }
    Some(ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

pub fn pid() -> String {
    std::process::id().to_string()
}

pub fn state(child: &Child) -> State {
    Stat::of(child.id() as i32).unwrap().state
}

pub fn run(args: &[&str]) -> (i32, String, String) {
    let output = lsepoll().args(args).output().unwrap();
    text(output)
}

pub fn text(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let status = output.status.code().unwrap();
    let errors = text(output.stderr);
    // It is the same here and there, unless that is what a test is about.
    let errors = errors.split_inclusive('\n');
    let errors = errors.filter(|line| {
        // Nor can each process be inspected everywhere.
        let skips = line.contains(" skipped, and may own targets that are shown as unknown; ");
        !skips && !line.starts_with("lsepoll: BPF cannot be used: ")
    });
    (status, text(output.stdout), errors.collect())
}

/// With all columns, so that each line of a target has the same.
pub fn of_this(more: &[&str]) -> (i32, String, String) {
    let pid = pid();
    run(&[&["-p", &pid, "--owners", "given", "--wide"], more].concat())
}

/// An epoll instance, with the files that keep its targets.
pub struct Fixture {
    pub set: OwnedFd,
    pub keep: Vec<OwnedFd>,
}

impl Fixture {
    pub fn new() -> Self {
        let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let keep = Vec::new();
        Self { set, keep }
    }

    pub fn file() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC).unwrap()
    }

    pub fn add(&self, fd: &OwnedFd, data: u64) {
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&self.set, fd, EventData::new_u64(data), flags).unwrap();
    }

    pub fn good(&mut self) -> i32 {
        let file = Self::file();
        self.add(&file, 0x11);
        self.keep.push(file);
        self.keep.last().unwrap().as_raw_fd()
    }

    /// Its number is closed, another one has the file.
    pub fn moved(&mut self) -> i32 {
        let file = Self::file();
        let number = fcntl_dupfd_cloexec(&file, 400).unwrap();
        self.add(&number, 0x22);
        self.keep.push(file);
        number.as_raw_fd()
    }

    /// Its number means the first of a pair of sockets now.
    pub fn stale(&mut self) -> i32 {
        let (socket, other) = sockets();
        let file = Self::file();
        let mut number = fcntl_dupfd_cloexec(&file, 500).unwrap();
        self.add(&number, 0x33);
        dup3(&socket, &mut number, DupFlags::CLOEXEC).unwrap();
        let fd = number.as_raw_fd();
        self.keep.extend([socket, other, file, number]);
        fd
    }

    /// Only a message that nobody has received has it.
    pub fn orphan(&mut self) -> i32 {
        let (sender, receiver) = sockets();
        let file = Self::file();
        let number = fcntl_dupfd_cloexec(&file, 600).unwrap();
        self.add(&number, 0x44);
        send(&sender, &[file]);
        self.keep.extend([sender, receiver]);
        number.as_raw_fd()
    }
}

/// Sends files in a message that nobody receives.
pub fn send(socket: &OwnedFd, files: &[impl AsFd]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let text = [IoSlice::new(b"x")];
    sendmsg(socket, &text, &mut control, SendFlags::empty()).unwrap();
}

pub fn sockets() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
}

/// The line of a number, split at blanks.
pub fn line(table: &str, tfd: i32) -> Vec<&str> {
    let lines = table.lines().map(|line| line.split_whitespace().collect());
    let mut lines = lines.filter(|cells: &Vec<&str>| cells[0] == tfd.to_string());
    let line = lines.next();
    line.unwrap_or_else(|| panic!("there is no {tfd} in:\n{table}"))
}

/// Without what the environment says.
pub fn run_only(args: &[&str]) -> (i32, String, String) {
    text(Command::new(LSEPOLL).args(args).output().unwrap())
}
