// SPDX-License-Identifier: GPL-2.0

//! What else than descriptors holds files: the BPF programs of `bpf/holders.bpf.c`.

use super::programs::File;
use super::runner::{Runner, Tag, records};
use crate::descriptor::Descriptor;
use crate::holder::Holder;
use crate::libbpf::Aligned;
use libbpf_sys::bpf_iter_link_info;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::RawFd;

static PROGRAMS: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/holders.bpf.o")));

/// What holds each file.
#[derive(Default)]
pub(super) struct Held {
    pub(super) by: HashMap<File, Vec<Holder>>,
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

/// The programs, loaded.
pub(super) struct Finder(Runner);

impl Finder {
    pub(super) fn load() -> io::Result<Self> {
        Runner::load(&PROGRAMS.0).map(Self)
    }

    /// Looks for what holds these files.
    pub(super) fn find<T>(&mut self, files: &HashMap<File, T>) -> io::Result<Held> {
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
                            let Some(holder) = current.filter(|_| files.contains_key(&file)) else {
                                continue;
                            };
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
