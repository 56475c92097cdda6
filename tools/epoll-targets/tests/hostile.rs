// SPDX-License-Identifier: GPL-2.0

//! Programs that make it hard, with each method that works here: many descriptors, and
//! processes that come and go.

mod common;

use common::{add, file, is_root, methods, new_set, pid};
use epoll_targets::resolve::{Method, Owner, Resolver, TfdState};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::MemfdFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::env;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How many descriptors are opened by default, and at most with kcmp(2), which takes long.
const DESCRIPTORS: u32 = 10_000;
const BY_KCMP: u32 = 10_000;

/// Nothing else here has numbers from this one on.
const FIRST: u32 = 1000;

/// How many descriptors there are to be: what the environment says, if the system lets
/// a process have them.
fn descriptors() -> u32 {
    let wanted = env::var("DESCRIPTORS").map_or(DESCRIPTORS, |n| n.parse().unwrap());
    let limit = u64::from(wanted + 2 * FIRST);
    if is_root() {
        let path = "/proc/sys/fs/nr_open";
        let now: u64 = std::fs::read_to_string(path)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        if now < limit {
            std::fs::write(path, limit.to_string()).unwrap();
        }
    }
    let before = getrlimit(Resource::Nofile);
    let most = before
        .maximum
        .map_or(limit, |most| if is_root() { most.max(limit) } else { most });
    let raised = Rlimit {
        current: Some(most.min(limit)),
        maximum: before.maximum.map(|_| most),
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let most = raised.current.unwrap() as u32;
    wanted.min(most.saturating_sub(2 * FIRST))
}

/// One file is added by each of many numbers; the odd ones are closed then.
#[test]
fn many_descriptors() {
    let (_alone, methods) = methods();
    let count = descriptors();
    let (set, target) = (new_set(), file());
    // SAFETY: What is closed here was opened here, and nobody uses it.
    let close = |fd: u32| unsafe { libc::close(fd as RawFd) };
    let mut added = 0;
    for fd in FIRST..FIRST + count {
        // SAFETY: Nobody else uses these numbers.
        let number = unsafe {
            assert_eq!(libc::dup2(target.as_raw_fd(), fd as RawFd), fd as RawFd);
            BorrowedFd::borrow_raw(fd as RawFd)
        };
        let data = EventData::new_u64(u64::from(fd));
        match epoll::add(&set, number, data, EventFlags::IN) {
            Ok(()) => added += 1,
            // See fs.epoll.max_user_watches.
            Err(rustix::io::Errno::NOSPC) => break,
            Err(error) => panic!("{error}"),
        }
    }
    for fd in (FIRST..FIRST + count).filter(|fd| fd % 2 == 1) {
        close(fd);
    }
    for method in methods {
        if method == Method::Kcmp && added > BY_KCMP {
            continue;
        }
        let begin = Instant::now();
        let report = Resolver::new([pid()]).method(method).resolve().unwrap();
        println!("{method:?}: {added} targets in {:?}", begin.elapsed());
        let found = common::found(&report, &set);
        assert_eq!(found.targets.len(), added as usize);
        for resolved in &found.targets {
            let tfd = resolved.target.tfd;
            assert_eq!(resolved.target.data, tfd as u64);
            match (&resolved.owner, tfd % 2) {
                (Owner::Tfd(owner), 0) => {
                    assert_eq!((owner.pid, owner.fd), (pid(), tfd));
                    assert_eq!(resolved.tfd_state, TfdState::Target);
                }
                (Owner::Others(owners), 1) => {
                    assert!(
                        owners
                            .iter()
                            .all(|d| d.pid == pid() && d.fd % 2 == 0 || d.fd == target.as_raw_fd())
                    );
                    assert_eq!(resolved.tfd_state, TfdState::Closed);
                }
                other => panic!("{method:?}: {tfd}: {other:?}"),
            }
        }
    }
    for fd in (FIRST..FIRST + count).filter(|fd| fd % 2 == 0) {
        close(fd);
    }
}

/// Ends the other threads, however the test ends.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A file that shells run themselves again for, as long as it is there.
struct Mark(PathBuf);

impl Mark {
    fn new() -> Self {
        let path = env::temp_dir().join(format!("epoll-targets-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        Self(path)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Children that inherit an instance and its target are born and die all the time. The
/// file of the other target lives in them only: one hands it to the next.
#[test]
fn processes_that_die() {
    let (_alone, methods) = methods();
    for method in methods {
        let (set, kept, moved) = (new_set(), file(), file());
        add(&set, &kept, 1);
        let number = rustix::io::fcntl_dupfd_cloexec(&moved, 900).unwrap();
        add(&set, &number, 2);
        drop(number);
        // A shell has it, which runs itself again and again: the parent of each ends.
        let script = "exec 3<&0 </dev/null; sh -c \"$2\" sh \"$1\" \"$2\"";
        let again = "if [ -e \"$1\" ]; then sh -c \"$2\" sh \"$1\" \"$2\" & fi";
        let mark = Mark::new();
        let mut first = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&mark.0)
            .arg(again)
            .stdin(moved)
            .spawn()
            .unwrap();
        first.wait().unwrap();
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _at_the_end = End(&end);
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
            let begin = Instant::now();
            let mut looks = 0;
            while looks < 3 || begin.elapsed() < Duration::from_secs(2) && looks < 40 {
                looks += 1;
                // What is skipped is not looked at: some refuse that while they end.
                let report = Resolver::new([pid()])
                    .search_all_processes()
                    .method(method)
                    .resolve()
                    .unwrap();
                let found = common::found(&report, &set);
                assert_eq!(found.targets.len(), 2, "{method:?}");
                for resolved in &found.targets {
                    assert!(!resolved.is_orphaned(), "{method:?}: {resolved:?}");
                    if resolved.target.data == 1 {
                        assert!(!resolved.is_stuck(), "{method:?}: {resolved:?}");
                    }
                }
            }
        });
    }
}

/// Signals that this process ignores arrive in all of its threads: each is one in which a
/// child may end.
#[test]
fn children_that_end() {
    let (_alone, methods) = methods();
    for method in methods {
        let set = new_set();
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _at_the_end = End(&end);
            for _ in 0..8 {
                scope.spawn(|| {
                    while !end.load(Ordering::Relaxed) {
                        Command::new("true").status().unwrap();
                    }
                });
            }
            for _ in 0..5 {
                let report = Resolver::new([pid()]).method(method).resolve();
                let report = report.unwrap_or_else(|error| panic!("{method:?}: {error:?}"));
                assert!(report.instances.iter().any(|i| i.efd == set.as_raw_fd()));
            }
        });
    }
}

/// Anybody can give a file the name of an epoll instance.
#[test]
fn files_that_are_called_like_instances() {
    let (_alone, methods) = methods();
    let names = ["[eventpoll]", "anon_inode:[eventpoll]"];
    let memory = names.map(|name| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).unwrap());
    for method in methods {
        let set = new_set();
        let report = Resolver::new([pid()]).method(method).resolve().unwrap();
        let efds: Vec<RawFd> = report.instances.iter().map(|i| i.efd).collect();
        assert_eq!(efds, [set.as_raw_fd()], "{method:?}");
        assert!(report.is_complete());
    }
    drop(memory);
}
