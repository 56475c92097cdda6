// SPDX-License-Identifier: GPL-2.0
//! CRIU, unmodified and with our series, with either handler, and with the device.
//!
//! CRIU queries KCMP_EPOLL_TFD to find out which file a target watches: its number may
//! be closed, or refer to another file. Each case dumps and restores a program that then
//! reports what became of its epoll instances, once with each handler. The table says
//! what CRIU itself cannot do, and what it still cannot do with the series. With the
//! series and `/dev/epoll_cr`, it makes no query about targets, and nothing changes.

mod across;
mod dies;
mod foreign;

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use guest_tests::subject::{Answer, Subject, criu, installed};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::process::{Signal, kill_process};

use self::across::{old_images, older, vanishes};
use self::dies::dies;
use self::foreign::foreign;
use crate::handler::Handler;
use crate::module::EPOLL_CR;
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
    /// With the series, and the device.
    Device,
}

impl Build {
    /// The program, and no device until it is asked for: kselftests leave the module loaded.
    /// Skips if the program is not there.
    fn program(self) -> Result<PathBuf> {
        EPOLL_CR.unload()?;
        let path = match self {
            Self::Installed => installed().into(),
            Self::Patched | Self::Device => match std::env::var_os("CRIU_PATCHED") {
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
/// fdinfo has shown the flag since 6.5, and this CRIU does not read it.
const SEMAPHORE: &str = "keep EFD_SEMAPHORE, so one read takes the whole value";
/// No descriptor of any process that is dumped is of this file.
const NOBODY: &str = "is open in none of the tasks";
/// It resolves the targets of a process before it has seen the files of the next one.
const UNKNOWN: &str = "kid_lookup_epoll: no match";
/// All targets would get the descriptor that the file has.
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
    scenario(
        "file-number",
        1,
        Restores(&[Difference("other-number", 1, NUMBER)]),
        EXACT,
    ),
    scenario("nested", 6, EXACT, EXACT),
    scenario(
        "inner-number",
        2,
        Restores(&[Difference("other-number", 1, NUMBER)]),
        EXACT,
    ),
    scenario(
        "semaphore",
        1,
        Restores(&[Difference("other-value", 1, SEMAPHORE)]),
        EXACT,
    ),
    // Another target of the instance has an edge to report: which one, nobody can see.
    scenario(
        "edge",
        3,
        Restores(&[Difference("unexpected", 1, REPORTED)]),
        Restores(&[Difference("unexpected", 1, REPORTED)]),
    ),
    // Here none has.
    scenario(
        "edge-idle",
        1,
        Restores(&[Difference("unexpected", 1, REPORTED)]),
        EXACT,
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
    scenario("thrice", 3, Refuses(Restore, TWICE), EXACT),
    scenario("child", 1, Refuses(Dump, UNKNOWN), EXACT),
    scenario("heir", 1, Refuses(Restore, NOT_THERE), EXACT),
    scenario(
        "disarmed-idle",
        1,
        Restores(&[Difference("other-events", 1, DISARMED)]),
        Restores(&[Difference("other-events", 1, DISARMED)]),
    ),
    Scenario {
        audible: 1,
        ..scenario("nobody", 2, Refuses(Dump, UNKNOWN), Refuses(Dump, NOBODY))
    },
    // The file is an epoll instance, with a target that nobody else has, either.
    Scenario {
        audible: 1,
        ..scenario(
            "nobody-nested",
            2,
            Refuses(Dump, UNKNOWN),
            Refuses(Dump, NOBODY),
        )
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

/// The cases of the groups `criu`, `criu-patched` and `criu-device`.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("criu/check", |_| check()),
        Case::new("criu/undumped", |_| undumped()),
        Case::new("criu-device/feature", |_| feature()),
        Case::new("criu-device/vanishes", |_| vanishes()),
        Case::new("criu-device/older", |_| older()),
        Case::new("criu-device/foreign", |_| foreign()),
        Case::new("criu-patched/old-images", |_| old_images(Build::Patched)),
        Case::new("criu-device/old-images", |_| old_images(Build::Device)),
        Case::new("criu-patched/dies", |_| dies(Build::Patched)),
        Case::new("criu-device/dies", |_| dies(Build::Device)),
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
    cases.extend(
        SCENARIOS
            .iter()
            .map(|scenario| scenario.case("criu-device", Build::Device)),
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

/// CRIU finds the device while the module is loaded, whatever it has cached.
fn feature() -> Result<()> {
    let program = Build::Device.program()?;
    let check = || -> Result<bool> {
        let status = Command::new(&program)
            .args(["check", "--feature", "epoll_cr"])
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?
            .status;
        Ok(status.success())
    };
    for _ in 0..2 {
        ensure!(!check()?, "it finds a device that is not there");
        let _device = EPOLL_CR.while_loaded()?;
        ensure!(check()?, "it does not find the device");
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
            Build::Device => &EXACT,
        };
        if let Build::Device = build {
            let _device = EPOLL_CR.while_loaded()?;
            let outcome = self.dump_and_restore(&program, "device")?;
            note(format!("device: {outcome}"));
            return self.judge(expected, &outcome);
        }
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
        let held = match self.name {
            "nobody-nested" => instance_with_a_target()?,
            _ => eventfd(0, EventfdFlags::CLOEXEC)?,
        };
        let inherited = held.try_clone()?;
        let subject = Subject::start(&program, self.name, large(self.targets), Some(inherited))?;
        Ok((subject, held))
    }

    fn dump_and_restore(&self, program: &Path, with: impl fmt::Display) -> Result<Outcome> {
        let (mut subject, _held) = self.start()?;
        let dumped = match subject.dump(program, &["-v4"])? {
            Answer::Done(took) => took.as_secs_f64(),
            Answer::Refused(message) => {
                // The program runs on, unchanged.
                self.expect(&[], &ask(&mut subject)?)?;
                return Ok(Outcome::Refused(Dump, message));
            }
        };
        note(format!("{with}: dumped in {dumped:.2} s"));
        restore(program, &mut subject, with)
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

/// Restores a program; returns how that is refused, if it is.
fn restart(program: &Path, subject: &Subject, with: impl fmt::Display) -> Result<Option<Outcome>> {
    let options = ["--restore-detached", "-v4"];
    let restored = match criu(program, &subject.dir, "restore", &options)? {
        Answer::Done(took) => took.as_secs_f64(),
        Answer::Refused(message) => return Ok(Some(Outcome::Refused(Restore, message))),
    };
    note(format!("{with}: restored in {restored:.2} s"));
    Ok(None)
}

fn restore(program: &Path, subject: &mut Subject, with: impl fmt::Display) -> Result<Outcome> {
    match restart(program, subject, with)? {
        Some(refused) => Ok(refused),
        None => Ok(Outcome::Restored(ask(subject)?)),
    }
}

/// An epoll instance with a target that only this process has open.
fn instance_with_a_target() -> Result<OwnedFd> {
    let instance = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watched = eventfd(0, EventfdFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(1);
    epoll::add(&instance, &watched, data, epoll::EventFlags::IN)?;
    // It stays open for as long as this process does, which runs one case.
    std::mem::forget(watched);
    Ok(instance)
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
