// SPDX-License-Identifier: GPL-2.0

//! Whether KVM works here.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};
use tempfile::NamedTempFile;

use crate::args::QEMU;
use crate::machine::{self, Machine};

/// A try: a `/dev/kvm` that opens can still hang the guest at once.
#[derive(Debug)]
pub struct Probe<'a> {
    pub device: &'a Path,
    pub qemu: &'a Path,
    pub kernel: &'a Path,
    /// Where the answer is kept.
    pub cache: PathBuf,
    /// How long the guest may take to say something.
    pub wait: Duration,
}

impl<'a> Probe<'a> {
    pub fn new(qemu: &'a Path, kernel: &'a Path, out: &Path) -> Self {
        Self {
            device: Path::new("/dev/kvm"),
            qemu,
            kernel,
            cache: out.join("kvm"),
            wait: Duration::from_secs(10),
        }
    }

    /// Whether a guest really starts under KVM: the answer that is kept, if it
    /// holds, or that of a try.
    pub fn works(&self) -> Result<bool> {
        if access(self.device, Access::READ_OK | Access::WRITE_OK).is_err() {
            return Ok(false);
        }
        let answer = Answer {
            boot: read_line("/proc/sys/kernel/random/boot_id")?,
            device: fs::metadata(self.device)
                .map(|m| format!("{}.{:09}", m.mtime(), m.mtime_nsec()))
                .with_context(|| self.device.display().to_string())?,
            works: false,
        };
        let kept = fs::read_to_string(&self.cache).ok();
        if let Some(works) = kept.and_then(|kept| answer.known(&kept)) {
            return Ok(works);
        }
        let answer = Answer {
            works: self.starts()?,
            ..answer
        };
        if let Err(error) = self.keep(&answer) {
            // The next run will try again.
            eprintln!("guest: cannot keep whether KVM works: {error:#}");
        }
        Ok(answer.works)
    }

    /// Whether a guest says anything.
    fn starts(&self) -> Result<bool> {
        let mut qemu = Command::new(self.qemu);
        qemu.args(machine::accel(true))
            .args(["-m", "512", "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-kernel"])
            .arg(self.kernel)
            .args(["-append", "console=ttyS0 panic=-1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut qemu = Machine::start(qemu)?;
        let mut stdout = qemu.child().stdout.take().context("no standard output")?;

        let end = Instant::now() + self.wait;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).context("too long")?;
            match poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => (),
                Err(error) => return Err(error).context("poll"),
            }
        }
        Ok(stdout.read(&mut [0]).context("QEMU's output")? == 1)
    }

    /// Others may be doing the same.
    fn keep(&self, answer: &Answer) -> Result<()> {
        let dir = self.cache.parent().context("no directory to keep it in")?;
        let mut new = NamedTempFile::new_in(dir)?;
        write!(new, "{answer}")?;
        new.persist(&self.cache)?;
        Ok(())
    }
}

/// The cached answer, and when it holds.
#[derive(Debug)]
struct Answer {
    boot: String,
    /// When the device was made or changed.
    device: String,
    works: bool,
}

impl Answer {
    /// The answer that was kept, if it is of this boot, and if it is no, of the
    /// device as it is.
    fn known(&self, kept: &str) -> Option<bool> {
        let mut words = kept.split_whitespace();
        match (words.next()?, words.next()?, words.next()) {
            (boot, "yes", _) if boot == self.boot => Some(true),
            (boot, "no", Some(device)) if boot == self.boot && device == self.device => Some(false),
            _ => None,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = if self.works { "yes" } else { "no" };
        writeln!(f, "{} {answer} {}", self.boot, self.device)
    }
}

fn read_line(path: &str) -> Result<String> {
    Ok(fs::read_to_string(path)
        .context(path.to_owned())?
        .trim()
        .to_owned())
}

/// Answers `--kvm KERNEL OUT`.
pub fn probe(kvm: &[PathBuf]) -> Result<bool> {
    let [kernel, out] = kvm else {
        anyhow::bail!("--kvm needs KERNEL and OUT");
    };
    Probe::new(Path::new(QEMU), kernel, out).works()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A machine that is a script, and counts how often it was tried.
    fn setup(script: &str) -> TempDir {
        let dir = TempDir::new().unwrap();
        let qemu = dir.path().join("qemu");
        let tries = dir.path().join("tries");
        let script = format!("#!/bin/sh\necho x >>{}\n{script}\n", tries.display());
        // In another process: if this one had it open, a fork for another test
        // could keep it so, and it would be busy.
        let mut install = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(qemu)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = install.stdin.take().unwrap();
        stdin.write_all(script.as_bytes()).unwrap();
        drop(stdin);
        assert!(install.wait().unwrap().success());
        fs::write(dir.path().join("device"), "").unwrap();
        dir
    }

    fn works(dir: &TempDir) -> bool {
        Probe {
            device: &dir.path().join("device"),
            wait: Duration::from_secs(1),
            ..Probe::new(&dir.path().join("qemu"), Path::new("kernel"), dir.path())
        }
        .works()
        .unwrap()
    }

    fn tries(dir: &TempDir) -> usize {
        fs::read_to_string(dir.path().join("tries")).map_or(0, |t| t.lines().count())
    }

    #[test]
    fn a_guest_that_speaks_is_enough_and_kept() {
        let dir = setup("echo; exec sleep 60");
        assert!(works(&dir));
        assert!(works(&dir));
        assert_eq!(tries(&dir), 1);
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 4, "something besides qemu, device, tries and kvm");
    }

    #[test]
    fn a_guest_that_hangs_or_fails_is_not() {
        for script in ["exec sleep 60", "exit 1"] {
            let dir = setup(script);
            assert!(!works(&dir));
            assert!(!works(&dir));
            assert_eq!(tries(&dir), 1, "{script}");
        }
    }

    #[test]
    fn no_is_tried_again_when_the_device_changes() {
        let dir = setup("exit 1");
        assert!(!works(&dir));
        let device = fs::File::options()
            .write(true)
            .open(dir.path().join("device"))
            .unwrap();
        device.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(!works(&dir));
        assert_eq!(tries(&dir), 2);
    }

    #[test]
    fn another_boot_is_tried_again() {
        let dir = setup("echo");
        for kept in [
            "another yes 0.0\n",
            "another no 0.0\n",
            "",
            "x",
            "another yes\n",
        ] {
            fs::write(dir.path().join("kvm"), kept).unwrap();
            let before = tries(&dir);
            assert!(works(&dir));
            assert_eq!(tries(&dir), before + 1, "{kept:?}");
        }
        // As it was once kept.
        let boot = read_line("/proc/sys/kernel/random/boot_id").unwrap();
        fs::write(dir.path().join("kvm"), format!("{boot} yes\n")).unwrap();
        assert!(works(&dir));
        assert_eq!(tries(&dir), 5);
    }

    #[test]
    fn no_device_is_no_try() {
        let dir = setup("echo");
        fs::remove_file(dir.path().join("device")).unwrap();
        assert!(!works(&dir));
        assert_eq!(tries(&dir), 0);
    }

    #[test]
    fn an_answer_that_cannot_be_kept_is_still_one() {
        let dir = setup("echo");
        fs::create_dir(dir.path().join("kvm")).unwrap();
        assert!(works(&dir));
        assert!(works(&dir));
        assert_eq!(tries(&dir), 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
