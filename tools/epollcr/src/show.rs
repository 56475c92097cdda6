// SPDX-License-Identifier: GPL-2.0

//! `epollcr show`

use crate::{cli, json, read, table};
use anyhow::{Context, Result};
use std::io::Write;

pub fn run(args: &cli::Show) -> Result<()> {
    let image = read(&args.file)?;
    let mut out = epoll_cli::stdout();
    let printed = match args.json {
        true => json::print(&image, &mut out),
        false => table::print(&image, &mut out),
    };
    printed.and_then(|()| out.flush()).context("cannot print")
}
