// SPDX-License-Identifier: GPL-2.0

//! The time of `criu dump`, which asks one query or more a target.

use std::env::current_exe;
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
        let (mut c, mut rust) = (Vec::new(), Vec::new());
        let begin = Instant::now();
        for round in 0..session.rounds(ROUNDS) {
            if round > 0 && begin.elapsed() > PATIENCE {
                break;
            }
            for &handler in Handler::order(round) {
                switch.to(handler)?;
                let runs = match handler {
                    Handler::C => &mut c,
                    Handler::Rust => &mut rust,
                };
                runs.push(dump(&program, targets)? * 1e9);
            }
        }
        let samples = u32::try_from(c.len())?;
        let what = What::Dump;
        session.write(&subject, what, Variant::C, &c, samples)?;
        session.write(&subject, what, Variant::Rust, &rust, samples)?;
    }
    Ok(())
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

/// How many seconds it took.
fn dump(program: &Path, targets: usize) -> Result<f64> {
    let output = Command::new(program)
        .arg("bench-dump")
        .arg(targets.to_string())
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
            "{} bench-dump {targets} should print a number of seconds",
            program.display()
        )
    })
}

fn seconds(text: &str) -> Result<f64> {
    let text = text.trim();
    let seconds: f64 = text
        .parse()
        .with_context(|| format!("it printed {text:?}"))?;
    ensure!(seconds.is_finite() && seconds > 0.0, "it printed {text:?}");
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_time_is_refused() {
        assert_eq!(seconds("1.25\n").unwrap(), 1.25);
        for bad in ["", "soon", "-1", "0", "inf", "NaN", "1 2"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_program_that_fails_is_told_of() {
        let said = dump(Path::new("/bin/false"), 7).unwrap_err().to_string();
        assert!(
            said.starts_with("/bin/false bench-dump 7: exit status: 1"),
            "{said}"
        );
        let said = dump(Path::new("/bin/true"), 7).unwrap_err().to_string();
        assert!(said.contains("should print a number of seconds"), "{said}");
    }
}
