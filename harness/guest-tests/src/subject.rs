// SPDX-License-Identifier: GPL-2.0
//! Starts a program that is to be dumped, and dumps it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};

/// For 50,000 targets on the unpatched kernel, where CRIU's queries take time in proportion to
/// the square of their number, in an emulated guest.
const PATIENCE: Duration = Duration::from_secs(600);

/// An error that CRIU goes on after, where root lacks CAP_SYS_RESOURCE.
const GOES_ON: &str = "Can't setup RLIMIT_NOFILE for self";

/// A program to be dumped, with a session and a directory of its own. Dropping this ends
/// the session and removes the directory.
#[derive(Debug)]
pub struct Subject {
    pub dir: PathBuf,
    child: Child,
}

/// How CRIU answered a request.
#[derive(Debug)]
pub enum Answer {
    Done(Duration),
    /// The first error of its log, after the line before it of the same process.
    Refused(String),
}

impl Subject {
    /// Starts `program` with a scenario, with `held` as its standard input, and waits until
    /// it is ready.
    pub fn start(
        program: &Path,
        scenario: &str,
        targets: u32,
        held: Option<OwnedFd>,
    ) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("criu-{scenario}-{}", std::process::id()));
        match fs::remove_dir_all(&dir) {
            Err(err) if err.kind() != ErrorKind::NotFound => {
                return Err(err).with_context(|| format!("cannot remove {}", dir.display()));
            }
            _ => fs::create_dir_all(dir.join("images"))?,
        }
        let output = File::create(dir.join("output"))?;
        let child = Command::new(program)
            .args(["run", scenario, "--targets", &targets.to_string(), "--dir"])
            .arg(&dir)
            .stdin(held.map_or_else(Stdio::null, Stdio::from))
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut subject = Self { dir, child };
        subject.await_file("ready")?;
        Ok(subject)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for a file that the subject makes in its directory, and reads it.
    pub fn await_file(&mut self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = fs::read_to_string(&path) {
                return Ok(text);
            }
            // It is our child or, once restored, a child of init.
            let _ = self.child.try_wait();
            if test_kill_process(self.pid()).is_err() && !path.exists() {
                let said = fs::read_to_string(self.dir.join("output")).unwrap_or_default();
                bail!("the subject ended before its '{name}': {}", said.trim());
            }
            if Instant::now() > until {
                bail!("no '{name}' of the subject after {PATIENCE:?}");
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Runs `criu dump`, which ends the subject unless CRIU refuses.
    pub fn dump(&mut self, program: &Path, options: &[&str]) -> Result<Answer> {
        let pid = self.pid().to_string();
        let args = [&["--tree", &pid], options].concat();
        let answer = criu(program, &self.dir, "dump", &args)?;
        if let Answer::Done(_) = answer {
            // Its pid has to be free for the restore.
            let status = self.child.wait()?;
            if status.success() {
                bail!("the subject was dumped, but ended by itself");
            }
            if test_kill_process(self.pid()).is_ok() {
                bail!("the subject was dumped, but still exists");
            }
        }
        Ok(answer)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // The leader of a session leads a process group, too.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The CRIU that is installed.
pub fn installed() -> &'static Path {
    Path::new("criu")
}

/// Runs an action of CRIU on the images in a directory.
pub fn criu(program: &Path, dir: &Path, action: &str, args: &[&str]) -> Result<Answer> {
    criu_with(Stdio::null(), program, dir, action, args)
}

/// Runs an action of CRIU with this standard input.
pub fn criu_with(
    stdin: Stdio,
    program: &Path,
    dir: &Path,
    action: &str,
    args: &[&str],
) -> Result<Answer> {
    let log = format!("{action}.log");
    let began = Instant::now();
    let mut child = Command::new(program)
        .arg(action)
        .args(args)
        .arg("--images-dir")
        .arg(dir.join("images"))
        .args(["--log-file", &log])
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let mut status = child.try_wait()?;
    while status.is_none() && began.elapsed() < PATIENCE {
        sleep(Duration::from_micros(200));
        status = child.try_wait()?;
    }
    let took = began.elapsed();
    if status.is_some_and(|status| status.success()) {
        return Ok(Answer::Done(took));
    }
    let log = fs::read_to_string(dir.join("images").join(log)).unwrap_or_default();
    let Some(status) = status else {
        child.kill()?;
        child.wait()?;
        let last = log.lines().last().unwrap_or("nothing");
        bail!("criu {action} hangs; the last line of its log: {last}");
    };
    if status.code().is_none() {
        bail!("criu {action}: {status}");
    }
    if let Some(bug) = log.lines().find(|line| line.contains("BUG at ")) {
        bail!("criu {action}: {bug}");
    }
    for (at, line) in log.lines().enumerate() {
        if line.contains("Error (") && !line.contains(GOES_ON) {
            // Others write to the log meanwhile.
            let own = |other: &&str| process(other) == process(line);
            let before = log.lines().take(at).filter(own).last().unwrap_or("");
            return Ok(Answer::Refused(format!("{}; {}", text(before), text(line))));
        }
    }
    bail!("criu {action}: {status}, and no error in its log")
}

/// The process that wrote a line of a log, if it says so.
fn process(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once(')')?;
    rest.split_once(':')?.0.trim().parse().ok()
}

/// A line of a log without its time, process and place in the source:
/// `(00.012345)     75: Error (criu/eventpoll.c:417): epoll: ...`
fn text(line: &str) -> &str {
    match line.find("epoll: ") {
        Some(at) => &line[at..],
        None => line.rsplit_once("): ").map_or(line, |(_, text)| text),
    }
}
