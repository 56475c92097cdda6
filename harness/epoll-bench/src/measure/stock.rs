// SPDX-License-Identifier: GPL-2.0

//! What `lsepoll` costs on the kernel that this runs on, beside `lsfd` and `lsof`: the
//! time of a whole command, and what it does to an event loop that is looked at.

use std::env::current_exe;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IoSlice, Write, stdin, stdout};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use rustix::process::{
    PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getpid, getrlimit, pidfd_getfd, pidfd_open,
    setrlimit,
};

use super::{Session, Subject};
use crate::record::{Layout, Suite, Variant, What};
use crate::timing::{spread, stay_on};
use crate::world::{add, allow_watches, modify, new_instance, target};

const SIZES: &[usize] = &[10_000, 100_000];
const ROUNDS: u32 = 5;

/// The watched loop has so many targets.
const LOOP_TARGETS: usize = 5_000;

/// Where the open files of the targets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Files {
    /// At the descriptors that they were added by
    Same,
    /// At others; those are closed
    Moved,
    /// In messages that nobody has received
    Orphaned,
}

impl Files {
    const ALL: [(Self, What); 3] = [
        (Self::Same, What::ListSame),
        (Self::Moved, What::ListMoved),
        (Self::Orphaned, What::ListOrphaned),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Moved => "moved",
            Self::Orphaned => "orphaned",
        }
    }

    /// How many targets a process can have that may have so many descriptors.
    fn most(self, descriptors: usize) -> usize {
        let left = descriptors.saturating_sub(500);
        let most = match self {
            Self::Same | Self::Orphaned => left,
            // There are numbers that were, and others.
            Self::Moved => left / 2,
        };
        most.max(1)
    }
}

/// Raises the limit of descriptors as far as that is allowed, and returns it.
fn descriptors(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = wanted as u64;
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    let more = Rlimit {
        current: maximum,
        maximum,
    };
    let up_to_the_maximum = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Only some may raise the maximum.
    let _ = setrlimit(Resource::Nofile, more)
        .or_else(|_| setrlimit(Resource::Nofile, up_to_the_maximum));
    let now = getrlimit(Resource::Nofile).current.unwrap_or(wanted);
    usize::try_from(now).unwrap_or(usize::MAX)
}

/// The processes that have an epoll instance, and targets of it. They end when this is
/// dropped.
#[derive(Debug)]
struct Processes(Vec<Child>);

impl Processes {
    fn new(files: Files, targets: usize) -> Result<Self> {
        allow_watches(targets)?;
        let most = files.most(descriptors(2 * targets + 4096));
        let instance = new_instance()?;
        let mut this = Self(Vec::new());
        let mut left = targets;
        while left > 0 {
            let part = left.min(most);
            left -= part;
            // It inherits the instance.
            fcntl_setfd(&instance, FdFlags::empty())?;
            let child = us()?
                .args(["have-part", files.name(), &part.to_string()])
                .arg(instance.as_raw_fd().to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start a process that has targets")?;
            this.0.push(child);
            let output = this.0.last_mut().and_then(|child| child.stdout.as_mut());
            let mut line = String::new();
            BufReader::new(output.context("the process has no output")?).read_line(&mut line)?;
            ensure!(line == "ready\n", "a process that has targets failed");
        }
        Ok(this)
    }

    /// Their pids, with commas in between.
    fn pids(&self) -> String {
        let pids: Vec<_> = self.0.iter().map(|child| child.id().to_string()).collect();
        pids.join(",")
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if child.kill().is_ok() {
                let _ = child.wait();
            }
        }
    }
}

fn us() -> Result<Command> {
    let us = current_exe().context("cannot tell where this program is")?;
    Ok(Command::new(us))
}

/// In such a process: add the targets, say so, and keep them until the input ends.
pub fn have_part(files: Files, targets: usize, instance: i32) -> Result<()> {
    descriptors(2 * targets + 4096);
    let instance = inherited(instance).context("cannot get the epoll instance")?;
    let mut kept = Vec::with_capacity(targets);
    for _ in 0..targets {
        let file = target()?;
        add(&instance, &file)?;
        kept.push(file);
    }
    match files {
        Files::Same => {}
        Files::Moved => {
            let above = kept.last().map_or(0, AsRawFd::as_raw_fd) + 1;
            // Not in the order in which they were made.
            let mut order: Vec<usize> = (0..targets).collect();
            order.sort_by_key(|&i| spread(i as u64, 1 << 30));
            kept = order
                .into_iter()
                .map(|i| fcntl_dupfd_cloexec(&kept[i], above))
                .collect::<Result<_, _>>()
                .context("cannot move the descriptors")?;
        }
        Files::Orphaned => kept = in_messages(kept)?,
    }
    println!("ready");
    stdout().flush()?;
    std::io::copy(&mut stdin(), &mut std::io::sink())?;
    drop(kept);
    Ok(())
}

/// A duplicate of a descriptor that this process was started with.
fn inherited(number: i32) -> rustix::io::Result<OwnedFd> {
    let us = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(us, number, PidfdGetfdFlags::empty())
}

/// Sends files in messages, and returns the sockets where they wait.
fn in_messages(files: Vec<OwnedFd>) -> Result<Vec<OwnedFd>> {
    /// Less than the kernel takes in a message.
    const FILES: usize = 250;
    /// So many fit the buffer of a socket.
    const MESSAGES: usize = 50;
    let mut sockets = Vec::new();
    for part in files.chunks(FILES * MESSAGES) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (from, to) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        for message in part.chunks(FILES) {
            let fds: Vec<BorrowedFd<'_>> = message.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            ensure!(
                control.push(SendAncillaryMessage::ScmRights(&fds)),
                "there is no room for {FILES} files"
            );
            sendmsg(
                &from,
                &[IoSlice::new(b"x")],
                &mut control,
                SendFlags::empty(),
            )
            .context("cannot send files")?;
        }
        sockets.extend([from, to]);
    }
    Ok(sockets)
}

/// A program that lists what processes have open.
#[derive(Debug)]
struct Lister {
    variant: Variant,
    program: PathBuf,
    options: &'static [&'static str],
}

impl Lister {
    /// What is installed here.
    fn all() -> Result<Vec<Self>> {
        let lsepoll = current_exe()?.with_file_name("lsepoll");
        ensure!(
            lsepoll.exists(),
            "there is no {}: build it",
            lsepoll.display()
        );
        let found = |name: &str| {
            let places = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
            let mut places = places.iter().map(|dir| Path::new(dir).join(name));
            let program = places.find(|program| program.exists());
            if program.is_none() {
                eprintln!("# there is no {name}: it is left out");
            }
            program
        };
        let mut all = vec![Self {
            variant: Variant::Lsepoll,
            program: lsepoll,
            options: &[],
        }];
        all.extend(found("lsfd").map(|program| Self {
            variant: Variant::Lsfd,
            program,
            options: &[],
        }));
        // Without the names of hosts and ports.
        all.extend(found("lsof").map(|program| Self {
            variant: Variant::Lsof,
            program,
            options: &["-n", "-P", "-w"],
        }));
        Ok(all)
    }

    fn command(&self, pids: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.options).args(["-p", pids]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        command
    }

    /// How many nanoseconds it took.
    fn run(&self, pids: &str) -> Result<f64> {
        let mut command = self.command(pids);
        let start = Instant::now();
        let status = command.status();
        let took = start.elapsed().as_nanos() as f64;
        let status = status.with_context(|| format!("cannot run {}", self.program.display()))?;
        // 1 is that lsepoll has found something, and that lsof has left something out.
        ensure!(
            matches!(status.code(), Some(0 | 1)),
            "{}: {status}",
            self.program.display()
        );
        Ok(took)
    }
}

/// Whether `lsepoll` finds what there is. It says why not.
fn check(lsepoll: &Lister, pids: &str, files: Files, targets: usize) -> Result<()> {
    let mut command = lsepoll.command(pids);
    let command = command.args(["--summary", "--json", "--verbose"]);
    let output = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    eprint!("# {errors}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("lsepoll printed no summary: {errors}"))?;
    let processes = summary["processes"].as_array();
    let sum = |value: &dyn Fn(&serde_json::Value) -> Option<u64>| -> u64 {
        processes.into_iter().flatten().filter_map(value).sum()
    };
    let all = sum(&|process| process["targets"].as_u64());
    let found = match files {
        Files::Same => all - sum(&|process| process["states"]["stuck"].as_u64()),
        _ => sum(&|process| process["states"][files.name()].as_u64()),
    };
    ensure!(
        (all, found) == (targets as u64, targets as u64),
        "of {targets} targets that are {}, lsepoll finds {all}, and {found} so: {summary}",
        files.name()
    );
    Ok(())
}

/// How long `lsepoll` takes with kcmp(2) and how many targets that was for, if it was
/// ended after some time. `None` if it had found none by then.
fn by_kcmp(
    lsepoll: &Lister,
    pids: &str,
    targets: usize,
    limit: Duration,
) -> Result<Option<(f64, Option<usize>)>> {
    let path = std::env::temp_dir().join(format!("epoll-bench.{}", std::process::id()));
    let rows = File::create(&path)?;
    let mut command = lsepoll.command(pids);
    let command = command.args(["--resolver", "kcmp", "--wide"]);
    let start = Instant::now();
    let mut child = command.stdout(rows).spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        sleep(Duration::from_millis(2));
    };
    let took = start.elapsed().as_nanos() as f64;
    let text = fs::read_to_string(&path);
    fs::remove_file(&path)?;
    if let Some(status) = status {
        ensure!(matches!(status.code(), Some(0 | 1)), "lsepoll: {status}");
        return Ok(Some((took, None)));
    }
    // Rows appear as they are found. They begin with numbers.
    let text = text?;
    let found = text.lines().filter(|line| {
        let first = line.split_whitespace().next();
        first.is_some_and(|word| word.parse::<u32>().is_ok())
    });
    Ok(match found.count() {
        0 => None,
        found if found >= targets => Some((took, None)),
        found => Some((took / found as f64 * targets as f64, Some(found))),
    })
}

fn lists(session: &mut Session<'_>) -> Result<()> {
    let listers = Lister::all()?;
    let limit = Duration::from_secs(match session.options.quick {
        true => 5,
        false => session.options.kcmp_limit,
    });
    for (files, what) in Files::ALL {
        for targets in session.sizes(SIZES) {
            let mut subject = Subject {
                suite: Suite::Stock,
                layout: Layout::Distinct,
                targets,
                asked: None,
                handler: None,
            };
            session.progress(&subject);
            let processes = Processes::new(files, targets)?;
            eprintln!("# {}, in {} processes", files.name(), processes.0.len());
            let pids = processes.pids();
            check(&listers[0], &pids, files, targets)?;
            let rounds = session.rounds(ROUNDS);
            let mut runs = vec![Vec::new(); listers.len()];
            for _ in 0..rounds {
                for (lister, runs) in listers.iter().zip(&mut runs) {
                    runs.push(lister.run(&pids)?);
                }
            }
            for (lister, runs) in listers.iter().zip(&runs) {
                session.write(&subject, what, lister.variant, runs, rounds)?;
            }
            match by_kcmp(&listers[0], &pids, targets, limit)? {
                Some((ns, asked)) => {
                    subject.asked = asked;
                    session.write(&subject, what, Variant::LsepollKcmp, &[ns], 1)?;
                }
                None => eprintln!("# kcmp found none in {} s", limit.as_secs()),
            }
        }
    }
    Ok(())
}

/// An event loop that counts its iterations, in a process of its own.
#[derive(Debug)]
struct Loop {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Loop {
    fn new(targets: usize, cpu: usize) -> Result<Self> {
        allow_watches(targets)?;
        let mut child = us()?
            .args(["have-loop", &targets.to_string(), &cpu.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start an event loop")?;
        let input = child.stdin.take().context("the loop has no input")?;
        let output = child.stdout.take().context("the loop has no output")?;
        let mut this = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        this.count()?;
        Ok(this)
    }

    /// How many iterations there were so far.
    fn count(&mut self) -> Result<u64> {
        self.input.write_all(b"?\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().context("the event loop failed")
    }

    /// The mean of an iteration, in nanoseconds, while something is done.
    fn mean(&mut self, meanwhile: impl FnOnce() -> Result<()>) -> Result<f64> {
        let (start, before) = (Instant::now(), self.count()?);
        meanwhile()?;
        let after = self.count()?;
        ensure!(after > before, "the event loop stood still");
        Ok(start.elapsed().as_nanos() as f64 / (after - before) as f64)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// In that process: an event loop whose targets have moved. Each iteration waits for the
/// one that is always ready, and changes another.
pub fn have_loop(targets: usize, cpu: usize) -> Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    descriptors(2 * targets + 4096);
    let instance = new_instance()?;
    let moved: Vec<OwnedFd> = (0..targets).map(|_| target()).collect::<Result<_>>()?;
    for file in &moved {
        add(&instance, file)?;
    }
    let above = moved.last().map_or(0, AsRawFd::as_raw_fd) + 1;
    let kept: Vec<OwnedFd> = moved
        .iter()
        .map(|file| fcntl_dupfd_cloexec(file, above))
        .collect::<Result<_, _>>()?;
    drop(moved);
    let (ready, other) = (target()?, target()?);
    rustix::io::write(&ready, &1u64.to_ne_bytes())?;
    add(&instance, &ready)?;
    epoll::add(&instance, &other, EventData::new_u64(0), EventFlags::IN)?;
    spawn(move || {
        if stay_on(&[cpu]).is_err() {
            std::process::exit(1);
        }
        let mut events = Vec::with_capacity(1);
        loop {
            let waited = epoll::wait(&instance, rustix::buffer::spare_capacity(&mut events), None);
            if waited.is_err() || modify(&instance, &other).is_err() {
                std::process::exit(1);
            }
            events.clear();
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
    });
    for line in stdin().lines() {
        line?;
        println!("{}", COUNT.load(Ordering::Relaxed));
        stdout().flush()?;
    }
    drop(kept);
    Ok(())
}

fn loops(session: &mut Session<'_>) -> Result<()> {
    let (&first, &last) = match &session.cpus[..] {
        [first, .., last] => (first, last),
        _ => {
            eprintln!("# an event loop and its inspector need two processors: left out");
            return Ok(());
        }
    };
    let window = Duration::from_millis(if session.options.quick { 300 } else { 3_000 });
    let subject = Subject {
        suite: Suite::Stock,
        layout: Layout::Distinct,
        targets: LOOP_TARGETS,
        asked: None,
        handler: None,
    };
    session.progress(&subject);
    stay_on(&[last])?;
    let mut watched = Loop::new(LOOP_TARGETS, first)?;
    let pid = watched.child.id().to_string();
    let listers = Lister::all()?;
    let during = |look: &mut dyn FnMut() -> Result<()>| {
        let start = Instant::now();
        while start.elapsed() < window {
            look()?;
        }
        Ok(())
    };
    let rounds = session.rounds(ROUNDS);
    let (mut idle, mut busy, mut kcmp) = (Vec::new(), Vec::new(), Vec::new());
    let mut looked = vec![Vec::new(); listers.len()];
    for _ in 0..rounds {
        idle.push(watched.mean(|| {
            sleep(window);
            Ok(())
        })?);
        // What a program on the other processor does to it that does not look.
        busy.push(watched.mean(|| during(&mut || Ok(())))?);
        for (lister, looked) in listers.iter().zip(&mut looked) {
            looked.push(watched.mean(|| during(&mut || lister.run(&pid).map(drop)))?);
        }
        kcmp.push(watched.mean(|| {
            let mut command = listers[0].command(&pid);
            let mut child = command.args(["--resolver", "kcmp"]).spawn()?;
            sleep(window);
            let ended = child.try_wait()?;
            child.kill()?;
            child.wait()?;
            match ended {
                Some(status) if !matches!(status.code(), Some(0 | 1)) => {
                    bail!("lsepoll --resolver kcmp: {status}")
                }
                _ => Ok(()),
            }
        })?);
    }
    let what = What::Iteration;
    session.write(&subject, what, Variant::Idle, &idle, rounds)?;
    session.write(&subject, what, Variant::Busy, &busy, rounds)?;
    for (lister, looked) in listers.iter().zip(&looked) {
        session.write(&subject, what, lister.variant, looked, rounds)?;
    }
    session.write(&subject, what, Variant::LsepollKcmp, &kcmp, rounds)
}

pub fn run(session: &mut Session<'_>) -> Result<()> {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    eprintln!("# load before: {}", load.trim());
    // Whole commands, on whichever processor there is.
    stay_on(&session.cpus)?;
    lists(session)?;
    loops(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_the_limit() {
        assert_eq!(Files::Same.most(20_000), 19_500);
        assert_eq!(Files::Moved.most(20_000), 9_750);
        assert_eq!(Files::Moved.most(0), 1);
    }

    #[test]
    fn files_wait_in_messages() {
        let files = (0..600).map(|_| target().unwrap()).collect();
        let sockets = in_messages(files).unwrap();
        assert_eq!(sockets.len(), 2);
    }
}
