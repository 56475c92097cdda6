// SPDX-License-Identifier: GPL-2.0
//! What the command that `epollcr restore` executes inherits.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use epoll_targets::proc::State;
use libepollcr::image::Image;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use super::{
    Scratch, beside, epollcr, epollcr_with, holder, is, must, null, open_files, stop, text,
};
use crate::epollcr::module;
use crate::process::{fork, wait_until};
use crate::tap::note;

/// With `--stdio`, the standard streams are those of the restoring process.
pub fn stdio() -> Result<()> {
    drop(module()?);
    let dir = Scratch::new("stdio")?;
    let image = dir.path("image");
    let null = null()?;
    let child = holder(&[(&null, 0, false), (&null, 1, false), (&null, 2, false)])?;
    must(["dump", "-p", &child.pid().to_string(), &image])?;
    let shell = ["--", "sh", "-c", "echo out; echo error >&2"];

    let output = epollcr(["restore", &image, "--stdio"].into_iter().chain(shell))?;
    ensure!(output.status.success(), "{}", output.status);
    ensure!(text(&output.stdout) == "out" && text(&output.stderr) == "error");
    // Restoring needs more descriptors than that. The command gets the old limit back.
    let program = beside("epollcr")?;
    let run = "ulimit -Sn 40; exec \"$0\" restore \"$1\" --stdio -- sh -c 'ulimit -Sn'";
    let output = Command::new("sh")
        .args(["-c", run])
        .args([program.as_os_str(), image.as_ref()])
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    ensure!(
        text(&output.stdout) == "40",
        "it may open {}",
        text(&output.stdout)
    );
    // Descriptors can be given, too.
    let args = ["restore", &image, "--stdio", "--fd", "2=1"];
    let output = epollcr(args.into_iter().chain(shell))?;
    ensure!(output.status.success(), "{}", output.status);
    ensure!(text(&output.stdout) == "out\nerror" && output.stderr.is_empty());
    // Without it, they are those of the process.
    let output = epollcr(["restore", &image].into_iter().chain(shell))?;
    ensure!(output.status.success() && output.stdout.is_empty());

    let args = ["restore", &image, "--fd", "1=1", "--fd", "2=2"];
    let output = epollcr(args.into_iter().chain(shell))?;
    let error = text(&output.stderr);
    note(&error);
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(
        error.starts_with("epollcr: descriptors 1 and 2 are given for one open file"),
        "what it said: {error}"
    );
    Ok(())
}

/// With `--keep-cloexec`, execve(2) closes what it would have closed, but no file that only
/// an epoll instance refers to. Such a file can be given, though it has no descriptor.
pub fn keep_cloexec() -> Result<()> {
    drop(module()?);
    let dir = Scratch::new("keep-cloexec")?;
    let image = dir.path("image");
    let (null, stays, closes) = (null()?, null()?, null()?);
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watched: OwnedFd = eventfd(0, EventfdFlags::CLOEXEC)?;
    let number = fcntl_dupfd_cloexec(&watched, 777)?;
    let data = epoll::EventData::new_u64(9);
    epoll::add(&set, &number, data, epoll::EventFlags::IN)?;
    drop(number);
    let child = holder(&[
        (&null, 0, false),
        (&null, 1, false),
        (&null, 2, false),
        (&stays, 300, false),
        (&closes, 301, true),
        (&set, 302, false),
    ])?;
    must(["dump", "-p", &child.pid().to_string(), &image])?;
    let read = Image::read(File::open(&image)?)?;
    let numbers = read.numbers();
    let held = numbers.iter().position(Vec::is_empty);
    let held = held.context("every file has a descriptor")?;
    // The child still has them.
    drop((set, stays, closes));

    let (list, info) = (dir.path("list"), dir.path("info"));
    let look = "ls -l /proc/$$/fd >\"$0\"; cat /proc/$$/fdinfo/302 >\"$1\"; true";
    let shell = ["--", "bash", "-c", look, &list, &info];
    let tfd = |info: &str| info.lines().any(|line| line.starts_with("tfd:      777 "));
    let args = ["restore", &image, "--keep-cloexec"];
    must(args.into_iter().chain(shell))?;
    let found = fs::read_to_string(&list)?;
    found.lines().for_each(note);
    ensure!(found.contains(" 300 -> ") && found.contains(" 302 -> "));
    ensure!(!found.contains(" 301 -> "), "execve(2) did not close it");
    ensure!(tfd(&fs::read_to_string(&info)?), "the target is gone");

    // Without it, the command has all of them.
    must(["restore", &image].into_iter().chain(shell))?;
    ensure!(fs::read_to_string(&list)?.contains(" 301 -> "));
    ensure!(tfd(&fs::read_to_string(&info)?), "the target is gone");

    let (reader, _writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let given = format!("f{held}=0");
    let args = ["restore", &image, "--fd", &given];
    let output = epollcr_with(reader, args.into_iter().chain(shell))?;
    let error = text(&output.stderr);
    ensure!(output.status.success(), "{}: {error}", output.status);
    let found = fs::read_to_string(&list)?;
    ensure!(
        found.contains(" -> pipe:["),
        "it is not the file that was given"
    );
    ensure!(!found.contains("[eventfd]"), "it was restored nevertheless");
    ensure!(tfd(&fs::read_to_string(&info)?), "the target is gone");
    Ok(())
}

/// A process with standard streams and two more descriptors, none of them close-on-exec.
fn sleeper(stays: &OwnedFd, closes: &OwnedFd) -> Result<std::process::Child> {
    fcntl_setfd(stays, FdFlags::empty())?;
    let number = closes.as_raw_fd();
    let mut command = Command::new("sleep");
    command.arg("1000");
    // SAFETY: between fork and exec the closure makes one system call, and takes
    // no lock and no memory.
    unsafe {
        command.pre_exec(move || {
            libc::fcntl(number, libc::F_SETFD, 0);
            Ok(())
        });
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = Pid::from_child(&child);
    // By then it has loaded its libraries.
    wait_until("sleep", || is(pid, State::Sleeping) && open_files(pid) == 5)?;
    Ok(child)
}

/// The close-on-exec flags of an image are restored. `had` are closed in the child.
fn close_on_exec(image: &str, had: (OwnedFd, OwnedFd)) -> Result<()> {
    let own = fork(|| {
        let Ok(image) = File::open(image).map(libepollcr::image::Image::read) else {
            return 2;
        };
        let Ok(mut image) = image else {
            return 3;
        };
        for descriptor in &mut image.descriptors {
            descriptor.cloexec = descriptor.number == 301;
        }
        image.descriptors.retain(|descriptor| descriptor.number > 2);
        drop(had);
        let Ok(restored) = libepollcr::restore::Restore::new(&image).run(None) else {
            return 4;
        };
        let cloexec = |number: &u32| {
            let flags = fcntl_getfd(&restored.descriptors[number]);
            flags.is_ok_and(|flags| flags.contains(FdFlags::CLOEXEC))
        };
        i32::from(cloexec(&300) || !cloexec(&301))
    })?;
    own.finish(Duration::from_secs(10))
}

/// The exit status says whether the command or the command line is wrong.
fn statuses(image: &str) -> Result<()> {
    for (status, args) in [
        (127, &["restore", image, "--", "/no/such/program"][..]),
        (126, &["restore", image, "--", "/etc/passwd"]),
        (2, &["restore"]),
        (2, &["restore", image]),
        (2, &["restore", image, "--fd", "3=", "--dry-run"]),
        (2, &["dump", image]),
        (2, &["dump", "-p", "0", image]),
        (2, &["tell", image]),
    ] {
        let output = epollcr(args)?;
        ensure!(
            output.status.code() == Some(status),
            "{args:?}: {}",
            output.status
        );
    }
    Ok(())
}

/// The command has the restored descriptors, and no others.
pub fn exec() -> Result<()> {
    drop(module()?);
    let dir = Scratch::new("exec")?;
    let image = dir.path("image");
    let null: OwnedFd = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into();
    let (stays, closes) = (
        fcntl_dupfd_cloexec(&null, 300)?,
        fcntl_dupfd_cloexec(&null, 301)?,
    );
    let mut child = sleeper(&stays, &closes)?;
    let pid = Pid::from_child(&child);
    stop(pid)?;
    must(["dump", "-p", &pid.to_string(), &image])?;
    child.kill()?;
    child.wait()?;

    // The descriptors of the shell, listed by another program.
    let list = "ls /proc/$$/fd >\"$0\"; true";
    let out = dir.path("list");
    must(["restore", &image, "--", "bash", "-c", list, &out])?;
    let mut found: Vec<_> = fs::read_to_string(&out)?
        .lines()
        .map(str::to_owned)
        .collect();
    found.sort();
    ensure!(found == ["0", "1", "2", "300", "301"], "it has {found:?}");

    close_on_exec(&image, (stays, closes))?;
    statuses(&image)
}
