// SPDX-License-Identifier: GPL-2.0

//! The limit of open descriptors, `RLIMIT_NOFILE`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;

/// Raises the limit as far as possible.
pub fn allow_all() {
    let limit = getrlimit(Resource::Nofile);
    let most = fs::read_to_string("/proc/sys/fs/nr_open").ok();
    if let Some(most) = most.and_then(|text| text.trim().parse().ok()) {
        allow(most);
    }
    if getrlimit(Resource::Nofile) == limit {
        let current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
    }
}

/// Raises the limit to `count` if that is possible. If it is not, the call that fails
/// for it reports that.
pub fn allow(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return;
    }
    // None is infinity, which fs.nr_open bounds.
    let higher = |maximum| Rlimit {
        current: Some(count),
        maximum,
    };
    if limit.maximum.is_some_and(|maximum| maximum < count) {
        if setrlimit(Resource::Nofile, higher(Some(count))).is_ok() {
            return;
        }
        let current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
        return;
    }
    let _ = setrlimit(Resource::Nofile, higher(limit.maximum));
}

/// Puts the limit back, unless descriptor `last` exceeds it.
pub fn put_back(before: Rlimit, last: u64) {
    if before.current.is_none_or(|current| last < current) {
        let _ = setrlimit(Resource::Nofile, before);
    }
}
