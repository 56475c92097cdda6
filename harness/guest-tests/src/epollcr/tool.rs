// SPDX-License-Identifier: GPL-2.0
//! The program as people run it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::fs::inotify;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};

use super::device;
use crate::criu::{Report, SCENARIOS, Scenario};
use crate::process::{fork, wait_until};
use crate::sys;
use crate::tap::{Case, note};

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<_> = SCENARIOS
        .iter()
        .map(|scenario| Case::new(format!("epollcr/{}", scenario.name), |_| cycle(scenario)))
        .collect();
    cases.extend([
        Case::new("epollcr/running", |_| running()),
        Case::new("epollcr/named", |_| named()),
        Case::new("epollcr/exec", |_| exec()),
    ]);
    cases
}

fn beside(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

fn epollcr<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Output> {
    let program = beside("epollcr")?;
    Command::new(&program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn must<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<String> {
    let output = epollcr(args)?;
    let error = text(&output.stderr);
    ensure!(output.status.success(), "{}: {error}", output.status);
    Ok(text(&output.stdout))
}

fn state(pid: Pid) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    state.split(' ').next().unwrap_or_default().to_owned()
}

fn stop(pid: Pid) -> Result<()> {
    kill(pid, Signal::SIGSTOP)?;
    wait_until("a process to stop", || state(pid) == "T")
}

/// A program of the group `criu`: dumped, killed, restored, it finds all as it was.
fn cycle(scenario: &Scenario) -> Result<()> {
    drop(device()?);
    let (mut subject, _held) = scenario.start()?;
    let (dir, pid) = (subject.dir.clone(), subject.pid());
    let image = dir.join("image");
    stop(pid)?;
    let began = std::time::Instant::now();
    must([
        OsStr::new("dump"),
        "-p".as_ref(),
        pid.to_string().as_ref(),
        image.as_ref(),
    ])?;
    let dumped = began.elapsed().as_secs_f64();
    killpg(pid, Signal::SIGKILL)?;
    wait_until("a process to end", || state(pid) == "Z")?;

    let shown = must([OsStr::new("show"), image.as_ref()])?;
    shown
        .lines()
        .filter(|line| !line.is_empty())
        .take(20)
        .for_each(note);
    let began = std::time::Instant::now();
    must([
        OsStr::new("restore"),
        image.as_ref(),
        "--".as_ref(),
        beside("criu-subject")?.as_ref(),
        "resume".as_ref(),
        "--dir".as_ref(),
        dir.as_ref(),
    ])
    .with_context(|| fs::read_to_string(dir.join("output")).unwrap_or_default())?;
    let restored = began.elapsed().as_secs_f64();
    note(format!(
        "dumped in {dumped:.2} s, restored and verified in {restored:.2} s"
    ));
    let report: Report = subject.await_file("report")?.parse()?;
    scenario.expect_all(&report)
}

/// One that is not stopped is refused, or marked.
fn running() -> Result<()> {
    drop(device()?);
    let dir = Scratch::new("running")?;
    let image = dir.path("image");
    let child = fork(|| {
        loop {
            nix::unistd::pause();
        }
    })?;
    let pid = child.pid().to_string();
    let output = epollcr(["dump", "-p", &pid, &image])?;
    let error = text(&output.stderr);
    note(&error);
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(
        error.contains("the process is not stopped") && error.lines().count() == 1,
        "what it said: {error}"
    );
    ensure!(!Path::new(&image).exists(), "there is an image");

    must(["dump", "-p", &pid, "--running", &image])?;
    ensure!(
        must(["show", &image])?.contains("NOT STOPPED"),
        "the image does not say so"
    );
    ensure!(
        must(["show", "--json", &image])?.contains("\"stopped\":false"),
        "the image does not say so to programs"
    );
    stop(Pid::from_raw(child.pid()))?;
    must(["dump", "-p", &pid, &image])?;
    ensure!(
        must(["show", &image])?.contains(", stopped, "),
        "the image lies"
    );
    Ok(())
}

/// All that cannot be restored is named before anything is done; and it can be
/// given.
fn named() -> Result<()> {
    drop(device()?);
    let dir = Scratch::new("named")?;
    let image = dir.path("image");
    let gone = dir.path("gone");
    // The other end of the pipe stays with us.
    let (child, _writer) = {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let unlinked: OwnedFd = File::create(&gone)?.into();
        fs::remove_file(&gone)?;
        let listener: OwnedFd = TcpListener::bind("127.0.0.1:0")?.into();
        let watcher = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let mut fds = Vec::new();
        for (fd, number) in [&reader, &unlinked, &listener, &watcher]
            .into_iter()
            .zip(500..)
        {
            fds.push(fcntl_dupfd_cloexec(fd, number)?);
        }
        let child = fork(|| {
            // Only these, and a standard input that can be had anywhere.
            for fd in 1..500 {
                let _ = sys::close(fd);
            }
            loop {
                nix::unistd::pause();
            }
        })?;
        (child, writer)
    };
    let pid = Pid::from_raw(child.pid());
    wait_until("a process to pause", || {
        state(pid) == "S" && open_files(pid) == 5
    })?;
    stop(pid)?;
    must(["dump", "-p", &pid.to_string(), &image])?;
    must(["show", &image])?.lines().for_each(note);

    let mark = dir.path("mark");
    let output = epollcr(["restore", &image, "--", "touch", &mark])?;
    let error = text(&output.stderr);
    error.lines().for_each(note);
    ensure!(output.status.code() == Some(1), "{}", output.status);
    for number in 500..504 {
        let line = format!("epollcr: cannot restore: descriptor {number}");
        ensure!(
            error.lines().any(|said| said.starts_with(&line)),
            "{number} is not named"
        );
    }
    ensure!(error.lines().count() == 4, "more is named");
    ensure!(!Path::new(&mark).exists(), "the command was executed");

    let given = ["500=0", "501=0", "502=0", "503=0"];
    let given = given.iter().flat_map(|given| ["--fd", given]);
    let command = ["--", "touch", &mark];
    must(["restore", &image].into_iter().chain(given).chain(command))?;
    ensure!(Path::new(&mark).exists(), "the command was not executed");
    Ok(())
}

fn open_files(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The command has what it should have, and nothing else.
fn exec() -> Result<()> {
    drop(device()?);
    let dir = Scratch::new("exec")?;
    let image = dir.path("image");
    let null: OwnedFd = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into();
    let mut command = Command::new("sleep");
    command.arg("1000");
    let (stays, closes) = (
        fcntl_dupfd_cloexec(&null, 300)?,
        fcntl_dupfd_cloexec(&null, 301)?,
    );
    fcntl_setfd(&stays, FdFlags::empty())?;
    let number = closes.as_raw_fd();
    // SAFETY: it forks, and calls nothing that may not be called then.
    unsafe {
        command.pre_exec(move || {
            // Not closed by this exec; it is made so afterwards by nobody.
            libc::fcntl(number, libc::F_SETFD, 0);
            Ok(())
        });
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = Pid::from_raw(child.id() as i32);
    // Its libraries are read by then.
    wait_until("sleep", || state(pid) == "S" && open_files(pid) == 5)?;
    stop(pid)?;
    must(["dump", "-p", &pid.to_string(), &image])?;
    child.kill()?;
    child.wait()?;

    // What the shell has while another program looks.
    let list = "ls /proc/$$/fd >\"$0\"; true";
    let out = dir.path("list");
    must(["restore", &image, "--", "bash", "-c", list, &out])?;
    let mut found: Vec<_> = fs::read_to_string(&out)?
        .lines()
        .map(str::to_owned)
        .collect();
    found.sort();
    ensure!(found == ["0", "1", "2", "300", "301"], "it has {found:?}");

    // What was close-on-exec is so again.
    let own = fork(|| {
        let Ok(image) = File::open(&image).map(epoll_cr::image::Image::read) else {
            return 2;
        };
        let Ok(mut image) = image else {
            return 3;
        };
        for descriptor in &mut image.descriptors {
            descriptor.cloexec = descriptor.number == 301;
        }
        image.descriptors.retain(|descriptor| descriptor.number > 2);
        drop((stays, closes));
        let Ok(restored) = epoll_cr::restore::Restore::new(&image).run(None) else {
            return 4;
        };
        let cloexec = |number: &u32| {
            let flags = fcntl_getfd(&restored.descriptors[number]);
            flags.is_ok_and(|flags| flags.contains(FdFlags::CLOEXEC))
        };
        i32::from(cloexec(&300) || !cloexec(&301))
    })?;
    own.finish(Duration::from_secs(10))?;

    let output = epollcr(["restore", &image, "--", "/no/such/program"])?;
    ensure!(output.status.code() == Some(127), "{}", output.status);
    Ok(())
}

/// A directory of a case's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("epollcr-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
