// SPDX-License-Identifier: GPL-2.0

//! Runs the program where there is no kcmp(2), as on a kernel without `CONFIG_KCMP`.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

/// Has the program see `errno` for each kcmp(2).
fn lsepoll(args: &[&str], errno: i32) -> io::Result<Output> {
    let op = |code, k, jt, jf| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut filter = [
        op(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, libc::SYS_kcmp as u32, 0, 1),
        op(
            BPF_RET | BPF_K,
            libc::SECCOMP_RET_ERRNO | errno as u32,
            0,
            0,
        ),
        op(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_lsepoll"));
    command.args(args);
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
    unsafe { command.pre_exec(install) }.output()
}

#[test]
fn says_that_kcmp_is_missing() {
    let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let file = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    epoll::add(&set, &file, EventData::new_u64(7), EventFlags::IN).unwrap();
    let pid = std::process::id().to_string();

    for (errno, message) in [(libc::ENOSYS, "CONFIG_KCMP"), (libc::EPERM, "forbidden")] {
        let output = match lsepoll(&["--resolver", "kcmp", "-p", &pid], errno) {
            Ok(output) => output,
            Err(error) => {
                // Past the capture of the test's output.
                let mut stderr = io::stderr();
                writeln!(stderr, "SKIPPED: no seccomp filters here: {error}").unwrap();
                return;
            }
        };
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.matches(message).count(), 1, "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(!output.status.success());

        // BPF does without, and without BPF owners are guessed.
        let output = lsepoll(&["-p", &pid, "--json"], errno).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let output: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let resolver = &output["statistics"]["resolver"];
        let guessed = resolver == "fdinfo";
        assert!(guessed || resolver == "walk", "{resolver}");
        assert_eq!(stderr.contains(message), guessed, "{stderr}");
        let target = &output["sets"][0]["targets"][0];
        assert_eq!(
            (&target["owner"], &target["guessed"]),
            (&"same".into(), &guessed.into())
        );
    }
}
