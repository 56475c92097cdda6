// SPDX-License-Identifier: GPL-2.0

//! `epollcr dump`

use crate::progress::Progress;
use crate::{limit, partial};
use anyhow::{Context, Result};
use epoll_cr::device::{self, Device};
use epoll_cr::dump::{self, Dump, Error};
use epoll_cr::image::Image;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that nobody has open are ours while they are looked at.
const DESCRIPTORS: u64 = 4096;

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
    limit::allow(DESCRIPTORS);
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
            Error::Io(_, error) if error.kind() == io::ErrorKind::PermissionDenied => {
                " (run this as root)".into()
            }
            _ => String::new(),
        };
        anyhow::anyhow!("{error}{hint}")
    })
}

/// An image that is there is complete. It has what was in pipes: not for others.
fn write(image: &Image, path: &Path) -> io::Result<()> {
    let part = partial(path);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    let written = image
        .write(BufWriter::new(&file))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}
