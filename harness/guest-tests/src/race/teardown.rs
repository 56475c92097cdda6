// SPDX-License-Identifier: GPL-2.0
//! Epoll instances that are torn down while they are queried: their descriptors and
//! targets are closed, their owner exits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;

use crate::Options;
use crate::handler::{self, Handler};
use crate::process::{self, shared};
use crate::sys::{self, Slot};
use crate::tap::note;

/// The epoll instance, its targets, and the descriptor that always refers to the shared
/// file.
const EFD: i32 = 300;
const TARGETS: std::ops::Range<i32> = 310..330;
const SHARED: i32 = 400;

/// How many epoll instances an owner makes before it exits.
const SETS: u32 = 20;
const ASKERS: usize = 2;

pub fn run(options: &Options) -> Result<()> {
    handler::need_fixed()?;
    let seconds = Duration::from_secs(options.seconds.div_ceil(2));
    // A file that some targets have, and one that none has.
    let fd = sys::eventfd(0)?;
    let other = sys::eventfd(0)?;
    for &handler in Handler::present() {
        let _answering = handler.answers()?;
        with(handler, fd, other, seconds).with_context(|| format!("{handler}"))?;
    }
    Ok(())
}

fn with(handler: Handler, fd: i32, other: i32, seconds: Duration) -> Result<()> {
    // The pid of the owner, whether to go on, and how many owners there were.
    let [pid, on, owners] = shared::<3>()?;
    on.store(1, Ordering::Relaxed);
    // A process with a single thread forks the owners.
    let nursery = process::fork(|| match raise(fd, pid, on, owners) {
        Ok(()) => 0,
        Err(err) => {
            note(format!("owner: {err:#}"));
            1
        }
    })?;

    let until = Instant::now() + seconds;
    let counts = thread::scope(|scope| {
        let askers: Vec<_> = (0..ASKERS)
            .map(|_| scope.spawn(|| ask(fd, other, pid, until)))
            .collect();
        askers
            .into_iter()
            .map(|asker| asker.join().ok().context("panic")?)
            .collect::<Result<Vec<_>>>()
    });
    on.store(0, Ordering::Relaxed);
    nursery.finish(Duration::from_secs(30))?;

    let mut count: BTreeMap<i32, u64> = BTreeMap::new();
    for (answer, n) in counts?.into_iter().flatten() {
        *count.entry(answer).or_default() += n;
    }
    let answers: Vec<_> = count
        .iter()
        .map(|(&answer, n)| format!("{} {n}", sys::describe(answer)))
        .collect();
    note(format!(
        "{handler}: {} owners; {}",
        owners.load(Ordering::Relaxed),
        answers.join(", ")
    ));
    for answer in [Ok(sys::EQUAL), Err(Errno::NOENT), Err(Errno::BADF)].map(sys::code) {
        ensure!(
            count.contains_key(&answer),
            "no query was answered by {}: nothing was torn down",
            sys::describe(answer)
        );
    }
    Ok(())
}

/// Forks one owner after the other.
fn raise(fd: i32, pid: &AtomicI32, on: &AtomicI32, owners: &AtomicI32) -> Result<()> {
    while on.load(Ordering::Relaxed) == 1 {
        let owner = process::fork(|| match own(fd) {
            Ok(()) => 0,
            Err(err) => {
                note(format!("owner: {err:#}"));
                1
            }
        })?;
        pid.store(owner.pid(), Ordering::Relaxed);
        owner.finish(Duration::from_secs(30))?;
        owners.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Makes epoll instances and tears them down in several ways, the last one by exiting.
fn own(fd: i32) -> Result<()> {
    for n in 0..SETS {
        sys::renumber(sys::epoll_create()?, EFD)?;
        sys::epoll_add_as(EFD, fd, SHARED)?;
        for target in TARGETS {
            sys::renumber(sys::eventfd(0)?, target)?;
            sys::epoll_add(EFD, target)?;
        }
        sys::dup2(fd, SHARED)?;
        match n % 3 {
            0 => {
                for target in TARGETS {
                    sys::close(target)?;
                }
                sys::epoll_del(EFD, SHARED)?;
                sys::close(EFD)?;
            }
            1 => {
                sys::close(EFD)?;
                for target in TARGETS {
                    sys::close(target)?;
                }
            }
            // The next instance and its targets take the place of these.
            _ => {}
        }
        sys::close(SHARED)?;
    }
    Ok(())
}

fn ask(fd: i32, other: i32, pid: &AtomicI32, until: Instant) -> Result<BTreeMap<i32, u64>> {
    let me = sys::getpid();
    let mut count = BTreeMap::new();
    let mut n = 0;
    while Instant::now() < until {
        n += 1;
        let owner = pid.load(Ordering::Relaxed);
        let target = TARGETS.start + n % TARGETS.len() as i32;
        let queries = [
            (me, fd, Slot::new(EFD, SHARED, 0)),
            (me, other, Slot::new(EFD, SHARED, 0)),
            (me, fd, Slot::new(EFD, target, 0)),
            (owner, target, Slot::new(EFD, target, 0)),
        ];
        for (kind, (pid1, fd, slot)) in queries.into_iter().enumerate() {
            let answer = sys::epoll_tfd(pid1, fd, owner, slot);
            let right = match answer {
                // While it is open, each descriptor of an owner refers to one file.
                Ok(sys::EQUAL) => kind == 0 || kind == 3,
                Ok(sys::LESS | sys::GREATER) => kind != 0,
                // The pid of an owner can be free already, or not be known yet.
                Err(Errno::SRCH | Errno::BADF | Errno::NOENT) => true,
                // EFD can be reused while there is no epoll instance.
                Err(Errno::INVAL) => true,
                _ => false,
            };
            if !right {
                bail!("query {kind}: {answer:?}");
            }
            *count.entry(sys::code(answer)).or_default() += 1;
        }
    }
    Ok(count)
}
