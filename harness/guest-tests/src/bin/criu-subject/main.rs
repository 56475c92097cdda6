// SPDX-License-Identifier: GPL-2.0
//! Programs that CRIU dumps and restores, and that report afterwards what became of their
//! epoll instances.

mod scenario;
mod state;
mod verify;
mod world;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use guest_tests::limits::allow_descriptors;
use guest_tests::signal;
use guest_tests::subject::{Answer, Subject, criu, installed};
use rustix::event::pause;
use rustix::process::{Signal, setsid};

/// After so many seconds it ends by itself, in case nobody ends it.
const LIFETIME: u32 = 900;

/// How many descriptors a subject may have besides its targets.
const SPARE: u64 = 64;

/// Programs for CRIU to dump.
#[derive(Debug, Parser)]
#[command(name = "criu-subject")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program to be dumped: write DIR/ready, and DIR/report after a SIGUSR1
    Run {
        scenario: String,
        #[arg(long, default_value_t = 100)]
        targets: u32,
        #[arg(long)]
        dir: PathBuf,
    },
    /// Continue as the command of `epollcr restore`: write DIR/report
    Resume {
        #[arg(long)]
        dir: PathBuf,
    },
    /// Print how many seconds `criu dump` and `criu restore` take with so many eventfd
    /// targets
    BenchDump {
        targets: u32,
        /// This CRIU instead of the one that is installed
        #[arg(long, value_name = "FILE")]
        criu: Option<PathBuf>,
        /// The same eventfds, and an epoll instance without targets
        #[arg(long)]
        unwatched: bool,
    },
    /// Keep inherited descriptors open until killed
    #[command(hide = true)]
    Hold,
}

fn main() -> Result<()> {
    match Options::parse().command {
        Command::Run {
            scenario,
            targets,
            dir,
        } => run(&scenario, targets, &dir),
        Command::Resume { dir } => resume(&dir),
        Command::BenchDump {
            targets,
            criu,
            unwatched,
        } => {
            let scenario = if unwatched { "unwatched" } else { "many" };
            let program = criu.as_deref().unwrap_or(installed());
            bench_dump(program, scenario, targets)
        }
        Command::Hold => loop {
            pause();
        },
    }
}

fn run(scenario: &str, targets: u32, dir: &Path) -> Result<()> {
    // CRIU dumps sessions as a whole.
    setsid()?;
    signal::alarm(LIFETIME);
    signal::block(Signal::USR1)?;
    allow_descriptors(u64::from(targets) + SPARE)?;

    let mut world = scenario::build(scenario, targets)?;
    let before = world.snapshot()?;
    world.take_off()?;
    publish(dir, "state", &state::write(&world, &before))?;
    publish(dir, "ready", "")?;
    // A process that was restored continues here.
    signal::wait(Signal::USR1)?;
    let report = verify::verify(&mut world, &before)?;
    publish(dir, "report", &report.to_string())
}

/// Verifies the descriptors; nothing else of the process was restored.
fn resume(dir: &Path) -> Result<()> {
    let (mut world, before) = state::read(&fs::read_to_string(dir.join("state"))?)?;
    let report = verify::verify(&mut world, &before)?;
    publish(dir, "report", &report.to_string())
}

/// Makes a file, which is complete as soon as it exists.
fn publish(dir: &Path, name: &str, text: &str) -> Result<()> {
    let new = dir.join("new");
    fs::write(&new, text)?;
    fs::rename(new, dir.join(name)).with_context(|| format!("cannot publish '{name}'"))
}

fn bench_dump(program: &Path, scenario: &str, targets: u32) -> Result<()> {
    let seconds = |answer| match answer {
        Answer::Done(took) => Ok(took.as_secs_f64()),
        Answer::Refused(message) => bail!("criu: {message}"),
    };
    let ours = std::env::current_exe()?;
    let mut subject = Subject::start(&ours, scenario, targets, None)?;
    let dump = seconds(subject.dump(program, &[])?)?;
    let options = ["--restore-detached"];
    let restore = seconds(criu(program, &subject.dir, "restore", &options)?)?;
    println!("{dump:.3} {restore:.3}");
    Ok(())
}
