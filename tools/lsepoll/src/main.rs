// SPDX-License-Identifier: GPL-2.0

//! Lists epoll instances with the real owner of each target.

mod args;
mod json;
mod names;
mod table;

use anyhow::{Context, Result};
use args::{Args, Owners};
use clap::{CommandFactory, Parser};
use epoll_cli::progress;
use epoll_cli::text::printable;
use epoll_targets::proc;
use epoll_targets::resolve::{HAS_BPF, Method, Progress, Report, Resolver, Skipped};
use epoll_targets::stop::Stopped;
use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(shell) = args.completions {
        clap_complete::generate(shell, &mut Args::command(), "lsepoll", &mut io::stdout());
        return ExitCode::SUCCESS;
    }
    run(&args).unwrap_or_else(|error| {
        epoll_cli::report(&mut io::stderr(), "lsepoll", &error);
        ExitCode::from(2)
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    let report = resolve(args)?;
    if args.verbose {
        report_method(&report);
    }
    report_fallback(args, &report);
    let failed = report_skipped(args, &report);
    let targets = || report.instances.iter().flat_map(|i| &i.targets);
    let orphaned = targets().filter(|target| target.is_orphaned()).count();
    let stale = targets().filter(|target| target.is_stale()).count();
    let stuck = targets().filter(|target| target.is_stuck()).count();

    match print(args, &report) {
        // The reader has seen enough.
        Err(error) if epoll_cli::is_broken_pipe(&error) => {}
        printed => printed.context("cannot print")?,
    }
    if io::stdout().is_terminal() && !args.json {
        let (instances, targets) = (report.instances.len(), targets().count());
        eprintln!(
            "epoll instances: {instances}, targets: {targets}, orphaned: {orphaned}, stuck: {stuck}, \
             stale: {stale}"
        );
    }
    Ok(match (failed, orphaned + stale + stuck) {
        (true, _) => ExitCode::from(2),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(1),
    })
}

fn print(args: &Args, report: &Report) -> Result<()> {
    let mut out = epoll_cli::stdout();
    if args.json {
        json::print(args, report, &mut out)?;
    } else {
        table::print(args, report, &mut out)?;
    }
    Ok(out.flush()?)
}

fn resolve(args: &Args) -> Result<Report> {
    let mut resolver = if args.pids.is_empty() {
        anyhow::ensure!(
            args.owners == Owners::All,
            "--owners given: name the processes with -p"
        );
        Resolver::all_processes()
    } else {
        Resolver::new(args.pids.iter().copied())
    };
    if args.owners == Owners::All {
        resolver = resolver.search_all_processes();
    }
    let stopped = args.stop.then(|| Stopped::new(&args.pids)).transpose();
    let _stopped = stopped.context("cannot stop the processes")?;
    let mut bar = progress::Progress::stderr();
    let report = resolver
        .method(args.resolver.into())
        .on_progress(|progress| match progress {
            Progress::Targets { done, total } => bar.show("targets", done as u64, total as u64),
            Progress::Sorting { done, total } => bar.show("sorting descriptors", done, total),
            Progress::Long(time) => eprintln!(
                "lsepoll: searching with kcmp(2) takes about {} s; each query holds the mutex of \
                 the epoll instance, which its process waits for meanwhile",
                time.as_secs()
            ),
            _ => {}
        })
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
    if let Some(error) = &report.no_kcmp {
        eprintln!(
            "lsepoll: kcmp(2) cannot be used, so that owners are guessed: {}",
            epoll_cli::chain(error)
        );
    }
    if let Some(error) = report.no_bpf.as_ref().filter(|_| HAS_BPF && !args.verbose) {
        eprintln!("lsepoll: BPF cannot be used: {}", epoll_cli::chain(error));
    }
}

/// Reports what could not be inspected; returns whether -p named any of it.
fn report_skipped(args: &Args, report: &Report) -> bool {
    let mut failed = false;
    let mut others = BTreeSet::new();
    for skipped in &report.skipped {
        if args.pids.contains(&skipped.pid) {
            failed |= !skipped.has_ended();
            eprintln!("lsepoll: {}", reason(skipped));
        } else if skipped.is_held() {
            eprintln!("lsepoll: {}", reason(skipped));
        } else if skipped.efd.is_none() && !skipped.has_ended() {
            others.insert(skipped.pid);
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
    if let Some(why) = &report.partial {
        eprintln!("lsepoll: {why}; a target without an owner is shown as unknown");
    }
    if !others.is_empty() {
        let advice = if rustix::process::geteuid().is_root() {
            "a security module or a user namespace forbids it"
        } else {
            "run as root to include them"
        };
        eprintln!(
            "lsepoll: {} processes were skipped for lack of ptrace access, and may own targets \
             that are shown as unknown; {advice}",
            others.len()
        );
    }
    failed
}

/// Why a process or an instance was skipped.
fn reason(skipped: &Skipped) -> String {
    let Skipped {
        pid, efd, error, ..
    } = skipped;
    let name = proc::command(*pid).map(|name| format!(" ({})", printable(&name)));
    let name = name.unwrap_or_default();
    let why = match (error.kind(), efd) {
        (io::ErrorKind::PermissionDenied, _) if rustix::process::geteuid().is_root() => {
            "no ptrace access; a security module or a user namespace forbids it".into()
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "no ptrace access; run as its user or as root".into()
        }
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
