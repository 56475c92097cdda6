// SPDX-License-Identifier: GPL-2.0

//! Situations that people reported, with each method that works here.

mod common;

use common::{Holder, add, copy, file, methods, new_set, pair, pid, receive, send, skip};
use epoll_targets::proc::{self, Stat, State};
use epoll_targets::ready::Poller;
use epoll_targets::resolve::{Descriptor, Method, Owner, Report, Resolved, Resolver, TfdState};
use rustix::event::epoll;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// The lowest number that nobody else here gets.
fn far_away(fd: &OwnedFd, number: RawFd) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(fd, 600 + number).unwrap()
}

fn resolve(method: Method, pids: &[i32]) -> Report {
    let resolver = Resolver::new(pids.to_vec()).method(method);
    resolver.search_all_processes().resolve().unwrap()
}

/// The target that has this data.
fn target(report: &Report, data: u64) -> &Resolved {
    let mut targets = report.instances.iter().flat_map(|i| &i.targets);
    targets.find(|t| t.target.data == data).unwrap()
}

fn unshare_files() -> i32 {
    // SAFETY: What is closed after this stays open for all other threads, and what they
    // close stays open here.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// A thread with descriptors of its own, which does something and waits.
fn with_thread<T: Send, R>(first: impl FnOnce() -> T + Send, then: impl FnOnce(&T) -> R) -> R {
    std::thread::scope(|scope| {
        let (tell, told) = channel();
        let (end, ended) = channel::<()>();
        scope.spawn(move || {
            tell.send(first()).unwrap();
            let _ = ended.recv();
        });
        let result = then(&told.recv().unwrap());
        drop(end);
        result
    })
}

/// The descriptor was closed, and another process keeps the file.
#[test]
fn closed_here_and_open_in_a_child() {
    let (_alone, methods) = methods();
    for method in methods {
        for target_file in [file(), pair().0] {
            let set = new_set();
            let number = far_away(&target_file, 0);
            add(&set, &number, 1);
            let holder = Holder::new(copy(&target_file));
            drop((number, target_file));
            for report in [
                resolve(method, &[pid()]),
                Resolver::new([pid()]).method(method).resolve().unwrap(),
                Resolver::all_processes().method(method).resolve().unwrap(),
            ] {
                let target = target(&report, 1);
                assert_eq!(
                    target.owner,
                    Owner::Others(vec![holder.descriptor()]),
                    "{method:?}"
                );
                assert_eq!(target.tfd_state, TfdState::Closed);
                assert!(target.is_stuck() && !target.is_orphaned() && !target.is_stale());
            }
            drop(set);
        }
    }
}

#[test]
fn all_holders_are_counted() {
    let (_alone, methods) = methods();
    for method in methods {
        for target_file in [file(), pair().0] {
            let set = new_set();
            let number = far_away(&target_file, 0);
            add(&set, &number, 1);
            let holders: Vec<_> = (0..10).map(|_| Holder::new(copy(&target_file))).collect();
            drop((number, target_file));
            let report = resolve(method, &[pid()]);
            let target = target(&report, 1);
            assert_eq!(target.owners_total, Some(10), "{method:?}");
            let Owner::Others(named) = &target.owner else {
                panic!("{method:?}: {:?}", target.owner)
            };
            assert_eq!(named.len(), 8);
            assert!(
                named
                    .iter()
                    .all(|d| holders.iter().any(|h| h.descriptor() == *d))
            );
        }
    }
}

/// Who has opened a socket with `O_PATH` has its inode, and another file.
#[test]
fn a_socket_that_is_open_by_its_path_only() {
    use rustix::fs::{Mode, OFlags, open};

    let (_alone, methods) = methods();
    for method in methods {
        let set = new_set();
        let (watched, _peer) = pair();
        let (moved, at_tfd) = (far_away(&watched, 0), far_away(&watched, 1));
        add(&set, &moved, 1);
        add(&set, &at_tfd, 2);
        let by_path = |fd: &OwnedFd| {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let (other, again) = (by_path(&watched), by_path(&watched));
        let mut at_tfd = at_tfd;
        rustix::io::dup3(&again, &mut at_tfd, rustix::io::DupFlags::CLOEXEC).unwrap();
        let (sender, _receiver) = pair();
        send(&sender, &watched);
        drop((moved, watched, again));
        let report = resolve(method, &[pid()]);
        for data in [1, 2] {
            let target = target(&report, data);
            assert!(
                matches!(target.owner, Owner::Orphaned | Owner::Unknown),
                "{method:?}: {:?}",
                target.owner
            );
        }
        let tfd_state = &target(&report, 2).tfd_state;
        assert!(
            matches!(tfd_state, TfdState::Other(_)),
            "{method:?}: {tfd_state:?}"
        );
        drop((other, at_tfd));
    }
}

/// Two tables have the instance, and each adds a file of its own by one number.
#[test]
fn each_adds_the_same_number() {
    let (_alone, methods) = methods();
    for method in methods {
        let (set, ours, theirs) = (new_set(), file(), file());
        let number = far_away(&ours, 0);
        let fd = number.as_raw_fd();
        add(&set, &number, 1);
        let there = || {
            let tid = unshare_files();
            // SAFETY: It is open here, and nobody else uses this table.
            assert_eq!(unsafe { libc::dup2(theirs.as_raw_fd(), fd) }, fd);
            // SAFETY: As above.
            let number = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
            add(&set, number, 2);
            tid
        };
        with_thread(there, |&tid| {
            for pids in [vec![pid()], vec![tid], vec![pid(), tid]] {
                let report = resolve(method, &pids);
                let places = [(1, pid(), tid), (2, tid, pid())];
                for (data, at, other) in places {
                    let target = target(&report, data);
                    let pid = at;
                    assert_eq!(
                        target.owner,
                        Owner::Tfd(Descriptor { pid, fd }),
                        "{method:?}"
                    );
                    assert_eq!(target.tfd_state, TfdState::Target);
                    let pid = other;
                    assert_eq!(target.stale_at, [Descriptor { pid, fd }]);
                    assert!(target.is_stale() && !target.is_stuck());
                }
                let efd = set.as_raw_fd();
                let set = report.instances.iter().find(|i| i.efd == efd).unwrap();
                let mut pids: Vec<i32> = set.also.iter().map(|d| d.pid).collect();
                pids.push(set.pid);
                pids.sort_unstable();
                let mut both = [pid(), tid];
                both.sort_unstable();
                assert_eq!(pids, both);
            }
        });
    }
}

/// A thread has a file that its process has closed, and an instance.
#[test]
fn a_thread_has_its_own_descriptors() {
    let (_alone, methods) = methods();
    for method in methods {
        let (set, target_file) = (new_set(), file());
        let number = far_away(&target_file, 0);
        let fd = number.as_raw_fd();
        drop(target_file);
        add(&set, &number, 1);
        let inherited = set.as_raw_fd();
        let there = || {
            let tid = unshare_files();
            // SAFETY: It is closed in this table only, in which nobody else uses it.
            assert_eq!(unsafe { libc::close(inherited) }, 0);
            let (set, file) = (new_set(), file());
            add(&set, &file, 2);
            let own = (set.as_raw_fd(), file.as_raw_fd());
            std::mem::forget((set, file));
            (tid, own)
        };
        with_thread(there, |&(tid, (efd, own))| {
            drop(number);
            let report = resolve(method, &[pid()]);
            let owner = Owner::Others(vec![Descriptor { pid: tid, fd }]);
            assert_eq!(target(&report, 1).owner, owner, "{method:?}");
            let pid = tid;
            let owner = Owner::Tfd(Descriptor { pid, fd: own });
            assert_eq!(target(&report, 2).owner, owner, "{method:?}");
            let mut sets = report.instances.iter();
            assert!(sets.any(|set| (set.pid, set.efd) == (tid, efd)));
        });
    }
}

/// A child.
struct Child(libc::pid_t);

impl Child {
    /// One that shares the table of this process.
    fn of_this_table() -> Self {
        // SAFETY: As in `headless()`; the child runs nothing but this.
        unsafe {
            let flags = libc::CLONE_FILES | libc::SIGCHLD;
            let pid = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
            if pid == 0 {
                loop {
                    libc::pause();
                }
            }
            Self(pid as libc::pid_t)
        }
    }

    /// One whose first thread has ended, and others go on: one, or `two` with tables of
    /// their own, of which the other one closes `without`.
    fn headless(two: bool, without: RawFd) -> Self {
        // SAFETY: The child runs no code of other threads, whose locks it may have: what
        // it calls after this takes only those that fork() takes care of.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            std::thread::spawn(|| std::thread::sleep(Duration::from_secs(600)));
            if two {
                let (tell, told) = channel();
                std::thread::spawn(move || {
                    unshare_files();
                    // SAFETY: It is closed in this table only, in which nobody uses it.
                    unsafe { libc::close(without) };
                    tell.send(()).unwrap();
                    std::thread::sleep(Duration::from_secs(600));
                });
                told.recv().unwrap();
            }
            // SAFETY: It ends this thread alone, and never returns.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        let headless = Self(pid);
        while Stat::of(pid).unwrap().state != State::Zombie {
            std::thread::yield_now();
        }
        headless
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: It is our child, which nobody else waits for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

#[test]
fn the_first_thread_has_ended() {
    let (_alone, methods) = methods();
    for method in methods {
        let (set, target_file) = (new_set(), file());
        add(&set, &target_file, 1);
        let headless = Child::headless(false, -1);
        let fd = target_file.as_raw_fd();
        // Only that one has them now.
        drop((set, target_file));
        let report = resolve(method, &[headless.0]);
        let pid = headless.0;
        let owner = Owner::Tfd(Descriptor { pid, fd });
        assert_eq!(target(&report, 1).owner, owner, "{method:?}");
        assert!(report.skipped.is_empty());
        assert!(proc::link(pid, fd).is_ok());
    }
}

/// There is no table of the process then, only those of threads.
#[test]
fn the_first_thread_has_ended_and_the_others_differ() {
    let (_alone, methods) = methods();
    for method in methods {
        let (set, target_file) = (new_set(), file());
        add(&set, &target_file, 1);
        let (efd, fd) = (set.as_raw_fd(), target_file.as_raw_fd());
        let headless = Child::headless(true, efd);
        drop((set, target_file));
        let tids = proc::tasks(headless.0).unwrap();
        let mut holders = tids.into_iter();
        let pid = holders.find(|&tid| tid != headless.0 && proc::link(tid, efd).is_ok());
        let pid = pid.unwrap();
        for report in [resolve(method, &[headless.0]), {
            let all = Resolver::all_processes().method(method);
            all.resolve().unwrap()
        }] {
            let owner = Owner::Tfd(Descriptor { pid, fd });
            assert_eq!(target(&report, 1).owner, owner, "{method:?}");
            let mut sets = report.instances.iter();
            assert!(sets.any(|set| (set.pid, set.efd) == (pid, efd)));
        }
    }
}

/// Each process that has a table has its descriptors.
#[test]
fn processes_that_share_a_table() {
    let (_alone, methods) = methods();
    for method in methods {
        let (set, kept) = (new_set(), file());
        let number = far_away(&kept, 0);
        add(&set, &number, 1);
        drop(number);
        let child = Child::of_this_table();
        for report in [resolve(method, &[pid()]), {
            let all = Resolver::all_processes().method(method);
            all.resolve().unwrap()
        }] {
            let (efd, fd) = (set.as_raw_fd(), kept.as_raw_fd());
            let here = |pid| Descriptor { pid, fd };
            let there = |d: &Descriptor| d.fd == efd && [pid(), child.0].contains(&d.pid);
            let of_both = report.instances.iter().find(|i| {
                let first = Descriptor {
                    pid: i.pid,
                    fd: i.efd,
                };
                there(&first)
            });
            let also = &of_both.unwrap().also;
            assert_eq!(also.iter().filter(|d| there(d)).count(), 1, "{method:?}");
            let target = target(&report, 1);
            let Owner::Others(owners) = &target.owner else {
                panic!("{method:?}: {target:?}");
            };
            assert!(owners.contains(&here(pid())) && owners.contains(&here(child.0)));
            match method {
                Method::Walk => assert_eq!(target.owners_total, Some(2)),
                _ => assert!(target.owners_total.is_none_or(|total| total == 2)),
            }
        }
    }
}

#[test]
fn a_process_that_has_ended_is_not_silently_nothing() {
    let (_alone, methods) = methods();
    for method in methods {
        let mut child = Command::new("true").spawn().unwrap();
        let ended = child.id() as i32;
        while Stat::of(ended).unwrap().state != State::Zombie {
            std::thread::yield_now();
        }
        let report = resolve(method, &[ended]);
        child.wait().unwrap();
        assert_eq!(report.skipped.len(), 1, "{method:?}");
        assert!(!report.is_complete());
    }
}

#[test]
fn a_process_that_ends_meanwhile_is_not_silently_nothing() {
    let (_alone, methods) = methods();
    for method in methods {
        for delay in 0..20 {
            let (set, target_file) = (new_set(), file());
            add(&set, &target_file, 1);
            let mut command = Command::new("sleep");
            let mut child = command.arg("60").stdin(set).spawn().unwrap();
            // It has the last descriptor of the instance.
            drop(command);
            let pid = child.id() as i32;
            let end = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(delay * 10));
                child.kill().unwrap();
                child.wait().unwrap();
            });
            let report = resolve(method, &[pid]);
            end.join().unwrap();
            let said = report.instances.len() + report.skipped.len();
            assert!(said > 0, "{method:?}, {delay}");
        }
    }
}

/// Ends the other thread, however the test ends.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Files are always open, under ever other numbers.
#[test]
fn what_moves_is_not_orphaned() {
    let (_alone, methods) = methods();
    for method in methods {
        let (set, orphan) = (new_set(), pair().0);
        let mut files: Vec<OwnedFd> = (0..20).map(|_| file()).collect();
        for file in &files {
            add(&set, file, 1);
        }
        add(&set, &orphan, 2);
        let (sender, _receiver) = pair();
        send(&sender, &orphan);
        drop(orphan);
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _at_the_end = End(&end);
            scope.spawn(|| {
                let mut n = 0;
                while !end.load(Ordering::Relaxed) {
                    n += 1;
                    let file = &mut files[n * 7 % 20];
                    *file = far_away(file, (n * 37 % 300) as RawFd);
                }
            });
            let begin = Instant::now();
            let mut looks = 0;
            while looks < 3 || begin.elapsed() < Duration::from_secs(2) && looks < 40 {
                looks += 1;
                let report = resolve(method, &[pid()]);
                let set = common::found(&report, &set);
                for target in &set.targets {
                    // The other one is of another kind, and nothing of that moves.
                    let is = target.is_orphaned();
                    assert!(!is || target.target.data == 2, "{method:?}: {target:?}");
                }
            }
        });
    }
}

/// Has files, and gives them to another process, or gets them first, for ever.
fn hand_over(socket: &OwnedFd, mut files: Vec<OwnedFd>, count: usize) -> ! {
    loop {
        // Each is open here until it is there.
        while let Some(file) = files.pop() {
            send(socket, &file);
            rustix::io::read(socket, &mut [0]).unwrap();
        }
        while files.len() < count {
            files.push(receive(socket));
            rustix::io::write(socket, b"x").unwrap();
        }
    }
}

/// Two processes give files to each other all the time.
#[test]
fn what_is_handed_over_is_not_orphaned() {
    const FILES: usize = 20;
    let (_alone, methods) = methods();
    for method in methods {
        let set = new_set();
        let files: Vec<OwnedFd> = (0..FILES).map(|_| file()).collect();
        for file in &files {
            add(&set, file, 1);
        }
        // Both have both, so that none sees that the other one has ended.
        let sockets = pair();
        let with = |socket: &OwnedFd, files: Vec<OwnedFd>| {
            // SAFETY: As in `headless()`; the child runs nothing but this.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: It takes integers.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                hand_over(socket, files, FILES);
            }
            Child(pid)
        };
        // The first one begins, as it has them. Here they are closed then.
        let first = with(&sockets.0, files);
        let second = with(&sockets.1, Vec::with_capacity(FILES));
        let begin = Instant::now();
        let mut looks = 0;
        while looks < 3 || begin.elapsed() < Duration::from_secs(2) && looks < 40 {
            looks += 1;
            let report = resolve(method, &[pid()]);
            let set = common::found(&report, &set);
            assert_eq!(set.targets.len(), FILES, "{method:?}");
            for target in &set.targets {
                assert!(!target.is_orphaned(), "{method:?}: {target:?}");
            }
        }
        drop((first, second));
    }
}

/// What stays is right, or unknown, while other targets come and go at full speed.
#[test]
fn instances_that_change() {
    let (_alone, methods) = methods();
    for method in methods.into_iter().filter(|m| *m != Method::Kcmp) {
        let (set, own, moved) = (new_set(), file(), file());
        add(&set, &own, 1);
        let number = far_away(&moved, 0);
        add(&set, &number, 2);
        drop(number);
        let orphan = file();
        add(&set, &orphan, 3);
        let (sender, receiver) = pair();
        send(&sender, &orphan);
        drop(orphan);
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _at_the_end = End(&end);
            for _ in 0..2 {
                scope.spawn(|| {
                    while !end.load(Ordering::Relaxed) {
                        let files: Vec<OwnedFd> = (0..50).map(|_| file()).collect();
                        for file in &files {
                            add(&set, file, 9);
                        }
                        for file in files.iter().step_by(2) {
                            epoll::delete(&set, file).unwrap();
                        }
                        drop(new_set());
                    }
                });
            }
            let begin = Instant::now();
            // On a busy machine it can take a while until a look is not disturbed.
            let mut right = [0; 3];
            while begin.elapsed() < Duration::from_secs(2)
                || right.contains(&0) && begin.elapsed() < Duration::from_secs(60)
            {
                let report = resolve(method, &[pid()]);
                let pid = pid();
                let place = |fd: &OwnedFd| Descriptor {
                    pid,
                    fd: fd.as_raw_fd(),
                };
                let owners = [
                    Owner::Tfd(place(&own)),
                    Owner::Others(vec![place(&moved)]),
                    Owner::Orphaned,
                ];
                for (data, owner) in (1..).zip(owners) {
                    let found = target(&report, data);
                    if found.owner == Owner::Unknown {
                        continue;
                    }
                    assert_eq!(found.owner, owner);
                    right[data as usize - 1] += 1;
                }
            }
            assert!(!right.contains(&0), "{right:?}");
        });
        drop(receive(&receiver));
    }
}

/// A file can have the name that descriptors of epoll instances are shown with.
#[test]
fn a_file_with_the_name_of_an_instance() {
    let (_alone, methods) = methods();
    let folder = std::env::temp_dir().join(format!("epoll-targets-{}", pid()));
    fs::create_dir(&folder).unwrap();
    let path = folder.join("[eventpoll]");
    let named = fs::File::create(&path).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    for method in methods {
        let set = new_set();
        let report = resolve(method, &[pid()]);
        let efds: Vec<RawFd> = report.instances.iter().map(|i| i.efd).collect();
        assert_eq!(efds, [set.as_raw_fd()], "{method:?}");
        assert!(report.is_complete());
    }
    drop(named);
}

#[test]
fn an_instance_that_is_closed_is_no_failure() {
    let (_alone, methods) = methods();
    for method in methods {
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _at_the_end = End(&end);
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    let (set, file) = (new_set(), file());
                    add(&set, &file, 1);
                    drop(set);
                    // Another one by its number.
                    let set = new_set();
                    add(&set, &file, 2);
                }
            });
            for _ in 0..20 {
                let report = resolve(method, &[pid()]);
                assert!(report.skipped.iter().all(|s| s.has_ended()), "{method:?}");
            }
        });
    }
}

#[test]
fn an_instance_that_moves_is_not_taken_for_closed() {
    let (_alone, methods) = methods();
    for method in methods {
        let end = AtomicBool::new(false);
        let (mut set, file) = (new_set(), file());
        add(&set, &file, 1);
        std::thread::scope(|scope| {
            let _at_the_end = End(&end);
            scope.spawn(|| {
                for number in (600..900).cycle() {
                    if end.load(Ordering::Relaxed) {
                        break;
                    }
                    set = rustix::io::fcntl_dupfd_cloexec(&set, number).unwrap();
                }
            });
            for _ in 0..20 {
                let report = resolve(method, &[pid()]);
                let is_silent = report.instances.is_empty() && !report.skipped.is_empty();
                assert!(!(is_silent && report.is_complete()), "{method:?}");
            }
        });
    }
}

/// Memory whose page does not come until this is dropped: see userfaultfd(2).
struct Page {
    faults: Option<OwnedFd>,
    address: usize,
}

impl Page {
    const SIZE: usize = 4096;
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
    const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;

    fn new() -> io::Result<Self> {
        let mut api: [u64; 3] = [0xaa, 0, 0];
        // SAFETY: The system calls take integers, and structures that live until they
        // return. The memory is new, and nobody else knows of it.
        unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let faults = OwnedFd::from_raw_fd(fd as RawFd);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            let memory = libc::mmap(std::ptr::null_mut(), Self::SIZE, rights, flags, -1, 0);
            assert_ne!(memory, libc::MAP_FAILED);
            let address = memory.expose_provenance();
            let mut register: [u64; 4] = [address as u64, Self::SIZE as u64, 1, 0];
            if libc::ioctl(faults.as_raw_fd(), Self::UFFDIO_API, &raw mut api) != 0
                || libc::ioctl(faults.as_raw_fd(), Self::UFFDIO_REGISTER, &raw mut register) != 0
            {
                return Err(io::Error::last_os_error());
            }
            let faults = Some(faults);
            Ok(Self { faults, address })
        }
    }
}

/// epoll_wait(2) keeps the mutex while it writes to memory.
#[test]
fn a_mutex_that_is_held() {
    let (_alone, methods) = methods();
    let mut page = match Page::new() {
        Ok(page) => page,
        Err(error) => {
            return skip(format_args!("userfaultfd(2): {error}"));
        }
    };
    let (set, ready, other) = (new_set(), file(), new_set());
    rustix::io::write(&ready, &1u64.to_ne_bytes()).unwrap();
    add(&set, &ready, 1);
    add(&other, &ready, 2);
    std::thread::scope(|scope| {
        let (efd, address) = (set.as_raw_fd(), page.address);
        scope.spawn(move || {
            let events = std::ptr::with_exposed_provenance_mut(address);
            // SAFETY: One event fits into the page, which nobody else uses.
            unsafe { libc::epoll_wait(efd, events, 1, -1) };
        });
        std::thread::sleep(Duration::from_millis(200));
        let reports: Vec<Report> = methods.iter().map(|&m| resolve(m, &[pid()])).collect();
        // Whether its target is ready cannot be asked, and nobody waits for that.
        let mut asked = reports.iter().flat_map(|report| &report.instances);
        let asked = asked.find(|instance| instance.efd == efd).map(|held| {
            let own = |fd| Descriptor { pid: pid(), fd };
            let target = &held.targets[0].target;
            Poller::default().ready(own(efd), own(ready.as_raw_fd()), target)
        });
        // Nobody waits for it any more.
        page.faults = None;
        if let Some(asked) = asked {
            assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        for (method, report) in methods.iter().zip(reports) {
            let fd = ready.as_raw_fd();
            let owner = Owner::Tfd(Descriptor { pid: pid(), fd });
            assert_eq!(target(&report, 2).owner, owner);
            assert!(!report.is_complete());
            if *method != Method::Kcmp {
                let held = report.instances.iter().find(|i| i.efd == efd).unwrap();
                assert!(held.unconfirmed.is_some());
                assert_eq!(held.targets[0].owner, owner);
            } else {
                let held = report.skipped.iter().find(|s| s.efd == Some(efd)).unwrap();
                assert!(held.is_held(), "{method:?}");
            }
        }
    });
}
