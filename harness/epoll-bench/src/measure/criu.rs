// SPDX-License-Identifier: GPL-2.0

//! The time of `criu dump`, which asks one query or more a target, and of `criu restore`;
//! the same of CRIU with the series, which asks as much, or the device once.

use std::collections::BTreeMap;
use std::env::current_exe;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Session, Subject};
use crate::handler::{Handler, Switch};
use crate::record::{Layout, Suite, Variant, What};

const SIZES: &[usize] = &[5_000, 20_000, 50_000];
const ROUNDS: u32 = 3;

/// After so long there is no further round on a size.
const PATIENCE: Duration = Duration::from_secs(150);

pub fn run(session: &mut Session<'_>, switch: &mut Switch) -> Result<()> {
    let program = match &session.options.subject {
        Some(file) => file.clone(),
        None => beside_us("criu-subject")?,
    };
    let build_id = switch.build_id().to_string();
    for targets in session.sizes(SIZES) {
        let subject = Subject {
            suite: Suite::Criu,
            layout: Layout::Distinct,
            targets,
            asked: None,
            handler: Some(&build_id),
        };
        session.progress(&subject);
        let patched = session.options.criu.clone();
        let patched = patched.filter(|_| switch.has_module());
        let mut runs: BTreeMap<_, Runs> = BTreeMap::new();
        let begin = Instant::now();
        for round in 0..session.rounds(ROUNDS) {
            if round > 0 && begin.elapsed() > PATIENCE {
                break;
            }
            switch.without_checkpoint()?;
            for &handler in switch.order(round) {
                switch.to(handler)?;
                let variant = match handler {
                    Handler::C if !switch.has_module() => Variant::Mainline,
                    Handler::C => Variant::C,
                    Handler::Rust => Variant::Rust,
                };
                let took = dump_and_restore(&program, targets, &[])?;
                runs.entry(variant).or_default().push(took);
            }
            let Some(patched) = &patched else { continue };
            let patched = [OsStr::new("--criu"), patched.as_os_str()];
            switch.to(Handler::C)?;
            let took = dump_and_restore(&program, targets, &patched)?;
            runs.entry(Variant::CriuSeries).or_default().push(took);
            switch.checkpoint()?;
            let unwatched = [&patched[..], &[OsStr::new("--unwatched")]].concat();
            for (variant, args) in [
                (Variant::CriuDevice, &patched[..]),
                (Variant::CriuUnwatched, &unwatched),
            ] {
                let took = dump_and_restore(&program, targets, args)?;
                runs.entry(variant).or_default().push(took);
            }
        }
        for (variant, runs) in &runs {
            let samples = u32::try_from(runs.dumps.len())?;
            session.write(&subject, What::Dump, *variant, &runs.dumps, samples)?;
            session.write(
                &subject,
                What::CriuRestore,
                *variant,
                &runs.restores,
                samples,
            )?;
        }
    }
    Ok(())
}

/// In nanoseconds.
#[derive(Debug, Default)]
struct Runs {
    dumps: Vec<f64>,
    restores: Vec<f64>,
}

impl Runs {
    fn push(&mut self, (dump, restore): (f64, f64)) {
        self.dumps.push(dump * 1e9);
        self.restores.push(restore * 1e9);
    }
}

fn beside_us(name: &str) -> Result<PathBuf> {
    let us = current_exe().context("cannot tell where this program is")?;
    let file = us.with_file_name(name);
    ensure!(
        file.exists(),
        "there is no {}: build it, or say where it is with --subject",
        file.display()
    );
    Ok(file)
}

/// How many seconds each took.
fn dump_and_restore(program: &Path, targets: usize, args: &[&OsStr]) -> Result<(f64, f64)> {
    let output = Command::new(program)
        .arg("bench-dump")
        .arg(targets.to_string())
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} bench-dump {targets}: {}",
            program.display(),
            output.status
        );
    }
    seconds(&String::from_utf8_lossy(&output.stdout)).with_context(|| {
        format!(
            "{} bench-dump {targets} should print two numbers of seconds",
            program.display()
        )
    })
}

fn seconds(text: &str) -> Result<(f64, f64)> {
    let number = |word: &str| -> Result<f64> {
        let seconds: f64 = word
            .parse()
            .with_context(|| format!("it printed {text:?}"))?;
        ensure!(seconds.is_finite() && seconds > 0.0, "it printed {text:?}");
        Ok(seconds)
    };
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        [dump, restore] => Ok((number(dump)?, number(restore)?)),
        _ => bail!("it printed {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_time_is_refused() {
        assert_eq!(seconds("1.25 2\n").unwrap(), (1.25, 2.0));
        for bad in ["", "1", "soon 1", "1 -1", "0 1", "inf 1", "1 NaN", "1 2 3"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_program_that_fails_is_told_of() {
        let said = dump_and_restore(Path::new("/bin/false"), 7, &[])
            .unwrap_err()
            .to_string();
        assert!(
            said.starts_with("/bin/false bench-dump 7: exit status: 1"),
            "{said}"
        );
        let said = dump_and_restore(Path::new("/bin/true"), 7, &[])
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("should print two numbers of seconds"),
            "{said}"
        );
    }
}
