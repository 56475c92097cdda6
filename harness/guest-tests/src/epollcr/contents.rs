// SPDX-License-Identifier: GPL-2.0
//! Files that are restored with their contents.

mod sockets;

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::signal;
use libepollcr::restore::{Parking, Restore};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{CWD, Mode, OFlags, fcntl_getfl, mkfifoat};
use rustix::io::{Errno, FdFlags, dup, fcntl_getfd, read, write};
use rustix::net::{SendFlags, SocketType, send};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::process::{Signal, getpgrp};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_gettime, timerfd_settime,
};

use super::{again, both, dump, dump_without, module, numbers, take};
use crate::sys;
use crate::tap::Case;
use sockets::{empty_messages, pair, passed, sockets};

pub fn cases() -> Vec<Case> {
    [
        both("files", files),
        both("pipes", pipes),
        both("fifo", fifo),
        both("fifo-alone", fifo_alone),
        both("unlinked", unlinked),
        both("locks", locks),
        both("signals", signals),
        both("empty-messages", empty_messages),
        both("counters", counters),
        both("sockets", sockets),
        both("passed", passed),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn bytes(fd: impl AsFd) -> Result<Vec<u8>> {
    let mut buffer = [0; 4096];
    let len = read(fd, &mut buffer)?;
    Ok(buffer[..len].to_vec())
}

/// Open files, some shared by several descriptors, with their positions.
fn files() -> Result<()> {
    let device = module()?;
    let device = device.as_ref();
    let path = std::env::temp_dir().join(format!("epollcr-file-{}", std::process::id()));
    fs::write(&path, "0123456789")?;
    let file: OwnedFd = OpenOptions::new()
        .read(true)
        .append(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)?
        .into();
    read(&file, &mut [0; 4])?;
    let shared = dup(&file)?;
    let other: OwnedFd = File::open(&path)?.into();
    let directory: OwnedFd = File::open("/proc")?.into();
    let null: OwnedFd = File::open("/dev/null")?.into();
    let only = rustix::fs::open("/etc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = fcntl_getfl(&file)?;

    let had = numbers([&file, &shared, &other, &directory, &null, &only]);
    let mut restored = again(device, vec![file, shared, other, directory, null, only])?;
    let [file, shared, other, directory, null, only] = take(&mut restored, had)?;
    ensure!(
        restored.descriptors.is_empty(),
        "more was restored: {restored:?}"
    );

    ensure!(bytes(&file)? == b"456789", "not at its position");
    ensure!(bytes(&shared)?.is_empty(), "the position is not shared");
    ensure!(bytes(&other)? == b"0123456789", "the position is shared");
    ensure!(fcntl_getfl(&file)? == flags, "other flags");
    ensure!(
        !fcntl_getfd(&shared)?.contains(FdFlags::CLOEXEC),
        "dup is close-on-exec"
    );
    ensure!(
        fcntl_getfd(&file)?.contains(FdFlags::CLOEXEC),
        "not close-on-exec"
    );
    write(&file, b"x")?;
    ensure!(fs::read(&path)? == b"0123456789x", "it does not append");
    ensure!(rustix::fs::fstat(&directory)?.st_mode & libc::S_IFMT == libc::S_IFDIR);
    ensure!(bytes(&null)?.is_empty(), "not /dev/null");
    ensure!(
        read(&only, &mut [0; 1]) == Err(Errno::BADF),
        "it was not opened with O_PATH"
    );
    fs::remove_file(&path)?;
    Ok(())
}

fn pipes() -> Result<()> {
    let device = module()?;
    let device = device.as_ref();
    let (full, filler) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&filler, 1 << 18)?;
    write(&filler, b"one ")?;
    write(&filler, b"two")?;
    let (packets, sender) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT)?;
    write(&sender, b"first")?;
    write(&sender, b"second")?;
    let (alone, single) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT)?;
    write(&single, b"just one")?;
    // Its last writer is closed, and it is opened a second time.
    let (ended, last) = pipe_with(PipeFlags::CLOEXEC)?;
    write(&last, b"the end")?;
    drop(last);
    let again_open: OwnedFd = File::open(format!("/proc/self/fd/{}", ended.as_raw_fd()))?.into();

    let had = numbers([
        &full,
        &filler,
        &packets,
        &sender,
        &ended,
        &again_open,
        &alone,
        &single,
    ]);
    let all = vec![
        full, filler, packets, sender, ended, again_open, alone, single,
    ];
    let mut restored = again(device, all)?;
    let [
        full,
        filler,
        packets,
        sender,
        ended,
        again_open,
        alone,
        single,
    ] = take(&mut restored, had)?;

    ensure!(
        fcntl_getpipe_size(&full)? == 1 << 18,
        "the capacity differs"
    );
    ensure!(bytes(&full)? == b"one two", "the contents differ");
    write(&filler, b"more")?;
    ensure!(
        bytes(&full)? == b"more",
        "the ends are not those of one pipe"
    );
    ensure!(
        bytes(&packets)? == b"first" && bytes(&packets)? == b"second",
        "the packets differ"
    );
    write(&sender, b"a")?;
    write(&sender, b"b")?;
    ensure!(bytes(&packets)? == b"a", "it is not in packet mode");
    // What does not fit into the reader's buffer is lost.
    let mut buffer = [0; 4];
    ensure!(read(&alone, &mut buffer)? == 4 && &buffer == b"just");
    write(&single, b"next")?;
    ensure!(bytes(&alone)? == b"next", "it was not a packet");
    ensure!(bytes(&again_open)? == b"the end", "another pipe");
    ensure!(bytes(&ended)?.is_empty(), "it still has a writer");
    Ok(())
}

fn fifo() -> Result<()> {
    let device = module()?;
    let device = device.as_ref();
    let path = std::env::temp_dir().join(format!("epollcr-fifo-{}", std::process::id()));
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
    let reader: OwnedFd = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)?
        .into();
    let writer: OwnedFd = OpenOptions::new().write(true).open(&path)?.into();
    write(&writer, b"through it")?;

    let had = numbers([&reader, &writer]);
    let mut restored = again(device, vec![reader, writer])?;
    let [reader, writer] = take(&mut restored, had)?;
    ensure!(bytes(&reader)? == b"through it", "the contents differ");
    write(&writer, b"more")?;
    ensure!(
        bytes(&reader)? == b"more",
        "the ends are not those of one FIFO"
    );
    drop(writer);
    ensure!(bytes(&reader)?.is_empty(), "it still has a writer");
    fs::remove_file(&path)?;
    Ok(())
}

/// One end of a FIFO is in the image; the other one is closed, or another process's.
fn fifo_alone() -> Result<()> {
    let device = module()?;
    let device = device.as_ref();
    let path = std::env::temp_dir().join(format!("epollcr-alone-{}", std::process::id()));
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
    let open_reader = || -> Result<OwnedFd> {
        let mut open = OpenOptions::new();
        let open = open.read(true).custom_flags(libc::O_NONBLOCK);
        Ok(open.open(&path)?.into())
    };
    let reader = open_reader()?;
    let writer: OwnedFd = OpenOptions::new().write(true).open(&path)?.into();
    write(&writer, b"once")?;

    // Its data is not written twice.
    let image = dump_without(device, &[&reader])?;
    let number = writer.as_raw_fd() as u32;
    drop(writer);
    let restored = Restore::new(&image).run(device)?;
    ensure!(bytes(&reader)? == b"once", "the contents differ");
    ensure!(
        read(&reader, &mut [0; 8]) == Err(Errno::AGAIN),
        "there is more in it, or it has no writer"
    );
    write(&restored.descriptors[&number], b"more")?;
    ensure!(bytes(&reader)? == b"more", "another FIFO");
    drop((restored, reader));
    // It can be restored without a reader, too.
    drop(Restore::new(&image).run(device)?);

    // Looking for problems does not open the FIFO: a process that waits for a reader
    // keeps waiting.
    let reader = open_reader()?;
    let image = dump(device)?;
    drop(reader);
    let opened = crate::process::shared::<1>()?;
    let child = crate::process::fork(|| {
        let writer = OpenOptions::new().write(true).open(&path);
        opened[0].store(1, std::sync::atomic::Ordering::SeqCst);
        i32::from(writer.is_err())
    })?;
    let dir = format!("/proc/{}", child.pid());
    let waits = || crate::process::system_call(&dir) == Some(libc::SYS_openat);
    crate::process::wait_until("a child to open a FIFO", waits)?;
    ensure!(Restore::new(&image).problems(device).is_empty());
    std::thread::sleep(Duration::from_millis(50));
    ensure!(
        opened[0].load(std::sync::atomic::Ordering::SeqCst) == 0,
        "it was opened"
    );
    drop(Restore::new(&image).run(device)?);
    child.finish(Duration::from_secs(20))?;
    fs::remove_file(&path)?;
    Ok(())
}

/// A file that never had a name can be given, and does not prevent the dump of others.
fn unlinked() -> Result<()> {
    let device = module()?;
    let device = device.as_ref();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let nameless = rustix::fs::open(std::env::temp_dir(), flags, mode)?;
    let counter = eventfd(5, EventfdFlags::CLOEXEC)?;
    let [nameless_number, counter_number] = numbers([&nameless, &counter]);
    let image = dump(device)?;
    drop((nameless, counter));

    let problems = Restore::new(&image).problems(device);
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    ensure!(
        problems.len() == 1
            && problems[0].starts_with(&format!("descriptor {nameless_number}, "))
            && problems[0].ends_with(": it was opened with O_TMPFILE"),
        "{problems:?}"
    );
    let found = image
        .descriptors
        .iter()
        .find(|d| d.number as i32 == nameless_number);
    let file = found.context("it is not in the image")?.file;
    let mut restore = Restore::new(&image);
    let null: OwnedFd = File::open("/dev/null")?.into();
    restore.give(file, Parking::new(&image).park(null)?);
    let mut restored = restore.run(device)?;
    let [_null, counter] = take(&mut restored, [nameless_number, counter_number])?;
    ensure!(
        bytes(&counter)? == 5u64.to_ne_bytes(),
        "the counter differs"
    );
    Ok(())
}

/// Locks are reported, also those on directories.
fn locks() -> Result<()> {
    let device = module()?;
    let device = device.as_ref();
    let path = std::env::temp_dir().join(format!("epollcr-locks-{}", std::process::id()));
    fs::write(&path, "text")?;
    let open = || -> Result<OwnedFd> {
        let mut open = OpenOptions::new();
        Ok(open.read(true).write(true).open(&path)?.into())
    };
    let (whole, part, none) = (open()?, open()?, open()?);
    let directory: OwnedFd = File::open(std::env::temp_dir())?.into();
    let flock = |fd: &OwnedFd, how| rustix::fs::flock(fd, how);
    flock(&whole, rustix::fs::FlockOperation::LockShared)?;
    flock(&directory, rustix::fs::FlockOperation::LockExclusive)?;
    let range = libc::flock {
        l_type: libc::F_RDLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the call only reads its argument, which outlives it.
    let ret = unsafe { libc::fcntl(part.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) };
    ensure!(ret == 0, "F_OFD_SETLK");

    let image = dump(device)?;
    let had = numbers([&whole, &part, &directory]);
    let free = numbers([&none])[0] as u32;
    drop((whole, part, directory, none));
    let problems = Restore::new(&image).problems(device);
    for number in had {
        ensure!(
            problems.iter().any(|problem| {
                problem.numbers == [number as u32]
                    && problem.why == "there is a lock on it, which would be lost"
            }),
            "the lock of {number} is not reported: {problems:?}"
        );
    }
    ensure!(
        problems.iter().all(|problem| problem.numbers != [free]) && problems.len() == 3,
        "there are other problems: {problems:?}"
    );
    fs::remove_file(&path)?;
    Ok(())
}

/// The receiver of a file's signals, and the signal.
fn signals() -> Result<()> {
    const F_GETSIG: i32 = 11;

    let device = module()?;
    let device = device.as_ref();
    let (near, far) = pair(SocketType::STREAM)?;
    let (other, others) = pair(SocketType::STREAM)?;
    let set = |fd: &OwnedFd, command, value: i32| {
        // SAFETY: these take numbers.
        let ret = unsafe { libc::fcntl(fd.as_raw_fd(), command, value) };
        ensure!(ret == 0, "fcntl {command}");
        Ok(())
    };
    signal::block(Signal::USR1)?;
    set(&near, libc::F_SETOWN, sys::getpid())?;
    set(&near, F_GETSIG - 1, libc::SIGUSR1)?;
    let flags = fcntl_getfl(&near)?.bits() as i32 | libc::O_ASYNC;
    set(&near, libc::F_SETFL, flags)?;
    set(&other, libc::F_SETOWN, -getpgrp().as_raw_pid())?;

    let image = dump(device)?;
    let problems = Restore::new(&image).problems(device);
    let group = format!("its signals go to process group {}", getpgrp());
    ensure!(
        problems
            .iter()
            .filter(|problem| problem.why == group)
            .count()
            == 1,
        "{problems:?}"
    );
    drop((other, others));
    let had = numbers([&near, &far]);
    let mut restored = again(device, vec![near, far])?;
    let [near, far] = take(&mut restored, had)?;
    let get = |command| {
        // SAFETY: these return numbers.
        unsafe { libc::fcntl(near.as_raw_fd(), command) }
    };
    ensure!(get(libc::F_GETOWN) == sys::getpid(), "another owner");
    ensure!(get(F_GETSIG) == libc::SIGUSR1, "another signal");
    let pending = || -> Result<bool> {
        let status = fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        let pending = u64::from_str_radix(line.context("ShdPnd")?.trim(), 16)?;
        Ok((pending >> (libc::SIGUSR1 - 1)) & 1 != 0)
    };
    ensure!(!pending()?, "the signal was sent before there was data");
    send(&far, b"x", SendFlags::empty())?;
    ensure!(pending()?, "the signal was not sent");
    Ok(())
}

/// Checks a timer that was set to 5000 s a while ago, and returns what is left.
fn nearly_5000_left(timer: &OwnedFd) -> Result<Itimerspec> {
    let left = timerfd_gettime(timer)?;
    ensure!(
        (4000..=5000).contains(&left.it_value.tv_sec),
        "it expires in {left:?}"
    );
    Ok(left)
}

fn counters() -> Result<()> {
    let device = module()?;
    let device = device.as_ref();
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let counter = eventfd(0, flags)?;
    write(&counter, &(1u64 << 40).to_ne_bytes())?;
    let semaphore = eventfd(2, flags | EventfdFlags::SEMAPHORE)?;
    let monotonic = || timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC);
    let far = Timespec {
        tv_sec: 5000,
        tv_nsec: 0,
    };
    let soon = Timespec {
        tv_sec: 0,
        tv_nsec: 1,
    };
    let set = |timer: &OwnedFd, it_value, it_interval| {
        let new = Itimerspec {
            it_interval,
            it_value,
        };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &new).map(drop)
    };
    let (waits, expired, off) = (monotonic()?, monotonic()?, monotonic()?);
    set(&waits, far, far)?;
    set(&expired, soon, far)?;
    std::thread::sleep(Duration::from_millis(5));
    signal::block(Signal::USR2)?;
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    let signals = signal::signalfd(&[Signal::USR2], flags)?;

    let had = numbers([&counter, &semaphore, &waits, &expired, &off, &signals]);
    let all = vec![counter, semaphore, waits, expired, off, signals];
    let mut restored = again(device, all)?;
    let [counter, semaphore, waits, expired, off, signals] = take(&mut restored, had)?;

    let number = |fd: &OwnedFd| -> Result<u64> {
        let bytes = bytes(fd)?;
        Ok(u64::from_ne_bytes(bytes[..].try_into()?))
    };
    ensure!(number(&counter)? == 1 << 40, "the value differs");
    ensure!(
        number(&semaphore)? == 1 && number(&semaphore)? == 1,
        "it is not a semaphore"
    );
    ensure!(
        read(&semaphore, &mut [0; 8]) == Err(Errno::AGAIN),
        "the value differs"
    );
    let left = nearly_5000_left(&waits)?;
    ensure!(left.it_interval.tv_sec == 5000, "it repeats after {left:?}");
    ensure!(number(&expired)? == 1, "it did not expire exactly once");
    nearly_5000_left(&expired)?;
    let left = timerfd_gettime(&off)?;
    ensure!(
        left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0,
        "it is armed"
    );
    signal::raise(Signal::USR2)?;
    let info = bytes(&signals)?;
    ensure!(
        info.first() == Some(&(libc::SIGUSR2 as u8)),
        "another signal"
    );
    ensure!(
        read(&signals, &mut [0; 128]) == Err(Errno::AGAIN),
        "it does not report EAGAIN"
    );
    Ok(())
}
