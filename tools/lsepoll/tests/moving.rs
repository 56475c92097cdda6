// SPDX-License-Identifier: GPL-2.0

//! Runs the program while a file that it searches for moves.

mod common;

use common::{Fixture, LSEPOLL, pid, say, send, sockets, start};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use std::cell::RefCell;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Numbers of descriptors that are open in each of two processes. Together they are more than
/// the program reads at a time, so that it reads the last of the second process later.
const MANY: std::ops::Range<RawFd> = 1_000..19_900;

/// The command of bpf(2) that begins an iteration.
const BPF_ITER_CREATE: u64 = 33;

/// A file that another process gets, and gives back, and that is always open.
struct Moved {
    here: RefCell<Option<OwnedFd>>,
    socket: OwnedFd,
    child: libc::pid_t,
}

impl Moved {
    fn new(file: OwnedFd) -> Self {
        let (socket, theirs) = sockets();
        // SAFETY: The child makes system calls only, until it is killed.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: These take integers.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::close(file.as_raw_fd());
                while libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 0) < MANY.end {}
            }
            loop {
                // Its number is above all others.
                let file = receive(&theirs);
                rustix::io::write(&theirs, b"x").unwrap();
                rustix::io::read(&theirs, &mut [0]).unwrap();
                send(&theirs, &[&file]);
                rustix::io::read(&theirs, &mut [0]).unwrap();
                drop(file);
                rustix::io::write(&theirs, b"x").unwrap();
            }
        }
        let here = RefCell::new(Some(file));
        Self {
            here,
            socket,
            child,
        }
    }

    /// Has the other process have it.
    fn give(&self) {
        if let Some(file) = self.here.take() {
            send(&self.socket, &[&file]);
            rustix::io::read(&self.socket, &mut [0]).unwrap();
        }
    }

    /// Has this one have it again.
    fn take(&self) {
        if self.here.borrow().is_none() {
            rustix::io::write(&self.socket, b"x").unwrap();
            *self.here.borrow_mut() = Some(receive(&self.socket));
            rustix::io::write(&self.socket, b"x").unwrap();
            rustix::io::read(&self.socket, &mut [0]).unwrap();
        }
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        // SAFETY: It is our child, which nobody else waits for.
        unsafe {
            libc::kill(self.child, libc::SIGKILL);
            libc::waitpid(self.child, std::ptr::null_mut(), 0);
        }
    }
}

fn receive(socket: &OwnedFd) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut text = [IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut text, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let file = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    file.unwrap()
}

/// Runs the program to its end, and calls `first` before each iteration, and `then` when the
/// first part of it was read. Returns what it has printed.
fn run_in_steps(mut command: Command, first: impl Fn(), then: impl Fn()) -> io::Result<String> {
    // SAFETY: It makes one system call.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let pid = child.id() as libc::pid_t;
    // Whether an iteration has begun, and its first part is being read.
    let (mut is_new, mut is_read) = (false, false);
    let mut signal: libc::c_ulong = 0;
    loop {
        let mut status = 0;
        // SAFETY: This thread traces the child, which nobody else waits for.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        if !libc::WIFSTOPPED(status) {
            break;
        }
        let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
        let size = size_of_val(&info);
        match libc::WSTOPSIG(status) {
            // SAFETY: The child is stopped, and `info` has this size. Zeros are valid, and
            // which part of the union was written is what `op` says.
            stop if stop == libc::SIGTRAP | 0x80 => unsafe {
                libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, info.as_mut_ptr());
                let info = info.assume_init();
                if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
                    if std::mem::take(&mut is_read) {
                        then();
                    }
                } else if info.u.entry.nr == libc::SYS_read as u64 {
                    is_read = std::mem::take(&mut is_new);
                } else if info.u.entry.nr == libc::SYS_bpf as u64
                    && info.u.entry.args[0] == BPF_ITER_CREATE
                {
                    first();
                    is_new = true;
                }
            },
            libc::SIGTRAP => {
                let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
                let options = options as libc::c_ulong;
                // SAFETY: The child is stopped.
                unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options) };
            }
            other => signal = other as libc::c_ulong,
        }
        // SAFETY: The child is stopped.
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, signal) };
        signal = 0;
    }
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text)?;
    // There is nothing to wait for any more.
    let _ = child.wait();
    Ok(text)
}

/// However often one looks at all descriptors, a file can be moved to where one has looked
/// already: here the program is stopped for that. The kernel may as well run another one then.
#[test]
fn a_file_that_is_never_where_one_looks() {
    let Some(_alone) = start() else { return };
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, all).unwrap();
    if limit
        .maximum
        .is_some_and(|most| most < MANY.end as u64 + 100)
    {
        return say("there may not be enough descriptors");
    }
    let fixture = Fixture::new();
    let file = Fixture::file();
    fixture.add(&file, 0x77);
    // By another number.
    let copy = fcntl_dupfd_cloexec(&file, 0).unwrap();
    drop(file);
    let moved = Moved::new(copy);
    let other = Fixture::file();
    let many = MANY.map(|fd| fcntl_dupfd_cloexec(&other, fd).unwrap());
    let many: Vec<OwnedFd> = many.collect();
    let mut command = Command::new(LSEPOLL);
    command.args(["--json", "--resolver", "walk", "-p", &pid()]);
    let text = run_in_steps(command, || moved.give(), || moved.take());
    drop(many);
    let text = text.unwrap();
    if text.is_empty() {
        return say("BPF cannot be used");
    }
    let report: Value = serde_json::from_str(&text).unwrap();
    let target = &report["sets"][0]["targets"][0];
    assert_eq!(target["data"], "0x77");
    assert_ne!(target["owner"], "none", "{target}");
}
