// SPDX-License-Identifier: GPL-2.0

//! Runs a command in a guest whose root file system is the build root, which
//! it itself runs in.
//!
//! The command's output comes over a channel of its own and goes to standard
//! output; the kernel's console is watched. The run succeeds if exactly one
//! line on the channel says that the command ended with status 0. It is stopped
//! at the first sign of trouble on the console.
//!
//! The guest writes both streams to regular files, `console.log` and
//! `channel.log`, and they are read from there: whoever is slow to read our
//! output holds nobody up and loses nothing. A pipe would not do, as a virtio
//! console drops what it cannot write at once.

mod args;
mod channel;
mod console;
mod kvm;
mod lines;
mod machine;
mod run;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use args::Args;
use console::Console;
use run::Outcome;

/// The exit status if the guest's kernel is in trouble.
const TROUBLE: u8 = 125;
/// The exit status if it is not known how the command ended.
const NO_ANSWER: u8 = 124;

/// Looks for trouble in a console's log.
fn examine(file: &Path) -> Result<Outcome> {
    let log = fs::read(file).with_context(|| file.display().to_string())?;
    let mut console = Console::new(&[]);
    console.feed(&log);
    console.finish();
    let Some(report) = console.trouble() else {
        return Ok(Outcome::Status(0));
    };
    let mut out = io::stdout().lock();
    for line in report {
        out.write_all(line)?;
        out.write_all(b"\n")?;
    }
    Ok(Outcome::Trouble)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match (&args.run, &args.console) {
        (Some(run), _) => run::run(run),
        (None, Some(file)) => examine(file),
        (None, None) => kvm::probe(&args.kvm).map(|works| Outcome::Status(u8::from(!works))),
    };
    match outcome {
        Ok(Outcome::Status(status)) => ExitCode::from(status),
        Ok(Outcome::Trouble) => ExitCode::from(TROUBLE),
        Ok(Outcome::NoAnswer) => ExitCode::from(NO_ANSWER),
        Ok(Outcome::Signal(signal)) => {
            // The parent has to see that it was a signal.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            ExitCode::from(NO_ANSWER)
        }
        Err(error) => {
            eprintln!("guest: {error:#}");
            ExitCode::from(NO_ANSWER)
        }
    }
}
