// SPDX-License-Identifier: GPL-2.0

//! kcmp(2) and BPF give the same answers. The tests of `targets.rs` say that they
//! are right.

mod common;

use common::{add, can, copy, file, found, method, new_set, pair, pid, receive, send, skip};
use epoll_targets::fdinfo;
use epoll_targets::resolve::{
    Descriptor, Method, Owner, Report, Resolved, Resolver, Skipped, TfdState,
};
use rustix::pipe::PipeFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
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
    // For the numbers that are used here.
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    match Resolver::new([pid()]).method(Method::Bpf).resolve() {
        Ok(_) => Some(alone),
        Err(error) if method() == Method::Bpf => panic!("{error}"),
        Err(error) => {
            skip(error);
            None
        }
    }
}

/// Numbers that nothing else gets: with BPF, this process opens descriptors while
/// it looks at its own.
fn numbered(fd: &impl AsFd, number: i32) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(fd, 2500 + number).unwrap()
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
    // Other processes of the system do not hold still.
    let of = |report: &Report| {
        let sets = report.instances.iter().filter(|set| is_ours(set.pid));
        sets.cloned().collect::<Vec<_>>()
    };
    let skipped = |report: &Report| {
        let skipped = report.skipped.iter().filter(|s| is_ours(s.pid));
        skipped.map(|s| (s.pid, s.efd)).collect::<Vec<_>>()
    };
    let (by_kcmp, by_bpf) = (of(&kcmp), of(&bpf));
    // The first difference: all there is could be much.
    for (a, b) in by_kcmp.iter().zip(&by_bpf) {
        for (a, b) in a.targets.iter().zip(&b.targets) {
            let states = |r: &Resolved| (r.target, r.tfd_state.clone(), r.stale_at.clone());
            assert_eq!(states(a), states(b));
            match (&a.owner, &b.owner) {
                // kcmp does not look for all of them.
                (Owner::Others(some), Owner::Others(named)) => {
                    let all = b.owners_total == Some(named.len());
                    let is_named = |d| named.contains(d) || !all;
                    assert!(some.iter().all(is_named), "{some:?}, {named:?}");
                    assert!(a.owners_total.is_none() || a.owners_total == b.owners_total);
                }
                (a, b) => assert_eq!(a, b),
            }
        }
        assert_eq!((a.pid, a.efd, a.id), (b.pid, b.efd, b.id));
        assert_eq!(a.targets.len(), b.targets.len());
    }
    assert_eq!(by_kcmp.len(), by_bpf.len());
    assert_eq!(skipped(&kcmp), skipped(&bpf));
    bpf
}

/// The owner of the target that has this data.
fn owner_of(report: &Report, data: u64) -> Owner {
    let mut targets = report.instances.iter().flat_map(|set| &set.targets);
    let target = targets.find(|t| t.target.data == data);
    target.unwrap().owner.clone()
}

/// Whether this is one of our threads or children.
fn is_ours(task: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{task}/status")).unwrap_or_default();
    let is = |key| status.contains(&format!("\n{key}:\t{}\n", pid()));
    is("Tgid") || is("PPid")
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
    assert!(found(&named, &set).targets.iter().any(|t| t.is_stale()));
    assert!(found(&named, &empty).targets.is_empty());
    let of_400 = |report: &Report| owner_of(report, 400);
    let owner = Owner::Others(vec![Descriptor { pid: there, fd: 1 }]);
    for all in [
        named,
        same(|| Resolver::new([own, there])),
        same(|| Resolver::new([own]).search_all_processes()),
        same(Resolver::all_processes),
    ] {
        assert_eq!(of_400(&all), owner);
    }
    // Only kcmp looks for others that have the instance: tfd may be theirs.
    let other_only = Resolver::new([there]).method(Method::Kcmp).resolve();
    assert_eq!(other_only.unwrap().instances.len(), 1);
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
            same(|| Resolver::new([tid]).search_all_processes()),
        ] {
            let set = report
                .instances
                .iter()
                .find(|s| s.pid == tid && s.efd == efd);
            let owner = &set.unwrap().targets[0].owner;
            assert_eq!(*owner, Owner::Tfd(Descriptor { pid: tid, fd }));
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
        assert_eq!(target.tfd_state, TfdState::Target);
    }
    drop(numbers);
    for target in owners(&same(|| Resolver::new([pid()]))) {
        let (pid, fd) = (pid(), files[target.target.data as usize].as_raw_fd());
        assert_eq!(target.tfd_state, TfdState::Closed);
        assert_eq!(target.owner, Owner::Others(vec![Descriptor { pid, fd }]));
    }
}

fn thread_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Descriptors are a thread's own from then on, with the numbers that they have.
fn unshare_files() {
    // SAFETY: What is closed after this stays open for all other threads, and
    // what they close stays open here.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
}

/// How two threads part that have had a table of descriptors of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Parting {
    TheFirstEnds,
    TheOtherUnshares,
}

/// Those that shared a table when they were seen first need not share it later.
#[test]
fn a_table_is_not_shared_any_more() {
    let Some(_alone) = start() else { return };
    for parting in [Parting::TheFirstEnds, Parting::TheOtherUnshares] {
        let (set, target, (sender, receiver)) = (new_set(), file(), pair());
        let number = numbered(&target, 0);
        add(&set, &number, 7);
        // Nobody's, at first: that takes a second look.
        send(&sender, &target);
        drop((number, target));

        let (tell, told) = channel();
        let (end_first, first_ended) = channel::<()>();
        let (part, parts) = channel::<()>();
        let (arrive, arrived) = channel();
        let (end, ended) = channel::<()>();
        let receiver = &receiver;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                unshare_files();
                let tid = thread_id();
                // Not as one of the scope: that would keep this one from its end.
                let number = receiver.as_raw_fd();
                std::thread::spawn(move || {
                    tell.send((tid, thread_id())).unwrap();
                    if parts.recv().is_err() {
                        return;
                    }
                    if parting == Parting::TheOtherUnshares {
                        unshare_files();
                    }
                    // SAFETY: This table has it, and nobody closes it there.
                    let receiver = unsafe { BorrowedFd::borrow_raw(number) };
                    let target = receive(receiver);
                    arrive.send(target.as_raw_fd()).unwrap();
                    let _ = ended.recv();
                });
                let _ = first_ended.recv();
            });
            let (first, other) = told.recv().unwrap();
            let mut end_first = Some(end_first);
            let mut owner = None;
            let report = Resolver::new([pid(), first, other])
                .method(Method::Bpf)
                .on_progress(|_| {
                    if owner.is_some() {
                        return;
                    }
                    if parting == Parting::TheFirstEnds {
                        drop(end_first.take());
                        while Path::new(&format!("/proc/{first}")).exists() {
                            std::thread::yield_now();
                        }
                    }
                    part.send(()).unwrap();
                    owner = arrived.recv().ok();
                })
                .resolve()
                .unwrap();
            let fd = owner.unwrap();
            let expected = Owner::Others(vec![Descriptor { pid: other, fd }]);
            assert_eq!(owner_of(&report, 7), expected, "{parting:?}");
            drop((end_first, end));
        });
    }
}

/// More processes have the set than are asked about a number in the kernel.
#[test]
fn many_have_the_set() {
    const N: usize = 18;
    let Some(_alone) = start() else { return };
    let (set, other) = (new_set(), file());
    let files = [file(), file()];
    let originals = [numbered(&files[0], 0), numbered(&files[1], 1)];
    add(&set, &originals[0], 10);
    add(&set, &originals[1], 11);
    // The other one stays open here.
    let [first, second] = files;
    drop(first);
    let numbers = [originals[0].as_raw_fd(), originals[1].as_raw_fd()];
    let other = other.as_raw_fd();
    std::thread::scope(|scope| {
        let mut ends = Vec::new();
        let mut pids = vec![pid()];
        for n in 1..=N {
            let (tell, told) = channel();
            let (end, ended) = channel::<()>();
            ends.push(end);
            scope.spawn(move || {
                unshare_files();
                // SAFETY: They are closed, or mean another file, in this table only,
                // in which nobody else uses them.
                unsafe {
                    if n < N {
                        libc::close(numbers[0]);
                        libc::close(numbers[1]);
                    } else {
                        libc::dup2(other, numbers[1]);
                    }
                }
                tell.send(thread_id()).unwrap();
                let _ = ended.recv();
            });
            pids.push(told.recv().unwrap());
        }
        drop(originals);
        let named = pids.clone();
        let report = same(move || Resolver::new(named.clone()));
        let (pid, fd) = (pids[N], numbers[0]);
        assert_eq!(owner_of(&report, 10), Owner::Tfd(Descriptor { pid, fd }));
        let link = epoll_targets::proc::link(pid, numbers[1]).unwrap();
        let mut targets = report.instances.iter().flat_map(|set| &set.targets);
        let stale = targets.find(|t| t.target.data == 11).unwrap();
        assert_eq!(stale.tfd_state, TfdState::Other(link));
    });
    drop(second);
}

/// What Yama forbids, set to what is usual, and back.
struct Scope(String);

impl Scope {
    const PATH: &str = "/proc/sys/kernel/yama/ptrace_scope";

    fn new() -> io::Result<Self> {
        let before = std::fs::read_to_string(Self::PATH)?;
        std::fs::write(Self::PATH, "1")?;
        Ok(Self(before))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::PATH, &self.0);
    }
}

/// A process that may be looked into, but not attached to: for Yama one that we did not
/// start, without `CAP_SYS_PTRACE`.
#[test]
fn without_the_right_to_attach() {
    let Some(_alone) = start() else { return };
    let Ok(_scope) = Scope::new() else {
        return skip("there is no Yama");
    };
    let (set, target, theirs) = (new_set(), file(), new_set());
    add(&set, &target, 20);
    add(&theirs, &target, 21);
    let test = || {
        let ptrace = CapabilitySet::SYS_PTRACE;
        let mut ours = rustix::thread::capabilities(None).unwrap();
        rustix::thread::remove_capability_from_bounding_set(ptrace).unwrap();
        ours.effective.remove(ptrace);
        ours.permitted.remove(ptrace);
        ours.inheritable.remove(ptrace);
        rustix::thread::set_capabilities(None, ours).unwrap();

        // What a shell leaves behind is a child of init's.
        let orphan = Command::new("sh")
            .args(["-c", "exec 3<&0; sleep 600 <&3 >/dev/null 2>&1 & echo $!"])
            .stdin(theirs)
            .output()
            .unwrap();
        let orphan: i32 = String::from_utf8(orphan.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        while epoll_targets::proc::command(orphan).unwrap() != "sleep" {
            std::thread::yield_now();
        }
        let resolve = |method| Resolver::new([pid(), orphan]).method(method).resolve();
        let reports = [Method::Bpf, Method::Auto].map(resolve);
        let orphan_held = epoll_targets::pidfd::PidFd::open(orphan).unwrap();
        orphan_held
            .send_signal(rustix::process::Signal::KILL)
            .unwrap();
        reports
    };
    // The capability is gone for that thread only.
    let [bpf, auto] = std::thread::scope(|scope| scope.spawn(test).join().unwrap());
    let auto = auto.unwrap();
    let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    assert!(denied(&bpf.unwrap_err()));

    // kcmp needs less.
    assert_eq!(auto.method, Method::Kcmp);
    // Others, which it looked at for owners, may not be compared.
    let of_ours = |skipped: &Skipped| skipped.pid == pid();
    assert!(!auto.skipped.iter().any(of_ours), "{:?}", auto.skipped);
    let fd = target.as_raw_fd();
    let owners = Owner::Others(vec![Descriptor { pid: pid(), fd }]);
    assert_eq!(owner_of(&auto, 21), owners);
    assert!(denied(&auto.no_bpf.unwrap()));
}
