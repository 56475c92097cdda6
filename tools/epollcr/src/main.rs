// SPDX-License-Identifier: GPL-2.0

//! Dumps and restores the descriptors and epoll instances of a process.

mod cli;
mod dump;
mod json;
mod limit;
mod restore;
mod show;
mod signals;
mod table;
mod warnings;

use anyhow::{Context, Result};
use clap::CommandFactory;
use cli::{Args, Command};
use libepollcr::device::{self, Device};
use libepollcr::image::Image;
use libepollcr::types::Progress;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

/// The name of this program in its messages.
const TOOL: &str = "epollcr";

fn main() -> ExitCode {
    // Before anything else opens a descriptor.
    let inherited = restore::inherited();
    let args: Args = match epoll_cli::parse(TOOL, 1) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let result = match args.command {
        Command::Dump(args) => dump::run(&args),
        Command::Restore(args) => return restore::run(&args, inherited),
        Command::Show(args) => show::run(&args),
        Command::Completions(args) => complete(args.shell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader, such as head(1), has seen enough.
        Err(error) if epoll_cli::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report(&mut io::stderr(), &error);
            ExitCode::FAILURE
        }
    }
}

/// Opens the device; `None` if there is none, or it may not be opened.
fn open_device(without: bool) -> Result<Option<Device>> {
    if without {
        return Ok(None);
    }
    match Device::open() {
        Ok(device) => Ok(Some(device)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(error) => {
            let what = format!("cannot open {} (--no-device does without)", device::PATH);
            Err(anyhow::Error::new(error).context(what))
        }
    }
}

fn complete(shell: clap_complete::Shell) -> Result<()> {
    // clap_complete panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), TOOL, &mut script);
    io::stdout().write_all(&script).context("cannot print")
}

fn report(to: &mut impl Write, error: &anyhow::Error) {
    epoll_cli::report(to, TOOL, error);
}

/// Shows how far the library is.
fn advance(bar: &mut epoll_cli::progress::Progress, now: Progress) {
    let (what, done, total) = match now {
        Progress::Files { done, total } => ("files", done, total),
        Progress::Items { done, total } => ("targets", done, total),
        _ => return,
    };
    bar.show(what, done as u64, total as u64);
}

fn read(path: &Path) -> Result<Image> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Image::read(BufReader::new(file)).with_context(|| format!("cannot use {}", path.display()))
}
