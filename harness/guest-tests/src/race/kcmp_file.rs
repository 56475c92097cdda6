// SPDX-License-Identifier: GPL-2.0
//! KCMP_FILE in mainline can report two files as equal that never existed at the same
//! time: it looks up one after the other, keeps neither, and compares addresses.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::preempted::{A, B, race};
use crate::Options;
use crate::handler;
use crate::process::own_files;
use crate::tap::note;

/// How many false answers of a kernel with the flaw are enough.
const ENOUGH: u64 = 10;
/// How much longer than others such a kernel is tried.
const PATIENCE: u32 = 12;

pub fn run(options: &Options) -> Result<()> {
    let fixed = handler::is_fixed()?;
    let (patience, enough) = if fixed {
        (1, u64::MAX)
    } else {
        (PATIENCE, ENOUGH)
    };
    let patience = Duration::from_secs(options.seconds) * patience;
    let count = race(patience, enough, || own_files(A, B), || Ok(0))?;
    note(format!(
        "{} false of {}, in {} changes",
        count.equal, count.asked, count.changes
    ));
    if fixed {
        ensure!(
            count.equal == 0,
            "KCMP_FILE reports files as equal that never existed at one time"
        );
    } else {
        ensure!(count.equal > 0, "the flaw did not show up in {patience:?}");
    }
    Ok(())
}
