// SPDX-License-Identifier: GPL-2.0

//! Lists epoll instances with the real owner of each target.

mod anonymous;
mod args;
mod extra;
mod holders;
mod json;
mod metrics;
mod names;
mod sockets;
mod summary;
mod table;
#[cfg(feature = "bpf")]
mod trace;
mod watch;

use anyhow::{Context, Result};
use args::{Action, Args, Owners, Sort};
use clap::CommandFactory;
use epoll_cli::progress;
use epoll_cli::text::printable;
use epoll_targets::proc;
use epoll_targets::resolve::{Early, HAS_BPF, Method, Progress, Report, Resolver, Skipped};
use epoll_targets::stop::Stopped;
use rustix::thread::CapabilitySet;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let args: Args = match epoll_cli::parse("lsepoll", 2) {
        Ok(args) => args,
        Err(status) => return status,
    };
    exit(match (args.shell(), &args.action) {
        (Some(shell), _) => completions(shell),
        (_, Some(Action::Trace(args))) => trace(args),
        _ => run(&args),
    })
}

/// The exit status; says what went wrong.
fn exit(status: Result<ExitCode>) -> ExitCode {
    status.unwrap_or_else(|error| {
        epoll_cli::report(&mut io::stderr(), "lsepoll", &error);
        ExitCode::from(2)
    })
}

fn completions(shell: clap_complete::Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "lsepoll", &mut script);
    let mut out = epoll_cli::stdout();
    let written = out.write_all(&script).and_then(|()| out.flush());
    match written.context("cannot print") {
        Err(error) if epoll_cli::is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        written => written.map(|()| ExitCode::SUCCESS),
    }
}

#[cfg(feature = "bpf")]
use trace::run as trace;

#[cfg(not(feature = "bpf"))]
fn trace(_: &args::TraceArgs) -> Result<ExitCode> {
    anyhow::bail!("trace: this was built without the feature bpf")
}

fn run(args: &Args) -> Result<ExitCode> {
    let Some(seconds) = args.watch else {
        return look(args, None);
    };
    let mut before = watch::Before::default();
    loop {
        let status = look(args, Some(&mut before))?;
        if before.is_unread {
            return Ok(status);
        }
        before.is_again = true;
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Lists everything once, or what is not as before.
fn look(args: &Args, before: Option<&mut watch::Before>) -> Result<ExitCode> {
    // A service that is watched by its name can be restarted.
    let is_again = before.as_ref().is_some_and(|before| before.is_again);
    let (pids, is_nobody) = pids(args, is_again)?;
    let nothing = Report::default();
    let mut early = EarlyRows::new(args, &nothing);
    let mut report = match is_nobody {
        true => Report::default(),
        false => resolve(args, &pids, &mut early)?,
    };
    sort(args.sort, &mut report);
    let report = report;
    if args.verbose {
        report_method(&report);
    }
    report_fallback(args, &report);
    let failed = report_skipped(&pids, &report) || is_blind(&report);
    let targets = || report.instances.iter().flat_map(|i| &i.targets);
    let orphaned = targets().filter(|target| target.is_orphaned()).count();
    let stale = targets().filter(|target| target.is_stale()).count();
    let stuck = targets().filter(|target| target.is_stuck()).count();

    if let Some(path) = &args.metrics {
        metrics::write(path, &report)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut before = before;
    match print(args, &report, before.as_deref_mut(), early) {
        // The reader has seen enough.
        Err(error) if epoll_cli::is_broken_pipe(&error) => {
            if let Some(before) = before {
                before.is_unread = true;
            }
        }
        printed => printed.context("cannot print")?,
    }
    if io::stdout().is_terminal() && !args.json && args.watch.is_none() {
        let (instances, targets) = (report.instances.len(), targets().count());
        eprintln!(
            "epoll instances: {instances}, targets: {targets}, orphaned: {orphaned}, stuck: {stuck}, \
             stale: {stale}"
        );
    }
    Ok(match (failed, orphaned + stale + stuck) {
        (true, _) => ExitCode::from(2),
        // A timer that writes metrics has done its work.
        (false, _) if args.metrics.is_some() => ExitCode::SUCCESS,
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(1),
    })
}

/// The rows of a search that takes long, which are printed as they are found.
struct EarlyRows<'a> {
    /// If that is what was asked for.
    args: Option<&'a Args>,
    nothing: &'a Report,
    stream: Option<table::Stream<'a>>,
    /// Where there is an error, no more is printed.
    error: Option<io::Error>,
}

impl<'a> EarlyRows<'a> {
    fn new(args: &'a Args, nothing: &'a Report) -> Self {
        let is_table = !args.json && !args.summary && args.watch.is_none();
        let is_table = is_table && args.metrics.is_none() && args.sort == Sort::Pid;
        Self {
            // Whether they are ready is asked at the end, of all at one time.
            args: Some(args).filter(|args| is_table && !args.ready),
            nothing,
            stream: None,
            error: None,
        }
    }

    fn print(&mut self, early: &Early<'_>) {
        let Some(args) = self.args.filter(|_| self.error.is_none()) else {
            return;
        };
        let new = || table::Stream::new(extra::Extra::early(args, self.nothing));
        let stream = self.stream.get_or_insert_with(new);
        let mut out = epoll_cli::stdout();
        let printed = stream.early(early, &mut out).and_then(|()| out.flush());
        self.error = printed.err();
    }
}

fn print(
    args: &Args,
    report: &Report,
    before: Option<&mut watch::Before>,
    early: EarlyRows<'_>,
) -> Result<()> {
    if let Some(error) = early.error {
        return Err(error.into());
    }
    let mut out = epoll_cli::stdout();
    let mut extra = extra::Extra::new(args, report);
    match before {
        _ if args.summary => summary::print(args, report, &mut out)?,
        _ if args.json => json::print(&mut extra, &mut out)?,
        Some(before) => watch::print(&mut extra, before, &mut out)?,
        // Only the file is wanted.
        None if args.metrics.is_some() => {}
        None if early.stream.is_some() => {
            if let Some(stream) = early.stream {
                stream.rest(extra, &mut out)?;
            }
        }
        None => table::print(&mut extra, &mut out)?,
    }
    Ok(out.flush()?)
}

/// The processes that were named; none if all are meant, or if there is none of them, which
/// the second value says. That is an error unless there may be none.
fn pids(args: &Args, may_be_none: bool) -> Result<(Vec<i32>, bool)> {
    let mut pids = args.pids.clone();
    let mut names: Vec<&str> = Vec::new();
    for process in &args.processes {
        match process.parse() {
            Ok(pid) => pids.push(pid),
            Err(_) => names.push(process),
        }
    }
    let all = if names.is_empty() {
        Vec::new()
    } else {
        proc::pids()?
    };
    for name in names {
        let is_called = |pid: &i32| proc::command(*pid).is_ok_and(|command| command == cut(name));
        let before = pids.len();
        pids.extend(all.iter().filter(|pid| is_called(pid)));
        anyhow::ensure!(
            may_be_none || pids.len() > before,
            "no process is called {name}"
        );
    }
    let is_nobody = pids.is_empty() && !args.processes.is_empty();
    pids.sort_unstable();
    pids.dedup();
    Ok((pids, is_nobody))
}

/// A command name as the kernel keeps it.
fn cut(name: &str) -> std::borrow::Cow<'_, str> {
    const LENGTH: usize = 15;
    String::from_utf8_lossy(&name.as_bytes()[..name.len().min(LENGTH)])
}

fn sort(by: Sort, report: &mut Report) {
    match by {
        Sort::Pid => report
            .instances
            .sort_by_key(|instance| (instance.pid, instance.efd)),
        Sort::Efd => report
            .instances
            .sort_by_key(|instance| (instance.efd, instance.pid)),
        Sort::Tfd => {
            for instance in &mut report.instances {
                instance
                    .targets
                    .sort_by_key(|resolved| (resolved.target.tfd, resolved.target.toff));
            }
        }
    }
}

fn resolve(args: &Args, pids: &[i32], early: &mut EarlyRows<'_>) -> Result<Report> {
    let mut resolver = if pids.is_empty() {
        anyhow::ensure!(
            args.owners == Owners::All,
            "--owners given: name the processes with -p"
        );
        anyhow::ensure!(!args.stop, "--stop: name the processes");
        Resolver::all_processes()
    } else {
        Resolver::new(pids.iter().copied())
    };
    if args.owners == Owners::All {
        resolver = resolver.search_all_processes();
    }
    if args.is_list() {
        resolver = resolver.find_holders();
    }
    let stopped = args.stop.then(|| Stopped::new(pids)).transpose();
    let _stopped = stopped.context("cannot stop the processes")?;
    // What is printed would stand in its way.
    let is_seen = early.args.is_some() && io::stdout().is_terminal();
    let mut bar = Some(progress::Progress::stderr());
    let report = resolver
        .method(args.resolver.into())
        .on_progress(|progress| match (progress, &mut bar) {
            (Progress::Targets { done, total }, Some(bar)) => {
                bar.show("targets", done as u64, total as u64);
            }
            (Progress::Sorting { done, total }, Some(bar)) => {
                bar.show("sorting descriptors", done, total);
            }
            (Progress::Long(time), bar) => {
                if is_seen {
                    *bar = None;
                }
                eprintln!(
                    "lsepoll: searching with kcmp(2) takes about {} s; each query holds the mutex \
                     of the epoll instance, which its process waits for meanwhile",
                    time.as_secs()
                );
            }
            _ => {}
        })
        .on_early(|found| early.print(found))
        .resolve();
    report.context("cannot resolve the targets")
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Walk => "walk",
        Method::Kcmp => "kcmp",
        Method::Bpf => "bpf",
        Method::Fdinfo => "fdinfo",
        _ => "auto",
    }
}

/// Why another method than the best was used.
fn fallback(report: &Report) -> Option<String> {
    let error = report.no_kcmp.as_ref().or(report.no_bpf.as_ref())?;
    Some(epoll_cli::chain(error))
}

fn report_method(report: &Report) {
    let calls = report.calls;
    let calls = calls.file + calls.epoll_tfd + calls.tables;
    let method = method_name(report.method);
    let why = report.no_bpf.as_ref();
    let why = why.map_or_else(String::new, |error| {
        format!(", as BPF cannot be used: {}", epoll_cli::chain(error))
    });
    eprintln!("lsepoll: resolved with {method} ({calls} calls of kcmp){why}");
}

/// Says that another method was used than the best, and why.
fn report_fallback(args: &Args, report: &Report) {
    let no_bpf = report.no_bpf.as_ref().filter(|_| HAS_BPF && !args.verbose);
    let no_bpf = no_bpf.map(|error| format!("BPF cannot be used: {}", epoll_cli::chain(error)));
    let no_kcmp = report.no_kcmp.as_ref().map(|error| {
        let (why, partial) = (epoll_cli::chain(error), report.partial.as_deref());
        format!("{}: {why}", partial.unwrap_or_default())
    });
    let why: Vec<String> = no_kcmp.into_iter().chain(no_bpf).collect();
    if !why.is_empty() {
        eprintln!("lsepoll: {}", why.join("; "));
    }
}

/// Whether nothing at all could be seen.
fn is_blind(report: &Report) -> bool {
    report.partial.is_some() && report.tables == 0
}

/// Reports what could not be inspected; returns whether -p named any of it.
fn report_skipped(pids: &[i32], report: &Report) -> bool {
    let mut failed = false;
    let (mut refused, mut others) = (BTreeSet::new(), BTreeMap::new());
    // A thread stands for its process, unless it has a table of its own.
    let mut named: BTreeSet<i32> = pids.iter().copied().collect();
    if report
        .skipped
        .iter()
        .any(|skipped| !named.contains(&skipped.pid))
    {
        named.extend(pids.iter().filter_map(|&pid| proc::tgid(pid).ok()));
    }
    for skipped in &report.skipped {
        if named.contains(&skipped.pid) {
            failed |= !skipped.has_ended();
            eprintln!("lsepoll: {}", reason(skipped));
        } else if skipped.is_held() {
            eprintln!("lsepoll: {}", reason(skipped));
        } else if skipped.efd.is_none() && !skipped.has_ended() {
            match skipped.error.kind() {
                io::ErrorKind::PermissionDenied => drop(refused.insert(skipped.pid)),
                _ => drop(others.insert(skipped.pid, skipped)),
            }
        }
    }
    for instance in &report.instances {
        if let Some(why) = &instance.unconfirmed {
            let (pid, efd) = (instance.pid, instance.efd);
            eprintln!(
                "lsepoll: the list of epoll instance {efd} of process {pid} is not confirmed: {why}"
            );
        }
    }
    // Otherwise, it was said with the reason.
    if let Some(why) = report.partial.as_ref().filter(|_| report.no_kcmp.is_none()) {
        let rest = match is_blind(report) {
            true => "",
            false => "; a target without an owner is shown as unknown",
        };
        eprintln!("lsepoll: {why}{rest}");
    }
    if let Some(first) = others.values().next() {
        eprintln!(
            "lsepoll: {} skipped, and may own targets that are shown as unknown; {}",
            were(others.len()),
            reason(first)
        );
    }
    if !refused.is_empty() {
        let advice = match why_refused() {
            Refused::Anyway => "a security module or a user namespace forbids it",
            Refused::Files => "it takes CAP_DAC_READ_SEARCH, too",
            Refused::Root => "root needs CAP_SYS_PTRACE to include them, and does not have it here",
            Refused::User => "run as root to include them",
        };
        eprintln!(
            "lsepoll: {} skipped for lack of ptrace access, and may own targets that are shown as \
             unknown; {advice}",
            were(refused.len())
        );
    }
    failed
}

/// Of how many processes something is said.
fn were(count: usize) -> String {
    match count {
        1 => "1 process was".into(),
        count => format!("{count} processes were"),
    }
}

/// Who lacks ptrace(2) access to a process.
enum Refused {
    /// One that has the capabilities for it.
    Anyway,
    /// One that has that for ptrace(2), and may not read the directories of others.
    Files,
    /// Root, without the capability, as in a container.
    Root,
    User,
}

fn why_refused() -> Refused {
    let sets = rustix::thread::capabilities(None);
    let sets = sets.map_or(CapabilitySet::empty(), |sets| sets.effective);
    let reads = CapabilitySet::DAC_READ_SEARCH | CapabilitySet::DAC_OVERRIDE;
    if sets.contains(CapabilitySet::SYS_PTRACE) {
        match sets.intersects(reads) {
            true => Refused::Anyway,
            false => Refused::Files,
        }
    } else if rustix::process::geteuid().is_root() {
        Refused::Root
    } else {
        Refused::User
    }
}

/// Why a process or an instance was skipped.
fn reason(skipped: &Skipped) -> String {
    let Skipped {
        pid, efd, error, ..
    } = skipped;
    let name = proc::command(*pid).map(|name| format!(" ({})", printable(&name)));
    let name = name.unwrap_or_default();
    let why = match (error.kind(), efd) {
        (io::ErrorKind::PermissionDenied, _) => match why_refused() {
            Refused::Anyway => "no ptrace access; a security module or a user namespace forbids it",
            Refused::Root => {
                "no ptrace access; root needs CAP_SYS_PTRACE, and does not have it here"
            }
            Refused::Files => "no access to its descriptors; it takes CAP_DAC_READ_SEARCH, too",
            Refused::User => "no ptrace access; run as its user or as root",
        }
        .into(),
        (io::ErrorKind::NotFound, Some(_)) => "it was closed meanwhile".into(),
        (io::ErrorKind::NotFound, None) => "no such process".into(),
        _ if proc::is_no_process(error) => "the process ended meanwhile".into(),
        _ => printable(&epoll_cli::chain(error)),
    };
    match efd {
        Some(efd) => format!("cannot inspect epoll instance {efd} of process {pid}{name}: {why}"),
        None => format!("cannot inspect process {pid}{name}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_is_no_plural() {
        assert_eq!(super::were(1), "1 process was");
        assert_eq!(super::were(2), "2 processes were");
    }
}
