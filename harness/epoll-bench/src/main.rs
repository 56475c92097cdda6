// SPDX-License-Identifier: GPL-2.0

//! What the handlers of `kcmp(KCMP_EPOLL_TFD)` cost, and what they cost others; what
//! the BPF iterator for epoll instances costs; what checkpoints cost; what `lsepoll` costs.
//! `Documentation/benchmarks.rst` says what is measured, and how it is written
//! down.

mod bpf;
mod environment;
mod handler;
mod measure;
mod record;
mod report;
mod stats;
mod timing;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Measure kcmp(KCMP_EPOLL_TFD) in C and in Rust, and draw the results"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, as root, on the kernel that this runs on: one JSON object a line
    Measure(measure::Options),
    /// Show measurements as tables, and draw them
    Report {
        /// Files of measurements, or directories of files that are named *.jsonl
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// Put charts in this directory
        #[arg(long, value_name = "DIR")]
        svg: Option<PathBuf>,
    },
    /// Be the process that has the instance, for `measure`
    #[command(hide = true)]
    HaveInstance {
        place: measure::Place,
        targets: usize,
    },
    /// Be a process that has targets of an inherited epoll instance, for `measure`
    #[command(hide = true)]
    HavePart {
        files: measure::Files,
        targets: usize,
        instance: i32,
    },
    /// Be an event loop, for `measure`
    #[command(hide = true)]
    HaveLoop { targets: usize, cpu: usize },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Measure(options) => measure::run(&options),
        Command::Report { paths, svg } => report::run(&paths, svg.as_deref()),
        Command::HaveInstance { place, targets } => measure::have_instance(place, targets),
        Command::HavePart {
            files,
            targets,
            instance,
        } => measure::have_part(files, targets, instance),
        Command::HaveLoop { targets, cpu } => measure::have_loop(targets, cpu),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader, `head` say, has seen enough.
        Err(error) if epoll_cli::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("epoll-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
