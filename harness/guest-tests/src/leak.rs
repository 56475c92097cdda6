// SPDX-License-Identifier: GPL-2.0
//! Memory that the kernel leaked, if kmemleak is enabled.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Options;
use crate::tap::{Case, note, skip};

pub const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";
/// Younger allocations are not reported.
const AGE: Duration = Duration::from_secs(6);
const LINES: usize = 60;

pub fn cases() -> Vec<Case> {
    vec![Case::new("leak/kmemleak", kmemleak)]
}

fn kmemleak(_: &Options) -> Result<()> {
    if !Path::new(KMEMLEAK).exists() {
        return skip("this kernel does not look for leaks: no CONFIG_DEBUG_KMEMLEAK");
    }
    // One scan can miss a pointer that is being moved.
    for _ in 0..2 {
        std::thread::sleep(AGE);
        std::fs::write(KMEMLEAK, "scan").context("cannot scan")?;
    }
    let report = std::fs::read_to_string(KMEMLEAK)?;
    report.lines().take(LINES).for_each(note);
    let leaks = report
        .lines()
        .filter(|line| line.starts_with("unreferenced object"))
        .count();
    ensure!(report.is_empty(), "{leaks} leaks");
    Ok(())
}
