// SPDX-License-Identifier: GPL-2.0

//! The number of calls of kcmp(2). This is a file of its own, with one test: nothing
//! else may run in the process.

mod common;

use common::{add, can, copy, file, found, new_set, pair, pid};
use epoll_targets::resolve::{Method, Owner, Resolver, TfdState};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::{AsRawFd, OwnedFd};

const N: usize = 1000;

fn log2(n: usize) -> u64 {
    u64::from(n.next_power_of_two().trailing_zeros())
}

#[test]
fn a_thousand_targets() {
    if !can() {
        return;
    }
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();

    let set = new_set();
    // By numbers that nothing else gets, as the resolver opens descriptors, too.
    let far_away = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 2 * N as i32).unwrap();
    let mut files: Vec<OwnedFd> = (0..N).map(|_| far_away(file())).collect();
    for (data, file) in (0..).zip(&files) {
        add(&set, file, data);
    }

    let resolve = || {
        let resolver = Resolver::new([pid()]).method(Method::Kcmp);
        resolver.search_all_processes().resolve().unwrap()
    };
    // Each is what its number means.
    let report = resolve();
    let targets = &found(&report, &set).targets;
    assert_eq!(targets.len(), N);
    for target in targets {
        assert_eq!(target.tfd_state, TfdState::Target);
        let fd = files[target.target.data as usize].as_raw_fd();
        assert_eq!(target.target.tfd, fd);
    }
    assert_eq!(report.calls.epoll_tfd, N as u64);
    // Whether other processes have the instance, too.
    assert!(report.calls.file < N as u64);
    let threads = epoll_targets::proc::tasks(pid()).unwrap().len();
    assert!(report.calls.tables <= threads as u64);
    assert_eq!(report.tables, 1);

    // Each has another number, and each second number means another file.
    let copies: Vec<OwnedFd> = files.iter().map(copy).collect();
    let other = file();
    for (number, file) in files.iter_mut().enumerate() {
        if number % 2 == 0 {
            rustix::io::dup3(&other, file, rustix::io::DupFlags::CLOEXEC).unwrap();
        }
    }
    let mut number = 0;
    files.retain(|_| {
        number += 1;
        number % 2 == 1
    });
    let report = resolve();
    let targets = &found(&report, &set).targets;
    assert_eq!(targets.len(), N);
    for target in targets {
        let data = target.target.data as usize;
        let fd = copies[data].as_raw_fd();
        match &target.owner {
            Owner::Others(owners) => {
                assert_eq!(owners[..].iter().map(|o| o.fd).collect::<Vec<_>>(), [fd])
            }
            owner => panic!("{data}: {owner:?}"),
        }
        assert_eq!(target.is_stale(), data % 2 == 0);
    }
    let m = report.descriptors;
    assert!(m >= N + N / 2);
    // Sorted once, and each target searched for once.
    let calls = report.calls;
    assert!(calls.file > 0 && calls.file <= m as u64 * log2(m));
    assert!(calls.epoll_tfd <= N as u64 * (1 + log2(m + 1)));
    println!("{m} descriptors, {N} targets: {calls:?}");

    // A socket is known by its inode.
    drop(set);
    let set = new_set();
    let sockets: Vec<_> = (0..N / 2).map(|_| pair()).collect();
    for (data, (one, other)) in (0..).zip(&sockets) {
        add(&set, one, data);
        let moved = far_away(copy(other));
        add(&set, &moved, data);
    }
    let report = resolve();
    let targets = &found(&report, &set).targets;
    assert_eq!(targets.len(), N);
    for target in targets {
        let (one, other) = &sockets[target.target.data as usize];
        let fds = [one.as_raw_fd(), other.as_raw_fd()];
        match &target.owner {
            Owner::Tfd(owner) => assert_eq!(owner.fd, fds[0]),
            Owner::Others(owners) => assert_eq!(owners[0].fd, fds[1]),
            owner => panic!("{fds:?}: {owner:?}"),
        }
    }
    assert_eq!(report.calls.epoll_tfd, 0);
}
