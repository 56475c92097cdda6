// SPDX-License-Identifier: GPL-2.0

//! One run of a guest.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{self, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM};

use crate::args::{Accel, Run};
use crate::channel::Channel;
use crate::console::Console;
use crate::kvm::Probe;
use crate::lines::readable;
use crate::machine::{self, Machine, how};

/// How long the guest goes on after the first sign of trouble, unless enough of
/// the report has come before.
const AFTER_TROUBLE: Duration = Duration::from_secs(2);
/// How often the logs are looked at where inotify says nothing, as on network
/// file systems.
const TICK: Duration = Duration::from_millis(100);
/// How long a log that has changed is left alone. A virtio console writes 16
/// bytes at a time; to read each on its own would take more than the guest does.
const PAUSE: Duration = Duration::from_millis(10);
/// As much of a log as is read at once.
const READ: usize = 64 * 1024;
/// A pipe that can be written to takes as much without blocking.
const WRITE: usize = 4096;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended with this status.
    Status(u8),
    /// The guest's kernel is in trouble.
    Trouble,
    /// It is not known how the command ended.
    NoAnswer,
    /// We were sent this signal.
    Signal(i32),
}

/// Runs a guest as asked for.
pub fn run(run: &Run) -> Result<Outcome> {
    // As the guest, which is elsewhere, names them.
    let run = &Run {
        top: path::absolute(&run.top)?,
        out: path::absolute(&run.out)?,
        dir: path::absolute(&run.dir)?,
        ..run.clone()
    };
    let signals = Signals::new().context("cannot watch for signals")?;
    let mark = format!("guest-exit-{}", unique()?);
    fs::create_dir_all(&run.dir).with_context(|| run.dir.display().to_string())?;
    let command = run.dir.join("command");
    fs::write(&command, format!("{}\n", run.command))
        .with_context(|| command.display().to_string())?;
    let console = Log::new(run.dir.join("console.log"))?;
    let channel = Log::new(run.dir.join("channel.log"))?;

    let kvm = match run.accel {
        _ if run.uml => false,
        Accel::Auto => Probe::new(&run.qemu, &run.kernel, &run.out).works()?,
        Accel::Kvm => true,
        Accel::Tcg => false,
    };
    let what = match run.accel {
        _ if run.uml => "User-mode Linux",
        _ if kvm => "KVM",
        Accel::Auto => "TCG (no working KVM here)",
        _ => "TCG",
    };
    eprintln!("guest: {what}, logs in {}", run.dir.display());

    let machine = if run.uml {
        machine::uml(run, &command, &mark, console.append()?, channel.append()?)?
    } else {
        machine::qemu(run, kvm, &command, &mark, &console.path, &channel.path)
    };
    let outcome = Session::new(run, &mark, console, channel, signals, machine)?.watch();
    if run.uml {
        // It is only there if the kernel has gone that far.
        let _ = fs::remove_dir_all(machine::uml_dir(run));
    }
    outcome
}

/// A name that no other run has.
fn unique() -> Result<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

/// A file that the guest writes to, and we read.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Makes an empty one.
    fn new(path: PathBuf) -> Result<Self> {
        let file = File::create(&path)
            .and_then(|_| File::open(&path))
            .with_context(|| path.display().to_string())?;
        Ok(Self { path, file })
    }

    /// The file to write to, opened for appending.
    fn append(&self) -> Result<File> {
        File::options()
            .append(true)
            .open(&self.path)
            .with_context(|| self.path.display().to_string())
    }

    /// What has been written since the last time, up to the size of `buf`.
    fn read<'a>(&mut self, buf: &'a mut [u8]) -> Result<&'a [u8]> {
        loop {
            match self.file.read(buf) {
                Ok(n) => return Ok(&buf[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error).context(self.path.display().to_string()),
            }
        }
    }

    fn size(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata
            .with_context(|| self.path.display().to_string())?
            .len())
    }
}

/// The signals that end a run.
#[derive(Debug)]
struct Signals {
    /// One that has come, or 0.
    caught: Arc<AtomicUsize>,
    /// Becomes readable with it.
    wake: UnixStream,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let caught = Arc::new(AtomicUsize::new(0));
        let (wake, write) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let number = usize::try_from(signal).expect("signals are positive");
            signal_hook::flag::register_usize(signal, Arc::clone(&caught), number)?;
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self { caught, wake })
    }

    fn caught(&self) -> Option<i32> {
        match self.caught.load(Ordering::Relaxed) {
            0 => None,
            number => Some(i32::try_from(number).expect("it was one")),
        }
    }
}

/// Why the guest is no longer running.
#[derive(Debug)]
enum End {
    Itself(ExitStatus),
    /// There was trouble.
    Trouble,
    /// We did not wait any longer.
    Late(String),
}

/// How to go on with a running guest.
#[derive(Debug)]
enum Verdict {
    GoOn,
    Restart,
    Stop(End),
}

/// How far the guest has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boot {
    /// It has not said anything yet.
    First,
    /// Nor did the one before it.
    Second,
    /// It has said something.
    Done,
}

/// A guest that runs, or has run.
#[derive(Debug)]
struct Session<'a> {
    run: &'a Run,
    signals: Signals,
    changes: OwnedFd,
    machine: Machine,
    /// Becomes readable when the machine ends.
    pidfd: OwnedFd,

    console_log: Log,
    console: Console,
    channel_log: Log,
    channel: Channel,
    /// The command's output that is yet to be written.
    output: Vec<u8>,

    start: Instant,
    /// When the logs were read last, and something new was in them.
    read: Instant,
    /// When there was output last, and how much there was by then.
    heard: Instant,
    size: u64,
    boot: Boot,
    /// When the guest is to be stopped because of trouble.
    stop: Option<Instant>,
    /// When to say how far it is.
    tell: Option<(Duration, Instant)>,
}

impl<'a> Session<'a> {
    fn new(
        run: &'a Run,
        mark: &str,
        console_log: Log,
        channel_log: Log,
        signals: Signals,
        machine: Command,
    ) -> Result<Self> {
        let changes = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
            .context("inotify")?;
        for log in [&console_log, &channel_log] {
            inotify::add_watch(&changes, &log.path, inotify::WatchFlags::MODIFY)
                .with_context(|| log.path.display().to_string())?;
        }
        let mut machine = Machine::start(machine)?;
        let pidfd = machine_pidfd(&mut machine)?;
        let start = Instant::now();
        Ok(Self {
            run,
            signals,
            changes,
            pidfd,
            machine,
            console_log,
            console: Console::new(&run.ignore),
            channel_log,
            channel: Channel::new(mark),
            output: Vec::new(),
            start,
            read: start,
            heard: start,
            size: 0,
            boot: Boot::First,
            stop: None,
            tell: match run.progress {
                Some(every) if !io::stdout().is_terminal() => Some((every, start + every)),
                _ => None,
            },
        })
    }

    /// Watches the guest to its end.
    fn watch(mut self) -> Result<Outcome> {
        let mut end = None;
        let mut finished = false;
        loop {
            // Asked for before the logs are read: once it has ended, all is in
            // them.
            if end.is_none() {
                end = self.machine.ended()?.map(End::Itself);
            }
            let more = self.read()?;
            if let Some(signal) = self.signals.caught() {
                self.machine.kill();
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                eprintln!(
                    "guest: stopped by {name}, logs in {}",
                    self.run.dir.display()
                );
                return Ok(Outcome::Signal(signal));
            }
            let now = Instant::now();
            if end.is_none() {
                match self.verdict(now)? {
                    Verdict::GoOn => (),
                    Verdict::Restart => self.restart()?,
                    Verdict::Stop(why) => {
                        self.machine.kill();
                        end = Some(why);
                        continue;
                    }
                }
            }
            if let Some(end) = &end {
                if !more && self.output.is_empty() {
                    if finished {
                        return Ok(self.outcome(end));
                    }
                    self.console.finish();
                    self.channel.finish(&mut self.output);
                    finished = true;
                }
            }
            self.tell(now);
            let timeout = if more { Duration::ZERO } else { TICK };
            if !self.wait(end.is_none(), timeout)? {
                // As it would have ended us had we not been in Rust.
                return Ok(Outcome::Signal(SIGPIPE));
            }
        }
    }

    /// Reads new data of the logs, and returns whether there is more.
    fn read(&mut self) -> Result<bool> {
        let mut buf = [0; READ];
        let data = self.console_log.read(&mut buf)?;
        let mut more = data.len() == READ;
        let mut new = !data.is_empty();
        self.console.feed(data);
        // The rest can wait in its file until somebody reads our output.
        if self.output.len() < READ {
            let data = self.channel_log.read(&mut buf)?;
            more |= data.len() == READ;
            new |= !data.is_empty();
            self.channel.feed(data, &mut self.output);
        }
        if new {
            self.read = Instant::now();
        }
        Ok(more)
    }

    /// Whether to stop the guest or to start it again, and why.
    fn verdict(&mut self, now: Instant) -> Result<Verdict> {
        if self.console.trouble().is_some() {
            let stop = *self.stop.get_or_insert(now + AFTER_TROUBLE);
            if self.console.complete() || now >= stop {
                return Ok(Verdict::Stop(End::Trouble));
            }
        }
        let Run {
            deadline,
            silence,
            boot_silence,
            ..
        } = *self.run;
        let late = |why| Ok(Verdict::Stop(End::Late(why)));
        if now - self.start > deadline {
            let seconds = deadline.as_secs_f64();
            return late(format!("no end after {seconds:.0} s"));
        }
        let size = self.console_log.size()? + self.channel_log.size()?;
        if size != self.size {
            self.size = size;
            self.heard = now;
            self.boot = Boot::Done;
        }
        if self.boot != Boot::Done && !boot_silence.is_zero() && now - self.heard > boot_silence {
            if self.boot == Boot::First {
                return Ok(Verdict::Restart);
            }
            let seconds = boot_silence.as_secs_f64();
            return late(format!(
                "two boots in a row without any output for {seconds:.0} s"
            ));
        }
        if !silence.is_zero() && now - self.heard > silence {
            let seconds = silence.as_secs_f64();
            return late(format!("no output for {seconds:.0} s"));
        }
        Ok(Verdict::GoOn)
    }

    /// Starts a guest that has said nothing again. On a busy host a boot can
    /// hang before the kernel's first line.
    fn restart(&mut self) -> Result<()> {
        let seconds = self.run.boot_silence.as_secs_f64();
        let line = format!("guest: no output in the first {seconds:.0} s of boot, started again");
        eprintln!("{line}");
        self.machine.kill();
        writeln!(self.console_log.append()?, "{line}")
            .with_context(|| self.console_log.path.display().to_string())?;
        self.size = self.console_log.size()? + self.channel_log.size()?;
        self.machine.restart()?;
        self.pidfd = machine_pidfd(&mut self.machine)?;
        self.heard = Instant::now();
        self.boot = Boot::Second;
        Ok(())
    }

    /// Says how far it is, if it is time to.
    fn tell(&mut self, now: Instant) {
        if let Some((every, at)) = &mut self.tell {
            if now >= *at {
                let seconds = (now - self.start).as_secs();
                // Before the command says something, the kernel does.
                let last = match self.channel.last() {
                    [] => self.console.end().last().unwrap_or_default(),
                    last => last,
                };
                let last: String = readable(last).chars().take(60).collect();
                eprintln!("guest: {}:{:02} {last}", seconds / 60, seconds % 60);
                *at = now + *every;
            }
        }
    }

    /// Waits until there may be something to do, and writes some of the output
    /// when that does not block. Returns false if its reader is gone.
    fn wait(&mut self, running: bool, timeout: Duration) -> Result<bool> {
        let stdout = io::stdout();
        let mut fds = vec![PollFd::new(&self.signals.wake, PollFlags::IN)];
        let pause = PAUSE.saturating_sub(self.read.elapsed());
        let timeout = if pause.is_zero() {
            fds.push(PollFd::new(&self.changes, PollFlags::IN));
            timeout
        } else {
            timeout.min(pause)
        };
        if running {
            fds.push(PollFd::new(&self.pidfd, PollFlags::IN));
        }
        if !self.output.is_empty() {
            fds.push(PollFd::new(&stdout, PollFlags::OUT));
        }
        let timeout = Timespec::try_from(timeout).context("too long")?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => (),
            Err(Errno::INTR) => return Ok(true),
            Err(error) => return Err(error).context("poll"),
        }
        let writable =
            !self.output.is_empty() && fds.last().is_some_and(|f| !f.revents().is_empty());
        if pause.is_zero() {
            // It does not block. What has changed is seen by reading the logs.
            let _ = rustix::io::read(&self.changes, &mut [0; 4096]);
        }
        if writable {
            let chunk = &self.output[..self.output.len().min(WRITE)];
            match rustix::io::write(stdout.as_fd(), chunk) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(Errno::INTR | Errno::AGAIN) => (),
                Err(Errno::PIPE) => return Ok(false),
                Err(error) => return Err(error).context("standard output"),
            }
        }
        Ok(true)
    }

    /// How it ended, told on standard error unless the command ended.
    fn outcome(&self, end: &End) -> Outcome {
        match self.console.ignored() {
            0 => (),
            1 => eprintln!("guest: ignored a line of trouble"),
            n => eprintln!("guest: ignored {n} lines of trouble"),
        }
        if let Some(report) = self.console.trouble() {
            eprintln!("guest: the kernel is in trouble; its console:");
            show(report.iter().map(Vec::as_slice));
            return Outcome::Trouble;
        }
        match self.status(end) {
            Ok(status) => Outcome::Status(status),
            Err(failure) => {
                eprintln!("guest: {failure:#}; the end of its console:");
                show(self.console.end());
                Outcome::NoAnswer
            }
        }
    }

    /// The command's status, if it is beyond doubt.
    fn status(&self, end: &End) -> Result<u8> {
        let statuses = self.channel.statuses();
        match end {
            End::Late(why) => match statuses {
                [Some(n)] => bail!("{why}, the command had ended with status {n}"),
                _ => bail!("{why}"),
            },
            End::Itself(status) if !status.success() => bail!("its machine {}", how(*status)),
            End::Itself(_) | End::Trouble => (),
        }
        match statuses {
            [Some(status)] => Ok(*status),
            [None] => bail!("the line that says how the command ended has no status"),
            _ => bail!(
                "{} lines say how the command ended, one should",
                statuses.len()
            ),
        }
    }
}

/// What becomes readable when the machine ends.
fn machine_pidfd(machine: &mut Machine) -> Result<OwnedFd> {
    let pid = Pid::from_child(machine.child());
    pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")
}

fn show<'a>(lines: impl Iterator<Item = &'a [u8]>) {
    for line in lines {
        eprintln!("    {}", readable(line));
    }
}
