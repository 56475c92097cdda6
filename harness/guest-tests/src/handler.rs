// SPDX-License-Identifier: GPL-2.0
//! Selects the handler that answers KCMP_EPOLL_TFD: the C function, or the module.

use std::fmt;
use std::path::Path;

use anyhow::Result;

use crate::module::Module;
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
