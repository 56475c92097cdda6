// SPDX-License-Identifier: GPL-2.0

//! The command line. The section OPTIONS of the manual page is generated from it.

use clap::{Parser, Subcommand, ValueEnum};
use epoll_targets::resolve::{Method, Resolved};
use std::path::PathBuf;

const ABOUT: &str = "\
List epoll instances with the real owner of each target.

An epoll instance watches open files, not descriptors: a target is an open file, and \
the descriptor by which it was added, its tfd. That descriptor may since have been \
closed or reused. lsepoll finds, with kcmp(2) or BPF, which descriptors refer to the file \
of each target, and shows in the column STATE:

  stuck     epoll_ctl(2) cannot remove the target any more: it needs tfd and the file,
            and no process that has the instance has the file open as tfd; another
            descriptor or another process has it (OWNER); orphaned targets are stuck as
            well
  stale     tfd refers to another file now
  orphaned  no process has the file open, but it is still watched; its events seem to
            be for a descriptor that was closed
  unknown   the target was removed, or processes changed, during the search
  changed   the target was added during the search
  guessed   the owner was guessed, as neither kcmp(2) nor BPF can be used

Inspecting processes of other users needs ptrace access, which root has.";

const AFTER: &str = "\
Exit status:
  0  no target is orphaned, stuck or stale
  1  at least one target is
  2  an error, or a process given with -p could not be inspected

Examples:
  lsepoll 1234                the epoll instances of process 1234
  lsepoll nginx --ready       those of all nginx processes, and why they spin
  lsepoll --orphaned          orphaned targets of all processes
  lsepoll --stuck             targets that their processes cannot remove any more
  lsepoll -p 1234 --owners given
                              search no other process for owners
  lsepoll --summary           how many targets each process has, by state
  lsepoll --watch 10          all targets, then what changes
  lsepoll trace -p 1234       which call leaves targets behind
  lsepoll --json | jq -r '.sets[] | .pid as $pid | .targets[] |
      select(.orphaned) | \"\\($pid) \\(.tfd)\"'
                              pid and tfd of each orphaned target";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Owners {
    /// In all processes
    All,
    /// In others only if those given with -p do not have the file
    Given,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResolverName {
    /// With walk if that works, else bpf, else kcmp
    Auto,
    /// With BPF programs that walk the interest lists, on unmodified kernels since Linux
    /// 5.17. It takes a fraction of a second. This needs root, and lsepoll built with the
    /// feature bpf
    Walk,
    /// With kcmp(2), at least one query for each target
    Kcmp,
    /// With BPF iterators, in a few passes over all descriptors and targets: faster if
    /// there are many. This needs root, a kernel with the module epoll_iter, and
    /// lsepoll built with the feature bpf
    Bpf,
    /// From fdinfo alone. Owners are guesses, and marked as such
    Fdinfo,
}

impl From<ResolverName> for Method {
    fn from(name: ResolverName) -> Self {
        match name {
            ResolverName::Auto => Self::Auto,
            ResolverName::Walk => Self::Walk,
            ResolverName::Kcmp => Self::Kcmp,
            ResolverName::Bpf => Self::Bpf,
            ResolverName::Fdinfo => Self::Fdinfo,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// By process, then by its descriptor of the instance; targets in the kernel's order
    Pid,
    /// By the descriptor of the instance, then by process
    Efd,
    /// The targets of each instance by tfd
    Tfd,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show which call leaves a target behind, and which call added it
    Trace(TraceArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Shell to print the script for
    pub shell: clap_complete::Shell,
}

const ABOUT_TRACE: &str = "\
Show which call leaves a target behind, and which call added it.

A program that closes a descriptor without EPOLL_CTL_DEL, while a duplicate, a child or \
a message keeps the file open, cannot remove the target any more, and keeps getting its \
events. Until it is interrupted, or the processes end, lsepoll trace prints for each such \
close the stack of the EPOLL_CTL_ADD, the stack of the close, and what holds the file; \
and for each ADD that fails with EEXIST, the ADD that came before. Then it prints a \
summary by place in the code.

Source lines are shown for code that has debug information.

This needs root, Linux 6.4 or later on x86-64, and lsepoll built with the feature bpf. \
Calls by io_uring and by 32-bit programs are not seen.";

#[derive(Debug, clap::Args)]
#[command(long_about = ABOUT_TRACE)]
pub struct TraceArgs {
    /// Trace these processes, and the children that they create
    #[arg(short, long = "pid", value_name = "PID", num_args = 1.., value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    #[arg(conflicts_with_all = ["all", "command"])]
    pub pids: Vec<i32>,

    /// Trace all processes
    #[arg(long, conflicts_with = "command")]
    pub all: bool,

    /// Write to a file [default: standard output; standard error with a command]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Remember at most this many targets, at 2 KiB each
    #[arg(long, value_name = "N", default_value_t = 32768)]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub remember: u32,

    /// Print one JSON object a line; lsepoll(1) documents it
    #[arg(long)]
    pub json: bool,

    /// A command to run and trace
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// List epoll instances with the real owner of each target
#[derive(Debug, Parser)]
#[command(name = "lsepoll", version, long_about = ABOUT, after_long_help = AFTER)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    pub action: Option<Action>,

    /// Processes to list, by pid or command name [default: all that may be inspected]
    #[arg(value_name = "PROCESS")]
    pub processes: Vec<String>,

    /// Processes to list
    #[arg(short, long = "pid", value_name = "PID", num_args = 1.., value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub pids: Vec<i32>,

    /// Where to search for owners
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = Owners::All)]
    pub owners: Owners,

    /// How to find owners
    #[arg(long, value_enum, value_name = "HOW", default_value_t = ResolverName::Auto)]
    pub resolver: ResolverName,

    /// Show only orphaned targets: no process has their file open
    ///
    /// Earlier versions called this option --zombies, which still works.
    #[arg(long, alias = "zombies")]
    pub orphaned: bool,

    /// Show only stale targets: their tfd refers to another file now
    ///
    /// With --orphaned, targets in either state are shown.
    #[arg(long)]
    pub stale: bool,

    /// Show only stuck targets: they cannot be removed any more
    ///
    /// No process that has the epoll instance has the target's file open as tfd, and
    /// epoll_ctl(2) needs both to find a target. The target stays as long as anything has
    /// the file open, such as a duplicate of the descriptor, or a child process. Orphaned
    /// targets are stuck as well. With other filters, targets in any of these states are
    /// shown.
    #[arg(long)]
    pub stuck: bool,

    /// Stop the named processes while they are inspected
    ///
    /// They get SIGSTOP, and SIGCONT at the end, even if lsepoll is killed. A stopped
    /// process opens and closes nothing. A signal interrupts system calls, and a file that
    /// only such a call has open is closed then.
    #[arg(long)]
    pub stop: bool,

    /// Show for which events each target is ready
    ///
    /// lsepoll calls poll(2) on the file of each target, if polling that kind of file has
    /// no side effects. For other targets, yes or no says whether they are on the ready list
    /// of the instance. If an event loop spins, one of the ready targets is the cause. This
    /// needs permission to attach to the processes, which root has.
    #[arg(long)]
    pub ready: bool,

    /// Show how many targets each process has, by state
    #[arg(long, conflicts_with_all = ["ready", "ids", "sort", "watch"])]
    pub summary: bool,

    /// How to sort
    #[arg(long, value_enum, value_name = "KEY", default_value_t = Sort::Pid)]
    pub sort: Sort,

    /// Repeat the listing at this interval, and show targets that appeared, changed or went
    #[arg(long, value_name = "SECONDS", conflicts_with = "json")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub watch: Option<u64>,

    /// Write counts for node_exporter to a file, in the OpenMetrics text format
    ///
    /// The counts are sums by command name. A regular file is replaced atomically; with
    /// --watch, after each listing. The text is appended to a device or a FIFO. The exit
    /// status is 0 even if there are orphaned or stale targets.
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,

    /// Show all columns, and do not wrap lines
    ///
    /// By default, lines are wrapped to the width of the terminal, or to COLUMNS from the
    /// environment; TOFF is shown only if an instance has several targets with one tfd, and
    /// DATA only if it differs from tfd and 0.
    #[arg(short, long)]
    pub wide: bool,

    /// Show the id of each epoll instance
    ///
    /// The id identifies the instance of a BPF link or iterator, see bpftool-link(8), and
    /// shows which descriptors of several processes refer to one instance.
    /// /proc/pid/fdinfo/efd shows it as epoll-id.
    #[arg(long)]
    pub ids: bool,

    /// Print on standard error how owners were found
    ///
    /// This includes the resolver that was used, the number of kcmp(2) calls, and the reason
    /// if BPF was not used.
    #[arg(short, long)]
    pub verbose: bool,

    /// Print one JSON object; lsepoll(1) documents it
    #[arg(long)]
    pub json: bool,

    // The subcommand, as earlier versions spelled it.
    #[arg(long, value_enum, value_name = "SHELL", exclusive = true, hide = true)]
    pub completions: Option<clap_complete::Shell>,
}

impl Args {
    /// Whether only some targets are asked for.
    pub fn is_filtered(&self) -> bool {
        self.orphaned || self.stale || self.stuck
    }

    /// The shell that a completion script is to be printed for.
    pub fn shell(&self) -> Option<clap_complete::Shell> {
        match &self.action {
            Some(Action::Completions(args)) => Some(args.shell),
            _ => self.completions,
        }
    }

    /// Whether targets are listed.
    pub fn is_list(&self) -> bool {
        !self.summary && (self.watch.is_some() || self.metrics.is_none())
    }

    pub fn shows(&self, target: &Resolved) -> bool {
        !self.is_filtered()
            || self.orphaned && target.is_orphaned()
            || self.stale && target.is_stale()
            || self.stuck && target.is_stuck()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    const PAGE: &str = include_str!("../lsepoll.1");

    const BEGIN: &str = ".\\\" BEGIN OPTIONS: a test compares this with the command line.\n";
    const END: &str = ".\\\" END OPTIONS\n";

    /// The options of a command as clap_mangen renders them, without what precedes them in
    /// a page, and without breaks beside a blank line, which mandoc warns of.
    fn options(command: &clap::Command) -> String {
        let mut section = Vec::new();
        let manual = clap_mangen::Man::new(command.clone());
        manual.render_options_section(&mut section).unwrap();
        let section = String::from_utf8(section).unwrap();
        let (_, section) = section.split_once(".SH OPTIONS\n").unwrap();
        section.replace(".br\n\n.br\n", "\n")
    }

    /// The page, with the options of these commands between its marks.
    fn rendered() -> String {
        let command = Args::command();
        let trace = command.find_subcommand("trace").unwrap();
        let mut page = String::new();
        let mut rest = PAGE;
        for command in [&command, trace] {
            let (before, options_and_after) = rest.split_once(BEGIN).unwrap();
            let (_, after) = options_and_after.split_once(END).unwrap();
            page += &[before, BEGIN, &options(command), END].concat();
            rest = after;
        }
        page + rest
    }

    #[test]
    fn the_manual_page_has_the_options() {
        let hint = "cargo test -p lsepoll update_the_manual_page -- --ignored";
        assert!(PAGE == rendered(), "{hint}");
    }

    #[test]
    #[ignore = "writes lsepoll.1"]
    fn update_the_manual_page() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/lsepoll.1");
        std::fs::write(path, rendered()).unwrap();
    }

    #[test]
    fn the_manual_page_names_every_option() {
        let plain = |text: &str| text.replace("\\-", "-");
        let (synopsis, rest) = PAGE.split_once(".SH DESCRIPTION\n").unwrap();
        let (section, rest) = rest.split_once(".SH OUTPUT\n").unwrap();
        let command = Args::command();
        for option in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let Some(long) = option.get_long() else {
                continue;
            };
            let long = format!("--{long}");
            assert!(plain(section).contains(&long), "{long}");
            assert!(plain(synopsis).contains(&long) || long == "--pid", "{long}");
        }
        let trace = command.find_subcommand("trace").unwrap();
        for option in trace.get_arguments().filter_map(|arg| arg.get_long()) {
            let long = format!("--{option}");
            assert!(plain(rest).contains(&long), "trace {long}");
        }
        for sub in command.get_subcommands() {
            let name = format!(".B lsepoll {}", sub.get_name());
            assert!(synopsis.contains(&name), "{name}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn processes_and_actions_are_told_apart() {
        let parse = |args: &[&str]| Args::try_parse_from([&["lsepoll"], args].concat());
        let args = parse(&["nginx", "12"]).unwrap();
        assert_eq!(args.processes, ["nginx", "12"]);
        assert_eq!(parse(&["-p", "1,2"]).unwrap().pids, [1, 2]);
        let trace = parse(&["trace", "--", "ls", "-l"]).unwrap();
        let Some(Action::Trace(trace)) = trace.action else {
            panic!("{trace:?}");
        };
        for completions in [&["completions", "zsh"], &["--completions", "zsh"]] {
            assert_eq!(
                parse(completions).unwrap().shell(),
                Some(clap_complete::Shell::Zsh)
            );
        }
        assert_eq!(trace.command, ["ls", "-l"]);
        assert!(parse(&["trace", "--all", "-p", "1"]).is_err());
        assert!(parse(&["-p", "1", "trace", "--all"]).is_err());
    }
}
