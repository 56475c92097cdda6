// SPDX-License-Identifier: GPL-2.0

//! `epollcr restore`

use crate::progress::Progress;
use crate::{dump, limit, read, tell};
use anyhow::{Context, Result, bail};
use epoll_cr::image::Image;
use epoll_cr::restore::{self, Error, Parking, Restore, Restored};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::sync::Arc;

/// Numbers besides those of the image: ours, and files that have none.
const SPARE: u64 = 64;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image
    file: PathBuf,

    /// Take descriptor M of this process for what is descriptor N, or fN, of the
    /// image
    #[arg(long = "fd", value_name = "N=M")]
    given: Vec<Given>,

    /// Keep the standard input, output and error of this process: short for
    /// --fd 0=0 --fd 1=1 --fd 2=2
    #[arg(long)]
    stdio: bool,

    /// Let COMMAND have only what was not close-on-exec
    #[arg(long)]
    keep_cloexec: bool,

    /// Only name what cannot be restored
    #[arg(long)]
    dry_run: bool,

    /// What to execute, and its arguments
    #[arg(last = true, required_unless_present = "dry_run")]
    command: Vec<OsString>,
}

/// A file of the image.
#[derive(Clone, Copy, Debug)]
enum Which {
    Descriptor(u32),
    File(u32),
}

/// `--fd N=M`
#[derive(Clone, Copy, Debug)]
struct Given {
    which: Which,
    fd: RawFd,
}

impl FromStr for Given {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let wrong = "it has to be N=M or fN=M, two numbers";
        let (which, fd) = text.split_once('=').ok_or(wrong)?;
        let number = |text: &str| text.parse::<i32>().ok().filter(|&n| n >= 0).ok_or(wrong);
        let which = match which.strip_prefix('f') {
            Some(file) => Which::File(number(file)?.unsigned_abs()),
            None => Which::Descriptor(number(which)?.unsigned_abs()),
        };
        Ok(Self {
            which,
            fd: number(fd)?,
        })
    }
}

/// Descriptors that this process was started with.
pub fn inherited() -> Vec<RawFd> {
    let Ok(numbers) = fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<RawFd> = numbers.collect();
    // The directory itself, closed by now.
    numbers.retain(|&number| is_open(number));
    numbers
}

fn is_open(number: RawFd) -> bool {
    // SAFETY: it looks at a number, and does nothing to a descriptor.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Everything that is needed from now on is at a number that the image does not
/// have.
struct Ready<'a> {
    stderr: Arc<File>,
    restore: Restore<'a>,
}

pub fn run(mut args: Args, inherited: Vec<RawFd>) -> ExitCode {
    let image = match read(&args.file) {
        Ok(image) => image,
        Err(error) => {
            tell(&mut io::stderr(), &error);
            return ExitCode::FAILURE;
        }
    };
    let last = image.descriptors.last().map_or(0, |last| last.number);
    let files = image.files.len() as u64;
    limit::allow(u64::from(last) + 1 + files.min(1 << 20) + SPARE);
    if args.stdio {
        let has = |fd: i32| image.descriptors.iter().any(|d| d.number == fd as u32);
        args.given
            .extend((0..3).filter(|&fd| has(fd)).map(|fd| Given {
                which: Which::Descriptor(fd as u32),
                fd,
            }));
    }
    let Ready { stderr, restore } = match prepare(&args, &image, inherited) {
        Ok(ready) => ready,
        Err(error) => {
            tell(&mut io::stderr(), &error);
            return ExitCode::FAILURE;
        }
    };
    if args.dry_run {
        let problems = restore.problems();
        list(&stderr, &problems);
        return match problems.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        };
    }
    let restored = match make(&image, restore, &stderr) {
        Ok(restored) => restored,
        Err(error) => {
            match error.downcast_ref() {
                Some(Error::Problems(problems)) => list(&stderr, problems),
                _ => tell(&mut &*stderr, &error.context("cannot restore")),
            }
            return ExitCode::FAILURE;
        }
    };
    if image.origin.running {
        let _ = writeln!(
            &*stderr,
            "epollcr: the process was not stopped when it was dumped: this need not be what it had"
        );
    }
    execute(&args.command, restored, &stderr)
}

fn list(mut stderr: &File, problems: &[restore::Problem]) {
    for problem in problems {
        let _ = writeln!(stderr, "epollcr: cannot restore: {problem}");
    }
}

fn prepare<'a>(args: &Args, image: &'a Image, inherited: Vec<RawFd>) -> Result<Ready<'a>> {
    let mut parking = Parking::new(image);
    let mut park = |fd: RawFd| -> Result<OwnedFd> {
        anyhow::ensure!(is_open(fd), "descriptor {fd} is not open");
        // SAFETY: it is open, and stays so during the call: nothing here has
        // closed what we were started with.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        parking.park(fd).context("there are not enough descriptors")
    };
    let mut restore = Restore::new(image);
    if !args.keep_cloexec {
        restore = restore.keep_across_exec();
    }
    for given in &args.given {
        let file = match given.which {
            Which::File(file) if (file as usize) < image.files.len() => file,
            Which::File(file) => bail!("the image has no f{file}"),
            Which::Descriptor(number) => {
                let found = image
                    .descriptors
                    .binary_search_by_key(&number, |descriptor| descriptor.number);
                match found {
                    Ok(at) => image.descriptors[at].file,
                    Err(_) => bail!("the image has no descriptor {number}"),
                }
            }
        };
        restore.give(file, park(given.fd)?);
    }
    let stderr = Arc::new(park(libc::STDERR_FILENO)?.into());
    for fd in inherited {
        // SAFETY: it was open before anything of ours was, so that nothing has it
        // but the standard streams, which are not used any more.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(Ready { stderr, restore })
}

fn make(image: &Image, restore: Restore<'_>, stderr: &Arc<File>) -> Result<Restored> {
    let device = match image.items() {
        0 => None,
        _ => {
            let device = dump::open_device()?;
            let moved = Parking::new(image).park(device);
            Some(moved.context("there are not enough descriptors")?.into())
        }
    };
    let mut progress = Progress::new(stderr.clone());
    let restore = restore.on_progress(|now| match now {
        restore::Progress::Files { done, total } => progress.show("files", done, total),
        restore::Progress::Items { done, total } => progress.show("items", done, total),
    });
    Ok(restore.run(device.as_ref())?)
}

fn execute(command: &[OsString], restored: Restored, mut stderr: &File) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::FAILURE;
    };
    // They are the command's from now on.
    for fd in restored
        .descriptors
        .into_values()
        .chain(restored.held.into_values())
    {
        let _ = fd.into_raw_fd();
    }
    let error = Command::new(program).args(arguments).exec();
    let name = program.to_string_lossy();
    let _ = writeln!(stderr, "epollcr: cannot execute {name}: {error}");
    ExitCode::from(match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    })
}
