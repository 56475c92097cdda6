// SPDX-License-Identifier: GPL-2.0
//! CRIU, unmodified and with our series, with either handler.
//!
//! CRIU queries KCMP_EPOLL_TFD to find out which file a target watches: its number may
//! be closed, or refer to another file. Each case dumps and restores a program that then
//! reports what became of its epoll instances, once with each handler. The table says
//! what CRIU itself cannot do, and what it still cannot do with the series.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use guest_tests::subject::{Answer, Subject, criu, installed};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Signal, kill_process};

use crate::handler::Handler;
use crate::scale::large;
use crate::tap::{Case, note, skip};

/// A program to be dumped, and the expected outcome.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    targets: u32,
    /// How many of its targets can report events.
    audible: u32,
    criu: Expect,
    patched: Expect,
}

/// Which CRIU a case is about.
#[derive(Clone, Copy, Debug)]
enum Build {
    Installed,
    Patched,
}

impl Build {
    /// The program. Skips if it is not there.
    fn program(self) -> Result<PathBuf> {
        let path = match self {
            Self::Installed => installed().into(),
            Self::Patched => match std::env::var_os("CRIU_PATCHED") {
                Some(path) => PathBuf::from(path),
                None => return skip("CRIU with the series is not built (make criu)"),
            },
        };
        match Command::new(&path).arg("--version").output() {
            Err(err) if err.kind() == ErrorKind::NotFound => skip("there is no criu here"),
            Err(err) => Err(err).with_context(|| format!("cannot run {}", path.display())),
            Ok(_) => Ok(path),
        }
    }
}

enum Expect {
    /// The program finds everything unchanged, except for this.
    Restores(&'static [Difference]),
    /// CRIU refuses, and its log has this text.
    Refuses(Action, &'static str),
}

/// What the program finds, how often, and what CRIU failed to do.
struct Difference(&'static str, u32, &'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Dump,
    Restore,
}

use Action::{Dump, Restore};
use Expect::{Refuses, Restores};

/// CRIU adds a target by a descriptor that its file has.
const NUMBER: &str = "keep the number of a target whose file does not have it";
/// A target that is ready when it is added is reported.
const REPORTED: &str = "remember that an edge was reported, so it is reported again";
/// The kernel asks for EPOLLERR and EPOLLHUP whenever something is added.
const DISARMED: &str = "keep a disarmed oneshot from reporting errors and hang-ups";
/// No descriptor of any process that is dumped is of this file.
const NOBODY: &str = "is open in none of the tasks";
/// It resolves the targets of a process before it has seen the files of the next one.
const UNKNOWN: &str = "kid_lookup_epoll: no match";
/// Both targets would get the descriptor that the file has.
const TWICE: &str = "Can't add event";
/// The process that restores an epoll instance adds each target by its number: it may not
/// have it, or have it in flight.
const NOT_THERE: &str = "Bad file descriptor";

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario("plain", 6, EXACT, EXACT),
    scenario(
        "one-number",
        250,
        Restores(&[Difference("other-number", 250, NUMBER)]),
        EXACT,
    ),
    scenario(
        "two-numbers",
        5,
        Restores(&[Difference("other-number", 5, NUMBER)]),
        EXACT,
    ),
    scenario(
        "reused-number",
        2,
        Restores(&[Difference("other-number", 1, NUMBER)]),
        EXACT,
    ),
    scenario("nested", 6, EXACT, EXACT),
    // Another target of the instance has an edge to report: which one, nobody can see.
    scenario(
        "edge",
        3,
        Restores(&[Difference("unexpected", 1, REPORTED)]),
        Restores(&[Difference("unexpected", 1, REPORTED)]),
    ),
    scenario("flags", 4, EXACT, EXACT),
    scenario("oneshot", 2, EXACT, EXACT),
    scenario(
        "disarmed",
        2,
        Restores(&[Difference("other-events", 2, DISARMED)]),
        EXACT,
    ),
    scenario("twice", 2, Refuses(Restore, TWICE), EXACT),
    scenario("child", 1, Refuses(Dump, UNKNOWN), EXACT),
    scenario("heir", 1, Refuses(Restore, NOT_THERE), EXACT),
    Scenario {
        audible: 1,
        ..scenario("nobody", 2, Refuses(Dump, UNKNOWN), Refuses(Dump, NOBODY))
    },
    scenario("in-flight", 2, EXACT, EXACT),
    scenario("in-flight-both", 2, Refuses(Restore, NOT_THERE), EXACT),
    scenario("many", 20_000, EXACT, EXACT),
];

/// The program finds everything unchanged.
const EXACT: Expect = Restores(&[]);

const fn scenario(name: &'static str, targets: u32, criu: Expect, patched: Expect) -> Scenario {
    Scenario {
        name,
        targets,
        audible: targets,
        criu,
        patched,
    }
}

/// The cases of the groups `criu` and `criu-patched`.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("criu/check", |_| check()),
        Case::new("criu/undumped", |_| undumped()),
    ];
    cases.extend(
        SCENARIOS
            .iter()
            .map(|scenario| scenario.case("criu", Build::Installed)),
    );
    cases.extend(
        SCENARIOS
            .iter()
            .map(|scenario| scenario.case("criu-patched", Build::Patched)),
    );
    cases
}

/// Runs an action of criu such as `check`. Skips if CRIU is not installed.
fn output_of(action: &str) -> Result<Output> {
    match Command::new("criu").arg(action).output() {
        Err(err) if err.kind() == ErrorKind::NotFound => skip("there is no criu here"),
        output => output.context("cannot run criu"),
    }
}

/// Checks that this kernel has what CRIU needs.
fn check() -> Result<()> {
    let version = output_of("--version")?.stdout;
    note(String::from_utf8_lossy(&version).trim());
    let output = output_of("check")?;
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        note(line);
    }
    ensure!(output.status.success(), "criu check: {}", output.status);
    Ok(())
}

/// Programs that were not dumped report everything unchanged.
fn undumped() -> Result<()> {
    for scenario in SCENARIOS {
        let (mut subject, _held) = scenario.start()?;
        scenario.expect(&[], &ask(&mut subject)?)?;
    }
    Ok(())
}

/// What a program found, and how often.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report(BTreeMap<String, u32>);

impl FromStr for Report {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let count = |line: &str| -> Option<(String, u32)> {
            let (what, n) = line.split_once(' ')?;
            Some((what.to_owned(), n.parse().ok()?))
        };
        text.lines()
            .map(|line| count(line).with_context(|| format!("'{line}' is not a line of a report")))
            .collect::<Result<_>>()
            .map(Self)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self
            .0
            .iter()
            .map(|(what, n)| format!("{what} {n}"))
            .collect();
        f.write_str(&counts.join(", "))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Restored(Report),
    Refused(Action, String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restored(report) => write!(f, "restored: {report}"),
            Self::Refused(Dump, message) => write!(f, "no dump: {message}"),
            Self::Refused(Restore, message) => write!(f, "no restore: {message}"),
        }
    }
}

impl Scenario {
    fn case(&'static self, group: &str, build: Build) -> Case {
        Case::new(format!("{group}/{}", self.name), move |_| self.run(build))
    }

    /// Dumps and restores the program with each handler.
    fn run(&self, build: Build) -> Result<()> {
        let program = build.program()?;
        let expected = match build {
            Build::Installed => &self.criu,
            Build::Patched => &self.patched,
        };
        let handlers = Handler::present();
        let mut outcomes = Vec::new();
        for &handler in handlers {
            let _answering = handler.answers()?;
            let outcome = self.dump_and_restore(&program, handler)?;
            note(format!("{handler}: {outcome}"));
            self.judge(expected, &outcome)?;
            outcomes.push(outcome);
        }
        ensure!(
            outcomes.iter().all(|outcome| outcome.same_as(&outcomes[0])),
            "the outcome depends on the handler"
        );
        tell(expected, &outcomes[0]);
        Ok(())
    }

    /// Starts the program. The second value is a file that it watches and does not hold.
    pub(crate) fn start(&self) -> Result<(Subject, OwnedFd)> {
        let program = std::env::current_exe()?.with_file_name("criu-subject");
        let held = eventfd(0, EventfdFlags::CLOEXEC)?;
        let inherited = held.try_clone()?;
        let subject = Subject::start(&program, self.name, large(self.targets), Some(inherited))?;
        Ok((subject, held))
    }

    fn dump_and_restore(&self, program: &Path, handler: Handler) -> Result<Outcome> {
        let (mut subject, _held) = self.start()?;
        let dumped = match subject.dump(program, &["-v4"])? {
            Answer::Done(took) => took.as_secs_f64(),
            Answer::Refused(message) => {
                // The program runs on, unchanged.
                self.expect(&[], &ask(&mut subject)?)?;
                return Ok(Outcome::Refused(Dump, message));
            }
        };
        let options = ["--restore-detached", "-v4"];
        let restored = match criu(program, &subject.dir, "restore", &options)? {
            Answer::Done(took) => took.as_secs_f64(),
            Answer::Refused(message) => return Ok(Outcome::Refused(Restore, message)),
        };
        note(format!(
            "{handler}: dumped in {dumped:.2} s, restored in {restored:.2} s"
        ));
        Ok(Outcome::Restored(ask(&mut subject)?))
    }

    /// Checks that the outcome is what the table says.
    fn judge(&self, expected: &Expect, outcome: &Outcome) -> Result<()> {
        match (expected, outcome) {
            (Restores(differences), Outcome::Restored(found)) => self.expect(differences, found),
            (Refuses(expected, text), Outcome::Refused(action, message))
                if expected == action && message.contains(text) =>
            {
                Ok(())
            }
            (Restores(_), _) => bail!("criu should dump and restore it"),
            (Refuses(action, text), _) => {
                bail!("criu should refuse the {action:?} with '{text}'")
            }
        }
    }

    /// Checks that a program found these differences and no other.
    fn expect(&self, differences: &[Difference], found: &Report) -> Result<()> {
        let mut counts = BTreeMap::from([
            ("targets", large(self.targets)),
            ("heard", large(self.audible)),
        ]);
        counts.extend(differences.iter().map(|&Difference(what, n, _)| (what, n)));
        let expected = Report(
            counts
                .into_iter()
                .map(|(what, n)| (what.to_owned(), n))
                .collect(),
        );
        ensure!(
            *found == expected,
            "{}: found: {found}; expected: {expected}",
            self.name
        );
        Ok(())
    }

    /// Checks that a program found everything unchanged.
    pub(crate) fn expect_all(&self, found: &Report) -> Result<()> {
        self.expect(&[], found)
    }
}

/// Notes what CRIU could not do.
fn tell(expected: &Expect, outcome: &Outcome) {
    if let Outcome::Refused(_, message) = outcome {
        note(format!("criu cannot: {message}"));
    }
    if let Restores(differences) = expected {
        for Difference(what, n, why) in *differences {
            note(format!("criu cannot: {why} ({what} {n})"));
        }
    }
}

impl Outcome {
    /// Compares messages without the pids in them, which differ between runs.
    fn same_as(&self, other: &Self) -> bool {
        let words = |message: &str| message.replace(|c: char| c.is_ascii_digit(), "");
        match (self, other) {
            (Self::Refused(action, message), Self::Refused(others, other)) => {
                action == others && words(message) == words(other)
            }
            _ => self == other,
        }
    }
}

/// Lets a program inspect its epoll instances, and returns its report.
fn ask(subject: &mut Subject) -> Result<Report> {
    kill_process(subject.pid(), Signal::USR1)?;
    subject.await_file("report")?.parse()
}
