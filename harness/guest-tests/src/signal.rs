// SPDX-License-Identifier: GPL-2.0
//! What rustix does not have, because it is the C library's: signal masks, signalfd(2),
//! raise(3) and alarm(2).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

use libc::{c_int, sigset_t};
use rustix::process::Signal;

/// The set of these signals.
fn set_of(signals: &[Signal]) -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: it initializes the whole set, and cannot fail.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in signals {
        // SAFETY: the set is initialized; it fails only for what is no signal.
        unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
    }
    set
}

/// An error number that the call returned, not in errno.
fn result(errno: c_int) -> io::Result<()> {
    match errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Blocks a signal in the calling thread, and in those that it starts.
pub fn block(signal: Signal) -> io::Result<()> {
    let set = set_of(&[signal]);
    // SAFETY: the set is only read, and the old mask is not asked for.
    result(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })
}

/// Waits for a signal that is blocked, and takes it.
pub fn wait(signal: Signal) -> io::Result<()> {
    let set = set_of(&[signal]);
    let mut came = 0;
    // SAFETY: the set is only read, and there is room for the number.
    result(unsafe { libc::sigwait(&raw const set, &raw mut came) })
}

/// A signalfd of these signals, with flags `SFD_*`. They have to be blocked.
pub fn signalfd(signals: &[Signal], flags: c_int) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    // SAFETY: the set is only read; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to the calling thread.
pub fn raise(signal: Signal) -> io::Result<()> {
    // SAFETY: takes a number. What the signal does is up to its handler, and Rust's
    // rules do not depend on whether one comes.
    if unsafe { libc::raise(signal.as_raw()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Ends this process by SIGALRM after that many seconds.
pub fn alarm(seconds: u32) {
    // SAFETY: takes a number, and cannot fail.
    unsafe { libc::alarm(seconds) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{Errno, read};

    #[test]
    fn a_blocked_signal_can_be_read_and_waited_for() -> io::Result<()> {
        block(Signal::USR2)?;
        let fd = signalfd(&[Signal::USR2], libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)?;
        let mut info = [0; 128];
        assert_eq!(read(&fd, &mut info), Err(Errno::AGAIN));
        raise(Signal::USR2)?;
        assert_eq!(read(&fd, &mut info), Ok(info.len()));
        // Its first field is the number of the signal.
        assert_eq!(info[..4], libc::SIGUSR2.to_ne_bytes());
        raise(Signal::USR2)?;
        wait(Signal::USR2)
    }
}
