// SPDX-License-Identifier: GPL-2.0
//! `equal` for two files that have never existed at the same time.
//!
//! The C handler of mainline takes the address of the file of idx1, drops its reference,
//! and waits for the mutex of the epoll instance. Meanwhile that file, A, is released.
//! Only then a new one, B, is opened, which gets A's memory, and is added. The handler
//! then compares A's address with B's. On a kernel without the series, this has to show
//! up; with them, neither handler may do it.
//!
//! The race does not depend on luck. A thread holds the mutex while the caller begins to
//! wait for it. Then a real-time task keeps the caller's CPU busy, so that the caller does
//! not run when the mutex becomes free, and B is added first.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::preempted;
use crate::Options;
use crate::handler::{self, Handler};
use crate::held::HeldSet;
use crate::process::{pin, realtime, two_cpus, wait_in_kcmp, wait_until};
use crate::sys::{self, Slot};
use crate::tap::{note, skip};

/// The descriptors of A, of B, and of a target that is always ready.
const A: i32 = 300;
const B: i32 = 301;
const READY: i32 = 302;

/// Enough false answers to be sure.
const ENOUGH: u64 = 50;
/// How much longer the handler of mainline is queried than others, where luck is needed.
const PATIENCE: u32 = 3;

#[derive(Default)]
struct Count {
    asked: u64,
    equal: u64,
    /// How often B was added too late.
    early: u32,
}

pub fn run(options: &Options) -> Result<()> {
    let seconds = Duration::from_secs(options.seconds);
    let cpus = two_cpus()?;
    let fixed = handler::is_fixed()?;
    for &handler in Handler::present() {
        let _answering = handler.answers()?;
        let until = Instant::now() + seconds * if fixed { 1 } else { PATIENCE };
        let count = rounds(cpus, |count| count.equal < ENOUGH && Instant::now() < until)?;
        if count.early > 0 {
            note(format!(
                "{handler}: B was added too late: {} times",
                count.early
            ));
        }
        ensure!(
            fixed || count.equal > 0,
            "the flaw did not show up in {} queries",
            count.asked
        );
        verdict(handler, fixed, count.equal, count.asked)?;
    }
    Ok(())
}

/// The same without a held mutex: the caller is preempted anywhere, where it takes luck to
/// see the flaw of a kernel that has it.
pub fn preempted(options: &Options) -> Result<()> {
    let fixed = handler::is_fixed()?;
    let efd = sys::epoll_create()?;
    let me = sys::getpid();
    let slot = Slot::new(efd, preempted::B, 0);
    let race = |patience, enough| {
        preempted::race(
            patience,
            enough,
            || sys::epoll_tfd(me, preempted::A, me, slot),
            || sys::epoll_add(efd, preempted::B),
        )
    };
    let seconds = Duration::from_secs(options.seconds);
    for &handler in Handler::present() {
        let _answering = handler.answers()?;
        let count = if fixed {
            race(seconds, u64::MAX)?
        } else {
            race(seconds * PATIENCE, ENOUGH)?
        };
        note(format!("{handler}: {} changes", count.changes));
        verdict(handler, fixed, count.equal, count.asked)?;
    }
    Ok(())
}

/// Judges false answers, out of all answers.
fn verdict(handler: Handler, fixed: bool, equal: u64, asked: u64) -> Result<()> {
    note(format!("{handler}: {equal} false of {asked}"));
    if fixed {
        ensure!(
            equal == 0,
            "{handler} reports files as equal that never existed at one time"
        );
    } else if equal == 0 {
        return skip(format!("the flaw did not show up in {asked} queries"));
    }
    Ok(())
}

fn rounds(cpus: [usize; 2], mut more: impl FnMut(&Count) -> bool) -> Result<Count> {
    let efd = sys::epoll_create()?;
    sys::renumber(sys::eventfd(1)?, READY)?;
    sys::epoll_add(efd, READY)?;
    let mut count = Count::default();
    while more(&count) {
        match round(efd, cpus)? {
            Ok(answer) => {
                ensure!((0..=2).contains(&answer), "the answer is {answer}");
                count.asked += 1;
                count.equal += u64::from(answer == sys::EQUAL);
            }
            Err(errno) => {
                // The caller found no target B: nothing was compared.
                ensure!(errno == rustix::io::Errno::NOENT, "the answer is {errno}");
                count.early += 1;
                ensure!(count.early < 1000, "B is always too late");
            }
        }
    }
    sys::close(READY)?;
    sys::close(efd)?;
    Ok(count)
}

/// Makes one query, to which the answer `equal` is false.
fn round(efd: i32, [here, there]: [usize; 2]) -> Result<rustix::io::Result<i32>> {
    pin(here)?;
    sys::renumber(sys::eventfd(0)?, A)?;
    let held = HeldSet::hold(efd, Some(here))?;

    let tid = AtomicI32::new(0);
    let busy = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let caller = scope.spawn(|| -> Result<rustix::io::Result<i32>> {
            pin(there)?;
            tid.store(sys::gettid(), Ordering::Relaxed);
            let me = sys::getpid();
            Ok(sys::epoll_tfd(me, A, me, Slot::new(efd, B, 0)))
        });
        // It has looked A up, and waits for the mutex.
        wait_until("the caller", || tid.load(Ordering::Relaxed) != 0)?;
        wait_in_kcmp(sys::getpid(), tid.load(Ordering::Relaxed))?;

        let hog = scope.spawn(|| -> Result<()> {
            pin(there)?;
            realtime()?;
            busy.store(true, Ordering::Relaxed);
            let until = Instant::now() + Duration::from_secs(1);
            while !stop.load(Ordering::Relaxed) && Instant::now() < until {
                std::hint::spin_loop();
            }
            Ok(())
        });
        let result = wait_until("the other CPU", || {
            busy.load(Ordering::Relaxed) || hog.is_finished()
        })
        .and_then(|()| {
            // A is released before B is opened.
            sys::close(A)?;
            sys::renumber(sys::eventfd(0)?, B)?;
            // The mutex becomes free. The caller is woken, but does not run.
            held.release()?;
            sys::epoll_add(efd, B)?;
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let hogged = hog.join().ok().context("panic")?;
        let answer = caller.join().ok().context("panic")?;
        result.and(hogged)?;
        // Remove B before the next A.
        sys::close(B)?;
        answer
    })
}
