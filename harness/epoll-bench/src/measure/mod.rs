// SPDX-License-Identifier: GPL-2.0

//! Takes the measurements.

mod checkpoint;
mod criu;
mod hold;
mod iterate;
mod one_number;
mod ops;
mod process;
mod query;
mod resolve;
mod stock;

pub use process::{Place, have_instance};
pub use stock::{Files, have_loop, have_part};

use std::fs::File;
use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use jiff::{Timestamp, Unit as TimeUnit};

use crate::handler::Switch;
use crate::record::{Environment, Layout, Measurement, Suite, Unit, Variant, What};
use crate::stats::Summary;
use crate::timing::{processors, stay_on};
use crate::world::check_support;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[arg(required = true, value_enum)]
    suites: Vec<Suite>,
    /// Write to this file rather than to standard output
    #[arg(long)]
    out: Option<PathBuf>,
    /// Few rounds on small instances, only to see that it works
    #[arg(long)]
    quick: bool,
    /// Leave out larger instances, where memory is short
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    max_targets: usize,
    /// How long lsepoll may take with kcmp(2), in seconds: then it is stopped, and its time
    /// follows from what it has found
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    kcmp_limit: u64,
    /// Which kernel this is: the unpatched one has no module
    #[arg(long, value_enum, default_value_t = Kernel::Base)]
    kernel: Kernel,
    /// Which boot this is, if measurements of several are compared
    #[arg(long, value_name = "N", default_value_t = 0)]
    boot: u32,
    /// The processor that a guest runs on, which it may not see
    #[arg(long, value_name = "TEXT")]
    machine: Option<String>,
    /// The program whose `bench-dump N` dumps and restores itself with N targets, and
    /// prints how many seconds each took; by default it is expected beside this one
    #[arg(long, value_name = "FILE")]
    subject: Option<PathBuf>,
    /// CRIU with the series, to be measured beside the one that is installed
    #[arg(long, value_name = "FILE")]
    criu: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kernel {
    Base,
    Stock,
}

/// What the suites share.
struct Session<'a> {
    options: &'a Options,
    environment: Environment,
    out: Box<dyn Write>,
    cpus: Vec<usize>,
}

/// What some measurements have in common.
#[derive(Debug, Clone, Copy)]
struct Subject<'a> {
    suite: Suite,
    layout: Layout,
    targets: usize,
    /// How many of them were asked about, if not all.
    asked: Option<usize>,
    handler: Option<&'a str>,
}

impl Session<'_> {
    /// Of these sizes, those that are wanted. There is always one.
    fn sizes<'s>(&self, sizes: &'s [usize]) -> impl Iterator<Item = usize> + use<'s> {
        const QUICK: usize = 1_000;
        let most = if self.options.quick {
            self.options.max_targets.min(QUICK)
        } else {
            self.options.max_targets
        };
        sizes
            .iter()
            .enumerate()
            .filter(move |&(at, &size)| at == 0 || size <= most)
            .map(|(_, &size)| size)
    }

    fn rounds(&self, rounds: u32) -> u32 {
        if self.options.quick { 2 } else { rounds }
    }

    /// On standard error, in a form that is no measurement: in the guest it may
    /// be the same file as standard output.
    fn progress(&self, subject: &Subject<'_>) {
        eprintln!("# {:?}: {} targets", subject.suite, subject.targets);
    }

    fn write(
        &mut self,
        subject: &Subject<'_>,
        what: What,
        variant: Variant,
        runs: &[f64],
        samples: u32,
    ) -> Result<()> {
        let runs: Vec<f64> = runs.iter().map(|&run| rounded(run)).collect();
        let s = Summary::of(&runs).context("there is nothing to write down")?;
        let m = Measurement {
            suite: subject.suite,
            what,
            variant,
            layout: subject.layout,
            targets: u32::try_from(subject.targets)?,
            asked: subject.asked.map(u32::try_from).transpose()?,
            unit: Unit::Ns,
            median: s.median,
            q1: s.q1,
            q3: s.q3,
            min: s.min,
            max: s.max,
            samples,
            runs,
            handler: subject.handler.map(Into::into),
            kernel: self.environment.kernel.clone(),
            boot: self.environment.boot,
            accelerator: self.environment.accelerator,
            machine: self.environment.machine.clone(),
            date: Timestamp::now().round(TimeUnit::Second)?,
        };
        writeln!(self.out, "{}", m.to_line()?)?;
        Ok(self.out.flush()?)
    }
}

/// Without the digits that no clock has told.
fn rounded(ns: f64) -> f64 {
    (ns * 10.0).round() / 10.0
}

pub fn run(options: &Options) -> Result<()> {
    let environment = Environment::look(options.boot, options.machine.as_deref())?;
    let out: Box<dyn Write> = match &options.out {
        None => Box::new(stdout()),
        Some(file) => Box::new(
            File::create(file).with_context(|| format!("cannot write {}", file.display()))?,
        ),
    };
    let cpus = processors()?;
    let last = *cpus.last().context("there is no processor for us")?;
    let mut session = Session {
        options,
        environment,
        out,
        cpus,
    };

    for &suite in &options.suites {
        // What interrupts the machine mostly does so on its first processor.
        // criu and its subject share as many as there are: children inherit it.
        match suite {
            Suite::Criu => stay_on(&session.cpus)?,
            _ => stay_on(&[last])?,
        }
        let run: fn(&mut Session<'_>, &mut Switch) -> Result<()> = match suite {
            Suite::Query => query::run,
            Suite::OneNumber => one_number::run,
            Suite::Hold => hold::run,
            Suite::Resolve => resolve::run,
            Suite::Criu => criu::run,
            Suite::Iterate => iterate::run,
            Suite::Checkpoint => checkpoint::run,
            Suite::Ops => {
                ops::run(&mut session)?;
                continue;
            }
            Suite::Stock => {
                stock::run(&mut session)?;
                continue;
            }
        };
        check_support()?;
        let has_module = options.kernel == Kernel::Base;
        ensure!(
            has_module || matches!(suite, Suite::Query | Suite::OneNumber | Suite::Criu),
            "there is nothing to compare on an unpatched kernel but query, one_number, criu and ops"
        );
        run(&mut session, &mut Switch::new(has_module)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_has_few_digits() {
        assert_eq!(rounded(2557.323654015887), 2557.3);
        assert_eq!(rounded(-0.04), 0.0);
    }
}
