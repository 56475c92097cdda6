// SPDX-License-Identifier: GPL-2.0
//! Child processes that are forked, and memory that is shared with them.

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use epoll_targets::proc::{Stat, State};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::process::{Gid, Pid, Signal, Uid, WaitOptions, kill_process, waitpid};
use rustix::thread::{
    CpuSet, sched_getaffinity, sched_setaffinity, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::outcome::skip;
use crate::sys;

/// A child that was forked; it is killed and reaped when this is dropped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    reaped: bool,
}

impl Child {
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    pub fn id(&self) -> Pid {
        self.pid
    }

    pub fn kill(&self) {
        // It may have ended.
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// Leaves it to the caller to kill and reap the child.
    pub fn leave(mut self) -> Pid {
        self.reaped = true;
        self.pid
    }

    /// Waits for the child to end; `None` if it does not in time.
    pub fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let until = Instant::now() + patience;
        loop {
            if let Some((_, status)) = waitpid(Some(self.pid), WaitOptions::NOHANG)? {
                self.reaped = true;
                return Ok(Some(ExitStatus::from_raw(status.as_raw())));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the child, which must exit with status 0.
    pub fn finish(mut self, patience: Duration) -> Result<()> {
        match self.wait(patience)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("a child ended with {status}"),
            None => bail!("a child did not end in time"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}

/// Runs `body` in a child, which exits with the status that it returns. Only for
/// processes with a single thread.
pub fn fork(body: impl FnOnce() -> i32) -> Result<Child> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        bail!("cannot fork with {threads} threads");
    }
    // SAFETY: there is no other thread whose locks the child would inherit.
    match unsafe { sys::fork() }.context("fork")? {
        Some(pid) => Ok(Child { pid, reaped: false }),
        None => {
            // A panic must not unwind into the code of the parent.
            let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
            exit_now(status)
        }
    }
}

/// Exits without running the exit handlers, which are the parent's.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: takes a number, and does not return.
    unsafe { libc::_exit(status) }
}

/// The whole life of a child that is only there to be looked at, until it is killed.
pub fn pause_forever() -> ! {
    loop {
        rustix::event::pause();
    }
}

/// Lets a child, which has one thread, be this user and group, and in no other group.
pub fn become_user(id: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// A pid that is not in use.
pub fn unused_pid() -> Result<i32> {
    let child = fork(|| 0)?;
    let pid = child.pid();
    child.finish(Duration::from_secs(5))?;
    Ok(pid)
}

/// Numbers that are shared with children that are forked later.
pub fn shared<const N: usize>() -> Result<&'static [AtomicI32; N]> {
    let size = N * size_of::<AtomicI32>();
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice.
    let page = unsafe { mmap_anonymous(std::ptr::null_mut(), size, prot, MapFlags::SHARED) }?;
    // SAFETY: it is large enough, zeroed, aligned to a page, and never unmapped.
    Ok(unsafe { &*page.cast::<[AtomicI32; N]>() })
}

/// The number of the system call that a task is in, by its directory in /proc.
pub fn system_call(dir: impl AsRef<Path>) -> Option<i64> {
    let call = std::fs::read_to_string(dir.as_ref().join("syscall")).ok()?;
    // The other words are arguments, and 'running' is no number.
    call.split_whitespace().next()?.parse().ok()
}

/// Whether a task sleeps in kcmp(2), and at most a fatal signal wakes it.
pub fn sleeps_in_kcmp(pid: i32, tid: i32) -> bool {
    let dir = format!("/proc/{pid}/task/{tid}");
    let state = Stat::read(format!("{dir}/stat")).map(|stat| stat.state);
    state.is_ok_and(|state| state == State::Uninterruptible)
        && system_call(dir) == Some(libc::SYS_kcmp)
}

/// Waits until it does.
pub fn wait_in_kcmp(pid: i32, tid: i32) -> Result<()> {
    wait_until("a task to sleep in kcmp", || sleeps_in_kcmp(pid, tid))
}

/// Waits for what has to happen soon.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        if Instant::now() >= until {
            bail!("timed out waiting for {what}");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Keeps the calling thread on one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot use CPU {cpu}"))
}

/// Makes the calling thread a real-time task, which runs before all ordinary ones.
pub fn realtime() -> Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters are there during the call, which only reads them.
    let ret = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
    if ret != 0 {
        let error = std::io::Error::last_os_error();
        return Err(error).context("cannot become a real-time task");
    }
    Ok(())
}

/// The first two CPUs that this process may use.
pub fn two_cpus() -> Result<[usize; 2]> {
    let set = sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu));
    match (cpus.next(), cpus.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => skip("needs two CPUs"),
    }
}

/// Compare two descriptors of this process as KCMP_FILE does.
pub fn own_files(fd1: i32, fd2: i32) -> rustix::io::Result<i32> {
    sys::files(sys::getpid(), fd1, sys::getpid(), fd2)
}
