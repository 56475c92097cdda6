// SPDX-License-Identifier: GPL-2.0
//! Tests of kcmp(KCMP_EPOLL_TFD) that run as root in a guest of their own.
//!
//! Most send the same queries to the handler in C and to the module, and load and
//! unload the module for that.

mod criu;
mod differential;
mod epollcr;
mod fault;
mod fuzz;
mod handler;
mod held;
mod kcov;
mod leak;
mod model;
mod module;
mod outcome;
mod process;
mod race;
mod resolvers;
mod scale;
mod sys;
mod tap;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;

use tap::Case;

/// Tests of kcmp(KCMP_EPOLL_TFD), reported as TAP.
#[derive(Debug, Parser)]
#[command(name = "guest-tests", args_override_self = true)]
pub struct Options {
    /// Print the names of the cases
    #[arg(long)]
    list: bool,

    /// The seed of the random cases; by default a new one, which is printed
    #[arg(long)]
    seed: Option<u64>,

    /// Random programs of differential/programs, and five times those of resolvers/*
    #[arg(long, env = "PROGRAMS", default_value_t = 500)]
    programs: u32,

    /// Random calls of fuzz/calls
    #[arg(long, env = "CALLS", default_value_t = 100_000)]
    calls: u32,

    /// Random edits of epollcr/hostile
    #[arg(long, env = "MUTATIONS", default_value_t = 20_000)]
    mutations: u64,

    /// How long a race may take with each handler
    #[arg(long, default_value_t = 5)]
    seconds: u64,

    /// Instead of cases: change random programs for so many seconds, and keep those that
    /// run code of the kernel that no other has run
    #[arg(long, value_name = "SECONDS")]
    fuzz: Option<u64>,

    /// With --fuzz, on a kernel without KCOV: try random programs
    #[arg(long, requires = "fuzz")]
    blind: bool,

    /// Instead of cases: run the programs in a file, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "fuzz")]
    replay: Option<PathBuf>,

    /// The process of one case
    #[arg(long, hide = true)]
    case: Option<String>,

    /// Be another program: some races need one to execute
    #[arg(long, hide = true, num_args = 1..)]
    program: Vec<String>,

    /// Names, groups, parts of names or shell patterns; none means all
    patterns: Vec<String>,
}

impl Options {
    /// The seed. The first process chooses one if none was given.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_default()
    }
}

fn cases() -> Vec<Case> {
    [
        differential::cases(),
        resolvers::cases(),
        fuzz::cases(),
        race::cases(),
        fault::cases(),
        scale::cases(),
        criu::cases(),
        epollcr::cases(),
        // Last: it reports what the others leaked.
        leak::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn main() -> anyhow::Result<ExitCode> {
    let mut options = Options::parse();
    let cases = cases();

    if !options.program.is_empty() {
        return race::exec::other_program(&options.program);
    }
    if let Some(name) = &options.case {
        let case = cases
            .iter()
            .find(|case| case.name == *name)
            .with_context(|| format!("there is no case '{name}'"))?;
        return Ok(tap::run_one(case, &options));
    }

    if let Some(seconds) = options.fuzz {
        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
        kcov::fuzz(Duration::from_secs(seconds), seed, options.blind)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &options.replay {
        kcov::replay(file)?;
        return Ok(ExitCode::SUCCESS);
    }

    let selected = tap::select(&cases, &options.patterns)?;
    if options.list {
        for case in selected {
            println!("{}", case.name);
        }
        return Ok(ExitCode::SUCCESS);
    }

    options.seed.get_or_insert_with(|| fastrand::u64(..));
    tap::note(format!("--seed {}", options.seed()));
    // The process of a case gets the same options, and the seed.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .chain(["--seed".into(), options.seed().to_string()])
        .collect();
    let good = tap::run_all(&selected, &args, handler::unload)?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
