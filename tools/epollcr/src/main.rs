// SPDX-License-Identifier: GPL-2.0

//! Dumps and restores the descriptors and epoll sets of a process.

mod dump;
mod json;
mod limit;
mod progress;
mod restore;
mod show;
mod table;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use libepollcr::image::Image;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

const ABOUT: &str = "\
Dump and restore the descriptors and epoll sets of a process.

A dump knows which open file each item of an epoll set is about, whatever its \
number means by now: one that was closed or reused, one that another process has, \
or nobody. What was registered is restored to the bit: the number, a oneshot that \
has reported, an edge that was reported or was not.

This needs the module epoll_cr, and the right to attach to the process as with \
ptrace(2): root, in most cases.";

const AFTER: &str = "\
Exit status:
  0  done
  1  an error, or something cannot be restored: all of it is named
  2  wrong arguments
  126, 127  everything was restored, but COMMAND cannot be executed, or found

Examples:
  kill -STOP 1234; epollcr dump -p 1234 image
  epollcr show image
  epollcr restore image --stdio -- server --resume";

/// Dump and restore the descriptors and epoll sets of a process
#[derive(Debug, Parser)]
#[command(version, long_about = ABOUT, after_long_help = AFTER)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an image of a stopped process
    Dump(dump::Args),
    /// Make what is in an image, and execute a command that has it
    Restore(restore::Args),
    /// Show what is in an image
    Show(show::Args),
}

fn main() -> ExitCode {
    // Before anything else opens one of its own.
    let inherited = restore::inherited();
    let result = match Args::parse().command {
        Command::Dump(args) => dump::run(&args),
        Command::Restore(args) => return restore::run(args, inherited),
        Command::Show(args) => show::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&mut io::stderr(), &error);
            ExitCode::FAILURE
        }
    }
}

/// Nobody is left to be told if this fails.
fn tell(to: &mut impl Write, error: &anyhow::Error) {
    let _ = writeln!(to, "epollcr: {error:#}");
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn read(path: &Path) -> Result<Image> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Image::read(BufReader::new(file)).with_context(|| format!("cannot use {}", path.display()))
}
