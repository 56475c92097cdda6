// SPDX-License-Identifier: GPL-2.0
//! Large epoll instances: a million targets, and a hundred thousand of one number.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use guest_tests::limits::allow_descriptors;
use rustix::io::Errno;

use crate::Options;
use crate::handler::{self, Handler};
use crate::leak;
use crate::process::own_files;
use crate::sys::{self, Slot};
use crate::tap::{Case, note};

const MILLION: u32 = 1_000_000;
/// How many files the million descriptors refer to, in turn.
const FILES: i32 = 16;
const FIRST: i32 = 100;

const ONE_NUMBER: u32 = 100_000;
const TFD: i32 = 99;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("scale/million", million),
        Case::new("scale/one_number", one_number),
    ]
}

/// Raises the limit of targets, which is a share of the memory by default.
fn allow_watches() -> Result<()> {
    std::fs::write("/proc/sys/fs/epoll/max_user_watches", "4000000")
        .context("cannot raise fs.epoll.max_user_watches")
}

/// How many targets a case uses: a tenth of 10,000 or more if kmemleak is enabled, whose
/// records take more memory than a million targets. A debug kernel finds its errors with
/// fewer, too.
pub fn large(count: u32) -> u32 {
    if count >= 10_000 && Path::new(leak::KMEMLEAK).exists() {
        count / 10
    } else {
        count
    }
}

fn million(options: &Options) -> Result<()> {
    handler::need_fixed()?;
    allow_watches()?;
    let count = large(MILLION) as i32;
    allow_descriptors((FIRST + FILES + count) as u64 + 1)?;
    let mut rng = Rng::with_seed(options.seed());
    let began = Instant::now();
    let efd = sys::epoll_create()?;
    for fd in FIRST..FIRST + FILES {
        sys::renumber(sys::eventfd(0)?, fd)?;
    }
    let base = FIRST + FILES;
    // Descriptor base + n refers to file n % FILES.
    let file = |n: i32| FIRST + n % FILES;
    for n in 0..count {
        sys::dup2(file(n), base + n)?;
        sys::epoll_add(efd, base + n)?;
    }
    note(format!(
        "{count} targets added in {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    let mut order = Vec::new();
    for a in 0..FILES {
        for b in 0..FILES {
            order.push(own_files(FIRST + a, FIRST + b)?);
        }
    }

    for &handler in Handler::present() {
        let _answering = handler.answers()?;
        let began = Instant::now();
        let mut asked = 0;
        let ask = |fd, tfd, toff| ask(fd, Slot::new(efd, tfd, toff));
        let some: Vec<_> = [0, 1, count / 2, count - 1]
            .into_iter()
            .chain((0..20_000).map(|_| rng.i32(0..count)))
            .collect();
        for n in some {
            // Its own descriptor, that of its file, and that of another file.
            let other = rng.i32(0..FILES);
            let expect = order[(other * FILES + n % FILES) as usize];
            let answers = [
                (ask(base + n, base + n, 0), Ok(sys::EQUAL)),
                (ask(file(n), base + n, 0), Ok(sys::EQUAL)),
                (ask(FIRST + other, base + n, 0), Ok(expect)),
                (ask(base + n, base + n, 1), Err(Errno::NOENT)),
            ];
            for (answer, expect) in answers {
                ensure!(
                    answer == expect,
                    "{handler}: {n}: {answer:?}, right is {expect:?}"
                );
                asked += 1;
            }
        }
        for tfd in [0, FIRST, base - 1, base + count, i32::MAX, -1] {
            let answer = ask(FIRST, tfd, 0);
            ensure!(
                answer == Err(Errno::NOENT),
                "{handler}: number {tfd}: {answer:?}"
            );
            asked += 1;
        }
        let each = began.elapsed().as_secs_f64() * 1e6 / f64::from(asked);
        note(format!(
            "{handler}: {asked} answers were right, {each:.1} us each"
        ));
    }
    Ok(())
}

fn one_number(options: &Options) -> Result<()> {
    handler::need_fixed()?;
    let many = large(ONE_NUMBER) as usize;
    allow_watches()?;
    allow_descriptors(many as u64 + 200)?;
    let mut rng = Rng::with_seed(options.seed());
    let began = Instant::now();
    let efd = sys::epoll_create()?;
    let mut fds = Vec::new();
    for n in 0..many as i32 {
        let fd = sys::renumber(sys::eventfd(0)?, FIRST + n)?;
        sys::epoll_add_as(efd, fd, TFD)?;
        fds.push(fd);
    }
    note(format!(
        "{many} targets of one number added in {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    let mut toffs = BTreeSet::from([0, 1, 255, 256, 257, many / 2, many - 1]);
    while toffs.len() < 15 {
        toffs.insert(rng.usize(..many));
    }
    let slot = |toff: usize| Slot::new(efd, TFD, toff as u32);
    let slots: Vec<_> = toffs.into_iter().map(slot).collect();
    let mut owners = Vec::new();
    for &handler in Handler::present() {
        let _answering = handler.answers()?;
        let began = Instant::now();
        let mut found = BTreeMap::new();
        find_owners(&fds, &slots, &mut rng, &mut found)?;
        owners.push(found);
        for toff in [many, many + 1, 1 << 31, u32::MAX as usize] {
            let answer = ask(fds[0], slot(toff));
            ensure!(
                answer == Err(Errno::NOENT),
                "{handler}: toff {toff}: {answer:?}"
            );
        }
        note(format!(
            "{handler}: {} owners found, {:.1} s",
            slots.len(),
            began.elapsed().as_secs_f64()
        ));
    }
    ensure!(
        owners.iter().all(|found| *found == owners[0]),
        "the owners depend on the handler: {owners:?}"
    );
    let distinct: BTreeSet<_> = owners[0].values().collect();
    ensure!(
        distinct.len() == slots.len(),
        "one file is at two offsets: {:?}",
        owners[0]
    );
    Ok(())
}

fn ask(fd: i32, slot: Slot) -> rustix::io::Result<i32> {
    let me = sys::getpid();
    sys::epoll_tfd(me, fd, me, slot)
}

/// Finds the descriptors of the targets' files, by toff. A random file splits both the
/// others and the targets into those that are less and those that are greater, which are
/// searched in turn. To sort all files would take more queries than there are targets.
fn find_owners(
    fds: &[i32],
    slots: &[Slot],
    rng: &mut Rng,
    owners: &mut BTreeMap<u32, i32>,
) -> Result<()> {
    if slots.is_empty() {
        return Ok(());
    }
    ensure!(
        !fds.is_empty(),
        "{slots:?} have files that we do not have open"
    );
    let middle = fds[rng.usize(..fds.len())];
    let [mut less, mut greater] = [Vec::new(), Vec::new()];
    for &fd in fds {
        match own_files(fd, middle)? {
            sys::LESS => less.push(fd),
            sys::GREATER => greater.push(fd),
            _ => ensure!(fd == middle, "{fd} and {middle} are one file"),
        }
    }
    let [mut below, mut above] = [Vec::new(), Vec::new()];
    for &slot in slots {
        match ask(middle, slot)? {
            sys::GREATER => below.push(slot),
            sys::LESS => above.push(slot),
            _ => {
                owners.insert(slot.toff, middle);
            }
        }
    }
    find_owners(&less, &below, rng, owners)?;
    find_owners(&greater, &above, rng, owners)
}
