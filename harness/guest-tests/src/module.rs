// SPDX-License-Identifier: GPL-2.0
//! Loads and unloads modules.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::system::delete_module;

/// How long to wait for the last caller to leave a module.
const PATIENCE: Duration = Duration::from_secs(20);

/// A module, by its name.
#[derive(Clone, Copy, Debug)]
pub struct Module(pub &'static str);

impl Module {
    pub fn is_loaded(self) -> bool {
        Path::new("/sys/module").join(self.0).exists()
    }

    pub fn load(self) -> Result<()> {
        if !self.is_loaded() {
            let output = Command::new("modprobe")
                .arg(self.0)
                .output()
                .context("cannot run modprobe")?;
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "cannot load {}: {}",
                self.0,
                error.trim()
            );
            ensure!(
                self.is_loaded(),
                "modprobe loaded {}, but it is not in /sys/module",
                self.0
            );
        }
        Ok(())
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
