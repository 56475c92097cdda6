// SPDX-License-Identifier: GPL-2.0

//! `epollcr dump`

use crate::limit;
use crate::progress::Progress;
use anyhow::{Context, Result};
use libepollcr::device::{self, Device};
use libepollcr::dump::{self, Dump, Error};
use libepollcr::image::Image;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The process; it has to be stopped
    #[arg(short, long, value_name = "PID")]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,

    /// Dump it even if it is not stopped; the image says so
    #[arg(long)]
    running: bool,

    /// Where to write the image
    file: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let device = open_device()?;
    // Files that nobody has open are ours while they are looked at.
    limit::allow_all();
    check_target(&args.file).with_context(|| format!("cannot write {}", args.file.display()))?;
    let image = make(args, &device).with_context(|| format!("cannot dump process {}", args.pid))?;
    write(&image, &args.file).with_context(|| format!("cannot write {}", args.file.display()))?;
    if image.origin.running {
        eprintln!(
            "epollcr: the process was not stopped: what is in the image need not fit together"
        );
    }
    Ok(())
}

pub fn open_device() -> Result<Device> {
    Device::open().map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => ": load the module with modprobe epoll_cr",
            io::ErrorKind::PermissionDenied => ": run this as root",
            _ => "",
        };
        anyhow::anyhow!("cannot open {}: {error}{hint}", device::PATH)
    })
}

fn make(args: &Args, device: &Device) -> Result<Image> {
    let terminal = io::stderr().as_fd().try_clone_to_owned()?;
    let mut progress = Progress::new(Arc::new(File::from(terminal)));
    let mut dump = Dump::new(args.pid).on_progress(|now| match now {
        dump::Progress::Files { done, total } => progress.show("files", done, total),
        dump::Progress::Items { done, total } => progress.show("items", done, total),
    });
    if args.running {
        dump = dump.even_if_running();
    }
    dump.make(device).map_err(|error| {
        let hint = match &error {
            Error::Running(_) => {
                format!(
                    " (kill -STOP {} stops it, --running ignores that)",
                    args.pid
                )
            }
            Error::Tables(_) => " (--running ignores that, and what it has)".into(),
            Error::Io(_, error) if error.kind() == io::ErrorKind::PermissionDenied => {
                " (run this as root)".into()
            }
            _ => String::new(),
        };
        anyhow::anyhow!("{error}{hint}")
    })
}

/// What an image takes the place of has to be a file, or nothing.
fn check_target(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_file() => Ok(()),
        Ok(_) => Err(io::Error::other("it is there, and no regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.file_name() {
            Some(_) => Ok(()),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// An image that is there is complete. It has what was in pipes: not for others.
fn write(image: &Image, path: &Path) -> io::Result<()> {
    // Others may have a right to the directory: they cannot know the name, nor
    // have put something else there.
    let random = RandomState::new().hash_one(std::process::id());
    let part = path.with_file_name(format!(".epollcr-{random:016x}"));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_NOFOLLOW)
        .mode(0o600)
        .open(&part)?;
    let written = image
        .write(BufWriter::new(&file))
        .and_then(|()| file.sync_all())
        .and_then(|()| check_target(path))
        .and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}
