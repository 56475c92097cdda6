// SPDX-License-Identifier: GPL-2.0

//! `lsepoll trace`: which call left a target behind, and which had added it.

mod code;
mod print;

use crate::args::TraceArgs;
use anyhow::{Context, Result};
use code::{Resolver, Trace};
use epoll_cli::is_broken_pipe;
use epoll_targets::Descriptor;
use epoll_targets::proc::{self, Stat, State};
use epoll_targets::resolve;
use epoll_targets::trace::{Call, Closed, Event, Exists, Fate, Holder, Scope, TargetId, Tracer};
use print::{Left, Printer};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long others may take to close a file as well.
const GRACE: Duration = Duration::from_millis(100);

/// How long a child may have the instance and the file, until it calls execve(2) or closes
/// them, before the target counts as left behind to it.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long closings are judged after the end of the trace: they can be due at its end, and
/// once more later.
const ENDING: Duration = Duration::from_secs(2);

/// How many closings of one target are remembered.
const CLOSINGS: usize = 16;

/// How many targets that were left behind are known, to tell of each once: a hundred bytes
/// each at most.
const TOLD: usize = 1 << 18;

/// How often signals and processes are looked at.
const TICK: Duration = Duration::from_millis(50);

/// How many targets that were left behind are remembered, to explain `EEXIST`.
const REMEMBERED: usize = 4096;

/// How many closings wait for their verdict. Beyond that, the first are judged early.
const WAITING: usize = 4096;

/// How long what was found waits to be shown, as long as there are closings to judge. To
/// find the places in the code can take longer than others keep what they left behind.
const SHOWN: Duration = Duration::from_secs(1);

/// A closing that is judged later than this is late: what was left behind may be gone.
const LATE: Duration = Duration::from_millis(500);

/// Where something was called.
type Place = String;

/// How often something happened, by the places of both calls.
pub type Tally = HashMap<(Place, Place), u64>;

fn place(trace: &Trace) -> Place {
    let place = trace.place().map(ToString::to_string);
    place.unwrap_or_else(|| "an unknown place".into())
}

/// Set by a signal.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        // The second one ends the program at once.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("cannot handle signals")?;
    }
    Ok(stop)
}

pub fn run(args: &TraceArgs) -> Result<ExitCode> {
    // Before processes are looked up in it.
    if let Some(why) = resolve::foreign_proc() {
        anyhow::bail!(why);
    }
    let scope = match (&args.command[..], args.all) {
        ([], true) => Scope::All,
        ([], false) => {
            anyhow::ensure!(
                !args.pids.is_empty(),
                "say what to trace: -p PID, --all, or -- COMMAND"
            );
            let pids = args.pids.iter();
            let processes = pids.map(|&pid| {
                // Calls are traced by process: a thread stands for its own.
                let process = proc::tgid(pid).ok().filter(|&process| runs(process));
                process.with_context(|| format!("there is no process {pid}"))
            });
            Scope::Processes(processes.collect::<Result<_>>()?)
        }
        _ => Scope::ChildrenOf(rustix::process::getpid().as_raw_pid()),
    };
    if let Some(why) = resolve::pid_namespace().filter(|_| !args.json) {
        eprintln!("lsepoll: {why}");
    }
    let pids = match &scope {
        Scope::Processes(pids) => pids.clone(),
        _ => Vec::new(),
    };
    let stop = stop_flag()?;
    let tracer = Tracer::start(&scope, args.remember).context("cannot trace")?;
    // Before the command runs, which would go on if this failed.
    let out: Box<dyn Write + '_> = match (&args.output, &args.command[..]) {
        (Some(path), _) => Box::new(io::BufWriter::new(Named::create(path)?)),
        // Standard output is the command's.
        (None, [_, ..]) => Box::new(io::stderr()),
        (None, []) => Box::new(epoll_cli::stdout()),
    };
    let child = match &args.command[..] {
        [] => None,
        [program, arguments @ ..] => {
            let child = Command::new(program).args(arguments).spawn();
            Some(child.with_context(|| format!("cannot run {program}"))?)
        }
    };
    let mut resolver = Resolver::new();
    for &pid in &pids {
        resolver.look_at(pid);
    }
    let mut session = Session {
        tracer,
        resolver,
        printer: Printer::new(out, args.json),
        waiting: VecDeque::new(),
        kept: HashMap::new(),
        found: VecDeque::new(),
        late: 0,
        earlier: HashMap::new(),
        told: HashSet::new(),
        told_of_others: HashSet::new(),
        left_behind: 0,
        left: HashMap::new(),
        tally: Tally::new(),
        exists: Tally::new(),
        pids,
        child,
        outlived: false,
        is_ending: false,
        json: args.json,
    };
    match session.work(&stop) {
        // The reader has seen enough.
        Err(error) if is_broken_pipe(&error) => {}
        worked => worked?,
    }
    let is_clean = session.tally.is_empty() && session.exists.is_empty();
    Ok(ExitCode::from(u8::from(!is_clean)))
}

/// A file that is named by the errors of writing to it.
struct Named<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Named<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        let file = File::create(path);
        let file = file.with_context(|| cannot_write(path))?;
        Ok(Self { path, file })
    }

    fn name<T>(&self, result: io::Result<T>) -> io::Result<T> {
        let named = |error: io::Error| {
            let what = format!("{}: {error}", cannot_write(self.path));
            io::Error::new(error.kind(), what)
        };
        result.map_err(|error| match error.kind() {
            // The caller tries again.
            io::ErrorKind::Interrupted => error,
            _ => named(error),
        })
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

impl Write for Named<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes);
        self.name(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.file.flush();
        self.name(flushed)
    }
}

/// Whether a process has a task that has not ended: its parent may not have waited yet.
fn runs(pid: i32) -> bool {
    let tasks = proc::tasks(pid).unwrap_or_default();
    tasks.into_iter().any(|tid| {
        let stat = Stat::of(tid);
        stat.is_ok_and(|stat| !matches!(stat.state, State::Zombie | State::Dead))
    })
}

/// A target, and when it was added: it may be added again.
type Id = (TargetId, Option<Duration>);

fn id(closed: &Closed) -> Id {
    (closed.target, closed.added.time)
}

/// The closing that left a target behind: the last one by a process that has the instance, and
/// could have removed the target. The first closing is one of these.
fn decisive(mut closings: Vec<Closed>, instance: &[Descriptor]) -> Option<Closed> {
    let has_instance = |c: &Closed| instance.iter().any(|d| d.pid == c.closed.pid);
    let last = closings.iter().rposition(has_instance).unwrap_or(0);
    (last < closings.len()).then(|| closings.swap_remove(last))
}

/// What is to be shown.
enum Finding {
    Left {
        closed: Box<Closed>,
        instance: Vec<Descriptor>,
        holders: Vec<Holder>,
        /// The descriptors by which others can remove the target.
        by: Vec<Descriptor>,
    },
    Exists(Box<Exists>),
}

/// A target that is to be judged once more.
struct Kept {
    /// When.
    due: Instant,
    /// Who closed it.
    closings: Vec<Closed>,
    /// It was left behind when it was judged, but nobody was seen to close it: they may have
    /// closed the instance.
    is_left: bool,
}

/// Adds a closing. The first ones and the last ones can be decisive.
fn remember(closings: &mut Vec<Closed>, closed: Closed) {
    if closings.len() >= CLOSINGS {
        closings.remove(CLOSINGS / 2);
    }
    closings.push(closed);
}

struct Session<'a> {
    tracer: Tracer,
    resolver: Resolver,
    printer: Printer<'a>,
    waiting: VecDeque<(Instant, Closed)>,
    /// What others could remove when it was judged first.
    kept: HashMap<Id, Kept>,
    /// What was found, to be shown.
    found: VecDeque<(Instant, Finding)>,
    /// How many closings were judged late, and nothing was left behind by then.
    late: u64,
    /// What was closed before, of targets that were closed again, by others.
    earlier: HashMap<Id, Vec<Closed>>,
    /// Which targets were left behind.
    told: HashSet<Id>,
    /// Which were left to others that can remove them.
    told_of_others: HashSet<Id>,
    /// How many there are of both.
    left_behind: u64,
    /// Where the targets that were left behind were closed.
    left: HashMap<TargetId, Place>,
    tally: Tally,
    exists: Tally,
    pids: Vec<i32>,
    child: Option<Child>,
    /// Whether it was said that others go on when the command had ended.
    outlived: bool,
    /// Whether the trace is over, and only what was closed before is judged.
    is_ending: bool,
    json: bool,
}

impl Session<'_> {
    fn work(&mut self, stop: &AtomicBool) -> Result<()> {
        let mut is_over = false;
        while !is_over {
            // What happened before it was over is still read.
            is_over = stop.load(Ordering::Relaxed) || self.nobody_runs()?;
            self.step()?;
        }
        // What was closed by then gets the same time as before.
        self.is_ending = true;
        let end = Instant::now() + ENDING;
        while !(self.waiting.is_empty() && self.kept.is_empty()) && Instant::now() < end {
            self.step()?;
        }
        self.late += (self.waiting.len() + self.kept.len()) as u64;
        while let Some((_, finding)) = self.found.pop_front() {
            self.show(finding)?;
        }
        let counts = self.tracer.counts().context("cannot trace")?;
        let (tally, exists) = (&self.tally, &self.exists);
        let (left_behind, late) = (self.left_behind, self.late);
        self.printer
            .summary(tally, exists, counts, left_behind, late)
    }

    /// Whether all processes that were named have ended.
    fn nobody_runs(&mut self) -> Result<bool> {
        if let Some(child) = &mut self.child {
            let ended = child.try_wait().context("cannot wait for the command")?;
            if ended.is_none() {
                return Ok(false);
            }
            // It may have become a daemon.
            let mut left = self.tracer.traced().context("cannot trace")?;
            left.retain(|&pid| runs(pid));
            if !left.is_empty() && !self.outlived && !self.json {
                self.outlived = true;
                let count = left.len();
                eprintln!(
                    "lsepoll: the command has ended, and the trace goes on with what it has \
                     created, processes: {count} (Ctrl-C ends it)"
                );
            }
            return Ok(left.is_empty());
        }
        Ok(!self.pids.is_empty() && !self.pids.iter().any(|&pid| runs(pid)))
    }

    fn step(&mut self) -> Result<()> {
        let is_due = |(since, _): &(Instant, Finding)| since.elapsed() >= SHOWN;
        let shows = self.found.front().is_some_and(is_due)
            || !self.found.is_empty() && self.waiting.is_empty();
        let timeout = if shows { Duration::ZERO } else { TICK };
        let events = self.tracer.poll(timeout).context("cannot trace")?;
        let now = Instant::now();
        for event in events {
            match event {
                Event::Process(pid) => self.resolver.look_at(pid),
                Event::Closed(closed) if self.told.contains(&id(&closed)) => {}
                Event::Closed(closed) if self.is_ending && !self.awaits(&id(&closed)) => {}
                Event::Exists(_) if self.is_ending => {}
                Event::Closed(closed) => {
                    // The process may have ended when it is shown.
                    self.resolver.look_at_once(closed.closed.pid);
                    self.waiting.push_back((now, *closed));
                }
                Event::Exists(exists) => {
                    self.resolver.look_at_once(exists.call.pid);
                    self.found.push_back((now, Finding::Exists(exists)));
                }
                _ => {}
            }
        }
        self.judge()?;
        self.judge_kept()?;
        if !shows {
            return Ok(());
        }
        let next = self.found.pop_front();
        next.map_or(Ok(()), |(_, finding)| self.show(finding))
    }

    /// Whether a target is still to be judged.
    fn awaits(&self, target: &Id) -> bool {
        let mut waiting = self.waiting.iter();
        self.kept.contains_key(target) || waiting.any(|(_, closed)| id(closed) == *target)
    }

    /// Finds out what became of the closings that have waited long enough.
    fn judge(&mut self) -> Result<()> {
        let is_due = |(since, _): &(Instant, Closed)| since.elapsed() >= GRACE;
        let due = self
            .waiting
            .iter()
            .take_while(|closed| is_due(closed))
            .count();
        let due = due.max(self.waiting.len().saturating_sub(WAITING));
        // Others can have had the target's file as its tfd, too: the last one is judged.
        let ids = self.waiting.iter().enumerate();
        let last: HashMap<Id, usize> = ids.map(|(n, (_, closed))| (id(closed), n)).collect();
        let (mut times, mut judged) = (Vec::new(), Vec::new());
        for (n, (time, closed)) in self.waiting.drain(..due).enumerate() {
            if last[&id(&closed)] == n {
                times.push(time);
                judged.push(closed);
            } else {
                remember(self.earlier.entry(id(&closed)).or_default(), closed);
            }
        }
        let due = judged;
        if due.is_empty() {
            return Ok(());
        }
        let are_late = times.iter().map(|time| time.elapsed() > LATE);
        let are_late: Vec<bool> = are_late.collect();
        let fates = self.tracer.settle(&due).context("cannot trace")?;
        let now = Instant::now();
        for ((closed, fate), is_late) in due.into_iter().zip(fates).zip(are_late) {
            let id = id(&closed);
            let (due, mut closings) = match self.kept.remove(&id) {
                Some(kept) => (kept.due, kept.closings),
                None => (now + PATIENCE, Vec::new()),
            };
            for closed in self.earlier.remove(&id).unwrap_or_default() {
                remember(&mut closings, closed);
            }
            remember(&mut closings, closed);
            match fate {
                Fate::Left { instance, holders } => self.leave(closings, instance, holders),
                Fate::Kept { .. } if self.told_of_others.contains(&id) => {}
                Fate::Kept { .. } if self.kept.len() < WAITING => {
                    let is_left = false;
                    let kept = Kept {
                        due,
                        closings,
                        is_left,
                    };
                    self.kept.insert(id, kept);
                }
                Fate::Kept { .. } => self.late += 1,
                Fate::Removed => self.late += u64::from(is_late),
                _ => {}
            }
        }
        Ok(())
    }

    /// A target was left behind for good.
    fn leave(&mut self, closings: Vec<Closed>, instance: Vec<Descriptor>, holders: Vec<Holder>) {
        let Some(closed) = decisive(closings, &instance) else {
            return;
        };
        let id = id(&closed);
        if self.told.contains(&id) {
            return;
        }
        if self.told.len() < TOLD {
            self.told.insert(id);
        }
        self.left_behind += u64::from(!self.told_of_others.contains(&id));
        let left = Finding::Left {
            closed: Box::new(closed),
            instance,
            holders,
            by: Vec::new(),
        };
        self.found.push_back((Instant::now(), left));
    }

    /// Finds out which processes still get the events of targets that only others can remove.
    fn judge_kept(&mut self) -> Result<()> {
        let now = Instant::now();
        let is_due = |kept: &Kept| kept.due <= now;
        if !self.kept.values().any(is_due) {
            return Ok(());
        }
        // What was closed once more is judged with that.
        let waiting: HashSet<Id> = self.waiting.iter().map(|(_, closed)| id(closed)).collect();
        let ids = self.kept.iter().filter(|(_, kept)| is_due(kept));
        let ids = ids.map(|(id, _)| *id).filter(|id| !waiting.contains(id));
        let (mut due, mut last) = (Vec::new(), Vec::new());
        for id in ids.collect::<Vec<_>>() {
            let Some(kept) = self.kept.remove(&id) else {
                continue;
            };
            let Some(closed) = kept.closings.last().cloned() else {
                continue;
            };
            // Most were removed meanwhile.
            if self.tracer.is_known(&closed).context("cannot trace")? {
                due.push(kept);
                last.push(closed);
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        let fates = self.tracer.settle(&last).context("cannot trace")?;
        for (kept, fate) in due.into_iter().zip(fates) {
            let (instance, holders, by) = match fate {
                Fate::Left { instance, holders } => (instance, holders, Vec::new()),
                Fate::Kept {
                    instance,
                    holders,
                    by,
                    is_there: true,
                } => (instance, holders, by),
                _ => continue,
            };
            if !by.is_empty() {
                self.leave_to(kept.closings, instance, holders, by)?;
            } else if kept.is_left {
                self.leave(kept.closings, instance, holders);
            } else {
                // The event of a closing can be on its way, or a descriptor was missed.
                let due = Instant::now() + GRACE;
                let is_left = true;
                let kept = Kept {
                    due,
                    is_left,
                    ..kept
                };
                self.kept.insert(id(&kept.closings[0]), kept);
            }
        }
        Ok(())
    }

    /// A target was left to those who can remove it, by one who keeps the instance.
    fn leave_to(
        &mut self,
        closings: Vec<Closed>,
        instance: Vec<Descriptor>,
        holders: Vec<Holder>,
        by: Vec<Descriptor>,
    ) -> Result<()> {
        let is_of = |d: &Descriptor, call: &Call| [call.pid, call.tid].contains(&d.pid);
        for closed in closings.into_iter().rev() {
            let call = &closed.closed;
            let can_remove = by.iter().any(|d| is_of(d, call));
            if can_remove || !instance.iter().any(|d| is_of(d, call)) {
                continue;
            }
            if !self.tracer.has_instance(&closed).context("cannot trace")? {
                continue;
            }
            if self.told_of_others.len() < TOLD {
                self.told_of_others.insert(id(&closed));
            }
            self.left_behind += 1;
            let left = Finding::Left {
                closed: Box::new(closed),
                instance,
                holders,
                by,
            };
            self.found.push_back((Instant::now(), left));
            break;
        }
        Ok(())
    }

    /// Finds the places of calls, and prints them.
    fn show(&mut self, finding: Finding) -> Result<()> {
        match finding {
            Finding::Left {
                closed,
                instance,
                holders,
                by,
            } => self.show_left(&closed, &instance, &holders, &by),
            Finding::Exists(exists) => self.show_exists(&exists),
        }
    }

    fn show_left(
        &mut self,
        closed: &Closed,
        instance: &[Descriptor],
        holders: &[Holder],
        removers: &[Descriptor],
    ) -> Result<()> {
        let added = self.resolver.resolve(closed.added.pid, &closed.added.stack);
        let by = self
            .resolver
            .resolve(closed.closed.pid, &closed.closed.stack);
        let places = (place(&added), print::closed_at(closed, &by));
        if self.left.len() < REMEMBERED {
            self.left.insert(closed.target, places.1.clone());
        }
        let count = self.tally.entry(places).or_default();
        *count += 1;
        let left = Left {
            closed,
            added: &added,
            by: &by,
            instance,
            holders,
            removers,
            count: *count,
        };
        self.printer.left(&left)
    }

    fn show_exists(&mut self, exists: &Exists) -> Result<()> {
        let call = self.resolver.resolve(exists.call.pid, &exists.call.stack);
        let added = exists.added.as_ref();
        let added = added.map(|a| self.resolver.resolve(a.pid, &a.stack));
        let first = added
            .as_ref()
            .map_or_else(|| "an unknown place".into(), place);
        *self.exists.entry((first, place(&call))).or_default() += 1;
        let closed = self.left.get(&exists.target);
        self.printer.exists(exists, &call, added.as_ref(), closed)
    }
}
