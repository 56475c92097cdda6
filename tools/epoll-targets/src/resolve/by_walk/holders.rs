// SPDX-License-Identifier: GPL-2.0

//! What else than descriptors holds files: the BPF programs of `bpf/holders.bpf.c`.

use super::programs::File;
use super::runner::{Runner, Tag, records};
use crate::descriptor::Descriptor;
use crate::holder::Holder;
use crate::libbpf::Aligned;
use libbpf_sys::bpf_iter_link_info;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::collections::{HashMap, HashSet};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, RawFd};
use std::time::{Duration, Instant};

static PROGRAMS: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/holders.bpf.o")));

/// What holds each file.
#[derive(Default)]
pub(super) struct Held {
    pub(super) by: HashMap<File, Vec<Holder>>,
    /// Files that had no other reference: no descriptor had them at that moment.
    pub(super) alone: HashSet<File>,
    /// Whether that is all.
    pub(super) is_complete: bool,
}

/// What a record says, and the process that its descriptor or address is of.
fn holder(head: u64, rest: &[u64]) -> Option<Holder> {
    let (pid, other) = ((rest[0] >> 32) as i32, rest[0] as i32);
    let fd = head as RawFd;
    let descriptor = Descriptor { pid, fd };
    // `enum kind`
    Some(match head >> 32 {
        0 => Holder::Message {
            socket: descriptor,
            sender: (other > 0).then_some(other),
        },
        1 => Holder::Ring(descriptor),
        2 => Holder::Mapping {
            pid,
            address: rest[1],
        },
        _ => return None,
    })
}

/// How long this machine takes at least to receive a file in a message, and to send it again.
fn handover() -> io::Result<Duration> {
    const TIMES: usize = 64;
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let file = eventfd(0, EventfdFlags::CLOEXEC)?;
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg(
            &ours,
            &[IoSlice::new(b"x")],
            &mut control,
            SendFlags::empty(),
        )
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut best = Duration::MAX;
    send()?;
    for _ in 0..TIMES {
        let begin = Instant::now();
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0];
        let mut text = [IoSliceMut::new(&mut text)];
        recvmsg(&theirs, &mut text, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        send()?;
        best = best.min(begin.elapsed());
    }
    Ok(best)
}

/// The programs, loaded.
pub(super) struct Finder(Runner);

impl Finder {
    pub(super) fn load() -> io::Result<Self> {
        let mut runner = Runner::load(&PROGRAMS.0)?;
        // Others may be faster, but not by so much.
        runner.control.instant = handover()?.as_nanos() as u64 / 4;
        Ok(Self(runner))
    }

    /// Looks for what holds these files.
    pub(super) fn find(&mut self, files: &HashSet<File>) -> io::Result<Held> {
        let runner = &mut self.0;
        let mut held = Held {
            is_complete: true,
            ..Held::default()
        };
        let mut known = HashSet::new();
        for program in ["list_holders", "list_mappings"] {
            let mut current = None;
            runner.run(program, bpf_iter_link_info::default(), |words| {
                for (tag, head, rest) in records(words) {
                    match tag {
                        Tag::Holder => current = holder(head, rest),
                        Tag::Held => {
                            let file = File::new(rest[0]);
                            let Some(holder) = current.filter(|_| files.contains(&file)) else {
                                continue;
                            };
                            if head != 0 {
                                held.alone.insert(file);
                            }
                            if known.insert((file, holder)) {
                                held.by.entry(file).or_default().push(holder);
                            }
                        }
                        _ => {}
                    }
                }
            })?;
            held.is_complete &= runner.control.cut == 0;
        }
        Ok(held)
    }
}
