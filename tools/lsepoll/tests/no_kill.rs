// SPDX-License-Identifier: GPL-2.0

//! Where a filter of system calls forbids kill(2), as that of a container may.

mod common;
mod seccomp;

use common::{Fixture, LSEPOLL, pid, start};
use seccomp::refuse;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn it_ends_where_it_may_not_kill() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    fixture.good();
    for resolver in ["kcmp", "fdinfo"] {
        let mut command = Command::new(LSEPOLL);
        command.args(["--resolver", resolver, "--owners", "given", "-p", &pid()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        refuse(&mut command, libc::SYS_kill, libc::EPERM);
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
