// SPDX-License-Identifier: GPL-2.0
//! Child processes that are forked, and memory that is shared with them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::sys;

/// A child that was forked; it is killed and reaped when this is dropped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    reaped: bool,
}

impl Child {
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    pub fn kill(&self) {
        // One that is gone is as good.
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// It is somebody else's to kill and to reap.
    pub fn leave(mut self) -> Pid {
        self.reaped = true;
        self.pid
    }

    /// How it ended, if it has by then.
    pub fn wait(&mut self, patience: Duration) -> Result<Option<WaitStatus>> {
        let until = Instant::now() + patience;
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                WaitStatus::StillAlive => return Ok(None),
                status => {
                    self.reaped = true;
                    return Ok(Some(status));
                }
            }
        }
    }

    /// It must end by itself, with status 0.
    pub fn finish(mut self, patience: Duration) -> Result<()> {
        match self.wait(patience)? {
            Some(WaitStatus::Exited(_, 0)) => Ok(()),
            Some(status) => bail!("a child ended with {status:?}"),
            None => bail!("a child does not end"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = waitpid(self.pid, None);
        }
    }
}

/// Run `body` in a child, which then exits with what it returns. Only for
/// processes of a single thread.
pub fn fork(body: impl FnOnce() -> i32) -> Result<Child> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        bail!("cannot fork: there are {threads} threads");
    }
    // SAFETY: there is no other thread whose locks the child would inherit.
    match unsafe { nix::unistd::fork() }.context("fork")? {
        ForkResult::Parent { child } => Ok(Child {
            pid: child,
            reaped: false,
        }),
        ForkResult::Child => {
            // A panic must not unwind into the code of the parent.
            let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
            exit_now(status)
        }
    }
}

/// End without running what the parent has registered.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: takes a number, and does not return.
    unsafe { libc::_exit(status) }
}

/// A pid that is not in use.
pub fn unused_pid() -> Result<i32> {
    let child = fork(|| 0)?;
    let pid = child.pid();
    child.finish(Duration::from_secs(5))?;
    Ok(pid)
}

/// Numbers that are shared with children forked from now on.
pub fn shared<const N: usize>() -> Result<&'static [AtomicI32; N]> {
    let size =
        std::num::NonZeroUsize::new(N * size_of::<AtomicI32>()).context("no numbers to share")?;
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice.
    let page = unsafe { mmap_anonymous(None, size, prot, MapFlags::MAP_SHARED) }?;
    // SAFETY: it is large enough, zeroed, aligned to a page, and never unmapped.
    Ok(unsafe { page.cast::<[AtomicI32; N]>().as_ref() })
}

/// The task is asleep inside kcmp, deaf to signals that do not kill.
pub fn sleeps_in_kcmp(pid: i32, tid: i32) -> bool {
    let dir = format!("/proc/{pid}/task/{tid}");
    let stat = std::fs::read_to_string(format!("{dir}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    if !state.starts_with('D') {
        return false;
    }
    let call = std::fs::read_to_string(format!("{dir}/syscall")).unwrap_or_default();
    call.split_whitespace().next() == Some(&libc::SYS_kcmp.to_string())
}

/// Wait until it does.
pub fn wait_in_kcmp(pid: i32, tid: i32) -> Result<()> {
    wait_until("a task to sleep in kcmp", || sleeps_in_kcmp(pid, tid))
}

/// Wait for what must come to be soon.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        if Instant::now() >= until {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Keep the calling thread on one processor.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("cannot use CPU {cpu}"))
}

/// Let the calling thread run before all that are not of its kind.
pub fn realtime() -> Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters are there during the call, which only reads them.
    let ret = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
    nix::errno::Errno::result(ret).context("cannot become a real-time task")?;
    Ok(())
}

/// The first two processors that this process may use.
pub fn two_cpus() -> Result<[usize; 2]> {
    let set = nix::sched::sched_getaffinity(Pid::from_raw(0))?;
    let mut cpus = (0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false));
    match (cpus.next(), cpus.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => crate::tap::skip("needs two processors"),
    }
}

/// Compare two descriptors of this process as KCMP_FILE does.
pub fn own_files(fd1: i32, fd2: i32) -> nix::Result<i32> {
    sys::files(sys::getpid(), fd1, sys::getpid(), fd2)
}
