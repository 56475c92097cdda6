// SPDX-License-Identifier: GPL-2.0
//! Random programs.

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Eventfd,
    Pipe,
    Socketpair,
    Timerfd,
    Signalfd,
    Epoll,
}

/// A step of a program. The small numbers select from what exists when it is run.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Makes a file, or two that are connected, at chosen descriptors.
    Create {
        process: u8,
        kind: Kind,
        at: [u8; 2],
    },
    Dup {
        process: u8,
        fd: u8,
    },
    Dup2 {
        process: u8,
        fd: u8,
        to: u8,
    },
    Close {
        process: u8,
        fd: u8,
    },
    Fork {
        process: u8,
    },
    /// Passes a descriptor over a unix socket.
    Pass {
        process: u8,
        fd: u8,
        to: u8,
        at: u8,
    },
    /// Sends a descriptor over it, and leaves the message there.
    Post {
        process: u8,
        fd: u8,
    },
    Exit {
        process: u8,
    },
    Ctl {
        process: u8,
        efd: u8,
        fd: u8,
        op: u8,
        events: u8,
    },
    /// Duplicates a descriptor to one of a few numbers, and adds it by that number.
    AddAs {
        process: u8,
        efd: u8,
        fd: u8,
        to: u8,
    },
}

/// Programs all of whose files have descriptors.
pub fn program() -> impl Strategy<Value = Vec<Step>> {
    program_with_mail().prop_map(|mut steps| {
        steps.retain(|step| !matches!(step, Step::Post { .. }));
        steps
    })
}

pub fn program_with_mail() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![
        3 => Just(Kind::Eventfd),
        1 => Just(Kind::Pipe),
        1 => Just(Kind::Socketpair),
        1 => Just(Kind::Timerfd),
        1 => Just(Kind::Signalfd),
        4 => Just(Kind::Epoll),
    ];
    let n = any::<u8>;
    let step = prop_oneof![
        8 => (n(), kind, any::<[u8; 2]>())
            .prop_map(|(process, kind, at)| Step::Create { process, kind, at }),
        3 => (n(), n()).prop_map(|(process, fd)| Step::Dup { process, fd }),
        2 => (n(), n(), n()).prop_map(|(process, fd, to)| Step::Dup2 { process, fd, to }),
        2 => (n(), n()).prop_map(|(process, fd)| Step::Close { process, fd }),
        1 => n().prop_map(|process| Step::Fork { process }),
        2 => (n(), n(), n(), n())
            .prop_map(|(process, fd, to, at)| Step::Pass { process, fd, to, at }),
        1 => (n(), n()).prop_map(|(process, fd)| Step::Post { process, fd }),
        1 => n().prop_map(|process| Step::Exit { process }),
        10 => (n(), n(), n(), n())
            .prop_map(|(process, efd, fd, to)| Step::AddAs { process, efd, fd, to }),
        14 => (n(), n(), n(), n(), n())
            .prop_map(|(process, efd, fd, op, events)| Step::Ctl { process, efd, fd, op, events }),
    ];
    prop::collection::vec(step, 1..=48)
}

/// Makes programs at random, always the same for a seed.
pub fn runner(seed: u64) -> TestRunner {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let seed = seed.to_ne_bytes().repeat(4);
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
}
