// SPDX-License-Identifier: GPL-2.0

//! Targets of epoll instances of this process, in all states that they can be in.

mod common;

use common::{
    Holder, add, can, copy, everyone, file, found, new_set, pair, pid, receive, resolver, send,
};
use epoll_targets::resolve::{Descriptor, Instance, Owner, Progress, Resolved, Resolver, TfdState};
use epoll_targets::{fdinfo, proc};
use rustix::pipe::PipeFlags;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

fn here(fd: &impl AsRawFd) -> Descriptor {
    let fd = fd.as_raw_fd();
    Descriptor { pid: pid(), fd }
}

fn resolve(set: &OwnedFd) -> Instance {
    let report = resolver([pid()]).resolve().unwrap();
    found(&report, set).clone()
}

fn only(set: &Instance) -> &Resolved {
    assert_eq!(set.targets.len(), 1);
    &set.targets[0]
}

/// Makes the number of `old` mean the file of `new`.
fn replace(old: &mut OwnedFd, new: &OwnedFd) {
    rustix::io::dup3(new, old, rustix::io::DupFlags::CLOEXEC).unwrap();
}

/// A number that nobody else here gets, as the lowest free ones are used.
fn far_away(fd: &OwnedFd) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(fd, 700 + fd.as_raw_fd()).unwrap()
}

/// Held by each test: what others open and close is not to get in the way, and
/// between fork and exec a process has whatever this one has.
static ALONE: Mutex<()> = Mutex::new(());

fn start() -> Option<MutexGuard<'static, ()>> {
    can().then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn pipe() -> OwnedFd {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap().0
}

#[test]
fn same_number() {
    let Some(_alone) = start() else { return };
    let (set, target) = (new_set(), file());
    add(&set, &target, 0xfedc_ba98_7654_3210);
    let set = resolve(&set);
    let target = here(&target);
    assert_eq!(only(&set).owner, Owner::Tfd(target));
    assert_eq!(only(&set).tfd_state, TfdState::Target);
    assert_eq!(only(&set).target.tfd, target.fd);
    assert_eq!(only(&set).target.data, 0xfedc_ba98_7654_3210);
    assert!(!only(&set).is_orphaned() && !only(&set).is_stale() && !only(&set).changed);
}

#[test]
fn closed_number() {
    let Some(_alone) = start() else { return };
    let (set, owner) = (new_set(), file());
    let number = far_away(&owner);
    add(&set, &number, 1);
    drop(number);
    let set = resolve(&set);
    assert_eq!(only(&set).owner, Owner::Others(vec![here(&owner)]));
    assert_eq!(only(&set).tfd_state, TfdState::Closed);
}

#[test]
fn reused_number() {
    let Some(_alone) = start() else { return };
    let (set, owner, other) = (new_set(), file(), pair().0);
    let mut number = far_away(&owner);
    add(&set, &number, 1);
    replace(&mut number, &other);
    let found = resolve(&set);
    assert_eq!(only(&found).owner, Owner::Others(vec![here(&owner)]));
    let link = proc::link(pid(), other.as_raw_fd()).unwrap();
    assert_eq!(only(&found).tfd_state, TfdState::Other(link));
    assert!(only(&found).is_stale());

    // With another copy there are two owners.
    let second = copy(&owner);
    let mut owners = [here(&owner), here(&second)];
    owners.sort();
    assert_eq!(only(&resolve(&set)).owner, Owner::Others(owners.into()));
}

#[test]
fn three_under_one_number() {
    let Some(_alone) = start() else { return };
    let set = new_set();
    let files = [file(), file(), file()];
    let mut number = far_away(&files[0]);
    for (data, file) in files.iter().enumerate() {
        replace(&mut number, file);
        add(&set, &number, data as u64);
    }
    let set = resolve(&set);
    assert_eq!(set.targets.len(), 3);
    let number = here(&number);
    for (toff, target) in set.targets.iter().enumerate() {
        assert_eq!(target.target.tfd, number.fd);
        assert_eq!(target.target.toff, toff as u32);
        match target.target.data {
            2 => {
                assert_eq!(target.owner, Owner::Tfd(number));
                assert_eq!(target.tfd_state, TfdState::Target);
            }
            data => {
                let owner = here(&files[data as usize]);
                assert_eq!(target.owner, Owner::Others(vec![owner]));
                assert!(target.is_stale());
            }
        }
    }
}

#[test]
fn one_on_its_way_in_a_message_is_nobodys() {
    let Some(_alone) = start() else { return };
    // An eventfd is found by search, a pipe by its inode.
    for target in [file(), pipe()] {
        let (set, (sender, receiver)) = (new_set(), pair());
        let number = far_away(&target);
        add(&set, &number, 1);
        send(&sender, &target);
        drop((target, number));

        let found = resolve(&set);
        assert_eq!(only(&found).owner, Owner::Orphaned);
        assert_eq!(only(&found).tfd_state, TfdState::Closed);
        assert!(only(&found).is_orphaned());
        let everyone = resolver([pid()]).search_all_processes().resolve().unwrap();
        assert!(only(common::found(&everyone, &set)).is_orphaned());

        let arrived = receive(&receiver);
        let expected = Owner::Others(vec![here(&arrived)]);
        assert_eq!(only(&resolve(&set)).owner, expected);
    }
}

#[test]
fn another_process_has_it() {
    let Some(_alone) = start() else { return };
    for target in [file(), pipe()] {
        let set = new_set();
        let number = far_away(&target);
        add(&set, &number, 1);
        drop(number);
        let process = Holder::new(target);
        let holder = process.descriptor();
        let set_of = |resolver: Resolver<'_>| {
            let report = resolver.resolve().unwrap();
            only(found(&report, &set)).owner.clone()
        };
        let expected = Owner::Others(vec![holder]);
        // Not to be named does not make it nobody's.
        assert_eq!(set_of(resolver([pid()])), expected);
        assert_eq!(set_of(resolver([pid(), holder.pid])), expected);
        assert_eq!(set_of(resolver([pid()]).search_all_processes()), expected);
        assert_eq!(set_of(everyone()), expected);
    }
}

#[test]
fn an_inherited_set_is_one_set() {
    let Some(_alone) = start() else { return };
    let (set, target) = (new_set(), file());
    add(&set, &target, 1);
    let holder = Holder::new(copy(&set));
    let there = holder.descriptor();
    let again = copy(&set);

    let report = resolver([there.pid, pid()]).resolve().unwrap();
    let sets = report.instances.iter();
    let mine: Vec<_> = sets
        .filter(|s| s.also.contains(&there) || s.efd == set.as_raw_fd())
        .collect();
    assert_eq!(mine.len(), 1);
    let first = Descriptor {
        pid: mine[0].pid,
        fd: mine[0].efd,
    };
    let mut all = mine[0].also.clone();
    all.push(first);
    all.sort();
    let mut expected = [there, here(&set), here(&again)];
    expected.sort();
    assert_eq!(all, expected);
    assert_eq!(only(mine[0]).owner, Owner::Tfd(here(&target)));
}

#[test]
fn a_set_in_a_set() {
    let Some(_alone) = start() else { return };
    let (outer, inner, target) = (new_set(), new_set(), file());
    add(&inner, &target, 1);
    add(&outer, &inner, 2);
    let report = resolver([pid()]).resolve().unwrap();
    let owner = |set| only(found(&report, set)).owner.clone();
    assert_eq!(owner(&outer), Owner::Tfd(here(&inner)));
    assert_eq!(owner(&inner), Owner::Tfd(here(&target)));

    let number = far_away(&inner);
    add(&outer, &number, 3);
    drop(number);
    let set = resolve(&outer);
    let closed = set.targets.iter().find(|t| t.target.data == 3).unwrap();
    assert_eq!(closed.owner, Owner::Others(vec![here(&inner)]));
}

#[test]
fn threads_share_one_table() {
    let Some(_alone) = start() else { return };
    let (set, target) = (new_set(), file());
    add(&set, &target, 1);
    let thread = || rustix::thread::gettid().as_raw_nonzero().get();
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            tell.send(thread()).unwrap();
            let _ = ended.recv();
        });
        let tid = told.recv().unwrap();
        let report = resolver([pid(), tid]).resolve().unwrap();
        drop(end);
        assert_eq!(report.tables, 1);
        assert_eq!(only(found(&report, &set)).tfd_state, TfdState::Target);
    });
}

#[test]
fn an_empty_set() {
    let Some(_alone) = start() else { return };
    let set = new_set();
    assert_eq!(resolve(&set).targets, []);
    assert!(proc::epoll_fds(pid()).unwrap().contains(&set.as_raw_fd()));
}

#[test]
fn what_is_no_process_is_skipped() {
    let Some(_alone) = start() else { return };
    let report = resolver([i32::MAX]).resolve().unwrap();
    assert!(report.instances.is_empty());
    assert_eq!(report.skipped.len(), 1);
    assert_eq!(report.skipped[0].pid, i32::MAX);
    let kind = report.skipped[0].error.kind();
    assert_eq!(kind, std::io::ErrorKind::NotFound);
}

#[test]
fn events_as_they_were_asked_for() {
    use rustix::event::epoll::{self, EventData, EventFlags};
    let Some(_alone) = start() else { return };
    let (set, target) = (new_set(), pair().0);
    let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET | EventFlags::ONESHOT;
    epoll::add(&set, &target, EventData::new_u64(1), flags).unwrap();
    let read = || {
        let mut targets = fdinfo::read(pid(), set.as_raw_fd()).unwrap();
        targets.next().unwrap().unwrap().events
    };
    assert_eq!(read().to_string(), "IN|ERR|HUP|RDHUP|ONESHOT|ET");
    // The other end is closed already.
    let mut events = Vec::with_capacity(1);
    epoll::wait(&set, rustix::buffer::spare_capacity(&mut events), None).unwrap();
    assert!(read().is_disarmed());
    assert_eq!(read().to_string(), "ONESHOT|ET");
}

#[test]
fn told_how_far_it_is() {
    let Some(_alone) = start() else { return };
    let (set, target) = (new_set(), file());
    add(&set, &target, 1);
    let mut last = None;
    let resolver = resolver([pid()]).on_progress(|progress| last = Some(progress));
    resolver.resolve().unwrap();
    match last {
        Some(Progress::Targets { done, total }) => assert!(done == total && total > 0),
        other => panic!("{other:?}"),
    }
}

/// Ends the other thread, however the test ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Descriptors come and go in the middle of it all.
#[test]
fn a_process_that_does_not_hold_still() {
    let Some(_alone) = start() else { return };
    let (set, owned, reused, nobodys) = (new_set(), file(), file(), file());
    let (sender, receiver) = pair();
    for (data, file) in [(1, &owned), (2, &reused), (3, &nobodys)] {
        add(&set, far_away(file), data);
    }
    send(&sender, &nobodys);
    drop(nobodys);
    let owners = [here(&owned), here(&reused)];

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _at_the_end = Stop(&stop);
        scope.spawn(|| {
            // Files that sort anywhere, under numbers that mean one, then another;
            // targets that come and go.
            let set = copy(&set);
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut files: Vec<_> = (0..20).map(|_| file()).collect();
                let (first, rest) = files.split_at_mut(10);
                for (old, new) in first.iter_mut().zip(rest) {
                    add(&set, &*old, 100 + round % 2);
                    replace(old, new);
                }
                round += 1;
            }
        });
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            let set = resolve(&set);
            let owner = |data| {
                let mut targets = set.targets.iter();
                let target = targets.find(|t| t.target.data == data).unwrap();
                assert!(!target.changed);
                target.owner.clone()
            };
            for (data, expected) in (1..).zip(owners) {
                assert_eq!(owner(data), Owner::Others(vec![expected]));
            }
            // One of those that move could be it, unless BPF sees in an instant that only the
            // message has the file.
            let of_third = owner(3);
            let is_right = matches!(of_third, Owner::Unknown | Owner::Orphaned);
            assert!(is_right, "{of_third:?}");
        }
    });
    drop(receiver);
}
