// SPDX-License-Identifier: GPL-2.0

//! `epollcr show`

use crate::{json, read, table};
use anyhow::{Context, Result};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object; epollcr(1) has its parts
    #[arg(long)]
    json: bool,

    /// The image
    file: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let image = read(&args.file)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = match args.json {
        true => json::print(&image, &mut out),
        false => table::print(&image, &mut out),
    };
    match printed.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("cannot print"),
    }
}
