// SPDX-License-Identifier: GPL-2.0
//! How many descriptors a process may have.

use std::fs;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most that RLIMIT_NOFILE can be set to.
const NR_OPEN: &str = "/proc/sys/fs/nr_open";

/// Lets this process have that many descriptors, if it may not have them yet.
pub fn allow_descriptors(count: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= count);
    if enough(limit.current) {
        return Ok(());
    }
    let allowed: u64 = fs::read_to_string(NR_OPEN)?.trim().parse()?;
    if allowed < count {
        fs::write(NR_OPEN, count.to_string()).with_context(|| format!("cannot raise {NR_OPEN}"))?;
    }
    let maximum = if enough(limit.maximum) {
        limit.maximum
    } else {
        Some(count)
    };
    let raised = Rlimit {
        current: Some(count),
        maximum,
    };
    setrlimit(Resource::Nofile, raised).with_context(|| format!("cannot have {count} descriptors"))
}
