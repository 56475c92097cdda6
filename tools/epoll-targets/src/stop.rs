// SPDX-License-Identifier: GPL-2.0

//! Stops processes while they are inspected.

use crate::pidfd::PidFd;
use crate::proc::{self, Stat, State};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long processes may take to stop.
const PATIENCE: Duration = Duration::from_secs(2);

/// Processes that are stopped, until this is dropped, or this process ends, however that
/// happens.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use epoll_targets::proc::{Stat, State};
/// use epoll_targets::stop::Stopped;
///
/// let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
/// let pid = child.id() as i32;
/// let stopped = Stopped::new(&[pid])?;
/// assert_eq!(Stat::of(pid)?.state, State::Stopped);
/// drop(stopped);
/// assert_ne!(Stat::of(pid)?.state, State::Stopped);
/// # child.kill()?;
/// # child.wait()?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Stopped {
    guardian: libc::pid_t,
    /// When it is closed, the guardian lets them go on.
    socket: Option<OwnedFd>,
}

impl Stopped {
    /// Sends SIGSTOP to these processes, and waits for them to stop. Those that are
    /// stopped already stay so afterwards, and those that do not exist are left out. A thread
    /// stands for its process, as a signal stops all of its threads.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: one of them is this process
    /// - `EPERM`: one of them may not be stopped
    /// - `TimedOut`: one of them does not stop
    /// - those of fork(2)
    pub fn new(pids: &[i32]) -> io::Result<Self> {
        let (mut to_stop, mut processes) = (Vec::new(), Vec::new());
        for &pid in pids {
            let pid = proc::tgid(pid).unwrap_or(pid);
            if to_stop.contains(&pid) {
                continue;
            }
            if pid == rustix::process::getpid().as_raw_pid() {
                let why = "a process cannot stop itself and go on";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            // One that may not be signalled may not be stopped.
            let process = has_stopped(pid).and_then(|stopped| match stopped {
                true => Ok(None),
                false => PidFd::open(pid).map(Some),
            });
            match process {
                Ok(Some(process)) => {
                    to_stop.push(pid);
                    processes.push(process);
                }
                Ok(None) => {}
                Err(error) if proc::is_no_process(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let mut held: Vec<Option<PidFd>> = to_stop.iter().map(|_| None).collect();
        // SAFETY: The child calls guard(), which only makes system calls: it allocates
        // nothing, takes no lock, and does not return.
        let guardian = match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => guard(theirs.as_raw_fd(), &to_stop, &mut held),
            pid => pid,
        };
        drop(theirs);
        let stopped = Self {
            guardian,
            socket: Some(ours),
        };
        let mut errno = [0; 4];
        let socket = stopped.socket.as_ref().map(rustix::io::dup).transpose()?;
        let socket = socket.ok_or(Errno::BADF)?;
        if rustix::io::retry_on_intr(|| rustix::io::read(&socket, &mut errno))? != errno.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match i32::from_ne_bytes(errno) {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        let begin = Instant::now();
        for (pid, process) in to_stop.into_iter().zip(processes) {
            // Another one may have its id by now.
            while process.runs()? && !has_stopped(pid).or_else(ended)? {
                if begin.elapsed() > PATIENCE {
                    let why = format!("process {pid} does not stop");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.socket = None;
        // SAFETY: This is our child, which nobody else waits for. It ends soon, as its
        // socket is closed.
        unsafe {
            libc::waitpid(self.guardian, std::ptr::null_mut(), 0);
        }
    }
}

/// A process that has ended does not run.
fn ended(error: io::Error) -> io::Result<bool> {
    match proc::is_no_process(&error) {
        true => Ok(true),
        false => Err(error),
    }
}

/// Whether all threads of a process have stopped, or ended.
fn has_stopped(pid: i32) -> io::Result<bool> {
    for tid in proc::tasks(pid)? {
        let state = match Stat::read(format!("/proc/{pid}/task/{tid}/stat")) {
            Ok(stat) => stat.state,
            Err(error) if proc::is_no_process(&error) => continue,
            Err(error) => return Err(error),
        };
        if !matches!(
            state,
            State::Stopped | State::Tracing | State::Zombie | State::Dead
        ) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What the child does: stops the processes, and lets them go on when the caller is gone
/// or done. It must not allocate or take locks.
fn guard(socket: i32, pids: &[i32], held: &mut [Option<PidFd>]) -> ! {
    // SAFETY: These only take integers. No value in this process uses its descriptors
    // from here on except this one, which is copied first: nothing runs here but this
    // function, which does not return, so that no destructor of the caller runs.
    let socket = unsafe {
        // Not to get the signals of a terminal, nor to hold what the caller has open.
        libc::setsid();
        libc::dup2(socket, 0);
        if libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) != 0 {
            for fd in 1..1 << 16 {
                libc::close(fd);
            }
        }
        BorrowedFd::borrow_raw(0)
    };
    let mut errno = 0;
    for (&pid, held) in pids.iter().zip(&mut *held) {
        let process = PidFd::open(pid).and_then(|process| {
            process.send_signal(Signal::STOP)?;
            Ok(process)
        });
        match process {
            Ok(process) => *held = Some(process),
            // It has ended.
            Err(error) if proc::is_no_process(&error) => {}
            Err(error) => errno = error.raw_os_error().unwrap_or(libc::EIO),
        }
    }
    let _ = rustix::io::write(socket, &errno.to_ne_bytes());
    // It says nothing: this waits until it is closed.
    let _ = rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut [0; 1]));
    for process in held.iter().flatten() {
        let _ = process.send_signal(Signal::CONT);
    }
    // SAFETY: It ends this process without running anything else.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_was_stopped_before_stays_so() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let process = PidFd::open(pid).unwrap();
        process.send_signal(Signal::STOP).unwrap();
        while !has_stopped(pid).unwrap() {
            std::thread::yield_now();
        }
        drop(Stopped::new(&[pid]).unwrap());
        assert!(has_stopped(pid).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_has_ended_is_left_out() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let stopped = Stopped::new(&[i32::MAX, pid]).unwrap();
        assert!(has_stopped(pid).unwrap());
        drop(stopped);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_cannot_be_stopped_is_an_error() {
        let own = std::process::id() as i32;
        // The test is run by another thread than the first one.
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        for own in [own, thread] {
            let error = Stopped::new(&[own]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
