// SPDX-License-Identifier: GPL-2.0

//! Runs the program on this process.

mod common;

use common::{Fixture, LSEPOLL, line, of_this, pid, run, run_only, say, start, state, text};
use epoll_targets::proc::State;
use rustix::event::epoll::{self, CreateFlags};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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

/// With too few descriptors, it says so, and prints nothing else.
#[test]
fn few_descriptors() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    fixture.good();
    let script = r#"ulimit -n "$0" && exec "$@""#;
    for limit in [3, 4, 5, 6, 7, 8, 10, 12, 16] {
        for resolver in ["kcmp", "auto"] {
            let mut command = Command::new("sh");
            command.args(["-c", script, &limit.to_string(), LSEPOLL, "--json"]);
            command.stdin(Stdio::null());
            let output = command
                .args(["--resolver", resolver, "-p", &pid()])
                .output();
            let output = output.unwrap();
            let report: serde_json::Result<Value> = serde_json::from_slice(&output.stdout);
            // Or the loader cannot open its libraries.
            let errors = String::from_utf8_lossy(&output.stderr);
            let has_said = errors.contains("lsepoll: ") && output.status.code() == Some(2);
            let is_error = has_said || output.status.code() == Some(127);
            let has_failed = output.stdout.is_empty() && is_error;
            assert!(report.is_ok() || has_failed, "{limit}: {output:?}");
        }
    }
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

/// Whether a resolver can be used.
fn has(resolver: &str) -> bool {
    let (status, _, _) = run_only(&["--resolver", resolver, "-p", &pid()]);
    status != 2
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
    if kcmp.2.contains("skipped for lack of ptrace access") {
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

/// It lets them go on.
#[test]
fn stop() {
    let Some(_alone) = start() else { return };
    let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let mut child = Command::new("sleep").arg("600").stdin(set).spawn().unwrap();
    let pid = child.id().to_string();
    let (status, table, errors) = run(&["--stop", "-p", &pid]);
    // It goes on, or is about to.
    assert_ne!(state(&child), State::Stopped);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((status, errors.as_str()), (0, ""));
    assert_eq!(table.lines().count(), 3);
    // One that has ended does not keep it from the others.
    let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let mut child = Command::new("sleep").arg("600").stdin(set).spawn().unwrap();
    let other = child.id().to_string();
    let (status, table, errors) = run(&["--stop", "-p", &pid, &other]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((status, table.lines().count()), (2, 3), "{table}{errors}");
    let said = format!("lsepoll: cannot inspect process {pid}: no such process");
    assert!(errors.contains(&said), "{errors}");
}

#[test]
fn help_that_cannot_be_printed() {
    for option in ["--help", "--version"] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = Command::new(LSEPOLL)
            .arg(option)
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.starts_with("lsepoll: cannot print: "), "{errors}");
    }
}

/// It lets them go on, also if it is killed.
#[test]
fn stop_and_kill() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    // So many that it takes kcmp(2) some time.
    for _ in 0..400 {
        fixture.moved();
    }
    let set = fcntl_dupfd_cloexec(&fixture.set, 0).unwrap();
    let mut child = Command::new("sleep").arg("600").stdin(set).spawn().unwrap();
    let pid = child.id().to_string();
    let is_stopped = || state(&child) == State::Stopped;
    let begin = Instant::now();
    let was_killed = loop {
        let mut command = Command::new(LSEPOLL);
        command.args(["--stop", "--resolver", "kcmp", "-p", &pid]);
        let null = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut lsepoll = null.spawn().unwrap();
        while !is_stopped() && lsepoll.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        lsepoll.kill().unwrap();
        // Otherwise it had ended before.
        if lsepoll.wait().unwrap().signal() == Some(libc::SIGKILL) {
            break true;
        }
        if begin.elapsed() > Duration::from_secs(30) {
            break false;
        }
    };
    let begin = Instant::now();
    while is_stopped() && begin.elapsed() < Duration::from_secs(30) {
        std::thread::yield_now();
    }
    let goes_on = !is_stopped();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(was_killed && goes_on, "{was_killed} {goes_on}");
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
fn completions() {
    let (status, script, errors) = run_only(&["--completions", "bash"]);
    assert_eq!((status, errors.as_str()), (0, ""));
    assert!(script.contains("--orphaned") && script.contains("complete -F"));
}
