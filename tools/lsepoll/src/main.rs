// SPDX-License-Identifier: GPL-2.0

//! Lists epoll sets, and the true owner of each target.

mod json;
mod names;
mod table;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use epoll_cli::progress;
use epoll_cli::text::printable;
use epoll_targets::proc;
use epoll_targets::resolve::{Method, Progress, Report, Resolved, Resolver, Skipped};
use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

const ABOUT: &str = "\
List epoll sets, and the true owner of each target.

An epoll set watches open files, not descriptors: a target is a file, and the \
number that its descriptor had when it was added. The number may since have been \
closed, or mean another file. lsepoll asks the kernel, with kcmp(2) or with BPF, \
which descriptors have the file behind each target, and marks in the column STATE:

  moved    the number is closed, or means another file; a descriptor of another
           number, or of another process, has the file (OWNER)
  stale    the number means another file now
  zombie   nobody has the file open, and yet it is there, and its events come:
           those for a descriptor that was closed, as it seems
  unknown  the target went away, or processes changed, while they were looked at
  changed  the target came while they were looked at

To list processes of other users needs their ptrace access, that is root.";

const AFTER: &str = "\
Exit status:
  0  nothing is a zombie or stale
  1  something is
  2  an error, or a process given with -p could not be looked into

Examples:
  lsepoll -p 1234             the epoll sets of process 1234
  lsepoll --zombies           zombies of all processes
  lsepoll -p 1234 --owners given
                              search no other process for owners
  lsepoll --ids               with the ids that `bpftool link` shows
  lsepoll --json | jq -r '.sets[] | .pid as $pid | .targets[] |
      select(.zombie) | \"\\($pid) \\(.tfd)\"'
                              pid and number of each zombie";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Owners {
    /// In all processes, if those given with -p do not have the file
    All,
    /// Only in the processes given with -p
    Given,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ResolverName {
    /// The iterators if they are there, otherwise kcmp(2)
    Auto,
    /// kcmp(2), which every kernel has
    Kcmp,
    /// BPF iterators: root only, and with the module epoll_iter
    Bpf,
}

impl From<ResolverName> for Method {
    fn from(name: ResolverName) -> Self {
        match name {
            ResolverName::Auto => Self::Auto,
            ResolverName::Kcmp => Self::Kcmp,
            ResolverName::Bpf => Self::Bpf,
        }
    }
}

fn name(method: Method) -> &'static str {
    match method {
        Method::Auto => "auto",
        Method::Kcmp => "kcmp",
        Method::Bpf => "bpf",
    }
}

/// List epoll sets, and the true owner of each target
#[derive(Debug, Parser)]
#[command(version, long_about = ABOUT, after_long_help = AFTER)]
struct Args {
    /// Processes to list [default: all that may be looked into]
    #[arg(short, long = "pid", value_name = "PID", num_args = 1..)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pids: Vec<i32>,

    /// Where to look for owners
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = Owners::All)]
    owners: Owners,

    /// How to ask the kernel: the answers are the same
    #[arg(long, value_enum, value_name = "HOW", default_value_t = ResolverName::Auto)]
    resolver: ResolverName,

    /// Show only targets that nobody has open
    #[arg(long)]
    zombies: bool,

    /// Show only targets whose number means another file now
    #[arg(long)]
    stale: bool,

    /// Show the id of each epoll set, as in its fdinfo and that of BPF links
    #[arg(long)]
    ids: bool,

    /// Say on standard error how the kernel was asked
    #[arg(short, long)]
    verbose: bool,

    /// Print one JSON object; lsepoll(1) has its parts
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Whether only some targets are asked for.
    fn is_filtered(&self) -> bool {
        self.zombies || self.stale
    }

    fn shows(&self, target: &Resolved) -> bool {
        !self.is_filtered() || self.zombies && target.is_zombie() || self.stale && target.is_stale()
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    run(&args).unwrap_or_else(|error| {
        epoll_cli::report(&mut io::stderr(), "lsepoll", &error);
        ExitCode::from(2)
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    let report = look(args)?;
    if args.verbose {
        tell_how(&report);
    }
    let failed = tell_skipped(args, &report);
    let targets = || report.sets.iter().flat_map(|set| &set.targets);
    let zombies = targets().filter(|target| target.is_zombie()).count();
    let stale = targets().filter(|target| target.is_stale()).count();

    match print(args, &report) {
        // The reader has seen enough.
        Err(error) if epoll_cli::is_broken_pipe(&error) => {}
        printed => printed.context("cannot print")?,
    }
    if io::stdout().is_terminal() && !args.json {
        let (sets, targets) = (report.sets.len(), targets().count());
        eprintln!("epoll sets: {sets}, targets: {targets}, zombies: {zombies}, stale: {stale}");
    }
    Ok(match (failed, zombies + stale) {
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

fn look(args: &Args) -> Result<Report> {
    let mut resolver = if args.pids.is_empty() {
        anyhow::ensure!(
            args.owners == Owners::All,
            "--owners given: give the processes with -p"
        );
        Resolver::everyone()
    } else {
        Resolver::new(args.pids.iter().copied())
    };
    if args.owners == Owners::All {
        resolver = resolver.search_everyone();
    }
    let mut bar = progress::Progress::stderr();
    let report = resolver
        .method(args.resolver.into())
        .on_progress(|progress| match progress {
            Progress::Targets { done, total } => bar.show("targets", done as u64, total as u64),
            Progress::Sorting { done, total } => bar.show("sorting descriptors", done, total),
        })
        .resolve();
    report.context("cannot tell targets")
}

fn tell_how(report: &Report) {
    let calls = report.calls;
    let calls = calls.file + calls.epoll_tfd + calls.tables;
    let how = name(report.method);
    let why = report.no_bpf.as_ref();
    let why = why.map_or_else(String::new, |error| {
        format!(", as there is no BPF: {error}")
    });
    eprintln!("lsepoll: resolved with {how} ({calls} calls of kcmp){why}");
}

/// Says what could not be looked into; returns whether it should have been.
fn tell_skipped(args: &Args, report: &Report) -> bool {
    let mut failed = false;
    let mut others = BTreeSet::new();
    for skipped in &report.skipped {
        if args.pids.contains(&skipped.pid) {
            failed = true;
            eprintln!("lsepoll: {}", reason(skipped));
        } else if skipped.efd.is_none() {
            others.insert(skipped.pid);
        }
    }
    if !others.is_empty() {
        eprintln!(
            "lsepoll: no ptrace access to {} of the processes: run as root to see them; \
             what nobody seems to have open may be theirs",
            others.len()
        );
    }
    failed
}

fn reason(skipped: &Skipped) -> String {
    let Skipped { pid, efd, error } = skipped;
    let name = proc::command(*pid).map(|name| format!(" ({})", printable(&name)));
    let name = name.unwrap_or_default();
    let what = match (error.kind(), error.raw_os_error(), efd) {
        (io::ErrorKind::PermissionDenied, ..) => {
            "ptrace access is missing; run as its user or as root".into()
        }
        (io::ErrorKind::NotFound, _, Some(_)) => "it was closed meanwhile".into(),
        (io::ErrorKind::NotFound, ..) => "there is no such process".into(),
        // ESRCH
        (_, Some(3), _) => "the process ended meanwhile".into(),
        _ => error.to_string(),
    };
    match efd {
        Some(efd) => format!("cannot look into epoll set {efd} of PID {pid}{name}: {what}"),
        None => format!("cannot look into PID {pid}{name}: {what}"),
    }
}
