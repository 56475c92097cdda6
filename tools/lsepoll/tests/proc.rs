// SPDX-License-Identifier: GPL-2.0

//! Runs the program where `/proc` does not show all processes, or others.

mod common;

use common::{Fixture, LSEPOLL, pid, say, start, text};
use rustix::io::fcntl_dupfd_cloexec;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The program, where another user can run it.
struct Copy(PathBuf);

impl Copy {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("lsepoll-proc-{}", pid()));
        fs::copy(LSEPOLL, &path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs the program in a namespace of mounts, from a script that makes them.
fn run(script: &str, program: &str, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, program]);
    text(command.args(args).output().unwrap())
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        say("only root may mount");
    }
    is_root
}

/// A process of another user has an instance, of whose target a process of root has the
/// only descriptor.
#[test]
fn what_is_hidden_is_not_orphaned() {
    const NOBODY: u32 = 65534;
    let Some(_alone) = start() else { return };
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let file = Fixture::file();
    let number = fcntl_dupfd_cloexec(&file, 700).unwrap();
    fixture.add(&number, 0x55);
    drop(number);
    let copy = Copy::new();
    let program = copy.0.to_str().unwrap();
    let mut command = Command::new("sleep");
    command
        .arg("600")
        .stdin(Stdio::from(fixture.set))
        .uid(NOBODY)
        .gid(NOBODY);
    let mut sleeper = command.spawn().unwrap();
    let script = "mount -t proc -o hidepid=2 proc /proc && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" \"$@\"";
    let of_it = sleeper.id().to_string();
    let runs = ["auto", "kcmp", "fdinfo"].map(|resolver| {
        run(
            script,
            program,
            &["--resolver", resolver, "--json", "-p", &of_it],
        )
    });
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    for (_, json, errors) in runs {
        let report: Value = serde_json::from_str(&json).unwrap_or_else(|_| panic!("{errors}"));
        assert_eq!(report["complete"], false);
        let target = &report["sets"][0]["targets"][0];
        assert_eq!(target["data"], "0x55", "{report}");
        assert_eq!(
            (&target["owner"], &target["orphaned"]),
            (&"unknown".into(), &false.into())
        );
        if report["statistics"]["resolver"] == "kcmp" {
            // The kernel calls it so from 5.8 on.
            let partial = report["partial"]
                .as_str()
                .unwrap()
                .replace("=2", "=invisible");
            let why = "/proc is mounted with hidepid=invisible, which hides processes";
            assert_eq!(partial, why);
            assert!(errors.contains("which hides processes"), "{errors}");
        }
    }
}

/// A `/proc` of another namespace of pids shows other processes by these numbers.
#[test]
fn the_proc_of_another_namespace() {
    let script = "unshare --pid --fork --kill-child \
                      sh -c 'mount -t proc proc /proc && exec sleep 60' >/dev/null 2>&1 & \
                  while readlink /proc/self >/dev/null; do sleep 0.01; done; \
                  \"$0\" \"$@\"; status=$?; kill $!; exit $status";
    let why = "/proc is that of another PID namespace, where this process is not; mount this one's";
    is_refused(script, why);
}

#[test]
fn the_proc_of_the_parent_namespace() {
    let script = "exec unshare --pid --fork \"$0\" \"$@\"";
    let why = "/proc is that of another PID namespace; mount this one's";
    is_refused(script, why);
}

#[test]
fn no_proc() {
    let script = "mount -t tmpfs none /proc && exec \"$0\" \"$@\"";
    is_refused(script, "no procfs is mounted at /proc; mount it");
}

/// What it says is why it sees nothing.
fn is_refused(script: &str, why: &str) {
    let Some(_alone) = start() else { return };
    if !is_root() {
        return;
    }
    let mut fixture = Fixture::new();
    fixture.good();
    for resolver in ["auto", "walk", "kcmp", "fdinfo"] {
        for pids in [&["-p", &pid()][..], &[]] {
            let args = [&["--resolver", resolver, "--json"], pids].concat();
            let (status, json, errors) = run(script, LSEPOLL, &args);
            assert_eq!((status, errors), (2, format!("lsepoll: {why}\n")));
            let report: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(
                (&report["complete"], &report["partial"]),
                (&false.into(), &why.into())
            );
            assert_eq!(report["sets"].as_array().unwrap().len(), 0);
        }
    }
}
