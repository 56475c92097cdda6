// SPDX-License-Identifier: GPL-2.0
//! Who answers KCMP_EPOLL_TFD: the handler in C, or the module.

use std::ffi::CString;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, delete_module};

use crate::tap::skip;

pub const MODULE: &str = "kcmp_epoll";
const LOADED: &str = "/sys/module/kcmp_epoll";
const PATCHED: &str = "/sys/kernel/tracing/events/kcmp";

/// The module is busy as long as a caller is in it.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    C,
    Rust,
}

impl Handler {
    pub const BOTH: [Handler; 2] = [Handler::C, Handler::Rust];

    /// Let this one answer from now on, and the C handler again when what is
    /// returned is dropped. Skips on a kernel that has no module of ours.
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

/// As long as this lives, the handler that was asked for answers.
#[derive(Debug)]
#[must_use = "the handler answers as long as this lives"]
pub struct Answering(Handler);

impl Drop for Answering {
    fn drop(&mut self) {
        // The runner looks again, and tells.
        if self.0 == Handler::Rust {
            let _ = unload();
        }
    }
}

pub fn is_loaded() -> bool {
    Path::new(LOADED).exists()
}

/// Whether this kernel is one of ours.
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
    if !is_loaded() {
        let output = Command::new("modprobe")
            .arg(MODULE)
            .output()
            .context("cannot run modprobe")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "cannot load {}: {}",
            MODULE,
            error.trim()
        );
        ensure!(is_loaded(), "{} was loaded, but is not there", MODULE);
    }
    Ok(())
}

pub fn unload() -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let name = CString::new(MODULE)?;
    while is_loaded() {
        match delete_module(&name, DeleteModuleFlags::O_NONBLOCK) {
            Ok(()) => break,
            // Somebody is in it, or it is on its way out.
            Err(Errno::EAGAIN | Errno::EBUSY | Errno::ENOENT) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(errno) => bail!("cannot unload {}: {errno}", MODULE),
        }
    }
    Ok(())
}
