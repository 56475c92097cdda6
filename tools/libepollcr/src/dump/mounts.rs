// SPDX-License-Identifier: GPL-2.0

//! The mounts of a mount namespace.

use std::collections::HashSet;
use std::fs;

/// The ids of the mounts that a mountinfo shows: those of the mount namespace of its
/// process, from its root on.
pub fn ids(mountinfo: &str) -> HashSet<u64> {
    let text = fs::read(mountinfo).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let ids = text
        .lines()
        .filter_map(|line| line.split(' ').next()?.parse().ok());
    ids.collect()
}

/// The id of the mount that a fdinfo shows.
pub fn of(fdinfo: &str) -> Option<u64> {
    let mut lines = fdinfo.lines();
    let id = lines.find_map(|line| line.strip_prefix("mnt_id:"))?;
    id.trim().parse().ok()
}
