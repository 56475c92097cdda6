// SPDX-License-Identifier: GPL-2.0

//! `epollcr dump`

use crate::{TOOL, advance, cli, limit, open_device, signals, warnings};
use anyhow::{Context, Result};
use epoll_cli::progress::Progress;
use epoll_targets::proc::Stat;
use libepollcr::device::Device;
use libepollcr::dump::{Dump, Error};
use libepollcr::image::Image;
use rustix::fs::{AtFlags, CWD, linkat};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub fn run(args: &cli::Dump) -> Result<()> {
    let device = open_device(args.no_device)?;
    // Each file that no process has a descriptor for takes one of ours.
    limit::allow_all();
    check_target(&args.file).with_context(|| format!("cannot write {}", args.file.display()))?;
    let image = make(args, device.as_ref())?;
    if image.origin.running {
        eprintln!("{TOOL}: warning: the process was running: the image may be inconsistent");
    }
    for warning in warnings::of_dump(&image, device.is_some()) {
        eprintln!("{TOOL}: warning: {warning}");
    }
    write(&image, &args.file).with_context(|| format!("cannot write {}", args.file.display()))
}

fn make(args: &cli::Dump, device: Option<&Device>) -> Result<Image> {
    let mut progress = Progress::stderr();
    let mut dump = Dump::new(args.pid).on_progress(|now| advance(&mut progress, now));
    if args.running {
        dump = dump.even_if_running();
    }
    let pid = args.pid;
    dump.make(device).map_err(|error| {
        let hint = match &error {
            Error::Running(_) => format!(" ({})", how_to_stop(pid)),
            Error::Thread { pid, .. } => format!(" (dump it with -p {pid})"),
            Error::Tables { .. } => {
                " (--running dumps it nevertheless, without the descriptors of that thread)".into()
            }
            Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                let advice = match rustix::process::geteuid().is_root() {
                    true => "it takes CAP_SYS_PTRACE, and a security module may forbid it",
                    false => "run this as root",
                };
                format!(" ({advice})")
            }
            _ => String::new(),
        };
        anyhow::Error::new(error).context(format!("cannot dump process {pid}{hint}"))
    })
}

/// How a process can be stopped that is not.
fn how_to_stop(pid: i32) -> String {
    if pid == 1 {
        return "no signal stops the first process: freeze its control group, or dump it with \
                --running"
            .into();
    }
    if waits_for_this(pid) {
        return "it waits for this program, and can be stopped and dumped by a program that it \
                does not wait for; --running dumps it as it is"
            .into();
    }
    format!("stop it with kill -STOP {pid}, or dump it with --running")
}

/// Whether a process is this one, its parent, or a parent of that, such as a shell that
/// was told to dump itself.
fn waits_for_this(pid: i32) -> bool {
    let mut ancestor = std::process::id() as i32;
    while ancestor > 1 && ancestor != pid {
        ancestor = Stat::of(ancestor).map_or(0, |stat| stat.ppid);
    }
    ancestor == pid
}

/// Checks that the image replaces nothing but a regular file.
fn check_target(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_file() => Ok(()),
        Ok(_) => Err(io::Error::other("it exists and is not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.file_name() {
            Some(_) => Ok(()),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Writes the image to a file without a name, and names that when it is complete. Only its
/// owner can read it: it has the contents of pipes.
fn write(image: &Image, path: &Path) -> io::Result<()> {
    // Writing a file that is too large fails then, and says so.
    signals::ignore(libc::SIGXFSZ)?;
    let directory = match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    };
    // In a directory that others can write to, they can neither guess the name nor have
    // created the file.
    let random = RandomState::new().hash_one(std::process::id());
    let part = path.with_file_name(format!(".epollcr-{random:016x}"));
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(directory);
    let file = match file {
        Ok(file) => file,
        // Not all file systems have such files.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL | libc::ENOENT)
            ) =>
        {
            return write_named(image, path, &part);
        }
        Err(error) => return Err(error),
    };
    image.write(BufWriter::new(&file))?;
    file.sync_all()?;
    check_target(path)?;
    let link = |name: &Path| {
        let file = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(CWD, file, CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
    };
    match link(path) {
        // A link replaces nothing, which takes a second name for a moment.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let _held = signals::hold()?;
            link(&part)?;
            replace(&part, path)
        }
        linked => linked,
    }
}

/// Writes the image to a file with another name, which is removed if this is interrupted.
fn write_named(image: &Image, path: &Path, part: &Path) -> io::Result<()> {
    let held = signals::hold()?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_NOFOLLOW)
        .mode(0o600)
        .open(part)?;
    let written = image
        .write(BufWriter::new(Interruptible {
            to: &file,
            held: &held,
        }))
        .and_then(|()| file.sync_all())
        .and_then(|()| replace(part, path));
    if written.is_err() {
        let _ = fs::remove_file(part);
    }
    written
}

/// Gives a complete image its name.
fn replace(part: &Path, path: &Path) -> io::Result<()> {
    let replaced = check_target(path).and_then(|()| fs::rename(part, path));
    if replaced.is_err() {
        let _ = fs::remove_file(part);
    }
    replaced
}

/// Stops writing if a signal waits that would end this process.
struct Interruptible<'a> {
    to: &'a File,
    held: &'a signals::Held,
}

impl Write for Interruptible<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.held.is_one_pending() {
            // Not `Interrupted`, after which writers try again.
            return Err(io::Error::other("it was interrupted"));
        }
        let mut to = self.to;
        to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
