// SPDX-License-Identifier: GPL-2.0

//! Runs the program on this process.

use epoll_targets::kcmp::{self, Support};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{DupFlags, FdFlags, dup3, fcntl_dupfd_cloexec};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use serde_json::Value;
use std::fs::{self, File, Permissions};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const LSEPOLL: &str = env!("CARGO_BIN_EXE_lsepoll");

/// The program, with the resolver that the environment says.
fn lsepoll() -> Command {
    let mut command = Command::new(LSEPOLL);
    if let Ok(resolver) = std::env::var("EPOLL_RESOLVER") {
        command.args(["--resolver", &resolver]);
    }
    command
}

/// One test at a time: the program lists all sets of the process.
static ALONE: Mutex<()> = Mutex::new(());

fn say(text: &str) {
    // Past the capture of the test's output.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "SKIPPED: {text}").unwrap();
}

fn start() -> Option<MutexGuard<'static, ()>> {
    let support = kcmp::support();
    if support != Support::Epoll {
        say(&support.to_string());
        return None;
    }
    Some(ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn pid() -> String {
    std::process::id().to_string()
}

fn run(args: &[&str]) -> (i32, String, String) {
    let output = lsepoll().args(args).output().unwrap();
    text(output)
}

fn text(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let status = output.status.code().unwrap();
    let errors = text(output.stderr);
    // It is the same here and there, unless that is what a test is about.
    let errors = errors.split_inclusive('\n');
    let errors = errors.filter(|line| !line.starts_with("lsepoll: BPF cannot be used: "));
    (status, text(output.stdout), errors.collect())
}

/// With all columns, so that each line of a target has the same.
fn of_this(more: &[&str]) -> (i32, String, String) {
    let pid = pid();
    run(&[&["-p", &pid, "--owners", "given", "--wide"], more].concat())
}

/// An epoll instance, with the files that keep its targets.
struct Fixture {
    set: OwnedFd,
    keep: Vec<OwnedFd>,
}

impl Fixture {
    fn new() -> Self {
        let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let keep = Vec::new();
        Self { set, keep }
    }

    fn file() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC).unwrap()
    }

    fn add(&self, fd: &OwnedFd, data: u64) {
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&self.set, fd, EventData::new_u64(data), flags).unwrap();
    }

    fn good(&mut self) -> i32 {
        let file = Self::file();
        self.add(&file, 0x11);
        self.keep.push(file);
        self.keep.last().unwrap().as_raw_fd()
    }

    /// Its number is closed, another one has the file.
    fn moved(&mut self) -> i32 {
        let file = Self::file();
        let number = fcntl_dupfd_cloexec(&file, 400).unwrap();
        self.add(&number, 0x22);
        self.keep.push(file);
        number.as_raw_fd()
    }

    /// Its number means the first of a pair of sockets now.
    fn stale(&mut self) -> i32 {
        let (socket, other) = sockets();
        let file = Self::file();
        let mut number = fcntl_dupfd_cloexec(&file, 500).unwrap();
        self.add(&number, 0x33);
        dup3(&socket, &mut number, DupFlags::CLOEXEC).unwrap();
        let fd = number.as_raw_fd();
        self.keep.extend([socket, other, file, number]);
        fd
    }

    /// Only a message that nobody has received has it.
    fn orphan(&mut self) -> i32 {
        let (sender, receiver) = sockets();
        let file = Self::file();
        let number = fcntl_dupfd_cloexec(&file, 600).unwrap();
        self.add(&number, 0x44);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [file.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(
            &sender,
            &[IoSlice::new(b"x")],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
        self.keep.extend([sender, receiver]);
        number.as_raw_fd()
    }
}

fn sockets() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
}

/// The line of a number, split at blanks.
fn line(table: &str, tfd: i32) -> Vec<&str> {
    let lines = table.lines().map(|line| line.split_whitespace().collect());
    let mut lines = lines.filter(|cells: &Vec<&str>| cells[0] == tfd.to_string());
    let line = lines.next();
    line.unwrap_or_else(|| panic!("there is no {tfd} in:\n{table}"))
}

#[test]
fn nothing_odd() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let (good, moved) = (fixture.good(), fixture.moved());
    let (status, table, errors) = of_this(&[]);
    // The second one cannot be removed.
    assert_eq!((status, errors.as_str()), (1, ""));
    assert_eq!(table.lines().count(), 4);

    let (pid, efd, fd) = (pid(), fixture.set.as_raw_fd().to_string(), good.to_string());
    let heading = table.lines().nth(1).unwrap();
    assert!(
        heading.starts_with(&format!("process {pid} (")),
        "{heading}"
    );
    assert!(
        heading.ends_with(&format!("): epoll instance {efd}")),
        "{heading}"
    );
    let cells = line(&table, good);
    let file = ["anon_inode:[eventfd]", "count", "0"];
    assert_eq!(
        cells[1..],
        [&["0", "IN|ET", "0x11", "-", "fd", &fd][..], &file].concat()
    );
    let owner = fixture.keep[1].as_raw_fd().to_string();
    let cells = line(&table, moved);
    assert_eq!(cells[3..7], ["0x22", "stuck", "fd", &owner]);
    assert!(table.contains(&format!("({moved} is closed)")));

    drop(fixture);
    let mut fixture = Fixture::new();
    fixture.good();
    assert_eq!(of_this(&[]).0, 0);
}

#[test]
fn an_empty_set_and_none() {
    let Some(_alone) = start() else { return };
    assert_eq!(of_this(&[]), (0, String::new(), String::new()));
    let fixture = Fixture::new();
    let (status, table, _) = of_this(&[]);
    assert_eq!(status, 0);
    assert!(table.lines().nth(2).unwrap().ends_with("no targets"));
    drop(fixture);
}

#[test]
fn what_is_odd_is_marked() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let good = fixture.good();
    let stale = fixture.stale();
    let (status, table, _) = of_this(&[]);
    assert_eq!(status, 1);
    assert_eq!(line(&table, good)[4], "-");
    assert_eq!(line(&table, stale)[4], "stuck,stale");
    assert!(table.contains(&format!("(now {stale} is socket:[")));

    let orphan = fixture.orphan();
    let (status, table, _) = of_this(&[]);
    assert_eq!(status, 1);
    assert_eq!(line(&table, orphan)[3..6], ["0x44", "orphaned", "none"]);
    // Nobody else either.
    let (_, table, _) = run(&["-p", &pid(), "--wide"]);
    assert_eq!(line(&table, orphan)[4], "orphaned");
}

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

#[test]
fn filters() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    fixture.good();
    let none = of_this(&["--orphaned", "--stale"]);
    assert_eq!(none, (0, String::new(), String::new()));
    let (stale, orphan) = (fixture.stale(), fixture.orphan());
    let numbers = |args: &[&str]| {
        let (status, table, _) = of_this(args);
        assert_eq!(status, 1);
        // Below the heads and the heading.
        let lines = table.lines().skip(2);
        let mut numbers: Vec<i32> = lines
            .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
            .collect();
        numbers.sort();
        numbers
    };
    assert_eq!(numbers(&["--stale"]), [stale]);
    assert_eq!(numbers(&["--orphaned"]), [orphan]);
    // The old name.
    assert_eq!(numbers(&["--zombies"]), [orphan]);
    assert_eq!(numbers(&["--orphaned", "--stale"]), [stale, orphan]);
    let moved = fixture.moved();
    assert_eq!(numbers(&["--stuck"]), [moved, stale, orphan]);
}

#[test]
fn json() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let (good, stale, orphan) = (fixture.good(), fixture.stale(), fixture.orphan());
    let (status, text, errors) = of_this(&["--json"]);
    assert_eq!((status, errors.as_str()), (1, ""));
    let output: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(output["version"], 1);
    assert_eq!(output["complete"], true);
    assert_eq!(output["skipped"], serde_json::json!([]));
    // All are searched before a target is called orphaned.
    assert!(output["statistics"]["tables"].as_u64() >= Some(1));
    let set = &output["sets"][0];
    assert_eq!(set["pid"].to_string(), pid());
    assert_eq!(set["efd"], fixture.set.as_raw_fd());
    let targets = set["targets"].as_array().unwrap();
    let target = |tfd: i32| targets.iter().find(|t| t["tfd"] == tfd).unwrap();

    let good = target(good);
    assert_eq!(good["owner"], "same");
    assert_eq!(good["number"], "target");
    assert_eq!(good["data"], "0x11");
    assert_eq!(good["owners"][0]["fd"], good["tfd"]);
    assert_eq!(good["owners"][0]["file"], "anon_inode:[eventfd]");
    let names = serde_json::json!(["IN", "ERR", "HUP", "ET"]);
    assert_eq!(good["events"]["names"], names);
    assert_eq!(good["events"]["bits"], 0x8000_0019_u32);
    assert!(good["inode"]["ino"].is_u64());

    let stale = target(stale);
    assert_eq!(
        (&stale["stale"], &stale["zombie"]),
        (&true.into(), &false.into())
    );
    assert_eq!(stale["owner"], "other");
    assert_eq!(stale["owners"][0]["fd"], fixture.keep[3].as_raw_fd());
    assert_eq!(stale["number"], "other");
    assert!(
        stale["number_file"]
            .as_str()
            .unwrap()
            .starts_with("socket:[")
    );

    let orphan = target(orphan);
    assert_eq!(
        (&orphan["stale"], &orphan["zombie"]),
        (&false.into(), &true.into())
    );
    assert_eq!(orphan["orphaned"], true);
    assert_eq!(orphan["owner"], "none");
    assert_eq!(orphan["number"], "closed");

    let (_, text, _) = of_this(&["--json", "--orphaned"]);
    let output: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(output["sets"][0]["targets"].as_array().unwrap().len(), 1);
}

#[test]
fn an_owner_in_another_process() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let (file, moved) = (Fixture::file(), fixture.moved());
    let number = fcntl_dupfd_cloexec(&file, 600).unwrap();
    fixture.add(&number, 0x55);
    let tfd = number.as_raw_fd();
    drop(number);
    let mut child = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::from(file))
        .spawn()
        .unwrap();
    let (_, given, _) = of_this(&[]);
    let (status, all, _) = run(&["--wide", "--pid", &pid()]);
    let owner = child.id().to_string();
    child.kill().unwrap();
    child.wait().unwrap();
    for table in [&given, &all] {
        let cells = line(table, tfd);
        assert_eq!(cells[4..9], ["stuck", "pid", &owner, "fd", "0"]);
        let owners = format!("pid {owner} is sleep");
        assert!(table.lines().any(|line| line == owners), "{table}");
    }
    assert_eq!(line(&all, moved)[4], "stuck");
    assert_eq!(status, 1);
}

#[test]
fn all_processes() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let orphan = fixture.orphan();
    let (status, table, _) = run(&["--wide"]);
    assert_eq!(status, 1);
    // At the begin of a line: notes of others' targets may name this process.
    let heading = format!("\nprocess {} (", pid());
    let mine = table.split(&heading).nth(1).unwrap();
    let mine = mine.split("\nprocess ").next().unwrap();
    // The rest of the heading, and the only target.
    assert_eq!(mine.lines().count(), 2);
    assert_eq!(
        line(mine.split_once('\n').unwrap().1, orphan)[4],
        "orphaned"
    );
}

#[test]
fn errors() {
    let (status, table, errors) = run(&["-p", "0"]);
    assert_eq!((status, table.as_str()), (2, ""));
    assert!(errors.contains("invalid value '0'"));
    let (status, _, errors) = run(&["--owners", "given"]);
    assert_eq!(status, 2);
    assert_eq!(
        errors,
        "lsepoll: --owners given: name the processes with -p\n"
    );

    let Some(_alone) = start() else { return };
    let max = i32::MAX.to_string();
    let (status, table, errors) = run(&["-p", &max]);
    assert_eq!((status, table.as_str()), (2, ""));
    let expected = format!("lsepoll: cannot inspect process {max}: no such process\n");
    assert_eq!(errors, expected);

    // The others are listed all the same.
    let mut fixture = Fixture::new();
    fixture.good();
    let (status, table, _) = run(&["-p", &max, &pid()]);
    assert_eq!((status, table.lines().count()), (2, 3));
}

#[test]
fn without_ptrace_access() {
    let Some(_alone) = start() else { return };
    if !rustix::process::geteuid().is_root() {
        return say("only root can become another user");
    }
    // Where another user can run it.
    let copy = std::env::temp_dir().join(format!("lsepoll-{}", pid()));
    fs::copy(LSEPOLL, &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&copy);
    let output = command.args(["-p", &pid()]).uid(65534).gid(65534).output();
    fs::remove_file(&copy).unwrap();
    let (status, table, errors) = text(output.unwrap());
    assert_eq!((status, table.as_str()), (2, ""));
    assert!(errors.starts_with(&format!("lsepoll: cannot inspect process {} (", pid())));
    assert!(errors.ends_with("): no ptrace access; run as its user or as root\n"));
}

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

/// Whether a resolver can be used.
fn has(resolver: &str) -> bool {
    let (status, _, _) = run_only(&["--resolver", resolver, "-p", &pid()]);
    status != 2
}

/// Without what the environment says.
fn run_only(args: &[&str]) -> (i32, String, String) {
    text(Command::new(LSEPOLL).args(args).output().unwrap())
}

#[test]
fn the_resolver() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    fixture.good();
    fixture.stale();
    fixture.orphan();
    let pid = pid();
    let args = |resolver, more: &'static [&'static str]| {
        let args = ["-p", &pid, "--owners", "given", "--resolver", resolver];
        run_only(&[&args, more].concat())
    };
    let kcmp = args("kcmp", &[]);
    if kcmp.2.contains("were skipped for lack of ptrace access") {
        // BPF sees those as well, and can say that a target is orphaned.
        return say("kcmp(2) may not compare all processes");
    }
    assert_eq!((kcmp.0, kcmp.2.as_str()), (1, ""));
    // Where processes run all the time, kcmp(2) cannot tell that nobody has a file.
    if !kcmp.1.contains("unknown") {
        assert_eq!(args("auto", &[]), kcmp);
    }
    let told = |resolver| args(resolver, &["--verbose"]).2;
    let method = |resolver| {
        let output: Value = serde_json::from_str(&args(resolver, &["--json"]).1).unwrap();
        output["statistics"]["resolver"].clone()
    };
    assert!(told("kcmp").starts_with("lsepoll: resolved with kcmp ("));
    assert!(told("kcmp").ends_with(" calls of kcmp)\n"));
    assert_eq!(method("kcmp"), "kcmp");
    for resolver in ["walk", "bpf"] {
        if has(resolver) {
            assert_eq!(args(resolver, &[]), kcmp);
            let expected = format!("lsepoll: resolved with {resolver} (");
            assert!(told(resolver).starts_with(&expected));
            assert_eq!(method(resolver), resolver);
        } else {
            let (status, table, errors) = args(resolver, &[]);
            assert_eq!((status, table.as_str()), (2, ""));
            assert!(errors.starts_with("lsepoll: cannot resolve the targets: "));
        }
    }
    match (has("walk"), has("bpf")) {
        (true, _) => assert_eq!(method("auto"), "walk"),
        (_, true) => assert_eq!(method("auto"), "bpf"),
        _ => {
            let errors = args("walk", &[]).2;
            let why = errors.trim_end().rsplit_once("targets: ").unwrap().1;
            assert!(told("auto").contains("resolved with kcmp ("));
            assert!(told("auto").ends_with(&format!(", as BPF cannot be used: {why}\n")));
            assert_eq!(method("auto"), "kcmp");
        }
    }
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
        let state = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let is_early = !state.contains(") Z ");
        output.read_to_string(&mut table).unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        // Each is there once.
        let rows = table.lines().filter(|line| line.contains("eventfd"));
        assert_eq!(rows.count(), count as usize + 1, "{errors}");
        assert_eq!(line(&table, good)[4], "-");
        if errors.contains("searching with kcmp(2) takes about ") {
            assert!(is_early);
            assert!(errors.contains("holds the mutex"), "{errors}");
            return;
        }
    }
    say("kcmp(2) is too fast here for a long search");
}

/// It lets them go on, also if it is killed.
#[test]
fn stop() {
    let Some(_alone) = start() else { return };
    let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let mut child = Command::new("sleep").arg("600").stdin(set).spawn().unwrap();
    let pid = child.id().to_string();
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (status, table, errors) = run(&["--stop", "-p", &pid]);
    // It goes on, or is about to.
    assert!(!state().contains(") T "), "{}", state());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((status, errors.as_str()), (0, ""));
    assert_eq!(table.lines().count(), 3);
    let (status, _, errors) = run(&["--stop", "-p", &pid]);
    assert_eq!(status, 2);
    assert!(
        errors.starts_with("lsepoll: cannot stop the processes"),
        "{errors}"
    );
}

/// In a namespace of pids, where those that the kernel has are others.
#[test]
fn in_a_namespace() {
    let Some(_alone) = start() else { return };
    if !rustix::process::geteuid().is_root() {
        return say("only root may make a namespace of pids");
    }
    let mut fixture = Fixture::new();
    let numbers = [fixture.good(), fixture.moved(), fixture.stale()];
    let orphan = fixture.orphan();
    for fd in fixture.keep.iter().chain([&fixture.set]) {
        rustix::io::fcntl_setfd(fd, FdFlags::empty()).unwrap();
    }
    let inside = |resolver: &str| {
        let mut command = Command::new("unshare");
        // The shell is process 1, and waits for the program, which has all this, too.
        command.args(["--pid", "--fork", "--mount-proc", "sh", "-c"]);
        let script = r#""$0" --resolver "$1" -p 1 --owners given --wide; exit $?"#;
        text(command.args([script, LSEPOLL, resolver]).output().unwrap())
    };
    let kcmp = inside("kcmp");
    assert_eq!(kcmp.0, 1);
    assert!(kcmp.2.contains("PID namespace"), "{}", kcmp.2);
    for number in numbers {
        let line = line(&kcmp.1, number);
        assert_eq!(line[5], "fd", "{line:?}");
    }
    // Somebody outside may have it.
    assert_eq!(line(&kcmp.1, orphan)[4..6], ["unknown", "?"]);
    // The program has inherited it all, too, which kcmp(2) is not asked about.
    let words = |(status, table, errors): &(i32, String, String)| {
        let words = table.split_whitespace().filter(|word| *word != "+1");
        let words: Vec<String> = words.map(str::to_owned).collect();
        (*status, words, errors.clone())
    };
    for resolver in ["auto", "walk", "bpf"] {
        if has(resolver) {
            assert_eq!(words(&inside(resolver)), words(&kcmp));
        }
    }
}

#[test]
fn ids() {
    let Some(_alone) = start() else { return };
    let fixture = Fixture::new();
    let (_, table, _) = of_this(&["--ids"]);
    let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{}", fixture.set.as_raw_fd()));
    let fdinfo = fdinfo.unwrap();
    let id = fdinfo.lines().find_map(|l| l.strip_prefix("epoll-id:"));
    let heading = table.lines().nth(1).unwrap();
    let expected = format!(" id {}", id.map_or("?", str::trim));
    assert!(heading.ends_with(&expected), "{heading}");

    let (_, text, _) = of_this(&["--json"]);
    let output: Value = serde_json::from_str(&text).unwrap();
    let id: Option<u64> = id.map(|id| id.trim().parse().unwrap());
    assert_eq!(output["sets"][0]["epoll_id"], serde_json::json!(id));
}

#[test]
fn help_tells_the_exit_status() {
    let (status, help, _) = run(&["--help"]);
    assert_eq!(status, 0);
    for part in ["Exit status:", "Examples:", "orphaned", "--owners"] {
        assert!(help.contains(part), "{part}");
    }
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
}

#[test]
fn completions() {
    let (status, script, errors) = run_only(&["--completions", "bash"]);
    assert_eq!((status, errors.as_str()), (0, ""));
    assert!(script.contains("--orphaned") && script.contains("complete -F"));
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
