// SPDX-License-Identifier: GPL-2.0
//! Images that one CRIU makes and another one restores.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use guest_tests::subject::Answer;

use super::Action::{Dump, Restore};
use super::Expect::{Refuses, Restores};
use super::{
    Build, DISARMED, Difference, EXACT, Expect, NOT_THERE, NUMBER, Outcome, REPORTED, SCENARIOS,
    Scenario, restore,
};
use crate::module::{EPOLL_CR, Loaded};
use crate::tap::{note, skip};

/// A CRIU, with the device or without.
#[derive(Clone, Copy)]
struct With<'a> {
    program: &'a Path,
    device: bool,
}

impl<'a> With<'a> {
    const fn new(program: &'a Path) -> Self {
        Self {
            program,
            device: false,
        }
    }

    const fn device_of(program: &'a Path) -> Self {
        Self {
            program,
            device: true,
        }
    }

    fn device(self) -> Result<Option<Loaded>> {
        self.device.then(|| EPOLL_CR.while_loaded()).transpose()
    }
}

/// What was dumped with the device can be restored without it.
pub(super) fn vanishes() -> Result<()> {
    let patched = Build::Patched.program()?;
    for (name, differences) in [
        ("two-numbers", &[][..]),
        ("edge", &[]),
        ("child", &[]),
        ("disarmed", &[]),
        ("disarmed-idle", &[Difference("other-events", 1, DISARMED)]),
        ("nobody", &[]),
        ("nobody-nested", &[]),
    ] {
        let scenario = named(name)?;
        let outcome = scenario.across(With::device_of(&patched), With::new(&patched))?;
        note(format!("{name}: {outcome}"));
        scenario.judge(&Restores(differences), &outcome)?;
    }
    Ok(())
}

/// CRIU without the series restores what it could restore of its own images, and refuses
/// the rest.
pub(super) fn older() -> Result<()> {
    let patched = Build::Patched.program()?;
    let installed = Build::Installed.program()?;
    if version(&patched)? != version(&installed)? {
        return skip("CRIU with the series is another version than the one that is installed");
    }
    const REFUSES: &Expect = &Refuses(Restore, NOT_THERE);
    for (name, expected) in [
        ("plain", &EXACT),
        (
            "two-numbers",
            &Restores(&[Difference("other-number", 5, NUMBER)]),
        ),
        ("edge", &Restores(&[Difference("unexpected", 1, REPORTED)])),
        ("child", REFUSES),
        ("nobody", REFUSES),
    ] {
        let scenario = named(name)?;
        let outcome = scenario.across(With::device_of(&patched), With::new(&installed))?;
        note(format!("{name}: {outcome}"));
        scenario.judge(expected, &outcome)?;
    }
    Ok(())
}

/// Images of CRIU without the series are restored by CRIU with it, with no more loss than
/// by the one that made them.
pub(super) fn old_images(build: Build) -> Result<()> {
    let installed = Build::Installed.program()?;
    let patched = build.program()?;
    let restorer = match build {
        Build::Device => With::device_of(&patched),
        _ => With::new(&patched),
    };
    for name in ["plain", "two-numbers", "edge", "disarmed", "file-number"] {
        let scenario = named(name)?;
        let outcome = scenario.across(With::new(&installed), restorer)?;
        note(format!("{name}: {outcome}"));
        scenario.judge(&scenario.criu, &outcome)?;
    }
    Ok(())
}

impl Scenario {
    /// Dumps the program by one CRIU, and restores it by another, each with the device or
    /// without.
    fn across(&self, by: With<'_>, restorer: With<'_>) -> Result<Outcome> {
        let (mut subject, _held) = self.start()?;
        let device = by.device()?;
        if let Answer::Refused(message) = subject.dump(by.program, &["-v4"])? {
            return Ok(Outcome::Refused(Dump, message));
        }
        drop(device);
        ensure!(!EPOLL_CR.is_loaded(), "the module is still loaded");
        let _device = restorer.device()?;
        restore(restorer.program, &mut subject, "across")
    }
}

fn named(name: &str) -> Result<&'static Scenario> {
    SCENARIOS
        .iter()
        .find(|scenario| scenario.name == name)
        .with_context(|| format!("there is no scenario '{name}'"))
}

fn version(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find(|line| line.starts_with("Version:"));
    Ok(line.context("criu does not tell its version")?.to_owned())
}
