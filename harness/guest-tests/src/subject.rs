// SPDX-License-Identifier: GPL-2.0
//! A program to be dumped: start it, and dump it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};

/// For 20,000 targets on a kernel with sanitizers in it.
const PATIENCE: Duration = Duration::from_secs(180);

/// A subject of ours, in a session and with a directory of its own. Both are
/// gone when this is dropped.
#[derive(Debug)]
pub struct Subject {
    pub dir: PathBuf,
    child: Child,
}

/// What CRIU made of a request.
#[derive(Debug)]
pub enum Answer {
    Done(Duration),
    /// The first error of its log, after the line before it.
    Refused(String),
}

impl Subject {
    /// Start `program` with a scenario, and wait until it says that it is ready.
    /// It gets `held` as its standard input.
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

    /// The contents of a file that the subject makes in its directory.
    pub fn await_file(&mut self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = fs::read_to_string(&path) {
                return Ok(text);
            }
            // A child of ours, or restored: then it is a child of init.
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

    /// `criu dump`. Afterwards the subject is gone, unless CRIU refuses.
    pub fn dump(&mut self, options: &[&str]) -> Result<Answer> {
        let pid = self.pid().to_string();
        let answer = criu(&self.dir, "dump", &[&["--tree", &pid], options].concat())?;
        if let Answer::Done(_) = answer {
            // Or its pid is not free.
            let status = self.child.wait()?;
            if status.success() {
                bail!("the subject was dumped, but ended by itself");
            }
            if test_kill_process(self.pid()).is_ok() {
                bail!("the subject was dumped, but is still there");
            }
        }
        Ok(answer)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // The leader of a session is that of a group, too.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Let CRIU do something with the images in a directory.
pub fn criu(dir: &Path, action: &str, args: &[&str]) -> Result<Answer> {
    let log = format!("{action}.log");
    let began = Instant::now();
    let status = Command::new("criu")
        .arg(action)
        .args(args)
        .arg("--images-dir")
        .arg(dir.join("images"))
        .args(["--log-file", &log])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot run criu")?;
    let took = began.elapsed();
    if status.success() {
        return Ok(Answer::Done(took));
    }
    let log = fs::read_to_string(dir.join("images").join(log)).unwrap_or_default();
    let mut before = "";
    for line in log.lines() {
        if line.contains("Error (") {
            return Ok(Answer::Refused(format!("{}; {}", text(before), text(line))));
        }
        before = line;
    }
    bail!("criu {action}: {status}, and no error in its log")
}

/// A line of a log without when, by whom and where it was written:
/// `(00.012345)     75: Error (criu/eventpoll.c:417): epoll: ...`
fn text(line: &str) -> &str {
    match line.find("epoll: ") {
        Some(at) => &line[at..],
        None => line.rsplit_once("): ").map_or(line, |(_, text)| text),
    }
}
