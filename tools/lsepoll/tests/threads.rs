// SPDX-License-Identifier: GPL-2.0

//! Threads that are named as processes are.

mod common;

use common::{Fixture, pid, run_only, start};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;

/// The resolvers that can be used here.
fn resolvers() -> impl Iterator<Item = &'static str> {
    let has = |resolver: &&str| run_only(&["--resolver", resolver, "-p", &pid()]).0 != 2;
    ["walk", "bpf", "kcmp"].into_iter().filter(has)
}

/// What is said of a process or a thread: the status, and the instances of this process.
fn sets(resolver: &str, id: &str, all: bool) -> (i32, Vec<Value>) {
    let owners = if all { "all" } else { "given" };
    let args = ["--resolver", resolver, "--owners", owners, "--json", "-p"];
    let (status, output, errors) = run_only(&[&args[..], &[id]].concat());
    assert_eq!(errors, "", "{resolver} -p {id}");
    let output: Value = serde_json::from_str(&output).unwrap();
    (status, output["sets"].as_array().unwrap().clone())
}

/// Runs something while a thread waits, which did something first.
fn beside_thread<T: Send>(first: impl FnOnce() -> T + Send, then: impl FnOnce(String, T)) {
    std::thread::scope(|scope| {
        let (tell, told) = channel();
        let (end, ended) = channel::<()>();
        scope.spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            tell.send((tid, first())).unwrap();
            let _ = ended.recv();
        });
        let (tid, made) = told.recv().unwrap();
        then(tid.to_string(), made);
        drop(end);
    });
}

#[test]
fn a_thread_stands_for_its_process() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    fixture.good();
    fixture.moved();
    beside_thread(
        || (),
        |tid, ()| {
            for resolver in resolvers() {
                for all in [false, true] {
                    let process = sets(resolver, &pid(), all);
                    assert_eq!((process.0, process.1.len()), (1, 1), "{resolver}");
                    assert_eq!(process.1[0]["also"].as_array().unwrap().len(), 0);
                    for id in [tid.clone(), format!("{},{tid}", pid())] {
                        assert_eq!(sets(resolver, &id, all), process, "{resolver} -p {id}");
                    }
                }
            }
        },
    );
}

#[test]
fn a_thread_with_its_own_table_stands_for_itself() {
    let Some(_alone) = start() else { return };
    let in_process = Fixture::new();
    let of_thread = || {
        // SAFETY: What is opened after this stays open here, and nowhere else.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
        // Of this table only; the numbers mean other files in that of the process.
        let inherited = std::os::fd::AsRawFd::as_raw_fd(&in_process.set);
        // SAFETY: It is closed in this table, in which nobody else uses it.
        assert_eq!(unsafe { libc::close(inherited) }, 0);
        let mut fixture = Fixture::new();
        fixture.good();
        fixture
    };
    beside_thread(of_thread, |tid, fixture| {
        // They are descriptors of a table that goes with its thread.
        std::mem::forget(fixture);
        for resolver in resolvers() {
            let (status, sets) = sets(resolver, &tid, false);
            assert_eq!((status, sets.len()), (0, 1), "{resolver}");
            assert_eq!(sets[0]["pid"].to_string(), tid, "{resolver}");
            assert_eq!(sets[0]["targets"].as_array().unwrap().len(), 1);
        }
    });
}

/// The first of two threads that share another table names it, for each resolver.
#[test]
fn threads_that_share_a_table_of_their_own() {
    let Some(_alone) = start() else { return };
    let of_threads = || {
        // SAFETY: What is opened after this stays open here, and nowhere else.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
        let mut fixture = Fixture::new();
        fixture.good();
        let (tell, told) = channel();
        let (end, ended) = channel::<()>();
        // It begins with the table of the thread that starts it.
        let other = std::thread::spawn(move || {
            tell.send(()).unwrap();
            let _ = ended.recv();
        });
        told.recv().unwrap();
        (fixture, end, other)
    };
    beside_thread(of_threads, |tid, (fixture, end, other)| {
        let set = std::os::fd::AsRawFd::as_raw_fd(&fixture.set);
        // They are descriptors of a table that goes with its threads.
        std::mem::forget(fixture);
        for resolver in resolvers() {
            let (_, sets) = sets(resolver, &pid(), false);
            let tid: i32 = tid.parse().unwrap();
            let of = |s: &&Value| s["pid"] == tid && s["efd"] == set;
            let found: Vec<_> = sets.iter().filter(of).collect();
            assert_eq!(found.len(), 1, "{resolver}: {sets:?}");
            assert_eq!(found[0]["also"], serde_json::json!([]), "{resolver}");
            let owners = found[0]["targets"][0]["owners"].as_array().unwrap();
            assert_eq!(owners.len(), 1, "{resolver}");
        }
        drop(end);
        other.join().unwrap();
    });
}

/// A process of two threads.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "a program with two threads"]
fn two_threads() {
    beside_thread(
        || (),
        |_, ()| std::thread::sleep(std::time::Duration::from_secs(600)),
    );
}

#[test]
fn the_process_of_a_thread_is_stopped() {
    let Some(_alone) = start() else { return };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "two_threads"]);
    let other = Other(command.stdout(Stdio::null()).spawn().unwrap());
    let pid = other.0.id() as i32;
    let tid = loop {
        let tasks = epoll_targets::proc::tasks(pid).unwrap();
        if let Some(tid) = tasks.into_iter().find(|&tid| tid != pid) {
            break tid;
        }
        std::thread::yield_now();
    };
    let (status, _, errors) = run_only(&["--stop", "-p", &tid.to_string()]);
    assert_eq!((status, &errors[..]), (0, ""));
}
