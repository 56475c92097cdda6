// SPDX-License-Identifier: GPL-2.0
//! The module is loaded and unloaded while callers verify each answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;

use crate::Options;
use crate::handler;
use crate::process::own_files;
use crate::sys::{self, Slot};
use crate::tap::note;

const CALLERS: usize = 3;
/// At least this many, however long they take.
const CYCLES: u32 = 5;

pub fn run(options: &Options) -> Result<()> {
    handler::need_patched()?;
    handler::unload()?;
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let efd = sys::epoll_create()?;
    let fds = [sys::eventfd(0)?, sys::eventfd(0)?];
    let me = sys::getpid();
    let mut truth = vec![(fds[0], Slot::new(efd, fds[0], 1), Err(Errno::NOENT))];
    for &target in &fds {
        sys::epoll_add(efd, target)?;
        for &fd in &fds {
            truth.push((fd, Slot::new(efd, target, 0), Ok(own_files(fd, target)?)));
        }
    }
    truth.push((fds[0], Slot::new(fds[1], fds[0], 0), Err(Errno::INVAL)));
    truth.push((fds[0], Slot::new(-1, fds[0], 0), Err(Errno::BADF)));

    let stop = AtomicBool::new(false);
    let (cycles, asked) = thread::scope(|scope| -> Result<_> {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| -> Result<u64> {
                    let mut asked = 0;
                    while !stop.load(Ordering::Relaxed) {
                        for &(fd, slot, expect) in &truth {
                            let answer = sys::epoll_tfd(me, fd, me, slot);
                            if answer != expect {
                                bail!("{fd} and {slot:?}: {answer:?}, right is {expect:?}");
                            }
                            asked += 1;
                        }
                    }
                    Ok(asked)
                })
            })
            .collect();
        let mut cycles = 0;
        let result = loop {
            let done = cycles >= CYCLES && Instant::now() >= until;
            if done || callers.iter().any(|caller| caller.is_finished()) {
                break Ok(());
            }
            if let Err(err) = handler::load().and_then(|()| handler::unload()) {
                break Err(err);
            }
            cycles += 1;
        };
        stop.store(true, Ordering::Relaxed);
        let mut asked = 0;
        for caller in callers {
            asked += caller.join().ok().context("panic")??;
        }
        result.map(|()| (cycles, asked))
    })?;
    note(format!(
        "loaded and unloaded {cycles} times, {asked} answers were right"
    ));
    ensure!(!handler::is_loaded(), "the module is still loaded");
    Ok(())
}
