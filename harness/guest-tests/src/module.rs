// SPDX-License-Identifier: GPL-2.0
//! Loads and unloads modules.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::system::delete_module;

use crate::tap::{note, skip};

/// How long to wait for the last caller to leave a module.
const PATIENCE: Duration = Duration::from_secs(20);

/// A module, by its name.
#[derive(Clone, Copy, Debug)]
pub struct Module(pub &'static str);

/// The one that has the device for checkpoint and restore.
pub const EPOLL_CR: Module = Module("epoll_cr");

/// A guard: the module is loaded while this exists.
#[derive(Debug)]
#[must_use = "the module is loaded while this exists"]
pub struct Loaded(Module);

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Err(error) = self.0.unload() {
            note(format!("{error:#}"));
        }
    }
}

impl Module {
    pub fn is_loaded(self) -> bool {
        Path::new("/sys/module").join(self.0).exists()
    }

    pub fn load(self) -> Result<()> {
        match self.modprobe()? {
            None => Ok(()),
            Some(why) => bail!("cannot load {}: {why}", self.0),
        }
    }

    /// Loads it. Skips if it cannot be loaded here.
    pub fn need(self) -> Result<()> {
        match self.modprobe()? {
            None => Ok(()),
            Some(why) => skip(format!("no module {}: {why}", self.0)),
        }
    }

    /// Loads it until the returned guard is dropped. Skips if it cannot be loaded here.
    pub fn while_loaded(self) -> Result<Loaded> {
        self.need()?;
        Ok(Loaded(self))
    }

    /// Loads it, unless it is loaded. Returns what modprobe says if it does not.
    fn modprobe(self) -> Result<Option<String>> {
        if self.is_loaded() {
            return Ok(None);
        }
        let output = Command::new("modprobe").arg(self.0).output();
        let output = output.context("cannot run modprobe")?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Ok(Some(error.trim().to_owned()));
        }
        ensure!(
            self.is_loaded(),
            "modprobe loaded {}, but it is not in /sys/module",
            self.0
        );
        Ok(None)
    }

    pub fn unload(self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let name = CString::new(self.0)?;
        while self.is_loaded() {
            match delete_module(&name, libc::O_NONBLOCK) {
                Ok(()) => break,
                // It has a caller, or is being unloaded.
                Err(Errno::AGAIN | Errno::BUSY | Errno::NOENT) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(errno) => bail!("cannot unload {}: {errno}", self.0),
            }
        }
        Ok(())
    }

    /// The path of its file.
    pub fn file(self) -> Result<PathBuf> {
        let output = Command::new("modinfo")
            .args(["-n", self.0])
            .output()
            .context("cannot run modinfo")?;
        let path = String::from_utf8(output.stdout)?;
        ensure!(!path.trim().is_empty(), "there is no module {}", self.0);
        Ok(path.trim().into())
    }
}
