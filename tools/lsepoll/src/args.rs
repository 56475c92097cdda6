// SPDX-License-Identifier: GPL-2.0

//! The command line. The section OPTIONS of the manual page is generated from it.

use clap::{Parser, ValueEnum};
use epoll_targets::resolve::{Method, Resolved};

const ABOUT: &str = "\
List epoll instances with the real owner of each target.

An epoll instance watches open files, not descriptors: a target is an open file, and \
the descriptor by which it was added, its tfd. That descriptor may since have been \
closed or reused. lsepoll asks the kernel, with kcmp(2) or BPF, which descriptors have \
the file of each target, and marks in the column STATE:

  moved     tfd is closed or means another file; a descriptor with another number, or
            of another process, has the file (OWNER)
  stuck     epoll_ctl(2) cannot remove it any more: it takes tfd and the file, and no
            process that has the instance has the file at tfd; orphaned ones are stuck
            as well
  stale     tfd means another file now
  orphaned  no process has the file open, but it is still watched: its events seem to
            be for a descriptor that was closed
  unknown   the target was removed, or processes changed, during the search
  changed   the target was added during the search

Inspecting processes of other users needs ptrace access, which root has.";

const AFTER: &str = "\
Exit status:
  0  no target is orphaned, stuck or stale
  1  at least one target is
  2  an error, or a process given with -p could not be inspected

Examples:
  lsepoll -p 1234             the epoll instances of process 1234
  lsepoll --orphaned          orphaned targets of all processes
  lsepoll --stuck             targets that their processes cannot remove any more
  lsepoll -p 1234 --owners given
                              search no other process for owners
  lsepoll --ids               with the ids that `bpftool link` shows
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
    /// With walk if that works, then bpf, then kcmp
    Auto,
    /// With BPF programs that walk the interest lists, on the kernel as it comes, from
    /// Linux 5.17 on: in a fraction of a second. This needs root, and lsepoll built with
    /// the feature bpf
    Walk,
    /// With kcmp(2), at least one query for each target
    Kcmp,
    /// With BPF iterators, in a few passes over all descriptors and targets: faster if
    /// there are many. This needs root, a kernel with the module epoll_iter, and
    /// lsepoll built with the feature bpf
    Bpf,
    /// By what fdinfo shows alone: numbers of descriptors and inodes. Owners are guessed,
    /// and marked so
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

/// List epoll instances with the real owner of each target
#[derive(Debug, Parser)]
#[command(name = "lsepoll", version, long_about = ABOUT, after_long_help = AFTER)]
pub struct Args {
    /// Processes to list [default: all that may be inspected]
    #[arg(short, long = "pid", value_name = "PID", num_args = 1..)]
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

    /// Show only stale targets: their tfd means another file now
    ///
    /// With --orphaned, targets that are either are shown.
    #[arg(long)]
    pub stale: bool,

    /// Show only stuck targets: they cannot be removed any more
    ///
    /// No process that has the epoll instance has the target's file at tfd, and
    /// epoll_ctl(2) takes both to find a target. It stays as long as anything has the file
    /// open: a copy of the descriptor, or a child. Orphaned targets are stuck as well. With
    /// other filters, targets that are any of them are shown.
    #[arg(long)]
    pub stuck: bool,

    /// Stop the processes given with -p while they are inspected
    ///
    /// They get SIGSTOP, and SIGCONT in the end, even if lsepoll is killed. What they have
    /// open does not change then.
    #[arg(long, requires = "pids")]
    pub stop: bool,

    /// Show the id of each epoll instance
    ///
    /// It tells which instance a BPF link or iterator is for, see bpftool-link(8), and
    /// which descriptors of several processes refer to one instance:
    /// /proc/pid/fdinfo/efd shows it as epoll-id.
    #[arg(long)]
    pub ids: bool,

    /// Print on standard error how owners were found
    ///
    /// This is the resolver that was used, the number of calls of kcmp(2), and why BPF
    /// was not used.
    #[arg(short, long)]
    pub verbose: bool,

    /// Print one JSON object; lsepoll(1) documents it
    #[arg(long)]
    pub json: bool,

    /// Print the completions for a shell
    #[arg(long, value_enum, value_name = "SHELL", exclusive = true, hide = true)]
    pub completions: Option<clap_complete::Shell>,
}

impl Args {
    /// Whether only some targets are asked for.
    pub fn is_filtered(&self) -> bool {
        self.orphaned || self.stale || self.stuck
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

    /// The section OPTIONS as clap_mangen makes it, without breaks beside a blank line,
    /// which mandoc warns of.
    fn options() -> String {
        let mut section = Vec::new();
        let manual = clap_mangen::Man::new(Args::command());
        manual.render_options_section(&mut section).unwrap();
        let section = String::from_utf8(section).unwrap();
        section.replace(".br\n\n.br\n", "\n")
    }

    /// The page before the section OPTIONS, the section, and what follows.
    fn parts() -> (&'static str, &'static str, &'static str) {
        // The section begins with the definition of a string.
        let begin = PAGE.find(".ie \\n(.g").unwrap();
        let end = PAGE.find(".SH OUTPUT\n").unwrap();
        (&PAGE[..begin], &PAGE[begin..end], &PAGE[end..])
    }

    #[test]
    fn the_manual_page_has_the_options() {
        let (_, section, _) = parts();
        let hint = "cargo test -p lsepoll update_the_manual_page -- --ignored";
        assert_eq!(section, options(), "{hint}");
    }

    #[test]
    #[ignore = "writes lsepoll.1"]
    fn update_the_manual_page() {
        let (before, _, after) = parts();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/lsepoll.1");
        std::fs::write(path, [before, &options(), after].concat()).unwrap();
    }

    #[test]
    fn the_manual_page_names_every_option() {
        let (synopsis, section, _) = parts();
        let plain = |text: &str| text.replace("\\-", "-");
        let command = Args::command();
        for option in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let long = format!("--{}", option.get_long().unwrap());
            assert!(plain(section).contains(&long), "{long}");
            assert!(plain(synopsis).contains(&long) || long == "--pid", "{long}");
        }
    }
}
