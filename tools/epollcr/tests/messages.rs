// SPDX-License-Identifier: GPL-2.0

//! What the tool prints, run as a program.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const IMAGE: &[u8] = include_bytes!("version-1.image");

fn epollcr(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epollcr"));
    command.args(args).output().unwrap()
}

/// The one line that it prints for an error.
fn error(args: &[&str]) -> String {
    let output = epollcr(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    assert!(output.stdout.is_empty(), "{args:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    let line = error.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    line.into()
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, contents: &[u8]) -> String {
        let path: PathBuf = self.0.path().join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().into()
    }
}

#[test]
fn what_cannot_be_printed() {
    let run = |args: &[&str], out: fs::File, errors: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_epollcr"));
        command
            .args(args)
            .stdout(out)
            .stderr(errors)
            .output()
            .unwrap()
    };
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let output = run(&["--help"], full(), Stdio::piped());
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.starts_with("epollcr: cannot print: "), "{errors}");
    // Invalid arguments are that all the same.
    let output = run(&["--nonsense"], full(), full().into());
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_cause_is_printed_once() {
    let scratch = Scratch::new();
    let dir = scratch.0.path().to_str().unwrap();
    for command in [&["show", dir][..], &["restore", dir, "--dry-run"]] {
        assert_eq!(
            error(command),
            format!(
                "epollcr: cannot use {dir}: the image cannot be read: Is a directory (os error 21)"
            )
        );
    }

    let missing = format!("{dir}/missing");
    assert_eq!(
        error(&["show", &missing]),
        format!("epollcr: cannot open {missing}: No such file or directory (os error 2)")
    );

    let mut body = b"\xa1\x01\x01".to_vec();
    let mut malformed = IMAGE[..12].to_vec();
    malformed.extend(crc32fast::hash(&body).to_le_bytes());
    malformed.extend((body.len() as u64).to_le_bytes());
    malformed.append(&mut body);
    let malformed = scratch.file("malformed", &malformed);
    let said = error(&["show", &malformed]);
    let start = format!("epollcr: cannot use {malformed}: the image does not follow its schema: ");
    let cause = said.strip_prefix(&start).expect(&said);
    assert_eq!(said.matches(cause).count(), 1, "{said}");
    let words: Vec<_> = said.split(": ").collect();
    for word in &words {
        let times = words.iter().filter(|other| *other == word).count();
        assert_eq!(times, 1, "{word} in {said}");
    }
}

#[test]
fn only_an_inherited_descriptor_can_be_given() {
    let scratch = Scratch::new();
    let image = scratch.file("image", IMAGE);
    assert_eq!(
        error(&["restore", &image, "--dry-run", "--fd", "600=77"]),
        "epollcr: descriptor 77 is not open"
    );
}

#[test]
fn all_that_cannot_be_restored_is_listed() {
    let scratch = Scratch::new();
    let image = scratch.file("image", IMAGE);
    let output = epollcr(&["restore", &image, "--dry-run"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    let said = |line: &str| error.lines().any(|said| said == line);
    let start = "epollcr: cannot restore: ";
    assert!(error.lines().all(|line| line.starts_with(start)), "{error}");
    for line in [
        "descriptor 601, anon_inode:[something]: its write end is open elsewhere, and not in \
         the image",
        "file f13, which has no descriptor, anon_inode:[something]: it is a socket",
    ] {
        assert!(said(&format!("{start}{line}")), "{error}");
    }
}

#[test]
fn an_image_is_shown() {
    let scratch = Scratch::new();
    let image = scratch.file("image", IMAGE);
    let output = epollcr(&["show", &image]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "process 4321 (a program), stopped, at 2027-01-15T08:00:00Z, Linux 7.3.4",
            "13 descriptors, 14 open files, 2 epoll instances with 2 targets",
        ]
    );
    let fields = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        fields.join(" ")
    };
    let shown: Vec<_> = lines.iter().map(|line| fields(line)).collect();
    for line in [
        "600 f0 closes pipe RDONLY|NONBLOCK reads pipe 0, contains 11 bytes, write end not in \
         the image",
        "602 f2 closes eventfd RDWR value 5, semaphore",
        "605 f5 - socket RDWR|ASYNC connected to f6, contains 11 bytes, f0, f3",
        "610 700 IN|ET 0xffffffffffffffff ready f0 closed",
        "610 12 ONESHOT (off) 0x1 - f9 closed",
    ] {
        assert!(shown.iter().any(|shown| shown == line), "{line}: {text}");
    }

    let output = epollcr(&["show", "--json", &image]);
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["pipes"][0]["elsewhere"], 2);
    let timer = &json["files"][3];
    assert_eq!(timer["clock"], 9);
    assert_eq!(timer["settime_flags"], 3);
    assert_eq!(timer["value"], serde_json::json!([3600, 5]));
    let socket = &json["files"][7];
    assert_eq!(
        (&socket["type"], &socket["shutdown"]),
        (&5.into(), &3.into())
    );
    assert_eq!(json["files"][5]["owner"]["kind"], 1);
    assert_eq!(json["files"][8]["device"], serde_json::json!([8, 1]));
}
