// SPDX-License-Identifier: GPL-2.0
//! KCMP_FILE has said `equal` for two files that never existed at the same
//! time: it looked one up after the other, kept neither, and compared addresses.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::preempted::{A, B, race};
use crate::Options;
use crate::handler;
use crate::process::own_files;
use crate::tap::note;

/// A kernel with the flaw has shown it by then,
const ENOUGH: u64 = 10;
/// for which it gets more time.
const PATIENCE: u32 = 12;

pub fn run(options: &Options) -> Result<()> {
    let fixed = handler::is_patched();
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
            "KCMP_FILE says that files are equal that never met"
        );
    } else {
        ensure!(count.equal > 0, "the flaw did not show up in {patience:?}");
    }
    Ok(())
}
