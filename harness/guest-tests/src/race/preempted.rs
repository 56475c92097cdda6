// SPDX-License-Identifier: GPL-2.0
//! A caller that is preempted at a random place.
//!
//! A real-time task on the caller's CPU preempts it, closes the file at the first
//! descriptor, and only then opens one at the second, which gets the memory of the first.
//! It takes luck to preempt the caller in the right place, so this is repeated many times.
//! The kernel must be preemptible.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;

use crate::process::{pin, realtime, two_cpus};
use crate::sys;

/// At most one of these two descriptors is open at a time.
pub const A: i32 = 300;
pub const B: i32 = 301;

#[derive(Debug, Default)]
pub struct Count {
    pub asked: u64,
    /// False answers: the two files have never existed at the same time.
    pub equal: u64,
    pub changes: u64,
}

/// Queries whether A is B until the time is up, or until there are enough false answers.
/// `opened` is called each time that B was opened.
pub fn race(
    patience: Duration,
    enough: u64,
    query: impl Fn() -> rustix::io::Result<i32> + Send,
    opened: impl Fn() -> rustix::io::Result<i32> + Send,
) -> Result<Count> {
    let [_, cpu] = two_cpus()?;
    let until = Instant::now() + patience;
    let stop = AtomicBool::new(false);
    let over = || stop.load(Ordering::Relaxed) || Instant::now() >= until;
    let over = &over;
    let stop = &stop;
    thread::scope(|scope| {
        let caller = scope.spawn(move || -> Result<Count> {
            pin(cpu)?;
            let mut count = Count::default();
            let mut result = Ok(());
            while count.equal < enough && result.is_ok() && !over() {
                count.asked += 1;
                match query() {
                    Ok(sys::EQUAL) => count.equal += 1,
                    Ok(_) | Err(Errno::BADF | Errno::NOENT) => {}
                    Err(errno) => result = Err(errno),
                }
            }
            stop.store(true, Ordering::Relaxed);
            result.context("a query")?;
            Ok(count)
        });
        let changer = scope.spawn(move || -> Result<u64> {
            pin(cpu)?;
            realtime()?;
            let mut changes = 0;
            while !over() {
                sys::renumber(sys::eventfd(0)?, A)?;
                pause(changes);
                sys::close(A)?;
                sys::renumber(sys::eventfd(0)?, B)?;
                opened()?;
                pause(changes);
                sys::close(B)?;
                changes += 1;
            }
            Ok(changes)
        });
        let changes = changer.join().ok().context("panic")?;
        stop.store(true, Ordering::Relaxed);
        let mut count = caller.join().ok().context("panic")??;
        count.changes = changes?;
        if count.changes == 0 {
            bail!("the files were never changed");
        }
        Ok(count)
    })
}

/// Sleeps long enough for some queries, by a varying time, so that the two threads do not
/// fall into step.
fn pause(n: u64) {
    thread::sleep(Duration::from_nanos(20_000 + n % 97 * 101));
}
