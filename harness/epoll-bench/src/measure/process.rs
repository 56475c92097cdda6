// SPDX-License-Identifier: GPL-2.0

//! A process that has an instance, for those that look at it from outside.

use std::env::current_exe;
use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::io::fcntl_dupfd_cloexec;

use crate::timing::spread;
use crate::world::{add, allow_descriptors, new_instance, target};

/// Where the descriptors of the targets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Place {
    /// At the numbers that they were added by.
    Here,
    /// At others; those numbers are closed.
    Moved,
}

/// The process that has the instance. It ends when this is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub fn new(place: Place, targets: usize) -> Result<Self> {
        let us = current_exe().context("cannot tell where this program is")?;
        let place = match place {
            Place::Here => "here",
            Place::Moved => "moved",
        };
        let child = Command::new(us)
            .args(["have-instance", place, &targets.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the process that has the instance")?;
        let mut this = Self(child);
        let output = this.0.stdout.take().context("the process has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(
            line == "ready\n",
            "the process that has the instance failed"
        );
        Ok(this)
    }

    pub fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.0.id())?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            let _ = self.0.wait();
        }
    }
}

/// In that process: make the instance, say so, and keep it until the input ends.
pub fn have_instance(place: Place, targets: usize) -> Result<()> {
    // A target's number and the one that its descriptor moves to.
    allow_descriptors(2 * targets)?;
    let instance = new_instance()?;
    let mut files = Vec::with_capacity(targets);
    for _ in 0..targets {
        let file = target()?;
        add(&instance, &file)?;
        files.push(file);
    }
    if place == Place::Moved {
        let above = files.last().map_or(0, AsRawFd::as_raw_fd) + 1;
        // Not in the order in which they were made.
        let mut order: Vec<usize> = (0..targets).collect();
        order.sort_by_key(|&i| spread(i as u64, 1 << 30));
        files = order
            .into_iter()
            .map(|i| fcntl_dupfd_cloexec(&files[i], above))
            .collect::<Result<_, _>>()
            .context("cannot move the descriptors")?;
    }
    println!("ready");
    stdout().flush()?;
    stdin().read_to_end(&mut Vec::new())?;
    // As long as that, the files are open.
    drop(files);
    Ok(())
}
