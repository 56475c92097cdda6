// SPDX-License-Identifier: GPL-2.0

//! Counts in the OpenMetrics text format, for node_exporter's textfile directory.
//!
//! They are sums by command name: a fleet is to be watched by them, and pids would make
//! a new series for each process.

use crate::names::Commands;
use crate::summary::{Counts, count};
use epoll_cli::text::is_hidden;
use epoll_targets::pidfd::PidFd;
use epoll_targets::resolve::Report;
use rustix::fs::{OFlags, PROC_SUPER_MAGIC, fcntl_getfl};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A value of a label, as it stands in the file. What would control a terminal is escaped
/// first, as elsewhere, since people read the file, too.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c if is_hidden(c) => escaped += &format!("\\{}", c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    escaped
}

/// By the escaped names of commands: no two samples may have the same labels.
fn text(counts: &BTreeMap<String, Counts>, is_complete: bool, time: u64) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, samples: &[(String, u64)]| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let by_command = |value: fn(&Counts) -> u64| {
        let samples = counts.iter();
        let samples = samples.map(|(command, counts)| {
            let labels = format!("{{command=\"{command}\"}}");
            (labels, value(counts))
        });
        samples.collect::<Vec<_>>()
    };
    family(
        "lsepoll_instances",
        "Epoll instances.",
        &by_command(|counts| counts.instances),
    );
    family(
        "lsepoll_targets",
        "Targets of epoll instances.",
        &by_command(|counts| counts.targets),
    );
    // Those that matter are there even if they are 0.
    let states = counts.iter().flat_map(|(command, counts)| {
        let mut states =
            BTreeMap::from([("moved", 0), ("orphaned", 0), ("stale", 0), ("stuck", 0)]);
        states.extend(&counts.states);
        let labels = move |state| format!("{{command=\"{command}\",state=\"{state}\"}}");
        states
            .into_iter()
            .map(move |(state, count)| (labels(state), count))
    });
    family(
        "lsepoll_odd_targets",
        "Targets by state. One can be in several states.",
        &states.collect::<Vec<_>>(),
    );
    family(
        "lsepoll_complete",
        "Whether all processes could be inspected.",
        &[(String::new(), u64::from(is_complete))],
    );
    family(
        "lsepoll_last_run_timestamp_seconds",
        "When this was written.",
        &[(String::new(), time)],
    );
    text.push_str("# EOF\n");
    text
}

/// Replaces a regular file at once: who reads it sees the old or the new one. To a device
/// or a FIFO, the text is written.
pub fn write(path: &Path, report: &Report) -> io::Result<()> {
    let mut commands = Commands::default();
    let counts = count(report, |pid| escaped(commands.of(pid)));
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = time.map_or(0, |time| time.as_secs());
    put(path, &text(&counts, report.is_complete(), time))
}

/// How many symbolic links are followed, as in the kernel.
const LINKS: usize = 40;

/// Where a path is looked up.
fn directory(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    parent.unwrap_or(Path::new("."))
}

/// Whether a path is in `/proc`, whose links are to what is open: standard output may be
/// appended to a file.
fn is_open_file(path: &Path) -> bool {
    let filesystem = rustix::fs::statfs(directory(path));
    filesystem.is_ok_and(|filesystem| filesystem.f_type == PROC_SUPER_MAGIC)
}

/// What this process has open for writing under a path: `/dev/stdout` leads to
/// `/proc/self/fd/1`. Opened once more, a file would have a position of its own, and a socket
/// cannot be.
fn own_descriptor(path: &Path) -> Option<File> {
    let fd = path.file_name()?.to_str()?.parse().ok()?;
    let own = fs::canonicalize("/proc/self/fd").ok()?;
    if fs::canonicalize(directory(path)).ok()? != own {
        return None;
    }
    let copy = match fd {
        1 => io::stdout().as_fd().try_clone_to_owned(),
        2 => io::stderr().as_fd().try_clone_to_owned(),
        fd => PidFd::open(std::process::id() as i32).and_then(|own| own.getfd(fd)),
    };
    let copy = copy.ok()?;
    let mode = fcntl_getfl(&copy).ok()? & (OFlags::ACCMODE | OFlags::PATH);
    [OFlags::WRONLY, OFlags::RDWR]
        .contains(&mode)
        .then(|| copy.into())
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    let mut file = path.to_owned();
    for _ in 0..LINKS {
        let is_other = match fs::metadata(&file) {
            Ok(metadata) => !metadata.is_file(),
            // Such as that of another user in a directory like /tmp: see protected_symlinks
            // in proc_sys_fs(5).
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(_) => false,
        };
        if let Some(mut out) = own_descriptor(&file) {
            return out.write_all(text.as_bytes());
        }
        let to = fs::read_link(&file).ok().filter(|_| !is_open_file(&file));
        if let Some(to) = to {
            file = directory(&file).join(to);
        } else if is_other || is_open_file(&file) {
            let mut out = OpenOptions::new().append(true).open(&file)?;
            return out.write_all(text.as_bytes());
        } else {
            return replace(&file, text);
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "that is no file name",
        ));
    };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut prefix = name.to_owned();
    prefix.push(".");
    // node_exporter reads what ends in .prom only.
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format() {
        let counts = Counts {
            instances: 2,
            targets: 5,
            states: BTreeMap::from([("orphaned", 3)]),
        };
        let counts = BTreeMap::from([(escaped("a\"b\\\n\x1b"), counts)]);
        let text = text(&counts, true, 7);
        let label = r#"command="a\"b\\\n\\u{1b}""#;
        for line in [
            format!("lsepoll_instances{{{label}}} 2"),
            format!("lsepoll_targets{{{label}}} 5"),
            format!("lsepoll_odd_targets{{{label},state=\"moved\"}} 0"),
            format!("lsepoll_odd_targets{{{label},state=\"orphaned\"}} 3"),
            "lsepoll_complete 1".into(),
            "lsepoll_last_run_timestamp_seconds 7".into(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
    }

    #[test]
    fn only_regular_files_are_replaced() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};

        let directory = std::env::temp_dir().join(format!("lsepoll-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = |name| directory.join(name);

        // A reader that has the old file goes on to see that.
        let file = path("file");
        put(&file, "old").unwrap();
        let old = fs::metadata(&file).unwrap().ino();
        let held = fs::File::open(&file).unwrap();
        put(&file, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_ne!(fs::metadata(&file).unwrap().ino(), old);
        drop(held);

        // Relative, to another link, to a file that is there or not yet.
        symlink("file", path("link")).unwrap();
        symlink(path("link"), path("second")).unwrap();
        put(&path("second"), "by links").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "by links");
        symlink("later", path("dangling")).unwrap();
        put(&path("dangling"), "made").unwrap();
        assert_eq!(fs::read_to_string(path("later")).unwrap(), "made");
        for link in ["link", "second", "dangling"] {
            assert!(path(link).is_symlink(), "{link}");
        }
        symlink("loop", path("loop")).unwrap();
        let error = put(&path("loop"), "").unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::LOOP.raw_os_error())
        );

        let fifo = path("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read_to_string(fifo).unwrap()
        });
        put(&fifo, "through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());

        put(Path::new("/dev/null"), "x").unwrap();
        assert!(
            fs::metadata("/dev/null")
                .unwrap()
                .file_type()
                .is_char_device()
        );

        // As /dev/stdout, appended to a file.
        let log = OpenOptions::new().append(true).open(&file).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&log);
        put(Path::new(&format!("/proc/self/fd/{fd}")), "; more").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "by links; more");
        fs::remove_dir_all(&directory).unwrap();
    }
}
