// SPDX-License-Identifier: GPL-2.0

//! What cannot be done without the device is said before anything is written or restored.

mod child;

use child::Stopped;
use libc::{EPOLLET, EPOLLIN, EPOLLONESHOT};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

fn check(ret: libc::c_int) -> io::Result<RawFd> {
    match ret {
        0.. => Ok(ret),
        _ => Err(io::Error::last_os_error()),
    }
}

fn add(set: RawFd, fd: RawFd, events: i32) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: events as u32,
        u64: 0,
    };
    // SAFETY: the event is there during the call, which only reads it.
    check(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
}

/// Takes the events of an epoll instance.
fn take(set: RawFd, count: i32) -> io::Result<()> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
    // SAFETY: there is room for so many events.
    let taken = check(unsafe { libc::epoll_wait(set, events.as_mut_ptr(), 8, 0) })?;
    match taken == count {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// In the child that is to be dumped: two edges, one of which was reported; a oneshot of a
/// signalfd that has fired; and a target whose file is in a message to `far` alone.
fn watch(far: RawFd) -> io::Result<()> {
    // SAFETY: these take integers.
    let (set, one, two) = unsafe {
        (
            check(libc::epoll_create1(0))?,
            check(libc::eventfd(1, 0))?,
            check(libc::eventfd(1, 0))?,
        )
    };
    // SAFETY: a signal set is integers, which may be 0. It is there during the calls.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        check(libc::sigaddset(&raw mut signals, libc::SIGUSR2))?;
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            &raw const signals,
            std::ptr::null_mut(),
        ))?;
        check(libc::signalfd(-1, &raw const signals, 0))?
    };
    add(set, one, EPOLLIN | EPOLLET)?;
    add(set, signals, EPOLLIN | EPOLLONESHOT)?;
    // SAFETY: it takes an integer. The signal is blocked.
    check(unsafe { libc::raise(libc::SIGUSR2) })?;
    take(set, 2)?;
    let mut information = [0u8; 128];
    // SAFETY: there is room for what a signalfd tells of one signal.
    let read = unsafe { libc::read(signals, information.as_mut_ptr().cast(), 128) };
    check(read as i32)?;
    // It has something to report, so that it does not show which edges were reported.
    add(set, two, EPOLLIN | EPOLLET)?;
    // SAFETY: it takes integers.
    let lost = check(unsafe { libc::eventfd(0, 0) })?;
    add(set, lost, EPOLLIN)?;
    send(far, lost)?;
    // SAFETY: nothing uses them any more.
    unsafe {
        check(libc::close(lost))?;
        check(libc::close(far))?;
    }
    Ok(())
}

/// Sends a descriptor in a message.
fn send(socket: RawFd, fd: RawFd) -> io::Result<()> {
    const SIZE: usize = size_of::<RawFd>();
    let mut byte = 0u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut space = [0u64; 8];
    // SAFETY: a message header is integers and pointers, which may be 0. What it points to
    // lives as long, and the space is enough for one descriptor and aligned for its header.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = space.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(SIZE as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(SIZE as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        libc::sendmsg(socket, &raw const message, 0)
    };
    check(sent as i32).map(drop)
}

fn epollcr(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epollcr"));
    command.args(args).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> Vec<String> {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    said.lines().map(str::to_owned).collect()
}

#[test]
fn what_takes_the_device_is_said_first() {
    // The message stays in there.
    let (_near, far) = UnixStream::pair().unwrap();
    let number = far.as_raw_fd();
    let child = Stopped::with(move || watch(number));
    drop(far);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let image = image.to_str().unwrap();
    let pid = child.id().to_string();
    let dump = ["dump", "--no-device", "-p", &pid, image];
    let output = epollcr(&dump).output().unwrap();
    if !output.status.success() && !child.may_be_dumped() {
        return;
    }
    assert!(output.status.success(), "{output:?}");
    let shown = epollcr(&["show", image]).output().unwrap();
    // With BPF, it is known.
    let guesses = String::from_utf8(shown.stdout).unwrap().contains("ready?");
    let mut expected = vec![
        "epollcr: warning: the image lacks the files of 1 target, and cannot be restored \
         without them: epollcr show tells which and why",
        "epollcr: warning: it cannot be seen whether the edges of 2 targets were reported: a \
         restore reports them (again)",
        "epollcr: warning: a restore without the kernel module epoll_cr will refuse 1 target, \
         as nothing makes a oneshot of its file fire again",
    ];
    if !guesses {
        expected.remove(1);
    }
    assert_eq!(said(&output), expected);

    // Before the image is written: also if that fails.
    let mut command = epollcr(&dump);
    child::limit_files(&mut command);
    let mut said_then = said(&command.output().unwrap());
    let error = said_then.pop().unwrap();
    assert!(error.ends_with("File too large (os error 27)"), "{error}");
    assert_eq!(said_then, expected);

    // Before anything is restored: also if that is refused, or not tried.
    drop(child);
    let mut expected = vec![];
    if guesses {
        expected.push(
            "epollcr: warning: the dump could not see whether the edges of 2 targets were \
             reported: they are reported (again)",
        );
    }
    let command = ["--", "true"];
    for restore in [&["--dry-run"][..], &command] {
        let args = [&["restore", "--no-device", image], restore].concat();
        let output = epollcr(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = said(&output);
        let (warnings, problems) = said.split_at(expected.len());
        assert_eq!(warnings, expected);
        // The child may have inherited files that cannot be restored, either.
        for part in [
            " is a oneshot that has fired, and cannot ",
            ", which has no descriptor",
        ] {
            let named = problems.iter().any(|problem| problem.contains(part));
            assert!(named, "{part}: {problems:?}");
        }
        assert!(
            problems
                .iter()
                .all(|problem| problem.starts_with("epollcr: cannot restore: "))
        );
    }
}
