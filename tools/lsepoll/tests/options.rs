// SPDX-License-Identifier: GPL-2.0

//! What the options show of one process with a target in each state.

mod common;

use common::{Fixture, LSEPOLL, line, of_this, pid, run, run_only, send, sockets, start};
use rustix::event::epoll::{self, CreateFlags};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::PipeFlags;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

/// A target in each state.
struct Odd {
    of: Fixture,
    good: i32,
    _alone: MutexGuard<'static, ()>,
}

impl Odd {
    fn new() -> Option<Self> {
        let alone = start()?;
        let mut of = Fixture::new();
        let good = of.good();
        of.moved();
        of.stale();
        of.orphan();
        Some(Self {
            of,
            good,
            _alone: alone,
        })
    }
}

/// The name of this process, until it is dropped.
struct Named(Vec<u8>);

impl Named {
    fn new(name: &str) -> Self {
        let before = fs::read(Self::path()).unwrap();
        fs::write(Self::path(), name).unwrap();
        Self(before)
    }

    fn path() -> String {
        format!("/proc/{}/comm", pid())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = fs::write(Self::path(), &self.0);
    }
}

/// A process that has an instance as its descriptor 0, and nobody else has it.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::from(set));
        let null = command.stdout(Stdio::null()).stderr(Stdio::null());
        let sleeper = Self(null.spawn().unwrap());
        // Before that it has what we have.
        while fs::read(format!("/proc/{}/comm", sleeper.pid())).unwrap() != b"sleep\n" {
            std::thread::yield_now();
        }
        sleeper
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn summary() {
    let Some(odd) = Odd::new() else { return };
    let (status, table, errors) = run(&["--summary", "-p", &pid()]);
    assert_eq!((status, errors.as_str()), (1, ""));
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let heads = [
        "PID",
        "INSTANCES",
        "TARGETS",
        "MOVED",
        "ORPHANED",
        "STALE",
        "STUCK",
        "COMMAND",
    ];
    assert_eq!(lines[0], heads, "{table}");
    // What is stale here has moved, too.
    assert_eq!(
        lines[1][..7],
        [pid().as_str(), "1", "4", "2", "1", "1", "2"],
        "{table}"
    );
    assert_eq!(lines.len(), 2, "{table}");

    let (_, text, _) = run(&["--summary", "--json", "-p", &pid()]);
    let report = parse(&text);
    let of_this = &report["processes"][0];
    assert_eq!(report["version"], 1);
    assert_eq!(
        (&of_this["instances"], &of_this["targets"]),
        (&1.into(), &4.into())
    );
    let states = json!({"moved": 2, "orphaned": 1, "stale": 1, "stuck": 2});
    assert_eq!(of_this["states"], states);
    for filter in ["--orphaned", "--stale", "--stuck"] {
        assert_eq!(run(&["--summary", filter, "-p", &pid()]).1, table);
    }

    drop(odd);
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    fixture.good();
    let (status, table, _) = run(&["--summary", "--stuck", "-p", &pid()]);
    assert_eq!((status, table.as_str()), (0, ""));
}

#[test]
fn sort() {
    let Some(mut odd) = Odd::new() else { return };
    // More files, so that the kernel's order, by their addresses, is hardly that of numbers.
    for _ in 0..8 {
        odd.of.good();
    }
    let sleeper = Sleeper::new();
    let both = format!("{},{}", pid(), sleeper.pid());
    let sets = |key: &str| {
        let report = parse(&run(&["--json", "--sort", key, "-p", &both]).1);
        report["sets"].as_array().unwrap().clone()
    };
    let keys = |sets: &[Value], [a, b]: [&str; 2]| {
        let key = |set: &Value| (set[a].as_i64().unwrap(), set[b].as_i64().unwrap());
        sets.iter().map(key).collect::<Vec<_>>()
    };
    let (by_pid, by_efd) = (sets("pid"), sets("efd"));
    // The other one is at 0.
    assert_eq!((by_pid.len(), by_efd.len()), (2, 2));
    assert!(keys(&by_pid, ["pid", "efd"]).is_sorted(), "{by_pid:#?}");
    assert!(keys(&by_efd, ["efd", "pid"]).is_sorted(), "{by_efd:#?}");
    let by_tfd = sets("tfd");
    let most = by_tfd
        .iter()
        .max_by_key(|set| set["targets"].as_array().unwrap().len());
    let targets = most.unwrap()["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 12);
    assert!(keys(targets, ["tfd", "toff"]).is_sorted(), "{targets:#?}");
}

/// By number, in a list, and by command name.
#[test]
fn processes() {
    let Some(odd) = Odd::new() else { return };
    let sleeper = Sleeper::new();
    let pids = |args: &[&str]| {
        let (status, text, errors) = run(&[&["--json"], args].concat());
        assert_eq!(status, 1, "{errors}");
        let report = parse(&text);
        let sets = report["sets"].as_array().unwrap().iter();
        sets.map(|set| set["pid"].to_string())
            .collect::<BTreeSet<_>>()
    };
    let (own, its) = (pid(), sleeper.pid());
    let both = BTreeSet::from([own.clone(), its.clone()]);
    // The kernel keeps 15 bytes of a name.
    let name = format!("lsepoll-{own}-has-a-long-name");
    let named = Named::new(&name);
    for name in [&name[..], &name[..15]] {
        assert_eq!(pids(&[name]), BTreeSet::from([own.clone()]));
        assert_eq!(pids(&[name, &its]), both);
    }
    assert_eq!(pids(&["-p", &format!("{own},{its}")]), both);
    assert_eq!(pids(&["-p", &own, &its]), both);
    assert_eq!(pids(&["-p", &own, "-p", &its]), both);

    let name = format!("no-{}", pid());
    let (status, table, errors) = run(&[&name]);
    assert_eq!((status, table.as_str()), (2, ""));
    assert_eq!(errors, format!("lsepoll: no process is called {name}\n"));
    let max = i32::MAX.to_string();
    for args in [&[&max[..]][..], &["-p", &max]] {
        let (status, table, errors) = run(args);
        assert_eq!((status, table.as_str()), (2, ""));
        assert!(errors.ends_with(": no such process\n"), "{errors}");
        let (status, text, _) = run(&[args, &["--json"]].concat());
        let report = parse(&text);
        assert_eq!((status, &report["complete"]), (2, &false.into()));
        let reason = report["skipped"][0]["reason"].as_str().unwrap();
        assert!(reason.ends_with(": no such process"), "{reason}");
    }
    // The other way round, another test could have named the process meanwhile.
    drop((named, odd));
}

/// What is odd counts, shown or not.
#[test]
fn the_status_of_what_is_not_shown() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    fixture.stale();
    let hidden = of_this(&["--orphaned"]);
    assert_eq!(hidden, (1, String::new(), String::new()));
    let report = parse(&of_this(&["--orphaned", "--json"]).1);
    assert_eq!(report["sets"], json!([]));
}

/// Ends the other thread, however the test ends.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Instances that are closed during the look are no failure.
#[test]
fn the_status_of_what_is_closed_meanwhile() {
    let Some(_alone) = start() else { return };
    let end = AtomicBool::new(false);
    let mut statuses = BTreeSet::new();
    std::thread::scope(|scope| {
        let _at_the_end = End(&end);
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                let mut fixture = Fixture::new();
                fixture.good();
                // In that order: otherwise the target could be seen without its descriptor.
                let Fixture { set, keep } = fixture;
                drop((set, keep));
            }
        });
        for args in [
            &["--json"][..],
            &["--wide"],
            &["--json", "--resolver", "kcmp"],
        ] {
            for _ in 0..5 {
                statuses.insert(run_only(&[&["-p", &pid()], args].concat()).0);
            }
        }
    });
    assert_eq!(statuses, BTreeSet::from([0]));
}

/// A family of OpenMetrics samples: values by labels.
type Samples = BTreeMap<BTreeMap<String, String>, f64>;

/// Parses a text of gauges by the rules of OpenMetrics; panics if it breaks one.
fn metrics(text: &str) -> BTreeMap<String, Samples> {
    let lines = text
        .strip_suffix("# EOF\n")
        .expect("ends with # EOF")
        .lines();
    let mut families: BTreeMap<String, Samples> = BTreeMap::new();
    let mut current = String::new();
    for line in lines {
        if let Some(rest) = line.strip_prefix("# ") {
            let (kind, rest) = rest.split_once(' ').unwrap();
            let (name, what) = rest.split_once(' ').unwrap();
            match kind {
                "HELP" => {
                    current = name.to_owned();
                    // The samples of a family stand together.
                    assert_eq!(families.insert(current.clone(), Samples::new()), None);
                    assert!(!what.contains('\\'));
                }
                "TYPE" => {
                    assert_eq!((name, what), (&current[..], "gauge"));
                    assert!(families[name].is_empty(), "{line}");
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let end = line.find(['{', ' ']).unwrap();
        let (name, mut rest) = line.split_at(end);
        assert_eq!(name, current);
        let mut labels = BTreeMap::new();
        if let Some(after) = rest.strip_prefix('{') {
            rest = after;
            loop {
                let (label, after) = rest.split_once("=\"").unwrap();
                let (mut value, mut chars) = (String::new(), after.chars());
                loop {
                    match chars.next().unwrap() {
                        '"' => break,
                        '\\' => value.push(match chars.next().unwrap() {
                            'n' => '\n',
                            c @ ('\\' | '"') => c,
                            c => panic!("\\{c} in {line}"),
                        }),
                        c => value.push(c),
                    }
                }
                assert_eq!(labels.insert(label.to_owned(), value), None);
                rest = chars.as_str();
                match rest.strip_prefix(',') {
                    Some(after) => rest = after,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}').unwrap();
        }
        let value = rest.strip_prefix(' ').unwrap().parse().unwrap();
        let samples = families.get_mut(name).unwrap();
        assert_eq!(samples.insert(labels, value), None, "twice: {line}");
    }
    families
}

/// A directory of its own.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("lsepoll-options-{}", pid()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn metrics_file() {
    let Some(odd) = Odd::new() else { return };
    let folder = Folder::new();
    let path = folder.0.join("lsepoll.prom");
    fs::write(&path, "old").unwrap();
    let mut old = File::open(&path).unwrap();
    // What ends a line or a value, and what a terminal obeys.
    let name = "a\n\"\\b\u{202e}\x1b[c";
    let named = Named::new(name);
    let arguments = ["--metrics", path.to_str().unwrap(), "-p", &pid()];
    // What is odd is in the file: a timer has done its work.
    assert_eq!(run(&arguments), (0, String::new(), String::new()));

    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains(['\u{202e}', '\x1b']), "{text:?}");
    let families = metrics(&text);
    let names: Vec<&str> = families.keys().map(String::as_str).collect();
    let expected = [
        "lsepoll_complete",
        "lsepoll_instances",
        "lsepoll_last_run_timestamp_seconds",
        "lsepoll_odd_targets",
        "lsepoll_targets",
    ];
    assert_eq!(names, expected);
    let shown = "a\n\"\\b\\u{202e}\\u{1b}[c";
    let command = BTreeMap::from([("command".to_owned(), shown.to_owned())]);
    assert_eq!(
        families["lsepoll_instances"],
        [(command.clone(), 1.0)].into()
    );
    assert_eq!(families["lsepoll_targets"], [(command.clone(), 4.0)].into());
    let states = [
        ("moved", 2.0),
        ("orphaned", 1.0),
        ("stale", 1.0),
        ("stuck", 2.0),
    ];
    let states = states.map(|(state, count)| {
        let mut labels = command.clone();
        labels.insert("state".to_owned(), state.to_owned());
        (labels, count)
    });
    assert_eq!(families["lsepoll_odd_targets"], states.into());

    // Who has opened the old one still reads that; nothing else is left.
    let mut before = String::new();
    old.read_to_string(&mut before).unwrap();
    assert_eq!(before, "old");
    let now = fs::metadata(&path).unwrap();
    assert_ne!(now.ino(), old.metadata().unwrap().ino());
    assert_eq!(now.permissions().mode() & 0o777, 0o644);
    let left = |folder: &Folder| fs::read_dir(&folder.0).unwrap().count();
    assert_eq!(left(&folder), 1);

    // What a run that was killed has left does not get in the way.
    let leftover = format!("{}.1", path.display());
    fs::write(&leftover, "").unwrap();
    assert_eq!(
        run(&["--metrics", path.to_str().unwrap(), "-p", &pid()]).0,
        0
    );
    fs::remove_file(leftover).unwrap();

    // Standard output goes on behind it.
    let output = folder.0.join("output");
    let both = format!(
        "echo before; {LSEPOLL} --metrics /dev/stdout -p {}; echo after",
        pid()
    );
    let file = fs::File::create(&output).unwrap();
    let mut shell = Command::new("sh");
    assert!(
        shell
            .args(["-c", &both])
            .stdout(file)
            .status()
            .unwrap()
            .success()
    );
    let text = fs::read_to_string(&output).unwrap();
    assert!(
        text.starts_with("before\n# ") && text.ends_with("# EOF\nafter\n"),
        "{text}"
    );
    fs::remove_file(output).unwrap();

    // What cannot be replaced is an error, and nothing is left of it.
    fs::create_dir(folder.0.join("directory")).unwrap();
    for name in ["directory", "none/file"] {
        let path = folder.0.join(name);
        let (status, table, errors) = run(&["--metrics", path.to_str().unwrap(), "-p", &pid()]);
        assert_eq!((status, table.as_str()), (2, ""));
        let expected = format!("lsepoll: cannot write {}: ", path.display());
        assert!(errors.starts_with(&expected), "{errors}");
        assert_eq!((errors.lines().count(), left(&folder)), (1, 2));
    }
    // The other way round, another test could have named the process meanwhile.
    drop((named, odd));
}

#[test]
fn watch() {
    let Some(mut odd) = Odd::new() else { return };
    let mut command = Command::new("timeout");
    // However this ends.
    command.args([
        "60",
        LSEPOLL,
        "--watch",
        "1",
        "--owners",
        "given",
        "-p",
        &pid(),
    ]);
    if let Ok(resolver) = std::env::var("EPOLL_RESOLVER") {
        command.args(["--resolver", &resolver]);
    }
    let null = command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watch = null.spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // The next line of a target.
    let mut expect = |what: &str, tfd: i32| loop {
        let line = lines.next().expect("it ended").unwrap();
        let mut marks = ["new", "gone", "now"].into_iter();
        let mark = marks
            .find(|mark| line.starts_with(mark))
            .unwrap_or_default();
        // Behind the process, its name and the instance.
        let mut cells = line[mark.len()..].split_whitespace();
        if cells.nth(3) == Some(&tfd.to_string()) {
            assert_eq!(mark, what, "{line}");
            break;
        }
    };
    expect("", odd.good);
    let appeared = odd.of.good();
    expect("new", appeared);
    epoll::delete(&odd.of.set, odd.of.keep.last().unwrap()).unwrap();
    expect("gone", appeared);
    // The descriptor of the first is closed, and another one has its file.
    let file = odd.of.keep.swap_remove(0);
    let copy = fcntl_dupfd_cloexec(&file, 700).unwrap();
    drop(file);
    expect("now", odd.good);
    drop(copy);
    watch.kill().unwrap();
    watch.wait().unwrap();
}

/// A service that is watched by its name may be restarted.
#[test]
fn watch_by_name() {
    let Some(_alone) = start() else { return };
    let folder = Folder::new();
    let name = format!("lsep-{}", std::process::id());
    let program = folder.0.join(&name);
    std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
    let service = || {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mut command = Command::new(&program);
        command
            .arg("1000")
            .stdin(set)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut first = service();
    let comm = format!("/proc/{}/comm", first.id());
    while fs::read_to_string(&comm).unwrap().trim_end() != name {
        std::thread::yield_now();
    }
    let mut command = Command::new("timeout");
    command.args(["60", LSEPOLL, "--watch", "1", &name]);
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut expect = |mark: &str, pid: u32| loop {
        let line = lines.next().expect("it ended").unwrap();
        if line.starts_with(mark) && line.split_whitespace().any(|w| w == pid.to_string()) {
            break;
        }
    };
    expect("", first.id());
    first.kill().unwrap();
    first.wait().unwrap();
    expect("gone", first.id());
    let mut second = service();
    expect("new", second.id());
    for child in [&mut watch, &mut second] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(run_only(&[&name]).0, 2, "nobody is called that");
}

#[test]
fn ready() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let mut pipe = |data: u64| {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let reader = fcntl_dupfd_cloexec(&reader, 700).unwrap();
        fixture.add(&reader, data);
        fixture.keep.push(writer);
        reader
    };
    let [open, quiet, orphan, quiet_orphan] = [1, 2, 3, 4].map(&mut pipe);
    for writer in fixture.keep.iter().step_by(2) {
        rustix::io::write(writer, b"x").unwrap();
    }
    let (sender, receiver) = sockets();
    let numbers = [&open, &quiet, &orphan, &quiet_orphan].map(AsRawFd::as_raw_fd);
    send(&sender, &[orphan, quiet_orphan]);

    let (_, table, _) = of_this(&["--ready"]);
    let report = parse(&of_this(&["--ready", "--json"]).1);
    // Only that one sees ready lists.
    let is_walk = report["statistics"]["resolver"] == "walk";
    // Nobody can be asked about an orphan, but its instance knows whether to look at it.
    let listed = if is_walk { ["yes", "no"] } else { ["?", "?"] };
    let shown = ["IN", "-", listed[0], listed[1]];
    for (number, shown) in numbers.into_iter().zip(shown) {
        let mut cells = line(&table, number).into_iter().skip(5);
        // The owner: a descriptor, or none.
        let _ = cells.find(|cell| cell.parse::<i32>().is_ok() || ["none", "?"].contains(cell));
        assert_eq!(cells.next(), Some(shown), "{table}");
    }
    let targets = report["sets"][0]["targets"].as_array().unwrap();
    let target = |tfd| targets.iter().find(|target| target["tfd"] == tfd).unwrap();
    let ready = numbers.map(|number| &target(number)["ready"]);
    assert_eq!(ready[0]["names"], json!(["IN"]));
    assert_eq!(ready[1]["names"], json!([]));
    assert!(ready[2].is_null() && ready[3].is_null());
    let on_list = numbers.map(|number| target(number)["on_ready_list"].as_bool());
    let expected = [true, false, true, false].map(|is| is_walk.then_some(is));
    assert_eq!(on_list, expected);
    // It is not asked for.
    let report = parse(&of_this(&["--json"]).1);
    let target = report["sets"][0]["targets"][0].as_object().unwrap();
    assert!(!target.contains_key("on_ready_list") && !target.contains_key("ready"));
    drop((open, quiet, receiver));
}

/// Of many owners, some are named, and how many there are is told.
#[test]
fn owners_that_are_not_named() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let moved = fixture.moved();
    let file = fixture.keep.last().unwrap();
    let copies: Vec<OwnedFd> = (0..9)
        .map(|_| fcntl_dupfd_cloexec(file, 0).unwrap())
        .collect();
    let report = parse(&of_this(&["--json"]).1);
    let target = &report["sets"][0]["targets"][0];
    assert_eq!(target["tfd"], moved);
    assert_eq!(target["owners"].as_array().unwrap().len(), 8);
    // kcmp(2) is not asked about all.
    let is_kcmp = report["statistics"]["resolver"] == "kcmp";
    let total = &target["owners_total"];
    assert!(*total == 10 || is_kcmp && total.is_null(), "{target}");
    let table = of_this(&[]).1;
    let more = if total.is_null() { "+7" } else { "+9" };
    assert_eq!(line(&table, moved)[7], more, "{table}");
    drop(copies);
}
