// SPDX-License-Identifier: GPL-2.0

//! Runs `lsepoll trace` on programs that leave targets behind: the ignored tests below.

#![cfg(feature = "bpf")]

mod common;

use common::{LSEPOLL, say, send, sockets, state};
use epoll_targets::proc::State;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{FdFlags, dup, fcntl_setfd};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;
use std::hint::black_box;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than lsepoll takes for a verdict and the places in the code.
const LONG: Duration = Duration::from_secs(3);

// The two lines of source that are looked for.

const ADD: u32 = line!() + 4;
#[inline(never)]
fn add(set: &OwnedFd, file: &OwnedFd) {
    let data = EventData::new_u64(0);
    epoll::add(set, file, data, EventFlags::IN).unwrap();
}

const CLOSE: u32 = line!() + 3;
#[inline(never)]
fn close(file: OwnedFd) {
    drop(file);
    // Or the call becomes a jump, and this function is not on the stack.
    black_box(());
}

fn set_and_file() -> (OwnedFd, OwnedFd) {
    let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
    (set, eventfd(0, EventfdFlags::CLOEXEC).unwrap())
}

#[test]
#[ignore = "a program to be traced"]
fn leaks_by_dup() {
    let (set, file) = set_and_file();
    let copy = dup(&file).unwrap();
    add(&set, &file);
    close(file);
    sleep(LONG);
    drop(copy);
}

#[test]
#[ignore = "a program to be traced"]
fn leaks_by_a_child() {
    let (set, file) = set_and_file();
    add(&set, &file);
    fcntl_setfd(&file, FdFlags::empty()).unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    close(file);
    sleep(LONG);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Whether this is the child.
fn fork() -> bool {
    // SAFETY: Each child calls nothing that another thread could have locked.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    child == 0
}

/// Ends a child, without what the end of a test does.
fn end() -> ! {
    // SAFETY: It ends the process.
    unsafe { libc::_exit(0) }
}

/// The child goes on with the instance and the file.
#[test]
#[ignore = "a program to be traced"]
fn leaks_to_a_child() {
    let (set, file) = set_and_file();
    add(&set, &file);
    if fork() {
        sleep(2 * LONG);
        end();
    }
    close(file);
    sleep(LONG);
    drop(set);
}

/// The child closes it a little later; both keep the instance.
#[test]
#[ignore = "a program to be traced"]
fn leaks_with_a_child() {
    let (set, file) = set_and_file();
    let copy = dup(&file).unwrap();
    add(&set, &file);
    if fork() {
        sleep(Duration::from_millis(250));
        close(file);
        sleep(2 * LONG);
        end();
    }
    close(file);
    sleep(LONG);
    drop((set, copy));
}

/// The child has the file and the instance for a while, then only the file.
#[test]
#[ignore = "a program to be traced"]
fn leaks_by_a_slow_child() {
    let (set, file) = set_and_file();
    add(&set, &file);
    if fork() {
        sleep(Duration::from_millis(250));
        drop(set);
        sleep(2 * LONG);
        end();
    }
    close(file);
    sleep(LONG);
    drop(set);
}

/// As a server that hands connections over: the child is slow to call execve(2).
#[test]
#[ignore = "a program to be traced"]
fn leaves_to_a_slow_child() {
    let (set, file) = set_and_file();
    add(&set, &file);
    if fork() {
        sleep(Duration::from_millis(250));
        let arguments = [c"true".as_ptr(), std::ptr::null()];
        // SAFETY: The strings are terminated, and so is the list.
        unsafe { libc::execvp(arguments[0], arguments.as_ptr()) };
        end();
    }
    close(file);
    sleep(LONG);
    drop(set);
}

/// This process closes it first, and ends. The child still has it at the number, with the
/// instance, and closes it a little later.
#[test]
#[ignore = "a program to be traced"]
fn leaks_by_a_daemon() {
    let (set, file) = set_and_file();
    add(&set, &file);
    // Its mappings are read in this time, as it ends soon.
    sleep(LONG);
    if fork() {
        let copy = dup(&file).unwrap();
        sleep(Duration::from_millis(30));
        close(file);
        sleep(LONG);
        drop((set, copy));
        end();
    }
    drop(file);
}

#[test]
#[ignore = "a program to be traced"]
fn leaks_by_a_message() {
    let (set, file) = set_and_file();
    let sockets = sockets();
    add(&set, &file);
    send(&sockets.0, std::slice::from_ref(&file));
    close(file);
    sleep(LONG);
    drop(sockets);
}

/// A thread that has descriptors of its own ends, and leaves the instance to the others.
#[test]
#[ignore = "a program to be traced"]
fn leaks_by_a_thread() {
    let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let sockets = sockets();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: Others may go on using their descriptors.
            unsafe { unshare_unsafe(UnshareFlags::FILES) }.unwrap();
            let file = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
            add(&set, &file);
            send(&sockets.0, std::slice::from_ref(&file));
            std::mem::forget(file);
        });
    });
    sleep(LONG);
}

#[test]
fn the_end_of_a_thread_is_not_that_of_its_process() {
    let Some((status, lines)) = trace("leaks_by_a_thread") else {
        return;
    };
    let mut left = lines.iter().filter(|line| line["event"] == "left");
    let left = left.next().unwrap_or_else(|| panic!("{lines:#?}"));
    assert_eq!(status, 1);
    assert!(has_line(&left["added"], ADD), "{left:#}");
    let end = format!("the end of thread {}", left["closed"]["tid"]);
    assert_eq!(left["by"], end);
    assert_ne!(left["closed"]["tid"], left["closed"]["pid"]);
}

/// More of one instance than an iterator can tell of at a time.
const MANY: usize = 700;

#[test]
#[ignore = "a program to be traced"]
fn leaks_many() {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let files: Vec<OwnedFd> = (0..MANY)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap())
        .collect();
    files.iter().for_each(|file| add(&set, file));
    let copies: Vec<OwnedFd> = files.iter().map(|file| dup(file).unwrap()).collect();
    files.into_iter().for_each(close);
    // Each is judged, and its places are looked up.
    sleep(4 * LONG);
    drop(copies);
}

/// How many leave something behind shortly after another, in a program that ends soon.
const QUICK: usize = 4;

#[test]
#[ignore = "a program to be traced"]
fn leaks_and_ends() {
    let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let copies = (0..QUICK).map(|_| {
        let file = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        add(&set, &file);
        let copy = dup(&file).unwrap();
        sleep(Duration::from_millis(60));
        close(file);
        copy
    });
    let _copies: Vec<OwnedFd> = copies.collect();
    // Longer than a verdict takes; the places are looked up afterwards.
    sleep(Duration::from_millis(800));
}

#[test]
#[ignore = "a program to be traced"]
fn adds_twice() {
    let (set, file) = set_and_file();
    add(&set, &file);
    let again = epoll::add(&set, &file, EventData::new_u64(0), EventFlags::IN);
    assert_eq!(again, Err(rustix::io::Errno::EXIST));
    // The places in the code are looked up while it lives.
    sleep(LONG);
}

#[test]
#[ignore = "a program to be traced"]
fn leaves_nothing() {
    // Removed, the last descriptor, and the end of a process that has all.
    for _ in 0..100 {
        let (set, file) = set_and_file();
        let copy = dup(&file).unwrap();
        add(&set, &file);
        epoll::delete(&set, &file).unwrap();
        close(file);
        add(&set, &copy);
        close(copy);
    }
    // A child has the file for a moment.
    let (set, file) = set_and_file();
    add(&set, &file);
    assert!(Command::new("true").status().unwrap().success());
    close(file);
    let (kept, file) = set_and_file();
    let _copy = dup(&file).unwrap();
    add(&kept, &file);
    std::mem::forget((set, kept, file));
}

/// What lsepoll prints of a program, by lines; `None` if it cannot trace here.
fn trace(program: &str) -> Option<(i32, Vec<Value>)> {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(LSEPOLL)
        .args(["trace", "--json", "--"])
        .arg(this)
        .args(["--exact", program, "--include-ignored", "--test-threads=1"])
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    if text.starts_with("lsepoll: cannot trace") {
        say(text.trim_end());
        return None;
    }
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    Some((output.status.code().unwrap(), lines.collect()))
}

fn has_line(call: &Value, line: u32) -> bool {
    let frames = call["stack"].as_array().unwrap().iter();
    let mut lines = frames.filter_map(|frame| frame["line"].as_str());
    lines.any(|at| at.ends_with(&format!("tests/trace.rs:{line}")))
}

/// The only target that was left behind, and who has it.
fn left(program: &str) -> Option<String> {
    let (status, lines) = trace(program)?;
    let left: Vec<_> = lines
        .iter()
        .filter(|line| line["event"] == "left")
        .collect();
    assert_eq!((status, left.len()), (1, 1), "{lines:#?}");
    assert!(has_line(&left[0]["added"], ADD), "{:#}", left[0]);
    assert!(has_line(&left[0]["closed"], CLOSE), "{:#}", left[0]);
    assert_eq!(left[0]["by"], "close()");
    let summary = lines.last().unwrap();
    assert_eq!(summary["event"], "summary");
    assert_eq!(summary["left"][0]["count"], 1);
    let added = summary["left"][0]["added"].as_str().unwrap();
    assert!(added.ends_with(&format!("tests/trace.rs:{ADD}")), "{added}");
    assert_eq!(left[0]["removable_by"], serde_json::json!([]));
    let holders = left[0]["holders"].as_array().unwrap().iter();
    Some(
        holders
            .map(|holder| holder.as_str().unwrap())
            .collect::<Vec<_>>()
            .join("\n"),
    )
}

#[test]
fn a_duplicate_keeps_a_target() {
    let Some(holders) = left("leaks_by_dup") else {
        return;
    };
    assert!(holders.starts_with("fd "), "{holders}");
    assert_eq!(holders.lines().count(), 1, "{holders}");
}

#[test]
fn a_child_keeps_a_target() {
    let Some(holders) = left("leaks_by_a_child") else {
        return;
    };
    // Its name is left out if it has ended by then.
    assert!(holders.starts_with("fd "), "{holders}");
    assert!(holders.contains(" of process "), "{holders}");
    assert_eq!(holders.lines().count(), 1, "{holders}");
}

/// The parent gets its events, and cannot remove it; the child could.
#[test]
fn a_target_is_left_to_a_child_that_can_remove_it() {
    let Some((status, lines)) = trace("leaks_to_a_child") else {
        return;
    };
    let left = lines.iter().filter(|line| line["event"] == "left");
    let left: Vec<_> = left.collect();
    assert_eq!((status, left.len()), (1, 1), "{lines:#?}");
    let left = left[0];
    assert!(has_line(&left["added"], ADD), "{left:#}");
    assert!(has_line(&left["closed"], CLOSE), "{left:#}");
    let removers = left["removable_by"].as_array().unwrap();
    assert_eq!(removers.len(), 1, "{left:#}");
    assert_eq!(removers[0]["fd"], left["tfd"]);
    assert_ne!(removers[0]["pid"], left["closed"]["pid"]);
}

/// Two have closed it, and that is said once.
#[test]
fn a_target_is_left_by_a_child_and_its_parent() {
    let Some(holders) = left("leaks_with_a_child") else {
        return;
    };
    assert!(holders.starts_with("fd "), "{holders}");
    assert_eq!(holders.lines().count(), 2, "{holders}");
}

#[test]
fn a_target_is_left_by_a_child_that_closes_the_instance() {
    let Some(holders) = left("leaks_by_a_slow_child") else {
        return;
    };
    assert!(holders.starts_with("fd "), "{holders}");
    assert_eq!(holders.lines().count(), 1, "{holders}");
}

#[test]
fn nothing_is_left_to_a_child_that_executes_another_program() {
    let Some((status, lines)) = trace("leaves_to_a_slow_child") else {
        return;
    };
    assert_eq!((status, lines.len()), (0, 1), "{lines:#?}");
}

/// The last who could have removed it counts, and the trace goes on until that has ended.
#[test]
fn a_daemon_keeps_a_target() {
    let Some(holders) = left("leaks_by_a_daemon") else {
        return;
    };
    assert!(holders.starts_with("fd "), "{holders}");
    assert_eq!(holders.lines().count(), 1, "{holders}");
}

#[test]
fn a_message_keeps_a_target() {
    let Some(holders) = left("leaks_by_a_message") else {
        return;
    };
    assert!(
        holders.starts_with("a message that waits at fd "),
        "{holders}"
    );
}

#[test]
fn many_are_kept_at_once() {
    let Some((status, lines)) = trace("leaks_many") else {
        return;
    };
    let left = lines.iter().filter(|line| line["event"] == "left");
    let left: Vec<_> = left.map(|line| &line["holders"][0]).collect();
    assert_eq!(
        (status, left.len()),
        (1, MANY),
        "{:#}",
        lines[lines.len() - 1]
    );
    assert!(
        left.iter()
            .all(|holder| holder.as_str().unwrap().starts_with("fd "))
    );
    assert_eq!(lines.last().unwrap()["left"][0]["count"], MANY);
}

#[test]
fn each_is_judged_before_the_places_are_looked_up() {
    let Some((status, lines)) = trace("leaks_and_ends") else {
        return;
    };
    let left = lines.iter().filter(|line| line["event"] == "left").count();
    let summary = lines.last().unwrap();
    // A machine can be slow; then it says so.
    let late = summary["late"].as_u64().unwrap() as usize;
    assert!(status == 1 && left > 0 && left <= QUICK, "{lines:#?}");
    assert!(left + late >= QUICK, "{lines:#?}");
}

#[test]
fn what_is_in_the_way_of_an_add() {
    let Some((status, lines)) = trace("adds_twice") else {
        return;
    };
    let exists: Vec<_> = lines
        .iter()
        .filter(|line| line["event"] == "exists")
        .collect();
    assert_eq!((status, exists.len()), (1, 1), "{lines:#?}");
    assert!(has_line(&exists[0]["added"], ADD), "{:#}", exists[0]);
    assert!(!has_line(&exists[0]["call"], ADD), "{:#}", exists[0]);
}

#[test]
fn nothing_is_said_of_what_is_not_left() {
    let Some((status, lines)) = trace("leaves_nothing") else {
        return;
    };
    assert_eq!((status, lines.len()), (0, 1), "{lines:#?}");
    assert!(lines[0]["adds"].as_u64() >= Some(202), "{:#}", lines[0]);
    assert_eq!(lines[0]["lost"], 0);
}

#[test]
#[ignore = "a program to be traced"]
fn leaks_beside_a_thread() {
    std::thread::spawn(|| sleep(60 * LONG));
    // The trace begins when the thread is there.
    let traced = || {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
    };
    traced();
    let (set, file) = set_and_file();
    let copy = dup(&file).unwrap();
    add(&set, &file);
    close(file);
    sleep(LONG);
    drop(copy);
}

#[test]
fn a_thread_stands_for_its_process() {
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "leaks_beside_a_thread", "--ignored"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = program.id() as i32;
    // The first one, the one that runs the test, and the one that the test started.
    let tid = loop {
        match epoll_targets::proc::tasks(pid).unwrap()[..] {
            [.., tid] if tid != pid => break tid,
            _ => sleep(Duration::from_millis(10)),
        }
    };
    let mut lsepoll = Command::new(LSEPOLL)
        .args(["trace", "--json", "-p", &tid.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    await_programs(lsepoll.id());
    // Its end is that of the program, and of the trace.
    program.stdin.take().unwrap().write_all(b"\n").unwrap();
    program.wait().unwrap();
    let _ = lsepoll.wait();
    let output = lsepoll.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    if errors.starts_with("lsepoll: cannot trace") {
        say(errors.trim_end());
        return;
    }
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}{text}");
    assert!(text.contains(r#""event":"left""#), "{text}");
}

/// Waits until BPF programs of a process are attached, and no more of them for a while, in
/// which it notes what there was before; or until it has ended.
fn await_programs(pid: u32) {
    let links = || {
        let fds = epoll_targets::proc::fds(pid as i32).ok()?;
        let link = |fd| epoll_targets::proc::link(pid as i32, fd).unwrap_or_default();
        let links = |&fd: &_| link(fd) == "anon_inode:bpf_link";
        (!fds.is_empty()).then(|| fds.iter().filter(|fd| links(fd)).count())
    };
    let begin = Instant::now();
    let mut since = (Instant::now(), 0);
    while let Some(links) = links() {
        if links != since.1 {
            since = (Instant::now(), links);
        }
        let is_ready = links > 0 && since.0.elapsed() > Duration::from_secs(3);
        if is_ready || begin.elapsed() > Duration::from_secs(60) {
            break;
        }
        sleep(Duration::from_millis(10));
    }
}

/// What lsepoll says if it cannot write to a file; `None` if it cannot trace here.
fn errors_of_output(output: &str, command: &[&str]) -> Option<String> {
    let lsepoll = Command::new(LSEPOLL)
        .args(["trace", "-o", output, "--"])
        .args(command)
        .output()
        .unwrap();
    let errors = String::from_utf8(lsepoll.stderr).unwrap();
    if errors.starts_with("lsepoll: cannot trace") {
        say(errors.trim_end());
        return None;
    }
    assert_eq!(lsepoll.status.code(), Some(2), "{errors}");
    Some(errors)
}

#[test]
fn nothing_runs_if_the_output_cannot_be_opened() {
    let ran = std::env::temp_dir().join(format!("lsepoll-ran-{}", std::process::id()));
    let output = "/nowhere/to/be/found";
    let Some(errors) = errors_of_output(output, &["touch", ran.to_str().unwrap()]) else {
        return;
    };
    assert!(
        errors.starts_with(&format!("lsepoll: cannot write {output}: ")),
        "{errors}"
    );
    assert!(!ran.exists());
}

#[test]
fn an_error_of_writing_names_the_file() {
    let Some(errors) = errors_of_output("/dev/full", &["true"]) else {
        return;
    };
    assert!(
        errors.starts_with("lsepoll: cannot write /dev/full: No space left"),
        "{errors}"
    );
}

/// A process whose parent has not waited for it.
#[test]
fn there_is_nothing_to_trace_of_what_has_ended() {
    let mut child = Command::new("true").spawn().unwrap();
    while state(&child) != State::Zombie {
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    let output = Command::new(LSEPOLL).args(["trace", "-p", &pid]).output();
    child.wait().unwrap();
    let output = output.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert_eq!(errors, format!("lsepoll: there is no process {pid}\n"));
}

#[test]
fn a_signal_ends_it_with_a_summary() {
    let mut target = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = target.id().to_string();
    for signal in [Signal::TERM, Signal::INT] {
        // Other processes may leave some behind.
        ends_by(signal, &["trace", "--all"], &[0, 1]);
        ends_by(signal, &["trace", "-p", &pid], &[0]);
    }
    target.kill().unwrap();
    target.wait().unwrap();
}

fn ends_by(signal: Signal, command: &[&str], status: &[i32]) {
    let mut lsepoll = Command::new(LSEPOLL)
        .args(command)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Until it can handle the signal.
    let handles = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", lsepoll.id()));
        let status = status.unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
        caught.is_none_or(|set| set & (1 << (signal.as_raw() - 1)) != 0)
    };
    let begin = Instant::now();
    while !handles() && begin.elapsed() < Duration::from_secs(60) {
        sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&lsepoll);
    let sent = rustix::process::kill_process(pid, signal);
    let waited = lsepoll.wait();
    let output = lsepoll.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    if errors.starts_with("lsepoll: cannot trace") {
        say(errors.trim_end());
        return;
    }
    sent.unwrap();
    let code = waited.unwrap().code();
    assert!(
        code.is_some_and(|code| status.contains(&code)),
        "{code:?}: {errors}"
    );
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(
        out.lines().any(|line| line.starts_with("targets added: ")),
        "{out}"
    );
}
