// SPDX-License-Identifier: GPL-2.0

//! How the table looks, and when it appears.

mod common;

use common::{Fixture, LSEPOLL, line, lsepoll, of_this, pid, run, say, start, state, text};
use epoll_targets::proc::State;
use rustix::event::epoll;
use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

#[test]
fn a_reader_that_has_gone() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    fixture.orphan();
    for more in [&[][..], &["--json"]] {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(reader);
        let mut command = lsepoll();
        command.args(["-p", &pid(), "--owners", "given"]).args(more);
        let output = command.stdout(Stdio::from(writer)).output().unwrap();
        let (status, _, errors) = text(output);
        assert_eq!((status, errors.as_str()), (1, ""));
    }
}

#[test]
fn on_a_terminal() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    fixture.good();
    fixture.orphan();
    fixture.stale();
    for no_colour in [false, true] {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let Ok(master) = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        else {
            return say("there are no terminals here");
        };
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let terminal = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let size = rustix::termios::Winsize {
            ws_row: 25,
            ws_col: 60,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&terminal, size).unwrap();
        let mut command = lsepoll();
        command
            .args(["-p", &pid(), "--owners", "given"])
            .env("TERM", "xterm")
            .env_remove("COLUMNS")
            .env_remove("NO_COLOR");
        if no_colour {
            command.env("NO_COLOR", "1");
        }
        let output = command
            .stdout(terminal)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        // Holds the terminal.
        drop(command);
        let (status, _, errors) = text(output);
        assert_eq!(status, 1);
        assert_eq!(
            errors,
            "epoll instances: 1, targets: 3, orphaned: 1, stuck: 2, stale: 1\n"
        );

        let mut shown = Vec::new();
        // Ends with an error when nobody has the terminal any more.
        let _ = File::from(master).read_to_end(&mut shown);
        let shown = String::from_utf8(shown).unwrap();
        assert_eq!(shown.contains("\x1b[31morphaned\x1b[0m"), !no_colour);
        assert_eq!(shown.contains("\x1b[33mstuck,stale\x1b[0m"), !no_colour);
        let plain = ["\x1b[31m", "\x1b[33m", "\x1b[0m", "\r"]
            .iter()
            .fold(shown, |text, code| text.replace(code, ""));
        for line in plain.lines() {
            assert!(line.chars().count() <= 60, "{line}");
        }
        // What is too long for a line is on another one, as a whole.
        let stale = fixture.keep.last().unwrap().as_raw_fd();
        let expected = format!("(now {stale} is socket:[");
        let other = plain.lines().find(|line| line.contains(&expected));
        let other = other.unwrap_or_else(|| panic!("{plain}"));
        assert!(other.starts_with("        "), "{other}");
        assert!(other.ends_with("])"), "{other}");
    }
}

#[test]
fn columns_that_say_nothing() {
    let Some(_alone) = start() else { return };
    let fixture = Fixture::new();
    let heads = |args: &[&str]| {
        let pid = pid();
        let args = [&["-p", &pid, "--owners", "given"], args].concat();
        let table = run(&args).1;
        let heads = table.lines().next().unwrap().split_whitespace();
        heads.map(str::to_owned).collect::<Vec<_>>()
    };
    let few = ["TFD", "EVENTS", "STATE", "OWNER", "FILE"];
    let mut keep = Vec::new();
    let mut number = fcntl_dupfd_cloexec(Fixture::file(), 700).unwrap();
    let tfd = number.as_raw_fd() as u64;
    fixture.add(&number, tfd);
    assert_eq!(heads(&[]), few);
    // The same number, and above it what was on the stack.
    let file = Fixture::file();
    keep.push(rustix::io::fcntl_dupfd_cloexec(&number, 800).unwrap());
    dup3(&file, &mut number, DupFlags::CLOEXEC).unwrap();
    fixture.add(&number, tfd | (0xdead << 32));
    let with_toff = ["TFD", "TOFF", "EVENTS", "STATE", "OWNER", "FILE"];
    assert_eq!(heads(&[]), with_toff);
    assert_eq!(heads(&["--wide"]).len(), 7);
    epoll::delete(&fixture.set, &number).unwrap();
    fixture.add(&number, 0x7f00_dead_beef);
    assert_eq!(heads(&[]).len(), 7);
}

/// 80 columns hold what a busy table has, and no two names become one.
#[test]
fn eighty_columns() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let dir = std::env::temp_dir().join(format!("lsepoll-{}", pid()));
    fs::create_dir_all(&dir).unwrap();
    // FIFOs with long names that differ in the middle only, and one that pretends.
    let long = |c: &str| format!("{}{c}{}", "a".repeat(100), "z".repeat(100));
    let names = [long("1"), long("2"), "x (now 5 is y)\n 6 IN".into()];
    for name in &names {
        let path = dir.join(name);
        let status = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(status.success());
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let file = fcntl_dupfd_cloexec(OwnedFd::from(file), 1000).unwrap();
        fixture.add(&file, 0x7f00_dead_beef);
        fixture.keep.push(file);
    }
    let flags = SocketFlags::CLOEXEC;
    let listener =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&listener, &any).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let address = rustix::net::getsockname(&listener).unwrap();
    let address = std::net::SocketAddr::try_from(address).unwrap();
    fixture.add(&listener, 0x7f00_dead_beef);
    fixture.keep.push(listener);
    fixture.stale();
    fixture.orphan();

    let mut command = lsepoll();
    command.args(["-p", &pid(), "--owners", "given"]);
    let (_, table, _) = text(command.env("COLUMNS", "80").output().unwrap());
    fs::remove_dir_all(&dir).unwrap();
    for line in table.lines() {
        assert!(line.chars().count() <= 80, "{table}");
    }
    let whole = table.replace("\n        ", "");
    for name in &names[..2] {
        assert!(whole.contains(name), "{table}");
    }
    assert!(whole.contains("/x (now 5 is y)\\u{a} 6 IN\""), "{table}");
    assert!(table.contains(&format!("tcp {address}")), "{table}");
}

/// A long search by kcmp(2) is announced, and what is found appears meanwhile.
#[test]
fn rows_of_a_long_search() {
    let Some(_alone) = start() else { return };
    if std::env::var("EPOLL_RESOLVER").is_ok_and(|resolver| resolver != "kcmp") {
        return;
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    let all = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();
    // On a faster machine, it takes more of them to be long.
    for count in [2_000, 4_000, 9_000] {
        if maximum < 2 * count as u64 + 1_000 {
            return say("there may not be enough descriptors");
        }
        let mut fixture = Fixture::new();
        let good = fixture.good();
        for _ in 0..count {
            let file = Fixture::file();
            let number = fcntl_dupfd_cloexec(&file, count + 500).unwrap();
            fixture.add(&number, 0x22);
            fixture.keep.push(file);
        }
        let mut command = Command::new(LSEPOLL);
        let pid = pid();
        command.args(["--resolver", "kcmp", "--owners", "given", "-p", &pid]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut table = String::new();
        // The heads, the heading and two rows.
        for _ in 0..4 {
            std::io::BufRead::read_line(&mut output, &mut table).unwrap();
        }
        let is_early = state(&child) != State::Zombie;
        let begin = std::time::Instant::now();
        output.read_to_string(&mut table).unwrap();
        let took = begin.elapsed().as_secs_f64();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        // Each is there once.
        let rows = table.lines().filter(|line| line.contains("eventfd"));
        assert_eq!(rows.count(), count as usize + 1, "{errors}");
        assert_eq!(line(&table, good)[4], "-");
        if let Some((_, rest)) = errors.split_once("searching with kcmp(2) takes about ") {
            assert!(is_early);
            assert!(errors.contains("holds the mutex"), "{errors}");
            let (estimate, _) = rest.split_once(" s;").unwrap();
            let ratio = took / estimate.parse::<f64>().unwrap();
            // What was to be searched for first takes less than the rest.
            assert!((0.2..5.).contains(&ratio), "{took} s: {errors}");
            return;
        }
    }
    say("kcmp(2) is too fast here for a long search");
}

#[test]
fn a_cause_is_printed_once() {
    let Some(_alone) = start() else { return };
    let full = File::options().write(true).open("/dev/full").unwrap();
    let _fixture = Fixture::new();
    let mut command = lsepoll();
    command.args(["-p", &pid(), "--owners", "given"]);
    let (status, _, errors) = text(command.stdout(full).output().unwrap());
    assert_eq!(status, 2);
    let expected = "lsepoll: cannot print: No space left on device (os error 28)\n";
    assert_eq!(errors, expected);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(LSEPOLL);
    command.args(["--completions", "bash"]).stdout(full);
    let (status, _, errors) = text(command.output().unwrap());
    assert_eq!((status, errors.as_str()), (2, expected));
}

#[test]
fn a_name_cannot_drive_the_terminal() {
    let Some(_alone) = start() else { return };
    let _fixture = Fixture::new();
    let comm = format!("/proc/{}/comm", pid());
    let before = fs::read(&comm).unwrap();
    let name = "a\u{202e}\x1b[2Jb";
    fs::write(&comm, name).unwrap();
    let (_, table, _) = of_this(&[]);
    let (_, json, _) = of_this(&["--json"]);
    fs::write(&comm, before).unwrap();
    assert!(table.contains(r#""a\u{202e}\u{1b}[2Jb""#), "{table}");
    for text in [&table, &json] {
        assert!(!text.contains(['\u{202e}', '\x1b']), "{text:?}");
    }
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["sets"][0]["command"], name);
}
