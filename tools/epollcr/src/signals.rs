// SPDX-License-Identifier: GPL-2.0

//! Signals that would end this process at the wrong moment.

use libc::{c_int, sigset_t};
use std::io;
use std::mem::MaybeUninit;

/// The signals by which a user or the system ends a process, and that can wait.
const HELD: [c_int; 6] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGXCPU,
    libc::SIGALRM,
];

fn check(ret: c_int) -> io::Result<()> {
    match ret {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ignores a signal from now on.
pub fn ignore(signal: c_int) -> io::Result<()> {
    // SAFETY: no handler is installed, so that no code runs for the signal.
    let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
    match before {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// As long as this is there, signals wait. Then the process ends by them.
#[must_use]
pub struct Held(sigset_t);

fn empty() -> io::Result<sigset_t> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the function initialises the set that it is given.
    check(unsafe { libc::sigemptyset(set.as_mut_ptr()) })?;
    // SAFETY: it has succeeded.
    Ok(unsafe { set.assume_init() })
}

/// Whether a signal does nothing, as after nohup(1).
fn is_ignored(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the call writes the action, and changes none.
    let ret = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: a `sigaction` has integers and an optional function, all of which may be 0.
    let action = unsafe { action.assume_init() };
    ret == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Lets signals wait. This program has one thread.
pub fn hold() -> io::Result<Held> {
    let (mut set, mut before) = (empty()?, empty()?);
    for signal in HELD {
        if is_ignored(signal) {
            continue;
        }
        // SAFETY: the set is initialised.
        check(unsafe { libc::sigaddset(&raw mut set, signal) })?;
    }
    // SAFETY: both sets are initialised; one is read, the other written.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, &raw mut before) })?;
    Ok(Held(before))
}

impl Held {
    /// Whether a signal waits.
    pub fn is_one_pending(&self) -> bool {
        let Ok(mut pending) = empty() else {
            return false;
        };
        // SAFETY: the set is initialised, and written.
        if unsafe { libc::sigpending(&raw mut pending) } != 0 {
            return false;
        }
        // SAFETY: both sets are initialised, and read.
        let is = |signal, set: &sigset_t| unsafe { libc::sigismember(set, signal) == 1 };
        HELD.into_iter()
            .any(|signal| is(signal, &pending) && !is(signal, &self.0) && !is_ignored(signal))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the set is initialised, and read.
        let _ = unsafe {
            libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
        };
    }
}
