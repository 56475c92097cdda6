// SPDX-License-Identifier: GPL-2.0

//! What `epollcr dump` says of processes that it cannot dump, and what it leaves behind.

mod child;

use child::{Stopped, await_state, dump, limit_files, state};
use epoll_targets::proc::State;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const CANNOT_DUMP: &str = "this process may not dump its children";

/// Says that a test is skipped, past the capture of its output: see `scripts/lib/results`.
fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// The one line that it prints for an error.
fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    let line = error.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    line.into()
}

fn refused(pid: u32) -> String {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let error = error(&dump(pid, &image).output().unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let start = format!("epollcr: cannot dump process {pid}");
    error.strip_prefix(&start).expect(&error).into()
}

#[test]
fn what_runs_is_told_how_to_stop() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = child.id();
    let said = refused(pid);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        said.starts_with(&format!(
            " (stop it with kill -STOP {pid}, or dump it with --running): the process is not \
             stopped: thread {pid} is "
        )),
        "{said}"
    );
    // To stop this one would stop the tool.
    let own = refused(std::process::id());
    assert!(
        own.starts_with(
            " (it waits for this program, and can be stopped and dumped by a program that it \
             does not wait for; --running dumps it as it is): the process is not stopped: "
        ),
        "{own}"
    );
}

#[test]
fn what_is_no_process() {
    let mut child = Command::new("true").spawn().unwrap();
    await_state(child.id(), State::Zombie);
    assert_eq!(
        refused(child.id()),
        ": it has ended, and its parent has not waited for it"
    );
    let pid = child.id();
    child.wait().unwrap();
    assert_eq!(
        refused(pid),
        format!(": cannot open process {pid}: No such process (os error 3)")
    );

    let (send, receive) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        // SAFETY: it takes nothing.
        send.send(unsafe { libc::gettid() }).unwrap();
        let _ = ended.recv();
    });
    let tid = receive.recv().unwrap();
    let pid = std::process::id();
    assert_eq!(
        refused(tid as u32),
        format!(" (dump it with -p {pid}): {tid} is a thread of process {pid}")
    );
    end.send(()).unwrap();
    thread.join().unwrap();
}

/// Containers do not show threads of the kernel.
#[test]
fn a_thread_of_the_kernel() {
    if !fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
        return skip("no thread of the kernel can be seen");
    }
    assert_eq!(
        refused(2),
        ": it is a thread of the kernel, which has no descriptors"
    );
}

#[test]
fn nothing_is_left_of_a_dump_that_fails() {
    let child = Stopped::new();
    if !child.may_be_dumped() {
        return skip(CANNOT_DUMP);
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let mut command = dump(child.id(), &image);
    limit_files(&mut command);
    let said = error(&command.output().unwrap());
    assert_eq!(
        said,
        format!(
            "epollcr: cannot write {}: File too large (os error 27)",
            image.display()
        )
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_image_replaces_another() {
    let child = Stopped::new();
    if !child.may_be_dumped() {
        return skip(CANNOT_DUMP);
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for old in [false, true] {
        if old {
            fs::write(&image, "an old image").unwrap();
        }
        assert!(dump(child.id(), &image).status().unwrap().success());
        assert!(fs::read(&image).unwrap().starts_with(b"EPOLLCR\n"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
    // A name without a directory is one in the current directory.
    fs::remove_file(&image).unwrap();
    let mut command = dump(child.id(), Path::new("image"));
    assert!(command.current_dir(dir.path()).status().unwrap().success());
    assert!(image.exists());
}

/// A file of a mount that only the process has is named, and says what to do; those that
/// are the same here are dumped.
#[test]
fn a_file_of_another_mount_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    fs::write(&here, "text").unwrap();
    fs::create_dir(&there).unwrap();
    let script = "mount -t tmpfs none \"$0/there\" && echo text >\"$0/there/file\" && \
                  exec sleep 1000 3<\"$0/there/file\" 4<\"$0/here\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .arg(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let Ok(mut child) = command.stderr(Stdio::null()).spawn() else {
        return skip("there is no unshare(1)");
    };
    let pid = child.id();
    let name = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    while name() != "sleep\n" {
        if state(pid) == State::Zombie {
            child.wait().unwrap();
            return skip("only root may make a mount namespace");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let child = Stopped::of(child);
    let image = dir.path().join("image");
    let output = dump(pid, &image).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut show = Command::new(env!("CARGO_BIN_EXE_epollcr"));
    let output = show.arg("show").arg(&image).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    drop(child);
    let line = |number: &str| {
        let mut lines = shown.lines().map(|line| line.trim_start());
        let line = lines.find(|line| line.split(' ').next() == Some(number));
        line.expect(&shown).to_owned()
    };
    // From inside of a chroot(2), the path begins elsewhere.
    let advice = format!(
        "/there/file: its path exists only in the mount namespace of the process (dump and \
         restore it there: nsenter --mount=/proc/{pid}/ns/mnt epollcr ...)"
    );
    assert!(line("3").ends_with(&advice), "{shown}");
    assert!(
        line("4").ends_with(&format!(" {}", here.display())),
        "{shown}"
    );
}
