// SPDX-License-Identifier: GPL-2.0

//! kcmp(2) and BPF give the same answers. The tests of `targets.rs` say that they
//! are right.

mod common;

use common::{add, can, copy, file, found, method, new_set, pid};
use epoll_targets::fdinfo;
use epoll_targets::resolve::{Descriptor, Method, Number, Owner, Report, Resolver};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::PipeFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::HashSet;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by each test, for the sets of the others not to be seen.
static ALONE: Mutex<()> = Mutex::new(());

/// Has both ways been built in, and does the kernel have both? Where BPF is what
/// the tests are to be run with, it is no excuse that it does not work.
fn start() -> Option<MutexGuard<'static, ()>> {
    if !can() {
        return None;
    }
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match Resolver::new([pid()]).method(Method::Bpf).resolve() {
        Ok(_) => Some(alone),
        Err(error) if method() == Method::Bpf => panic!("{error}"),
        Err(error) => {
            // Past the capture of the test's output.
            let mut stderr = io::stderr();
            writeln!(stderr, "SKIPPED: {error}").unwrap();
            None
        }
    }
}

/// Numbers that nothing else gets: with BPF, this process opens descriptors while
/// it looks at its own.
fn numbered(fd: &impl AsFd, number: i32) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(fd, 2500 + number).unwrap()
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap()
}

/// A process that has these as descriptors 0 and 1.
struct Holder(Child);

impl Holder {
    fn new(first: &OwnedFd, second: &OwnedFd) -> Self {
        let mut command = Command::new("sleep");
        command.arg("600").stderr(Stdio::null());
        let holder = Self(
            command
                .stdin(copy(first))
                .stdout(copy(second))
                .spawn()
                .unwrap(),
        );
        while epoll_targets::proc::command(holder.pid()).unwrap() != "sleep" {
            std::thread::yield_now();
        }
        holder
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Resolves both ways; what BPF said.
fn same(resolver: impl Fn() -> Resolver<'static>) -> Report {
    let kcmp = resolver().method(Method::Kcmp).resolve().unwrap();
    let bpf = resolver().method(Method::Bpf).resolve().unwrap();
    assert_eq!((kcmp.method, bpf.method), (Method::Kcmp, Method::Bpf));
    // Of all sets of the system, those that hold still.
    let ours: HashSet<i32> = kcmp
        .sets
        .iter()
        .flat_map(|set| set.also.iter().map(|d| d.pid).chain([set.pid]))
        .filter(|&other| other == pid() || !is_of_test(other))
        .collect();
    let of = |report: &Report| {
        let sets = report.sets.iter().filter(|set| ours.contains(&set.pid));
        sets.cloned().collect::<Vec<_>>()
    };
    let (by_kcmp, by_bpf) = (of(&kcmp), of(&bpf));
    // The first difference: all there is could be much.
    for (a, b) in by_kcmp.iter().zip(&by_bpf) {
        for (a, b) in a.targets.iter().zip(&b.targets) {
            assert_eq!(a, b);
        }
        assert_eq!(a.targets.len(), b.targets.len());
    }
    assert!(by_kcmp == by_bpf);
    assert_eq!(kcmp.skipped.len(), bpf.skipped.len());
    bpf
}

/// Whether this is another test that runs beside this one.
fn is_of_test(pid: i32) -> bool {
    let exe = |pid: i32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    exe(pid).is_some_and(|exe| exe.to_string_lossy().contains("/deps/"))
}

/// A set for each state that a target can be in, and sets in sets.
#[test]
fn targets_in_all_states() {
    let Some(_alone) = start() else { return };
    let (set, other, outer) = (new_set(), new_set(), new_set());
    let mut keep = Vec::new();
    let mut number = 0;
    let mut next = |fd: &OwnedFd| {
        number += 1;
        numbered(fd, number)
    };
    // What its number means, of all kinds.
    let (reader, writer) = pipe();
    let (left, right) = pair();
    for (data, fd) in [&reader, &writer, &left, &right, &file()]
        .into_iter()
        .enumerate()
    {
        let fd = next(fd);
        add(&set, &fd, data as u64);
        add(&other, &fd, data as u64);
        keep.push(fd);
    }
    // Closed: with one owner, and with more; with none; of all kinds.
    for copies in 0..4 {
        for (data, fd) in [pipe().0, pair().0, file()].iter().enumerate() {
            let fd_number = next(fd);
            add(&set, &fd_number, 100 + data as u64);
            drop(fd_number);
            keep.extend((0..copies).map(|_| next(fd)));
        }
    }
    // Several under one number, which means the last of them.
    let files: Vec<OwnedFd> = (0..5).map(|_| file()).collect();
    let mut number_of_many = next(&files[0]);
    for file in &files {
        rustix::io::dup3(file, &mut number_of_many, rustix::io::DupFlags::CLOEXEC).unwrap();
        add(&set, &number_of_many, 200);
    }
    add(&outer, &set, 300);
    add(&outer, next(&other), 301);
    let empty = new_set();
    let again = copy(&set);
    // Another process has the first of them, and a file that is nobody's here.
    let elsewhere = file();
    let closed = next(&elsewhere);
    add(&set, &closed, 400);
    drop(closed);
    let holder = Holder::new(&set, &elsewhere);
    drop(elsewhere);

    let (own, there) = (pid(), holder.pid());
    let named = same(|| Resolver::new([own]));
    assert!(found(&named, &set).targets.iter().any(|t| t.is_zombie()));
    assert!(found(&named, &set).targets.iter().any(|t| t.is_stale()));
    assert!(found(&named, &empty).targets.is_empty());
    let of_400 = |report: &Report| {
        let sets = report.sets.iter().flat_map(|set| &set.targets);
        let mut targets = sets.filter(|t| t.target.data == 400);
        targets.next().unwrap().owner.clone()
    };
    assert_eq!(of_400(&named), Owner::NoOne);
    let owner = Owner::Others(vec![Descriptor { pid: there, fd: 1 }]);
    for all in [
        same(|| Resolver::new([own, there])),
        same(|| Resolver::new([own]).search_everyone()),
        same(|| Resolver::new([there]).search_everyone()),
        same(Resolver::everyone),
    ] {
        assert_eq!(of_400(&all), owner);
    }
    let other_only = same(|| Resolver::new([there]));
    assert_eq!(other_only.sets.len(), 1);
    drop((again, keep, files));
}

/// Threads with tables of their own can be named.
#[test]
fn a_thread_with_its_own_table() {
    let Some(_alone) = start() else { return };
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            // SAFETY: What is closed here stays open for all other threads, and
            // this one does nothing with descriptors of theirs.
            unsafe { libc::unshare(libc::CLONE_FILES) };
            let (set, target) = (new_set(), file());
            let target = numbered(&target, 0);
            add(&set, &target, 7);
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            tell.send((tid, set.as_raw_fd(), target.as_raw_fd()))
                .unwrap();
            let _ = ended.recv();
        });
        let (tid, efd, fd) = told.recv().unwrap();
        for report in [
            same(|| Resolver::new([tid])),
            same(|| Resolver::new([tid]).search_everyone()),
        ] {
            let set = report.sets.iter().find(|s| s.pid == tid && s.efd == efd);
            let owner = &set.unwrap().targets[0].owner;
            assert_eq!(*owner, Owner::SameNumber(Descriptor { pid: tid, fd }));
        }
        drop(end);
    });
}

/// The id is what fdinfo shows, and no two sets have the same.
#[test]
fn ids() {
    let Some(_alone) = start() else { return };
    let (set, other) = (new_set(), new_set());
    add(&set, file(), 1);
    let report = same(|| Resolver::new([pid()]));
    let id = |set: &OwnedFd| {
        let mut targets = fdinfo::read(pid(), set.as_raw_fd()).unwrap();
        assert!(targets.by_ref().all(|target| target.is_ok()));
        let id = targets.id();
        assert_eq!(found(&report, set).id, id);
        id.unwrap()
    };
    assert_ne!(id(&set), id(&other));
}

/// A thousand of them need no more calls than one.
#[test]
fn a_thousand_targets() {
    const N: usize = 1000;
    let Some(_alone) = start() else { return };
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    let set = new_set();
    let files: Vec<OwnedFd> = (0..N).map(|_| file()).collect();
    let numbers: Vec<OwnedFd> = (0..).zip(&files).map(|(n, fd)| numbered(fd, n)).collect();
    for (data, number) in (0..).zip(&numbers) {
        add(&set, number, data);
    }
    let owners = |report: &Report| {
        let targets = &found(report, &set).targets;
        assert_eq!(targets.len(), N);
        let calls = report.calls;
        assert_eq!((calls.file, calls.epoll_tfd), (0, 0));
        targets.clone()
    };
    for target in owners(&same(|| Resolver::new([pid()]))) {
        assert_eq!(target.number, Number::Target);
    }
    drop(numbers);
    for target in owners(&same(|| Resolver::new([pid()]))) {
        let (pid, fd) = (pid(), files[target.target.data as usize].as_raw_fd());
        assert_eq!(target.number, Number::Closed);
        assert_eq!(target.owner, Owner::Others(vec![Descriptor { pid, fd }]));
    }
}
