// SPDX-License-Identifier: GPL-2.0
//! Which process may inspect which: the rules are those of ptrace(2).

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use epoll_targets::pidfd::PidFd;
use libepollcr::device::{Device, Item, Process};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::device;
use crate::process::{become_user, fork, pause_forever, shared, wait_until};
use crate::tap::Case;

const NOBODY: u32 = 65_534;
const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("epollcr/other-user", |_| {
            look(NOBODY, NOBODY + 1, true, false)
        }),
        Case::new("epollcr/not-dumpable", |_| {
            look(NOBODY, NOBODY, false, false)
        }),
        Case::new("epollcr/yama", |_| yama()),
        Case::new("epollcr/own-user", |_| own_user()),
        Case::new("epollcr/gone", |_| gone()),
    ]
}

/// What each call about a process returns: 0 or an errno.
fn asked(device: &Device, pid: i32) -> [i32; 4] {
    let Ok(process) = PidFd::open(pid) else {
        return [libc::ESRCH; 4];
    };
    let other = Process::Other(process.as_fd());
    let item = Item {
        tfd: 0,
        toff: 0,
        events: 0,
        ready: false,
        data: 0,
        file: 0,
    };
    let code = |errno: Option<Errno>| errno.map_or(0, Errno::raw_os_error);
    [
        code(device.files(other).err()),
        code(device.describe(other, &[0]).err()),
        code(device.snapshot(other, 0).err()),
        code(device.fetch(other, 0, &item).err()),
    ]
}

/// The answers to a caller with access: descriptor 0 is not an epoll instance.
const ALLOWED: [i32; 4] = [0, 0, libc::EOPNOTSUPP, libc::EOPNOTSUPP];

/// Lets one user inspect a process of another.
fn look(who: u32, whom: u32, dumpable: bool, allowed: bool) -> Result<()> {
    let device = device()?;
    let told = shared::<5>()?;
    let target = fork(|| {
        let dumpable = match dumpable {
            true => DumpableBehavior::Dumpable,
            false => DumpableBehavior::NotDumpable,
        };
        // A process is not dumpable after it changed its user.
        let done = become_user(whom).and_then(|()| set_dumpable_behavior(dumpable));
        told[4].store(if done.is_ok() { 1 } else { 2 }, SeqCst);
        pause_forever()
    })?;
    wait_until("another user", || told[4].load(SeqCst) != 0)?;
    ensure!(told[4].load(SeqCst) == 1, "cannot become another user");
    let pid = target.pid();
    let caller = fork(|| {
        if become_user(who).is_err() {
            return 1;
        }
        for (told, code) in told.iter().zip(asked(&device, pid)) {
            told.store(code, SeqCst);
        }
        0
    })?;
    caller.finish(Duration::from_secs(20))?;
    let codes: Vec<_> = told[..4].iter().map(|told| told.load(SeqCst)).collect();
    let expected = if allowed { ALLOWED } else { [libc::EPERM; 4] };
    ensure!(
        codes == expected,
        "files, describe, snapshot, fetch: {codes:?}"
    );
    // Root may inspect it.
    let codes = asked(&device, pid);
    ensure!(codes == ALLOWED, "root: {codes:?}");
    Ok(())
}

/// Runs the check with a scope of Yama.
fn with_scope(scope: &str, allowed: bool) -> Result<()> {
    if !Path::new(YAMA).exists() {
        bail!("this kernel has no Yama, which is under test here");
    }
    let before = fs::read_to_string(YAMA)?;
    fs::write(YAMA, scope)?;
    let result = look(NOBODY, NOBODY, true, allowed);
    fs::write(YAMA, before)?;
    result
}

fn yama() -> Result<()> {
    with_scope("1", false)
}

fn own_user() -> Result<()> {
    with_scope("0", true)
}

/// A process that has ended.
fn gone() -> Result<()> {
    let device = device()?;
    let child = fork(|| 0)?;
    let process = PidFd::open(child.pid())?;
    child.finish(Duration::from_secs(20))?;
    let other = Process::Other(process.as_fd());
    ensure!(device.files(other) == Err(Errno::SRCH));
    ensure!(device.snapshot(other, 0) == Err(Errno::SRCH));
    let null = fs::File::open("/dev/null")?;
    let other = Process::Other(null.as_fd());
    ensure!(device.files(other) == Err(Errno::BADF), "not a pidfd");
    ensure!(device.snapshot(Process::Own, 99_999) == Err(Errno::BADF));
    Ok(())
}
