// SPDX-License-Identifier: GPL-2.0
//! What a case says about itself: that it cannot run here, and comments.

use std::fmt;
use std::io::Write;

use anyhow::Result;

/// The error of a case that cannot run here.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Skip(String);

/// Ends a case as skipped: `return skip("why")`, or `skip("why")?`.
pub fn skip<T>(why: impl Into<String>) -> Result<T> {
    Err(Skip(why.into()).into())
}

/// Prints a comment of a case.
pub fn note(line: impl fmt::Display) {
    // If this fails, nobody reads the output, and only the status counts.
    let _ = writeln!(std::io::stdout(), "# {line}");
}
