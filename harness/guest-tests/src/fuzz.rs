// SPDX-License-Identifier: GPL-2.0
//! Random arguments, valid and not: both handlers give the same answer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Result, ensure};
use fastrand::Rng;
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};

use crate::Options;
use crate::handler::{self, Handler};
use crate::process::{self, Child};
use crate::sys::{self, KCMP_EPOLL_TFD, KCMP_FILE, KCMP_TYPES, Slot};
use crate::tap::{Case, note};

const PAGE: usize = 4096;
/// The descriptors that are used here, and a few more.
const NUMBERS: std::ops::Range<i32> = 100..124;
/// The epoll instances. No other descriptors differ between the processes.
const SETS: [i32; 3] = [100, 101, 102];
const FILES: std::ops::Range<i32> = 103..112;
/// Files of the child only.
const CHILDS: std::ops::Range<i32> = 112..116;
/// Several files were added by this number.
const SHARED: i32 = 120;

/// One in so many calls is made without privileges.
const UNPRIVILEGED: u32 = 8;
const NOBODY: u32 = 65534;

/// Calls are made and compared in pieces, to limit the memory that they take.
const PIECE: usize = 50_000;

pub fn cases() -> Vec<Case> {
    let deadline = Duration::from_secs(3600);
    vec![Case::new("fuzz/calls", calls).deadline(deadline)]
}

/// What idx2 of KCMP_EPOLL_TFD points to.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// This byte of a page that can be read.
    Inside(usize),
    /// So many bytes of the slot can be read.
    Straddling(usize),
    At(u64),
}

#[derive(Clone, Copy, Debug)]
struct Call {
    pid1: i32,
    pid2: i32,
    kind: i32,
    idx1: u64,
    place: Place,
    slot: Slot,
}

/// A page that can be read, followed by one that cannot.
struct Pages {
    start: usize,
}

impl Pages {
    fn new() -> Result<Self> {
        let (anywhere, prot) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe { mmap_anonymous(anywhere, 2 * PAGE, prot, MapFlags::PRIVATE) }?;
        // SAFETY: within that mapping, which is nobody else's.
        unsafe { mprotect(start.byte_add(PAGE), PAGE, MprotectFlags::empty()) }?;
        Ok(Self {
            start: start.expose_provenance(),
        })
    }

    /// Writes the slot to its place, and returns the value for idx2.
    fn put(&mut self, call: &Call) -> u64 {
        let at = match call.place {
            Place::At(idx2) => return idx2,
            Place::Inside(at) => at,
            Place::Straddling(before) => PAGE - before,
        };
        let bytes = call.slot.to_bytes();
        let len = bytes.len().min(PAGE - at);
        let target = std::ptr::with_exposed_provenance_mut::<u8>(self.start + at);
        // SAFETY: it stays within the page, which is writable and has no references.
        unsafe { target.copy_from_nonoverlapping(bytes.as_ptr(), len) };
        target.addr() as u64
    }
}

/// The pids that calls name.
struct Pids {
    known: [i32; 2],
    strange: Vec<i32>,
}

fn random(rng: &mut Rng, pids: &Pids, pages: &Pages) -> Call {
    let pid = |rng: &mut Rng| match rng.u8(..32) {
        0 => pids.strange[rng.usize(..pids.strange.len())],
        n => pids.known[usize::from(n % 2)],
    };
    let number = |rng: &mut Rng| match rng.u8(..16) {
        0 => rng.i32(..),
        1 => [0, -1, i32::MAX, i32::MIN, 1 << 20][rng.usize(..5)],
        _ => rng.i32(NUMBERS),
    };
    let kind = match rng.u8(..16) {
        0 => rng.i32(..),
        1 => rng.i32(-1..=KCMP_TYPES),
        2 => KCMP_FILE,
        _ => KCMP_EPOLL_TFD,
    };
    let mut idx1 = u64::from(number(rng) as u32);
    if rng.u8(..8) == 0 {
        // The kernel ignores the upper half.
        idx1 |= u64::from(rng.u32(..)) << 32;
    }
    if rng.u8(..64) == 0 {
        idx1 = rng.u64(..);
    }
    let efd = match rng.u8(..16) {
        0..4 => number(rng),
        _ => SETS[rng.usize(..SETS.len())],
    };
    let tfd = match rng.u8(..8) {
        0 => SHARED,
        _ => number(rng),
    };
    let toff = match rng.u8(..8) {
        0 => rng.u32(..),
        1 => [u32::MAX, 1 << 31, 255, 256, 257][rng.usize(..5)],
        2..5 => rng.u32(..12),
        _ => 0,
    };
    let start = pages.start as u64;
    let page = PAGE as u64;
    let place = match rng.u8(..32) {
        0 => Place::At(0),
        1 => Place::Straddling(rng.usize(1..12)),
        2 => Place::At(start + page + rng.u64(..page)),
        3 => Place::At(rng.u64(1..page)),
        // Kernel space, non-canonical addresses, and an address that overflows.
        4 => Place::At(rng.u64(0xffff_8000_0000_0000..)),
        5 => Place::At(rng.u64(0x0000_8000_0000_0000..0xffff_8000_0000_0000)),
        6 => Place::At(u64::MAX - rng.u64(..12)),
        7 => Place::Inside(PAGE - 12),
        8 => Place::Inside(rng.usize(..PAGE - 12)),
        _ => Place::Inside(0),
    };
    // For other types, idx2 is a descriptor.
    let place = match kind {
        KCMP_EPOLL_TFD => place,
        _ => Place::At(u64::from(number(rng) as u32)),
    };
    Call {
        pid1: pid(rng),
        pid2: pid(rng),
        kind,
        idx1,
        place,
        slot: Slot::new(efd, tfd, toff),
    }
}

/// Makes epoll instances, files, and a child that has them and some of its own.
fn world() -> Result<Child> {
    sys::close_range(NUMBERS.start as u32, NUMBERS.end as u32 + 100)?;
    for efd in SETS {
        sys::renumber(sys::epoll_create()?, efd)?;
    }
    for fd in FILES {
        sys::renumber(sys::eventfd(0)?, fd)?;
        sys::epoll_add(SETS[0], fd)?;
        sys::epoll_add_as(SETS[1], fd, SHARED)?;
    }
    // A nested instance, and numbers that refer to other files by now.
    sys::epoll_add(SETS[0], SETS[1])?;
    for (fd, tfd) in FILES.zip(FILES.skip(1)) {
        sys::epoll_add_as(SETS[2], fd, tfd + 20)?;
    }

    let [read, write] = sys::pipe()?;
    let [ready, done] = sys::pipe()?;
    let child = process::fork(|| {
        let prepare = || -> rustix::io::Result<()> {
            for fd in [write, ready] {
                sys::close(fd)?;
            }
            for fd in CHILDS {
                sys::renumber(sys::eventfd(0)?, fd)?;
                sys::epoll_add(SETS[1], fd)?;
                sys::epoll_add_as(SETS[2], fd, SHARED)?;
            }
            sys::close(done)?;
            // It waits until the other end is closed.
            sys::readable(read, Duration::from_secs(3600))?;
            Ok(())
        };
        i32::from(prepare().is_err())
    })?;
    sys::close(read)?;
    sys::close(done)?;
    ensure!(
        sys::readable(ready, Duration::from_secs(20))?,
        "the child is not ready"
    );
    Ok(child)
}

/// Makes the calls, and returns the result of each.
fn make(calls: &[Call], pages: &mut Pages) -> Vec<i32> {
    calls
        .iter()
        .map(|call| {
            let idx2 = pages.put(call);
            sys::code(sys::kcmp(call.pid1, call.pid2, call.kind, call.idx1, idx2))
        })
        .collect()
}

/// The same in a process that may not inspect the others.
fn make_unprivileged(calls: &[Call], pages: &mut Pages) -> Result<Vec<i32>> {
    let (read, write) = rustix::pipe::pipe()?;
    let child = process::fork(|| {
        let mut work = || -> Result<()> {
            process::become_user(NOBODY)?;
            let answers = make(calls, pages);
            let bytes: Vec<u8> = answers.iter().flat_map(|n| n.to_ne_bytes()).collect();
            File::from(write.try_clone()?).write_all(&bytes)?;
            Ok(())
        };
        i32::from(work().is_err())
    })?;
    drop(write);
    let mut bytes = Vec::new();
    File::from(read).read_to_end(&mut bytes)?;
    child.finish(Duration::from_secs(20))?;
    let mut answers = Vec::new();
    for chunk in bytes.chunks(4) {
        answers.push(i32::from_ne_bytes(chunk.try_into()?));
    }
    ensure!(answers.len() == calls.len(), "answers are missing");
    Ok(answers)
}

/// Returns the answers of one handler. The first `others` calls are made without
/// privileges.
fn ask(handler: Handler, calls: &[Call], others: usize, pages: &mut Pages) -> Result<Vec<i32>> {
    match handler {
        Handler::C => handler::unload()?,
        Handler::Rust => handler::load()?,
    }
    let (others, own) = calls.split_at(others);
    let mut answers = make_unprivileged(others, pages)?;
    answers.extend(make(own, pages));
    Ok(answers)
}

/// Checks that the random calls led to every kind of answer.
fn check_count(count: &BTreeMap<i32, u64>) -> Result<()> {
    let errnos = [
        Errno::BADF,
        Errno::FAULT,
        Errno::INVAL,
        Errno::NOENT,
        Errno::PERM,
        Errno::SRCH,
    ];
    let errnos = errnos.map(|errno| sys::code(Err(errno)));
    for answer in [sys::EQUAL, sys::LESS, sys::GREATER]
        .into_iter()
        .chain(errnos)
    {
        ensure!(
            count.contains_key(&answer),
            "no call was answered by {}",
            sys::describe(answer)
        );
    }
    Ok(())
}

fn calls(options: &Options) -> Result<()> {
    handler::need_patched()?;
    let mut rng = Rng::with_seed(options.seed());
    let mut pages = Pages::new()?;
    let child = world()?;
    let pids = Pids {
        known: [sys::getpid(), child.pid()],
        strange: vec![
            0,
            -1,
            i32::MAX,
            i32::MIN,
            -child.pid(),
            1 << 22,
            (1 << 22) + 1,
            process::unused_pid()?,
        ],
    };

    let mut count: BTreeMap<i32, u64> = BTreeMap::new();
    let mut left = options.calls as usize;
    let mut order = Handler::BOTH;
    while left > 0 {
        let piece: Vec<_> = (0..left.min(PIECE))
            .map(|_| random(&mut rng, &pids, &pages))
            .collect();
        left -= piece.len();
        let others = piece.len() / UNPRIVILEGED as usize;
        let mut answers = [Vec::new(), Vec::new()];
        for handler in order {
            answers[handler as usize] = ask(handler, &piece, others, &mut pages)?;
        }
        // Starting with the handler that is active saves a change.
        order.reverse();

        let [c, rust] = answers;
        for ((at, call), (c, rust)) in piece.iter().enumerate().zip(c.into_iter().zip(rust)) {
            ensure!(
                c == rust,
                "{call:x?}{}: C says {}, Rust says {}",
                if at < others {
                    ", without privileges"
                } else {
                    ""
                },
                sys::describe(c),
                sys::describe(rust)
            );
            *count.entry(c).or_default() += 1;
        }
        if left > 0 && left % (4 * PIECE) == 0 {
            note(format!("{left} calls to go"));
        }
    }
    handler::unload()?;
    drop(child);

    let answers: Vec<_> = count
        .iter()
        .map(|(&answer, n)| format!("{} {n}", sys::describe(answer)))
        .collect();
    note(format!(
        "{} calls to each handler, with the same answers: {}",
        options.calls,
        answers.join(", ")
    ));
    if options.calls >= 10_000 {
        check_count(&count)?;
    }
    Ok(())
}
