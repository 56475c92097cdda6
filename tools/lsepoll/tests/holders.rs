// SPDX-License-Identifier: GPL-2.0

//! Runs the program on targets that no descriptor holds.

mod common;

use common::{Fixture, LSEPOLL, pid, run, say, send, sockets, start};
use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};
use serde_json::Value;
use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

/// Without BPF, `/proc` tells what may hold an orphan.
#[test]
fn holders_without_bpf() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let orphan = fixture.orphan();
    let run = || {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-bpf,-perfmon,-sys_admin", LSEPOLL]);
        command.args(["-p", &pid(), "--json"]).output()
    };
    let begin = Instant::now();
    loop {
        let output = match run() {
            Ok(output) if !output.stdout.is_empty() => output,
            _ => return say("setpriv(1) is missing, or it takes root"),
        };
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["statistics"]["resolver"], "kcmp");
        let targets = report["sets"][0]["targets"].as_array().unwrap();
        let mut targets = targets.iter().filter(|t| t["tfd"] == orphan);
        let target = targets.next().unwrap();
        if target["owner"] == "none" {
            let holders = target["holders"].as_array().unwrap();
            let sender = fixture.keep[1].as_raw_fd();
            let expected = format!("perhaps a message that waits at fd {sender} of process");
            let is_it = |holder: &Value| holder.as_str().unwrap().starts_with(&expected);
            assert!(holders.iter().any(is_it), "{holders:?}");
            return;
        }
        // While something runs, kcmp(2) cannot tell.
        assert_eq!(target["owner"], "unknown");
        if begin.elapsed() > Duration::from_secs(30) {
            return say("other processes run all the time");
        }
    }
}

/// Of those that hold a file, a row names some; JSON has all of them.
#[test]
fn many_holders() {
    const HOLDERS: usize = 12;
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let file = Fixture::file();
    fixture.add(&file, 0x44);
    for _ in 0..HOLDERS {
        let (sender, receiver) = sockets();
        send(&sender, std::slice::from_ref(&file));
        fixture.keep.extend([sender, receiver]);
    }
    let number = file.as_raw_fd();
    drop(file);
    let Some(report) = report(1) else { return };
    let target = &report["sets"][0]["targets"][0];
    assert_eq!(target["tfd"], number);
    let holders = target["holders"].as_array().unwrap();
    let of_this = format!(" of process {} ", pid());
    let of_this = |holder: &&Value| holder.as_str().unwrap().contains(&of_this);
    assert!(
        holders.iter().filter(of_this).count() >= HOLDERS,
        "{holders:#?}"
    );
    let (_, table, _) = run(&["-p", &pid(), "--wide"]);
    if table.contains("unknown") {
        return say("other processes run all the time");
    }
    let more = format!("and {} more", holders.len() - 8);
    assert!(table.contains(&more), "{more}: {table}");
    assert!(
        table.matches("a message that waits").count() <= 8,
        "{table}"
    );
}

/// Of two targets that look the same, each has its own holder.
#[test]
fn the_same_number_and_data() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    for data in [1, 2, 2] {
        let (sender, receiver) = sockets();
        let mut number = fcntl_dupfd_cloexec(&receiver, 900).unwrap();
        dup3(Fixture::file(), &mut number, DupFlags::CLOEXEC).unwrap();
        fixture.add(&number, data);
        send(&sender, &[number]);
        fixture.keep.extend([sender, receiver]);
    }
    let Some(found) = holders(3) else { return };
    for (_, holders) in &found {
        let certain = holders
            .iter()
            .filter(|holder| !holder.starts_with("perhaps "));
        assert_eq!((holders.len(), certain.count()), (1, 1), "{holders:?}");
    }
    let different: HashSet<_> = found.iter().map(|(_, holders)| &holders[0]).collect();
    assert_eq!(different.len(), 3, "{found:?}");
}

/// What the program says of this process, once it can tell that so many targets are orphaned.
/// While others run, it cannot if a file has several holders, or its holder is not found.
fn report(orphans: usize) -> Option<Value> {
    let begin = Instant::now();
    loop {
        let (_, json, _) = run(&["-p", &pid(), "--json"]);
        let report: Value = serde_json::from_str(&json).unwrap();
        let targets = report["sets"][0]["targets"].as_array().unwrap();
        let are = |owner: &str| targets.iter().filter(|t| t["owner"] == owner).count();
        if are("none") == orphans {
            return Some(report);
        }
        assert_eq!(are("none") + are("unknown"), orphans, "{targets:#?}");
        if begin.elapsed() > Duration::from_secs(30) {
            say("other processes run all the time");
            return None;
        }
    }
}

/// Data and holders of the orphans, of which there are so many, if BPF can find those.
fn holders(orphans: usize) -> Option<Vec<(String, Vec<String>)>> {
    let report = report(orphans)?;
    if report["statistics"]["resolver"] == "kcmp" {
        say("BPF cannot be used");
        return None;
    }
    let targets = report["sets"][0]["targets"].as_array().unwrap().iter();
    let orphans = targets.filter(|target| target["owner"] == "none");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |target: &Value| {
        let holders = target["holders"].as_array().unwrap().iter();
        (text(&target["data"]), holders.map(text).collect())
    };
    Some(orphans.map(of).collect())
}

/// A program goes on behind what it has written when there was no more room, in the middle
/// of a queue.
#[test]
fn more_in_one_queue_than_is_written_at_once() {
    const FILES: usize = 250;
    let Some(_alone) = start() else { return };
    let fixture = Fixture::new();
    let (sender, _receiver) = sockets();
    rustix::net::sockopt::set_socket_send_buffer_size(&sender, 1 << 20).unwrap();
    let (many, last) = (Fixture::file(), Fixture::file());
    fixture.add(&many, 1);
    fixture.add(&last, 2);
    let all: Vec<BorrowedFd<'_>> = vec![many.as_fd(); FILES];
    for _ in 0..200 {
        send(&sender, &all);
    }
    send(&sender, &[last]);
    drop(many);
    let Some(found) = holders(2) else { return };
    for (_, holders) in &found {
        assert_eq!(holders.len(), 1, "{holders:?}");
        assert!(
            holders[0].starts_with("a message that waits at fd "),
            "{holders:?}"
        );
    }
}

/// More watched files in one socket's messages than an iterator can tell of at a time,
/// and then than a program looks at.
#[test]
fn many_orphans_in_one_queue() {
    const MANY: usize = 200;
    let Some(_alone) = start() else { return };
    let fixture = Fixture::new();
    let (sender, _receiver) = sockets();
    for round in 0..3 {
        let files: Vec<OwnedFd> = (0..MANY).map(|_| Fixture::file()).collect();
        files.iter().for_each(|file| fixture.add(file, round));
        send(&sender, &files);
    }
    let count = |found: &[(String, Vec<String>)], start: &str| {
        let firsts = found.iter().map(|(_, holders)| &holders[0]);
        firsts.filter(|holder| holder.starts_with(start)).count()
    };
    let known = "a message that waits at fd ";
    let Some(found) = holders(3 * MANY) else {
        return;
    };
    assert_eq!(count(&found, known), 3 * MANY);

    // Each takes some hundred bytes.
    rustix::net::sockopt::set_socket_send_buffer_size(&sender, 1 << 20).unwrap();
    for _ in 0..260 {
        rustix::io::write(&sender, b"x").unwrap();
    }
    let file = Fixture::file();
    fixture.add(&file, 0x55);
    send(&sender, &[file]);
    let Some(found) = holders(3 * MANY + 1) else {
        return;
    };
    assert_eq!(count(&found, known), 3 * MANY);
    assert_eq!(count(&found, "perhaps a message that waits at fd "), 1);
}
