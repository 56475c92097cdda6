// SPDX-License-Identifier: GPL-2.0
//! Selects the handler that answers KCMP_EPOLL_TFD: the C function, or the module.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::module::Module;
use crate::sys;
use crate::tap::skip;

pub const MODULE: Module = Module("kcmp_epoll");
const PATCHED: &str = "/sys/kernel/tracing/events/kcmp";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    C,
    Rust,
}

impl Handler {
    pub const BOTH: [Handler; 2] = [Handler::C, Handler::Rust];

    /// Those that this kernel can have.
    pub fn present() -> &'static [Handler] {
        if is_patched() {
            &Handler::BOTH
        } else {
            &[Handler::C]
        }
    }

    /// Makes this handler the active one until the returned guard is dropped, after which
    /// the C handler is. Skips on a kernel without the series.
    pub fn answers(self) -> Result<Answering> {
        match self {
            Handler::C => unload()?,
            Handler::Rust => {
                need_patched()?;
                load()?;
            }
        }
        Ok(Answering(self))
    }
}

impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Handler::C => "C",
            Handler::Rust => "Rust",
        })
    }
}

/// A guard: while it exists, the handler that was asked for is active.
#[derive(Debug)]
#[must_use = "the handler is active while this exists"]
pub struct Answering(Handler);

impl Drop for Answering {
    fn drop(&mut self) {
        // The runner unloads it after each case, too, and reports an error.
        if self.0 == Handler::Rust {
            let _ = unload();
        }
    }
}

pub fn is_loaded() -> bool {
    MODULE.is_loaded()
}

/// Whether this kernel has the series.
pub fn is_patched() -> bool {
    Path::new(PATCHED).exists()
}

/// Whether the C handler is the one of the series, whose kernel orders targets by number.
/// In mainline, it compares files that it has let go of, passes half of the targets for
/// each query, and cannot be killed while it waits.
pub fn is_fixed() -> Result<bool> {
    const FIRST: i32 = 400;
    const COUNT: i32 = 16;
    let efd = sys::epoll_create()?;
    for n in 0..COUNT {
        // In an order that addresses of files do not have by chance.
        let fd = FIRST + n * 7 % COUNT;
        sys::renumber(sys::eventfd(0)?, fd)?;
        sys::epoll_add(efd, fd)?;
    }
    let shown = std::fs::read_to_string(format!("/proc/self/fdinfo/{efd}"))
        .context("cannot read fdinfo")?;
    for fd in (FIRST..FIRST + COUNT).chain([efd]) {
        sys::close(fd)?;
    }
    Ok(shown
        .lines()
        .filter_map(|line| line.strip_prefix("tfd:"))
        .filter_map(|line| line.split_whitespace().next()?.parse::<i32>().ok())
        .eq(FIRST..FIRST + COUNT))
}

/// Skips on a kernel whose answers are wrong now and then.
pub fn need_fixed() -> Result<()> {
    if !is_fixed()? {
        return skip("this kernel compares files that it has let go of");
    }
    Ok(())
}

pub fn need_patched() -> Result<()> {
    if !is_patched() {
        return skip("this kernel has no point where a module could register");
    }
    Ok(())
}

pub fn load() -> Result<()> {
    MODULE.load()
}

pub fn unload() -> Result<()> {
    MODULE.unload()
}
