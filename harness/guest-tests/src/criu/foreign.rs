// SPDX-License-Identifier: GPL-2.0
//! Files of a process that is not dumped, which the dump must not change for it.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use guest_tests::subject::{Answer, Subject, criu_with};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, accept_with, bind, connect, getsockname, listen, recv, sendmsg, socket_with,
    socketpair,
};
use rustix::time::Timespec;

use super::Build;
use crate::module::EPOLL_CR;
use crate::tap::note;

const CONNECTION: &str = "belongs to somebody who is not dumped";
const MESSAGES: &str = "has messages for somebody who is not dumped";

/// What is watched by a program that is dumped, and open only here.
struct Foreign {
    what: &'static str,
    watched: OwnedFd,
    /// The connection that it is, or that it has.
    connection: OwnedFd,
    /// How CRIU refuses it.
    refusal: &'static str,
    /// What keeps it in its state.
    _others: Vec<OwnedFd>,
}

/// CRIU refuses to take a connection from a process that goes on, or to look at its messages.
pub(super) fn foreign() -> Result<()> {
    let program = Build::Device.program()?;
    let _device = EPOLL_CR.while_loaded()?;
    let mut right = true;
    for inherited in [false, true] {
        for file in [connecting()?, connected()?, message()?] {
            let stdin = match inherited {
                false => Stdio::null(),
                true => file.watched.try_clone()?.into(),
            };
            let what = match inherited {
                false => file.what.to_owned(),
                true => format!("{}, the standard input of criu", file.what),
            };
            let answer = file.dump(&program, stdin, "--tcp-established")?;
            let mode = repair_mode(&file.connection)?;
            let (refused, answer) = match answer {
                Answer::Refused(message) => (message.contains(file.refusal), message),
                Answer::Done(_) => (false, "dumped".to_owned()),
            };
            note(format!("{what}: {answer}; its repair mode is {mode}"));
            right &= refused && mode == 0;
        }
    }

    ensure!(
        right,
        "criu should refuse all of them, and leave them as they are"
    );

    let file = connected()?;
    if let Answer::Refused(message) = file.dump(&program, Stdio::null(), "--tcp-close")? {
        bail!("criu should dump it as a closed one: {message}");
    }
    ensure!(repair_mode(&file.connection)? == 0, "it is in repair mode");

    let file = message()?;
    file.dump(&program, Stdio::null(), "--tcp-established")?;
    let mut text = [0; 2];
    let (len, _) = recv(&file.watched, &mut text, RecvFlags::DONTWAIT)?;
    ensure!(len == 1 && text[0] == b'x', "the message has {len} bytes");
    Ok(())
}

impl Foreign {
    /// Dumps a program that watches the file.
    fn dump(&self, by: &Path, stdin: Stdio, connections: &str) -> Result<Answer> {
        let program = std::env::current_exe()?.with_file_name("criu-subject");
        let subject = Subject::start(&program, "nobody", 2, Some(self.watched.try_clone()?))?;
        let pid = subject.pid().to_string();
        let options = ["-v4", "--network-lock", "skip", connections];
        let args = [&["--tree", &pid][..], &options].concat();
        criu_with(stdin, by, &subject.dir, "dump", &args)
    }
}

/// A connection that nobody answers.
fn connecting() -> Result<Foreign> {
    // There is room for one that is not accepted.
    let (listener, address) = listener(0)?;
    let mut others = vec![listener];
    for _ in 0..4 {
        let socket = tcp(SocketFlags::NONBLOCK)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error).context("cannot connect"),
        }
        let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
        let patience = Timespec {
            tv_sec: 0,
            tv_nsec: 200_000_000,
        };
        if poll(&mut fds, Some(&patience))? == 0 {
            return Ok(Foreign {
                what: "a connection that is being established",
                watched: socket.try_clone()?,
                connection: socket,
                refusal: CONNECTION,
                _others: others,
            });
        }
        others.push(socket);
    }
    bail!(
        "a listener without a backlog takes {} connections",
        others.len() - 1
    )
}

fn connected() -> Result<Foreign> {
    let (connection, other) = connection()?;
    Ok(Foreign {
        what: "a connection",
        watched: connection.try_clone()?,
        connection,
        refusal: CONNECTION,
        _others: vec![other],
    })
}

/// A unix socket with a message that has a connection in it.
fn message() -> Result<Foreign> {
    let (connection, other) = connection()?;
    let flags = SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [connection.as_fd()];
    ensure!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(
        &far,
        &[IoSlice::new(b"x")],
        &mut control,
        SendFlags::empty(),
    )?;
    // Without its peer, CRIU could dump it.
    drop(far);
    Ok(Foreign {
        what: "a unix socket with a message",
        watched: near,
        connection,
        refusal: MESSAGES,
        _others: vec![other],
    })
}

/// Both ends of a connection.
fn connection() -> Result<(OwnedFd, OwnedFd)> {
    let (listener, address) = listener(1)?;
    let near = tcp(SocketFlags::empty())?;
    connect(&near, &address)?;
    let far = accept_with(&listener, SocketFlags::CLOEXEC)?;
    Ok((near, far))
}

fn listener(backlog: i32) -> Result<(OwnedFd, SocketAddrV4)> {
    let socket = tcp(SocketFlags::empty())?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    listen(&socket, backlog)?;
    let address = getsockname(&socket)?.try_into()?;
    Ok((socket, address))
}

fn tcp(flags: SocketFlags) -> Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// What TCP_REPAIR is set to.
fn repair_mode(socket: &OwnedFd) -> Result<i32> {
    let mut mode = 0i32;
    let mut size = size_of_val(&mode) as u32;
    // SAFETY: it writes a number of that size, and the size.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw mut mode).cast(),
            &raw mut size,
        )
    };
    match ret {
        0 => Ok(mode),
        _ => Err(std::io::Error::last_os_error()).context("cannot get TCP_REPAIR"),
    }
}
