// SPDX-License-Identifier: GPL-2.0
//! The tool, as it is run on the command line.

mod exec;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Context, Result, ensure};
use epoll_targets::proc::{Stat, State};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{CWD, Mode, inotify, mkfifoat};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{both, is_stock, module};
use crate::criu::{Report, SCENARIOS, Scenario};
use crate::module::EPOLL_CR;
use crate::process::{Child, fork, pause_forever, shared, wait_until};
use crate::sys;
use crate::tap::{Case, note};
use exec::{exec, keep_cloexec, stdio};

pub fn cases() -> Vec<Case> {
    let scenarios = SCENARIOS
        .iter()
        .map(|scenario| both(scenario.name, move || cycle(scenario)));
    let others = [
        both("running", running),
        both("named", named),
        both("exec", exec),
        both("stdio", stdio),
        both("keep-cloexec", keep_cloexec),
        both("dry-run", dry_run),
        both("target", target),
        both("tables", tables),
        both("many-in-flight", many_in_flight),
    ];
    scenarios.chain(others).flatten().collect()
}

fn beside(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

fn epollcr<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Output> {
    epollcr_with(Stdio::null(), args)
}

fn epollcr_with<S: AsRef<OsStr>>(
    stdin: impl Into<Stdio>,
    args: impl IntoIterator<Item = S>,
) -> Result<Output> {
    let program = beside("epollcr")?;
    let mut args: Vec<_> = args
        .into_iter()
        .map(|arg| arg.as_ref().to_owned())
        .collect();
    let uses = |command: &OsString| command == "dump" || command == "restore";
    if is_stock() && args.first().is_some_and(uses) {
        args.insert(1, "--no-device".into());
    }
    Command::new(&program)
        .args(args)
        .stdin(stdin)
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

fn is(pid: Pid, state: State) -> bool {
    Stat::of(pid.as_raw_pid()).is_ok_and(|stat| stat.state == state)
}

fn stop(pid: Pid) -> Result<()> {
    kill_process(pid, Signal::STOP)?;
    wait_until("a process to stop", || is(pid, State::Stopped))
}

/// Dumps, kills and restores a program of the group `criu`, which must find everything
/// unchanged.
fn cycle(scenario: &Scenario) -> Result<()> {
    drop(module()?);
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
    kill_process_group(pid, Signal::KILL)?;
    wait_until("a process to end", || is(pid, State::Zombie))?;

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

/// A process that is not stopped is refused, or the image says so.
fn running() -> Result<()> {
    drop(module()?);
    let dir = Scratch::new("running")?;
    let image = dir.path("image");
    let child = fork(|| pause_forever())?;
    let pid = child.pid().to_string();
    let output = epollcr(["dump", "-p", &pid, &image])?;
    let error = text(&output.stderr);
    note(&error);
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(
        error.contains("the process is not stopped") && error.lines().count() == 1,
        "what it said: {error}"
    );
    ensure!(!Path::new(&image).exists(), "an image was written");

    must(["dump", "-p", &pid, "--running", &image])?;
    ensure!(
        must(["show", &image])?.contains("NOT STOPPED"),
        "the image does not say so"
    );
    ensure!(
        must(["show", "--json", &image])?.contains("\"stopped\":false"),
        "the image does not say so to programs"
    );
    stop(child.id())?;
    must(["dump", "-p", &pid, &image])?;
    ensure!(
        must(["show", &image])?.contains(", stopped, "),
        "the image does not say that the process was stopped"
    );
    Ok(())
}

/// Everything that cannot be restored is reported before anything is done, and can be
/// given.
fn named() -> Result<()> {
    drop(module()?);
    let dir = Scratch::new("named")?;
    let image = dir.path("image");
    let gone = dir.path("gone");
    // The other end of the pipe stays with us.
    let (child, _writer) = {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let unlinked: OwnedFd = File::create(&gone)?.into();
        fs::remove_file(&gone)?;
        let listener: OwnedFd = TcpListener::bind("127.0.0.1:0")?.into();
        // It has an event that nobody has read.
        let watcher = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let watched = dir.path("watched");
        File::create(&watched)?;
        inotify::add_watch(&watcher, &watched, inotify::WatchFlags::OPEN)?;
        File::open(&watched)?;
        let mut fds = Vec::new();
        for (fd, number) in [&reader, &unlinked, &listener, &watcher]
            .into_iter()
            .zip(500..)
        {
            fds.push(fcntl_dupfd_cloexec(fd, number)?);
        }
        let child = fork(|| {
            // Only these stay, and standard input, which can be restored.
            for fd in 1..500 {
                let _ = sys::close(fd);
            }
            pause_forever()
        })?;
        (child, writer)
    };
    let pid = child.id();
    wait_until("a process to pause", || {
        is(pid, State::Sleeping) && open_files(pid) == 5
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
            "{number} is not reported"
        );
    }
    ensure!(error.lines().count() == 4, "more is reported");
    ensure!(!Path::new(&mark).exists(), "the command was executed");

    let tried = epollcr(["restore", &image, "--dry-run"])?;
    ensure!(tried.status.code() == Some(1), "{}", tried.status);
    ensure!(text(&tried.stderr) == error, "the messages differ");

    let given = ["500=0", "501=0", "502=0", "503=0"];
    let given = given.iter().flat_map(|given| ["--fd", given]);
    let command = ["--", "touch", &mark];
    must(["restore", &image].into_iter().chain(given).chain(command))?;
    ensure!(Path::new(&mark).exists(), "the command was not executed");
    Ok(())
}

/// A stopped process that has these files, with these descriptors and close-on-exec flags,
/// and nothing else.
fn holder(fds: &[(&OwnedFd, RawFd, bool)]) -> Result<Child> {
    let child = fork(|| {
        for &(fd, number, cloexec) in fds {
            let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
            // SAFETY: whatever has that number is not used here any more.
            if unsafe { libc::dup3(fd.as_raw_fd(), number, flags) } != number {
                return 1;
            }
        }
        for fd in 0..1000 {
            if fds.iter().all(|&(_, number, _)| number != fd) {
                let _ = sys::close(fd);
            }
        }
        pause_forever()
    })?;
    let pid = child.id();
    wait_until("a process to pause", || {
        is(pid, State::Sleeping) && open_files(pid) == fds.len()
    })?;
    stop(pid)?;
    Ok(child)
}

/// A file that can be read and written, as a terminal can.
fn null() -> Result<OwnedFd> {
    let mut open = File::options();
    Ok(open.read(true).write(true).open("/dev/null")?.into())
}

/// `--dry-run` reports what cannot be restored, and does nothing.
fn dry_run() -> Result<()> {
    drop(module()?);
    let dir = Scratch::new("dry-run")?;
    let (image, gone) = (dir.path("image"), dir.path("gone"));
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watched: OwnedFd = eventfd(0, EventfdFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(9);
    epoll::add(&set, &watched, data, epoll::EventFlags::IN)?;
    let file: OwnedFd = File::create(&gone)?.into();
    let child = holder(&[
        (&set, 300, false),
        (&watched, 301, false),
        (&file, 302, false),
    ])?;
    must(["dump", "-p", &child.pid().to_string(), &image])?;
    let args = ["restore", &image, "--dry-run"];
    let output = epollcr(args)?;
    let error = text(&output.stderr);
    ensure!(output.status.success() && error.is_empty(), "{error}");

    // Nor without the module.
    drop(child);
    if !is_stock() {
        EPOLL_CR.unload()?;
        let output = epollcr(args);
        EPOLL_CR.load()?;
        let output = output?;
        let error = text(&output.stderr);
        ensure!(output.status.success() && error.is_empty(), "{error}");
    }

    fs::remove_file(&gone)?;
    let output = epollcr(args)?;
    let error = text(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(
        error.starts_with("epollcr: cannot restore: descriptor 302, ")
            && error.lines().count() == 1,
        "what it said: {error}"
    );
    Ok(())
}

/// An image replaces only regular files, and other users cannot read it.
fn target() -> Result<()> {
    drop(module()?);
    let dir = Scratch::new("target")?;
    let (image, link, fifo) = (dir.path("image"), dir.path("link"), dir.path("fifo"));
    let child = holder(&[(&null()?, 300, false)])?;
    let pid = child.pid().to_string();
    std::os::unix::fs::symlink("/etc/passwd", &link)?;
    mkfifoat(CWD, &fifo, Mode::RWXU)?;
    for refused in [&link, &fifo, "/dev/null", "/tmp"] {
        let before = fs::symlink_metadata(refused)?.ino();
        let output = epollcr(["dump", "-p", &pid, refused])?;
        let error = text(&output.stderr);
        ensure!(output.status.code() == Some(1), "{}", output.status);
        ensure!(
            error
                == format!("epollcr: cannot write {refused}: it exists and is not a regular file"),
            "what it said: {error}"
        );
        ensure!(fs::symlink_metadata(refused)?.ino() == before, "{refused}");
    }
    for _ in 0..2 {
        fs::write(&image, "an old image that everybody can read")?;
        must(["dump", "-p", &pid, &image])?;
        let mode = fs::metadata(&image)?.mode() & 0o7777;
        ensure!(mode == 0o600, "others can read it: {mode:o}");
        must(["show", &image])?;
    }
    ensure!(fs::read_dir(&dir.0)?.count() == 3, "something is left");
    Ok(())
}

/// A thread with a descriptor table of its own.
fn tables() -> Result<()> {
    drop(module()?);
    let dir = Scratch::new("tables")?;
    let image = dir.path("image");
    let told = shared::<1>()?;
    let child = fork(|| {
        let thread = std::thread::spawn(|| {
            // SAFETY: the two threads use no descriptor of each other from here on.
            let apart = unsafe { unshare_unsafe(UnshareFlags::FILES) };
            told[0].store(if apart.is_ok() { 1 } else { 2 }, SeqCst);
            pause_forever()
        });
        i32::from(thread.join().is_err())
    })?;
    wait_until("a thread", || told[0].load(SeqCst) != 0)?;
    ensure!(told[0].load(SeqCst) == 1, "CLONE_FILES");
    let pid = child.id();
    stop(pid)?;
    let output = epollcr(["dump", "-p", &pid.to_string(), &image])?;
    let error = text(&output.stderr);
    note(&error);
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(
        error.contains(" has a descriptor table of its own"),
        "what it said: {error}"
    );
    must(["dump", "-p", &pid.to_string(), "--running", &image])?;
    ensure!(must(["show", &image])?.contains("NOT STOPPED"));
    Ok(())
}

/// More epoll instances in flight than a process may have descriptors.
fn many_in_flight() -> Result<()> {
    const SETS: usize = 250;
    const MESSAGES: usize = 20;

    drop(module()?);
    let dir = Scratch::new("many-in-flight")?;
    let image = dir.path("image");
    let flags = SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    for _ in 0..MESSAGES {
        let mut sets: Vec<OwnedFd> = Vec::new();
        for _ in 0..SETS {
            sets.push(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        }
        let sets: Vec<_> = sets.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        ensure!(control.push(SendAncillaryMessage::ScmRights(&sets)));
        sendmsg(
            &far,
            &[IoSlice::new(b"x")],
            &mut control,
            SendFlags::DONTWAIT,
        )?;
    }
    let child = holder(&[(&near, 300, false), (&far, 301, false)])?;
    must(["dump", "-p", &child.pid().to_string(), &image])?;
    let shown = must(["show", &image])?;
    let expected = format!(
        "2 descriptors, {} open files, {} epoll instances with 0 targets",
        MESSAGES * SETS + 2,
        MESSAGES * SETS
    );
    ensure!(shown.contains(&expected), "{:?}", shown.lines().nth(1));
    must(["restore", &image, "--", "true"])?;
    Ok(())
}

fn open_files(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// A directory for one case.
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
