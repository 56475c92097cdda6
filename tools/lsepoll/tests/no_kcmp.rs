// SPDX-License-Identifier: GPL-2.0

//! Runs the program where there is no kcmp(2), as on a kernel without `CONFIG_KCMP`, or no
//! BPF, or neither.

mod seccomp;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use seccomp::refuse;
use std::io::{self, Write};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

const LSEPOLL: &str = env!("CARGO_BIN_EXE_lsepoll");

/// One test at a time: the program lists all sets of the process.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a program that sees `errno` for each kcmp(2).
fn without_kcmp(mut command: Command, errno: i32) -> io::Result<Output> {
    refuse(&mut command, libc::SYS_kcmp, errno);
    command.output()
}

fn say(text: &str) {
    // Past the capture of the test's output.
    let mut stderr = io::stderr();
    writeln!(stderr, "SKIPPED: {text}").unwrap();
}

fn lsepoll(args: &[&str], errno: i32) -> io::Result<Output> {
    let mut command = Command::new(LSEPOLL);
    command.args(args);
    without_kcmp(command, errno)
}

#[test]
fn says_that_kcmp_is_missing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let file = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    epoll::add(&set, &file, EventData::new_u64(7), EventFlags::IN).unwrap();
    let pid = std::process::id().to_string();

    for (errno, message) in [(libc::ENOSYS, "CONFIG_KCMP"), (libc::EPERM, "forbidden")] {
        let output = match lsepoll(&["--resolver", "kcmp", "-p", &pid], errno) {
            Ok(output) => output,
            Err(error) => {
                return say(&format!("no seccomp filters here: {error}"));
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

/// Ways to run a program without BPF, and why it does not work there. They take root.
const WITHOUT_BPF: [(&[&str], &str); 2] = [
    (
        &["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"],
        "it takes CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE, which root has",
    ),
    (
        &[
            "unshare",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"",
        ],
        "there is no /sys/kernel/btf/vmlinux: the kernel has no type information \
         (CONFIG_DEBUG_INFO_BTF)",
    ),
];

/// One line says why the next best way is used.
#[test]
fn what_is_used_instead() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let file = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    epoll::add(&set, &file, EventData::new_u64(7), EventFlags::IN).unwrap();
    let pid = std::process::id().to_string();
    if !rustix::process::geteuid().is_root() {
        return say("only root has BPF");
    }
    let filters = without_kcmp(Command::new("true"), libc::ENOSYS);
    if let Err(error) = &filters {
        say(&format!("no seccomp filters here: {error}"));
    }
    for (without_bpf, why) in WITHOUT_BPF {
        let run = |errno: Option<i32>, more: &[&str]| {
            let mut command = Command::new(without_bpf[0]);
            command.args(&without_bpf[1..]).arg(LSEPOLL);
            command.args(["-p", &pid]).args(more);
            let output = match errno {
                None => command.output(),
                Some(errno) => without_kcmp(command, errno),
            };
            let output = output.unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (text(output.stdout), text(output.stderr))
        };
        let (table, _) = run(None, &[]);
        if table.is_empty() {
            say(&format!("{} does not work here", without_bpf[0]));
            continue;
        }
        let why = match cfg!(feature = "bpf") {
            true => format!("BPF cannot be used: {why}"),
            false => String::new(),
        };
        let (json, errors) = run(None, &["--json"]);
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(report["statistics"]["resolver"], "kcmp");
        assert_eq!(report["sets"][0]["targets"][0]["guessed"], false);
        let line = if why.is_empty() {
            String::new()
        } else {
            format!("lsepoll: {why}\n")
        };
        assert_eq!(errors, line);

        // Nor kcmp(2).
        if filters.is_err() {
            continue;
        }
        for (errno, no_kcmp) in [
            (libc::ENOSYS, "this kernel has no kcmp(2) (CONFIG_KCMP)"),
            (
                libc::EPERM,
                "kcmp(2) is forbidden, perhaps by a seccomp filter",
            ),
        ] {
            let guessed = "owners are guessed by the numbers of descriptors and inodes";
            let why = if why.is_empty() {
                String::new()
            } else {
                format!("; {why}")
            };
            let line = format!("lsepoll: {guessed}: {no_kcmp}{why}\n");
            let (json, errors) = run(Some(errno), &["--json"]);
            assert_eq!(errors, line);
            let report: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(report["statistics"]["resolver"], "fdinfo");
            assert_eq!(report["complete"], false);
            assert_eq!(report["sets"][0]["targets"][0]["guessed"], true);
            let (table, errors) = run(Some(errno), &[]);
            assert!(table.contains("guessed"), "{table}");
            assert_eq!(errors, line);
        }
    }
}
