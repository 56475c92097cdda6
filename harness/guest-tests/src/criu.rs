// SPDX-License-Identifier: GPL-2.0
//! Unmodified CRIU, with either handler.
//!
//! CRIU queries KCMP_EPOLL_TFD to find out which file a target watches: its number may
//! be closed, or refer to another file. Each case dumps and restores a program that then
//! reports what became of its epoll instances, once with each handler. The table says
//! what CRIU itself cannot do.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::process::{Command, Output};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use guest_tests::subject::{Answer, Subject, criu};
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
/// It resolves the targets of a process before it has seen the files of the next one.
const UNKNOWN: &str = "kid_lookup_epoll: no match";
/// Both targets would get the descriptor that the file has.
const TWICE: &str = "Can't add event";
/// A target that is in flight together with its epoll instance has no descriptor where
/// the instance is received.
const IN_FLIGHT: &str = "Bad file descriptor";

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario("plain", 6, Restores(&[])),
    scenario(
        "one-number",
        250,
        Restores(&[Difference("other-number", 250, NUMBER)]),
    ),
    scenario(
        "two-numbers",
        5,
        Restores(&[Difference("other-number", 5, NUMBER)]),
    ),
    scenario(
        "reused-number",
        2,
        Restores(&[Difference("other-number", 1, NUMBER)]),
    ),
    scenario("nested", 6, Restores(&[])),
    scenario(
        "edge",
        3,
        Restores(&[Difference("unexpected", 1, REPORTED)]),
    ),
    scenario("flags", 4, Restores(&[])),
    scenario("oneshot", 2, Restores(&[])),
    scenario(
        "disarmed",
        2,
        Restores(&[Difference("other-events", 2, DISARMED)]),
    ),
    scenario("twice", 2, Refuses(Restore, TWICE)),
    scenario("child", 1, Refuses(Dump, UNKNOWN)),
    Scenario {
        audible: 1,
        ..scenario("nobody", 2, Refuses(Dump, UNKNOWN))
    },
    scenario("in-flight", 2, Restores(&[])),
    scenario("in-flight-both", 2, Refuses(Restore, IN_FLIGHT)),
    scenario("many", 20_000, Restores(&[])),
];

const fn scenario(name: &'static str, targets: u32, criu: Expect) -> Scenario {
    Scenario {
        name,
        targets,
        audible: targets,
        criu,
    }
}

/// The cases of the group `criu`.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("criu/check", |_| check()),
        Case::new("criu/undumped", |_| undumped()),
    ];
    cases.extend(
        SCENARIOS
            .iter()
            .map(|scenario| Case::new(format!("criu/{}", scenario.name), |_| scenario.run())),
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
    /// Dumps and restores the program with each handler.
    fn run(&self) -> Result<()> {
        output_of("--version")?;
        let handlers = Handler::present();
        let mut outcomes = Vec::new();
        for &handler in handlers {
            let _answering = handler.answers()?;
            let outcome = self.dump_and_restore(handler)?;
            note(format!("{handler}: {outcome}"));
            self.judge(&outcome)?;
            outcomes.push(outcome);
        }
        ensure!(
            outcomes.iter().all(|outcome| outcome.same_as(&outcomes[0])),
            "the outcome depends on the handler"
        );
        self.tell(&outcomes[0]);
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

    fn dump_and_restore(&self, handler: Handler) -> Result<Outcome> {
        let (mut subject, _held) = self.start()?;
        let dumped = match subject.dump(&["-v4"])? {
            Answer::Done(took) => took.as_secs_f64(),
            Answer::Refused(message) => {
                // The program runs on, unchanged.
                self.expect(&[], &ask(&mut subject)?)?;
                return Ok(Outcome::Refused(Dump, message));
            }
        };
        let restored = match criu(&subject.dir, "restore", &["--restore-detached", "-v4"])? {
            Answer::Done(took) => took.as_secs_f64(),
            Answer::Refused(message) => return Ok(Outcome::Refused(Restore, message)),
        };
        note(format!(
            "{handler}: dumped in {dumped:.2} s, restored in {restored:.2} s"
        ));
        Ok(Outcome::Restored(ask(&mut subject)?))
    }

    /// Checks that the outcome is what the table says.
    fn judge(&self, outcome: &Outcome) -> Result<()> {
        match (&self.criu, outcome) {
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

    /// Notes what CRIU could not do.
    fn tell(&self, outcome: &Outcome) {
        if let Outcome::Refused(_, message) = outcome {
            note(format!("criu cannot: {message}"));
        }
        if let Restores(differences) = self.criu {
            for Difference(what, n, why) in differences {
                note(format!("criu cannot: {why} ({what} {n})"));
            }
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
