// SPDX-License-Identifier: GPL-2.0

//! Stopped processes to be dumped. Not each test uses all of it.
#![allow(dead_code)]

use epoll_targets::proc::{Stat, State};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub fn dump(pid: u32, image: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epollcr"));
    command
        .args(["dump", "-p", &pid.to_string()])
        .arg(image)
        .stdin(Stdio::null());
    command
}

/// Lets a program write no file that is larger than 100 bytes.
pub fn limit_files(command: &mut Command) {
    // SAFETY: between fork and exec, the closure makes one system call.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 100,
                rlim_max: 100,
            };
            match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

pub fn state(pid: u32) -> State {
    Stat::of(pid as i32).unwrap().state
}

pub fn await_state(pid: u32, wanted: State) {
    while state(pid) != wanted {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Debug)]
pub struct Stopped(Child);

impl Stopped {
    pub fn new() -> Self {
        Self::with(|| Ok(()))
    }

    /// One that opens files first, which must not be close-on-exec. `open` makes system
    /// calls only.
    pub fn with(open: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> Self {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec, it takes no lock and no memory.
        unsafe { command.pre_exec(open) };
        Self::of(command.spawn().unwrap())
    }

    /// A process that sleeps.
    pub fn of(child: Child) -> Self {
        await_state(child.id(), State::Sleeping);
        let pid = child.id() as i32;
        // SAFETY: it takes two integers. This is our child, which nobody has waited for.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        await_state(child.id(), State::Stopped);
        Self(child)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether this process may dump its children, as root may.
    pub fn may_be_dumped(&self) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let output = dump(self.id(), &dir.path().join("image")).output().unwrap();
        output.status.success()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
