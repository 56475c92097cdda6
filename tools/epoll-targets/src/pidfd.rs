// SPDX-License-Identifier: GPL-2.0

//! A descriptor that holds a process, so that its pid cannot come to mean another.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// A process.
///
/// As long as [`runs`](Self::runs) returns true, whatever was read by the pid since
/// [`open`](Self::open) was about this process.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use epoll_targets::pidfd::PidFd;
/// use rustix::process::Signal;
///
/// let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
/// let process = PidFd::open(child.id() as i32)?;
/// assert!(process.runs()?);
///
/// process.send_signal(Signal::KILL)?;
/// child.wait()?;
/// assert!(!process.runs()?);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens a process by its pid.
    ///
    /// # Errors
    ///
    /// - `ESRCH`: there is none in the caller's PID namespace
    /// - `EINVAL`: `pid` is not positive, or that of a thread that does not lead its
    ///   process
    /// - `ENOSYS`: the kernel is older than 5.3
    pub fn open(pid: i32) -> io::Result<Self> {
        Self::open_with(pid, PidfdFlags::empty())
    }

    /// Opens a process, or a thread of one, by its id.
    ///
    /// # Errors
    ///
    /// - `ESRCH`: there is none in the caller's PID namespace
    /// - `EINVAL`: `tid` is not positive, or the kernel is older than 6.9
    /// - `ENOSYS`: the kernel is older than 5.3
    pub fn open_task(tid: i32) -> io::Result<Self> {
        let thread = PidfdFlags::from_bits_retain(libc::PIDFD_THREAD);
        Self::open_with(tid, thread)
    }

    fn open_with(id: i32, flags: PidfdFlags) -> io::Result<Self> {
        let id = (id > 0).then(|| Pid::from_raw(id)).flatten();
        let id = id.ok_or(rustix::io::Errno::INVAL)?;
        Ok(Self(pidfd_open(id, flags)?))
    }

    /// Duplicates descriptor `fd` of the process into the caller, close-on-exec.
    ///
    /// Both then refer to one open file description, with one position and one set of
    /// status flags.
    ///
    /// # Errors
    ///
    /// - `EBADF`: it is not open
    /// - `EPERM`: no `PTRACE_MODE_ATTACH_REALCREDS` on the process, which is more
    ///   than kcmp(2) asks for: `/proc/sys/kernel/yama/ptrace_scope` counts
    /// - `ESRCH`: the process has ended
    /// - `ENOSYS`: the kernel is older than 5.6
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use epoll_targets::Descriptor;
    /// use epoll_targets::kcmp::{self, Support};
    /// use epoll_targets::pidfd::PidFd;
    /// use std::cmp::Ordering;
    /// use std::os::fd::AsRawFd;
    /// # if kcmp::support() != Support::Epoll { return Ok(()) }
    ///
    /// let pid = std::process::id() as i32;
    /// let (reader, _writer) = rustix::pipe::pipe()?;
    /// let copy = PidFd::open(pid)?.getfd(reader.as_raw_fd())?;
    ///
    /// let descriptor = |fd| Descriptor { pid, fd };
    /// let order = kcmp::files(
    ///     descriptor(reader.as_raw_fd()),
    ///     descriptor(copy.as_raw_fd()),
    /// )?;
    /// assert_eq!(order, Ordering::Equal);
    /// # Ok(()) }
    /// ```
    pub fn getfd(&self, fd: RawFd) -> io::Result<OwnedFd> {
        if fd < 0 {
            return Err(rustix::io::Errno::BADF.into());
        }
        Ok(pidfd_getfd(&self.0, fd, PidfdGetfdFlags::empty())?)
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    ///
    /// - `ESRCH`: the process has ended
    /// - `EPERM`: the caller lacks the permission, see kill(2)
    pub fn send_signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.0, signal)?)
    }

    /// Whether the process has not ended.
    ///
    /// # Errors
    ///
    /// Those of poll(2): `ENOMEM`.
    pub fn runs(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let now = rustix::event::Timespec::default();
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)))?;
        Ok(fds[0].revents().is_empty())
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_is_no_process_is_told() {
        let errno = |pid| PidFd::open(pid).unwrap_err().raw_os_error();
        assert_eq!(errno(0), Some(libc::EINVAL));
        assert_eq!(errno(-1), Some(libc::EINVAL));
        assert_eq!(errno(i32::MAX), Some(libc::ESRCH));
    }

    #[test]
    fn own_descriptors_can_be_had() {
        let own = PidFd::open(std::process::id() as i32).unwrap();
        assert!(own.runs().unwrap());
        let copy = own.getfd(own.as_fd().as_raw_fd()).unwrap();
        assert_ne!(copy.as_raw_fd(), own.as_fd().as_raw_fd());
        let errno = own.getfd(-1).unwrap_err().raw_os_error();
        assert_eq!(errno, Some(libc::EBADF));
        assert!(OwnedFd::from(own).as_raw_fd() >= 0);
    }
}
