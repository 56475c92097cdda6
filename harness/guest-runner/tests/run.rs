// SPDX-License-Identifier: GPL-2.0

//! Runs with a script in the place of QEMU.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use epoll_targets::proc::{Stat, State};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

/// What the script does before its own part: it finds out which files are its
/// console and channel, and the mark.
const PRELUDE: &str = r#"#!/bin/sh
for arg; do
	case $arg in
	file,id=console,path=*) console=${arg#*path=} console=${console%,append=on} ;;
	file,id=channel,path=*) channel=${arg#*path=} channel=${channel%,append=on} ;;
	*VM_MARK=*) mark=${arg#*VM_MARK=} mark=${mark%% *} ;;
	esac
done
echo $$ >"${console%/*}/pid"
say() { printf "$@" >>"$channel"; }
log() { printf "$@" >>"$console"; }
end() { printf '\n%s %s\n' "$mark" "$1" >>"$channel"; }
"#;

struct Guest {
    dir: TempDir,
    options: Vec<String>,
    command: String,
}

impl Guest {
    /// One whose machine is this script.
    fn new(script: &str) -> Self {
        let dir = TempDir::new().unwrap();
        write_script(&dir.path().join("qemu"), &format!("{PRELUDE}{script}\n"));
        Self {
            dir,
            options: Vec::new(),
            command: "true".to_owned(),
        }
    }

    fn options(mut self, options: &[&str]) -> Self {
        self.options = options.iter().map(|&o| o.to_owned()).collect();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path("log").join(name)).unwrap()
    }

    fn start(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_guest-runner"))
            .args(["--accel", "tcg", "--qemu"])
            .arg(self.path("qemu"))
            .args(&self.options)
            .args(["kernel", "/top"])
            .arg(self.dir.path())
            .arg(self.path("log"))
            .arg(&self.command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn run(&self) -> Output {
        self.start().wait_with_output().unwrap()
    }

    /// The script's process, once it is there.
    fn machine(&self) -> Pid {
        let pid = wait_for(|| {
            let pid = fs::read_to_string(self.path("log/pid")).ok()?;
            pid.trim().parse().ok()
        });
        Pid::from_raw(pid).unwrap()
    }
}

/// Writes it in another process: if this one had it open, a fork for another
/// test could keep it so, and it would be busy.
fn write_script(path: &Path, text: &str) {
    let mut install = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = install.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert!(install.wait().unwrap().success());
}

fn wait_for<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(t) = what() {
            return t;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until there is no such process, or only what is left of one until its
/// parent, which is not us, asks how it ended.
fn wait_until_gone(pid: Pid) {
    wait_for(|| {
        let stat = Stat::of(pid.as_raw_pid());
        let runs = stat.is_ok_and(|stat| stat.state != State::Zombie);
        (!runs || test_kill_process(pid).is_err()).then_some(())
    });
}

#[track_caller]
fn check(output: &Output, status: i32, stdout: &str, stderr: &str) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{err}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout);
    assert!(err.contains(stderr), "{stderr:?} is not in:\n{err}");
}

#[test]
fn success() {
    let guest = Guest::new("log 'booting\\r\\n'; say 'one\\n\\ntwo\\n'; end 0");
    let output = guest.run();
    check(&output, 0, "one\n\ntwo\n", "guest: TCG, logs in ");
    assert_eq!(output.stderr.iter().filter(|&&b| b == b'\n').count(), 1);
    assert_eq!(guest.log("console.log"), "booting\r\n");
    assert!(
        guest
            .log("channel.log")
            .starts_with("one\n\ntwo\n\nguest-exit-")
    );
    assert_eq!(guest.log("command"), "true\n");
}

#[test]
fn no_file_is_left_but_the_logs() {
    let guest = Guest::new("end 0");
    check(&guest.run(), 0, "", "");
    let mut names: Vec<_> = fs::read_dir(guest.path("log"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["channel.log", "command", "console.log", "pid"]);
}

#[test]
fn the_status_is_passed_on() {
    for status in [1, 77, 255] {
        let guest = Guest::new(&format!("say no-end; end {status}"));
        check(&guest.run(), status, "no-end\n", "");
    }
}

#[test]
fn parameters() {
    let guest = Guest::new("for arg; do say '%s\\n' \"$arg\"; done; end 0").options(&[
        "--smp",
        "3",
        "--memory=512",
        "--append",
        "-a b=c",
    ]);
    let output = guest.run();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.contains("\n-smp\n3\n-m\n512\n"), "{out}");
    let dir = guest.dir.path().display();
    let append = out.lines().last().unwrap();
    assert!(append.contains(" init=/top/scripts/guest/init VM_TOP=/top "));
    assert!(append.contains(&format!(" VM_OUT={dir} VM_COMMAND={dir}/log/command ")));
    assert!(append.ends_with(" -a b=c"), "{append}");
}

#[test]
fn no_mark() {
    let guest = Guest::new("log 'a\\nb\\n'; say 'out\\n'");
    check(
        &guest.run(),
        124,
        "out\n",
        "guest: 0 lines say how the command ended, one should; \
         the end of its console:\n    a\n    b\n",
    );
}

#[test]
fn two_marks() {
    let guest = Guest::new("end 0; end 0");
    check(&guest.run(), 124, "", "guest: 2 lines say how");
}

#[test]
fn a_mark_cut_off_or_without_status() {
    let guest = Guest::new("say '\\n%s 0' $mark");
    check(&guest.run(), 124, "", "guest: 0 lines say how");
    let guest = Guest::new("end zero");
    check(&guest.run(), 124, "", "has no status");
}

#[test]
fn trouble_ends_it_at_once() {
    let guest = Guest::new(
        "log 'before\\n'; say 'out\\n'
        log '[ 1.0] Kernel panic - not syncing: \\033[7mx\\n'
        i=0; while [ $i -lt 60 ]; do i=$((i+1)); log \"line $i\\n\"; done
        end 0; exec sleep 60",
    );
    let start = Instant::now();
    let output = guest.run();
    assert!(start.elapsed() < Duration::from_secs(20));
    check(
        &output,
        125,
        "out\n",
        "guest: the kernel is in trouble; its console:\n    before\n    \
         [ 1.0] Kernel panic - not syncing: [7mx\n    line 1\n",
    );
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.ends_with("    line 40\n"), "{err}");
    wait_until_gone(guest.machine());
}

#[test]
fn trouble_that_says_little_ends_it_soon() {
    let guest = Guest::new("log 'BUG: x\\nand\\n'; exec sleep 60");
    let start = Instant::now();
    check(&guest.run(), 125, "", "    BUG: x\n    and\n");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn trouble_as_the_last_word() {
    // After the mark, without the end of its line, and with a machine that ends.
    let guest = Guest::new("end 0; log 'kmemleak: 2 new suspected'");
    check(&guest.run(), 125, "", "    kmemleak: 2 new suspected\n");
}

#[test]
fn trouble_that_is_to_be_ignored() {
    let script = "log 'BUG: KCSAN: data-race in a / b\\n'; end 3";
    let guest = Guest::new(script).options(&["--ignore", "^x", "--ignore", "data-race in a / "]);
    check(&guest.run(), 3, "", "guest: ignored a line of trouble\n");
    let guest = Guest::new(script).options(&["--ignore", "data-race in b"]);
    check(&guest.run(), 125, "", "");
}

#[test]
fn hanging_ends_at_the_deadline() {
    let script = "log 'last\\n'; while :; do say .; sleep 0.1; done";
    let guest = Guest::new(script).options(&["--deadline", "1.5"]);
    let start = Instant::now();
    let output = guest.run();
    assert!(start.elapsed() >= Duration::from_millis(1500));
    assert!(start.elapsed() < Duration::from_secs(20));
    let dots = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(dots.starts_with("..."));
    check(
        &output,
        124,
        &dots,
        "guest: no end after 2 s; the end of its console:\n    last\n",
    );
    wait_until_gone(guest.machine());
}

#[test]
fn a_guest_that_does_not_power_off() {
    let guest = Guest::new("end 0; exec sleep 60").options(&["--deadline", "1"]);
    check(
        &guest.run(),
        124,
        "",
        "no end after 1 s, the command had ended with status 0;",
    );
}

#[test]
fn silence_ends_it() {
    let guest = Guest::new("say 'a\\n'; exec sleep 60").options(&["--silence", "1"]);
    check(
        &guest.run(),
        124,
        "a\n",
        "guest: no output for 1 s; the end of its console:\n",
    );
}

#[test]
fn output_on_either_stream_is_no_silence() {
    let script = "
        for i in 1 2 3 4 5 6; do say $i; sleep 0.4; done
        for i in 1 2 3 4 5 6; do log $i; sleep 0.4; done
        end 0";
    let guest = Guest::new(script).options(&["--silence", "2"]);
    check(&guest.run(), 0, "123456\n", "");
    let guest = Guest::new("sleep 1.5; end 0").options(&["--silence", "0"]);
    check(&guest.run(), 0, "", "");
}

/// A script that says nothing the first `n` times.
fn silent(n: usize, then: &str) -> Guest {
    Guest::new(&format!(
        "echo >>\"${{console%/*}}/boots\"
        [ $(wc -l <\"${{console%/*}}/boots\") -gt {n} ] || exec sleep 60
        {then}"
    ))
    .options(&["--boot-silence", "2"])
}

#[test]
fn a_silent_boot_is_tried_again_once() {
    let line = "guest: no output in the first 2 s of boot, started again\n";
    let guest = silent(1, "log 'booting\\n'; say 'one\\n'; end 0");
    check(&guest.run(), 0, "one\n", line);
    assert_eq!(guest.log("console.log"), format!("{line}booting\n"));
    assert_eq!(guest.log("boots"), "\n\n");

    let guest = silent(2, "end 0");
    check(
        &guest.run(),
        124,
        "",
        "guest: two boots in a row without any output for 2 s; the end of its console:\n",
    );
    assert_eq!(guest.log("boots"), "\n\n");
    wait_until_gone(guest.machine());
}

#[test]
fn a_guest_that_has_said_anything_is_not_started_again() {
    for word in ["log 'x'", "say 'x'"] {
        let guest = silent(0, &format!("{word}; sleep 3; end 0"));
        let output = guest.run();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(guest.log("boots"), "\n");
    }
    // Nor if it is not asked for.
    let guest = silent(0, "sleep 1.5; end 0").options(&["--boot-silence", "0"]);
    check(&guest.run(), 0, "", "");
}

#[test]
fn a_machine_that_crashes() {
    let guest = Guest::new("end 0; kill -SEGV $$");
    check(
        &guest.run(),
        124,
        "",
        "guest: its machine died of signal 11; the end",
    );
    let guest = Guest::new("echo complaint; end 0; exit 1");
    check(
        &guest.run(),
        124,
        "",
        "guest: its machine ended with status 1; the end",
    );
}

#[test]
fn a_machine_that_does_not_start() {
    let guest = Guest::new("").options(&["--qemu", "/nonexistent/qemu"]);
    check(
        &guest.run(),
        124,
        "",
        "guest: cannot start /nonexistent/qemu: ",
    );
}

#[test]
fn progress() {
    let script = "say 'one\\n'; sleep 1; say 'two'; sleep 1; end 0";
    let guest = Guest::new(script).options(&["--progress=0.5"]);
    check(&guest.run(), 0, "one\ntwo\n", "guest: 0:00 one\n");
    check(&guest.run(), 0, "one\ntwo\n", " two\n");
    let guest = Guest::new(script);
    assert!(
        !String::from_utf8(guest.run().stderr)
            .unwrap()
            .contains("0:0")
    );
}

#[test]
fn output_comes_as_it_is_made() {
    let guest = Guest::new("say 'now'; read -r line <\"${console%/*}/go\"; end 0");
    fs::create_dir(guest.path("log")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        guest.path("log/go"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let mut vm = guest.start();
    let mut now = [0; 3];
    vm.stdout.as_mut().unwrap().read_exact(&mut now).unwrap();
    assert_eq!(&now, b"now");
    assert!(vm.try_wait().unwrap().is_none());
    fs::write(guest.path("log/go"), "go\n").unwrap();
    check(&vm.wait_with_output().unwrap(), 0, "\n", "");
}

#[test]
fn a_slow_reader_loses_nothing_and_holds_up_nobody() {
    // 100 MB, and then a kernel in trouble that nobody would notice.
    let guest = Guest::new(
        "yes 123456789 | head -c 100000000 >>\"$channel\"; log 'BUG: x\\n'; exec sleep 60",
    );
    let mut vm = guest.start();
    let machine = guest.machine();
    let mut stdout = vm.stdout.take().unwrap();
    // Ended while not a byte has been read.
    wait_until_gone(machine);
    let peak = fs::read_to_string(format!("/proc/{}/status", vm.id())).unwrap();
    let peak: u64 = peak
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .and_then(|l| l.trim().strip_suffix(" kB"))
        .and_then(|n| n.parse().ok())
        .unwrap();
    assert!(peak < 50_000, "{peak} kB of memory");

    let mut out = Vec::new();
    stdout.read_to_end(&mut out).unwrap();
    assert_eq!(out.len(), 100_000_000);
    assert!(out.chunks(10).all(|line| line == b"123456789\n"));
    check(&vm.wait_with_output().unwrap(), 125, "", "    BUG: x\n");
}

#[test]
fn signals_end_it() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let guest = Guest::new("log 'booting\\n'; sleep 60 & wait");
        let vm = guest.start();
        let machine = guest.machine();
        kill_process(Pid::from_child(&vm), signal).unwrap();
        let output = vm.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(signal.as_raw()));
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(
            err.contains(&format!("guest: stopped by {name}, logs in ")),
            "{err}"
        );
        wait_until_gone(machine);
        assert_eq!(guest.log("command"), "true\n");
    }
}

#[test]
fn the_machine_does_not_outlive_us() {
    let guest = Guest::new("exec sleep 60");
    let mut vm = guest.start();
    let machine = guest.machine();
    vm.kill().unwrap();
    vm.wait().unwrap();
    wait_until_gone(machine);
}

#[test]
fn it_ends_when_nobody_reads() {
    let guest = Guest::new("while :; do say 'line\\n'; sleep 0.1; done");
    let mut vm = guest.start();
    let machine = guest.machine();
    drop(vm.stdout.take());
    let output = vm.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(Signal::PIPE.as_raw()));
    wait_until_gone(machine);
}

/// A kernel that is a program, as a User-mode Linux.
#[test]
fn user_mode_linux() {
    let guest = Guest::new("");
    let kernel = guest.path("linux");
    write_script(
        &kernel,
        "#!/bin/sh
        for arg; do
            case $arg in VM_MARK=*) mark=${arg#*=} ;; esac
        done
        for arg; do
            case $arg in uml_dir=*) mkdir -p \"${arg#*=}x\" ;; esac
        done
        echo booting; echo early >&2
        printf '%s\\n' \"$@\" >&0
        printf '\\n%s 5\\n' \"$mark\" >&0\n",
    );
    let output = Command::new(env!("CARGO_BIN_EXE_guest-runner"))
        .args(["--uml", "--smp=2", "--append", "a b"])
        .arg(&kernel)
        .args(["/top", "/out"])
        .arg(guest.path("log"))
        .arg("echo hi")
        .env("TMPDIR", "/tmp")
        .output()
        .unwrap();
    let dir = guest.path("log");
    let dir = dir.display();
    let channel = guest.log("channel.log");
    let mark = channel
        .lines()
        .find_map(|l| l.strip_prefix("VM_MARK="))
        .unwrap();
    let args = format!(
        "mem=2048M\nncpus=2\nroot=/dev/root\nrootfstype=hostfs\nrootflags=/\nro\n\
         stderr=1\nnoreboot\npanic=-1\noops=panic\nloglevel=7\n\
         con=null\nssl=null\ncon0=null,fd:1\ncon1=null,fd:0\nVM_CHANNEL=tty1\n\
         uml_dir={dir}/uml/\ninit=/top/scripts/guest/init\nVM_TOP=/top\nVM_OUT=/out\n\
         VM_COMMAND={dir}/command\nVM_MARK={mark}\na\nb\n"
    );
    check(&output, 5, &args, "guest: User-mode Linux, logs in ");
    assert_eq!(guest.log("console.log"), "booting\nearly\n");
    assert!(!guest.path("log/uml").exists());
}

#[test]
fn wrong_use() {
    for args in [
        &["kernel", "/top"][..],
        &["--kvm", "kernel"],
        &["--smp=0", "k", "t", "o", "d", "c"],
        &["--deadline=-1", "k", "t", "o", "d", "c"],
        &["--ignore=(", "k", "t", "o", "d", "c"],
        &["--uml", "--accel=kvm", "k", "t", "o", "d", "c"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_guest-runner"))
            .args(args)
            .output();
        assert_eq!(output.unwrap().status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_log_of_another_machine_is_examined() {
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("console");
    let examine = || {
        Command::new(env!("CARGO_BIN_EXE_guest-runner"))
            .arg("--console")
            .arg(&log)
            .output()
            .unwrap()
    };
    fs::write(&log, "[    1.0] all is well\n").unwrap();
    let output = examine();
    assert!(output.status.success() && output.stdout.is_empty());

    let text = "[    1.0] before\n[    2.0] BUG: KASAN: it is not\n";
    fs::write(&log, text).unwrap();
    let output = examine();
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), text);

    fs::remove_file(&log).unwrap();
    assert_eq!(examine().status.code(), Some(124));
}
