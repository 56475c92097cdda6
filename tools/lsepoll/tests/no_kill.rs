// SPDX-License-Identifier: GPL-2.0

//! Where a filter of system calls forbids kill(2), as that of a container may.

mod common;

use common::{Fixture, LSEPOLL, pid, start};
use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Has a program see `EPERM` for each kill(2).
fn without_kill(command: &mut Command) {
    let op = |code, k, jt, jf| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut filter = [
        op(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, libc::SYS_kill as u32, 0, 1),
        op(BPF_RET | BPF_K, refused, 0, 0),
        op(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let install = move || {
        let program = sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: `program` is a whole filter, and is valid during the call.
        unsafe {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                ) != 0
            {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `install` allocates nothing and takes no lock.
    unsafe { command.pre_exec(install) };
}

#[test]
fn it_ends_where_it_may_not_kill() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    fixture.good();
    for resolver in ["kcmp", "fdinfo"] {
        let mut command = Command::new(LSEPOLL);
        command.args(["--resolver", resolver, "--owners", "given", "-p", &pid()]);
        without_kill(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let Ok(mut lsepoll) = command.spawn() else {
            return common::say("no seccomp filters here");
        };
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = lsepoll.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > Duration::from_secs(60) {
                lsepoll.kill().unwrap();
                lsepoll.wait().unwrap();
                panic!("{resolver}: it does not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(0), "{resolver}");
    }
}
