// SPDX-License-Identifier: GPL-2.0

//! `epollcr restore`

use crate::cli::{self, Given, Which};
use crate::{TOOL, advance, limit, read, report, warnings};
use anyhow::{Context, Result, bail};
use epoll_cli::progress::Progress;
use epoll_cli::text::printable;
use libepollcr::device::Device;
use libepollcr::image::{Descriptor, Image, Kind};
use libepollcr::restore::{self, Error, Parking, Restore, Restored};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Resource, getrlimit};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;

/// How many descriptors this process needs besides those of the image: its own, and files
/// without one.
const SPARE: u64 = 64;

/// Returns the descriptors that this process was started with.
pub fn inherited() -> Vec<RawFd> {
    let Ok(numbers) = fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<RawFd> = numbers.collect();
    // Without that of the directory, which is closed by now.
    numbers.retain(|number| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok());
    numbers
}

/// What is needed during the restore, at descriptors that the image does not have.
struct Ready<'a> {
    stderr: Arc<File>,
    restore: Restore<'a>,
}

pub fn run(args: &cli::Restore, inherited: Vec<RawFd>) -> ExitCode {
    let mut image = match read(&args.file) {
        Ok(image) => image,
        Err(error) => {
            report(&mut io::stderr(), &error);
            return ExitCode::FAILURE;
        }
    };
    let limit = getrlimit(Resource::Nofile);
    let last = image.descriptors.last().map_or(0, |last| last.number);
    let files = image.files.len() as u64;
    // Targets may be added by numbers that the image does not have.
    let largest = Parking::new(&image).largest().unsigned_abs();
    // A file may take two descriptors while it is made, such as a pipe with one end.
    limit::allow(u64::from(largest) + 1 + 2 * files.min(1 << 20) + SPARE);
    let given = match chosen(args, &mut image) {
        Ok(given) => given,
        Err(error) => {
            report(&mut io::stderr(), &error);
            return ExitCode::FAILURE;
        }
    };
    let Ready { stderr, restore } = match prepare(args, &image, &given, inherited) {
        Ok(ready) => ready,
        Err(error) => {
            report(&mut io::stderr(), &error);
            return ExitCode::FAILURE;
        }
    };
    for warning in warnings::of_restore(&image, &given) {
        let _ = writeln!(&*stderr, "{TOOL}: warning: {warning}");
    }
    if args.dry_run {
        return match open_device(args, &image, &restore) {
            Ok(device) => {
                let problems = restore.problems(device.as_ref());
                list(&stderr, &problems);
                match problems[..] {
                    [] => ExitCode::SUCCESS,
                    _ => ExitCode::FAILURE,
                }
            }
            Err(error) => {
                report(&mut &*stderr, &error.context("cannot restore"));
                ExitCode::FAILURE
            }
        };
    }
    let restored = match make(args, &image, restore, &stderr) {
        Ok(restored) => restored,
        Err(error) => {
            match error.downcast_ref() {
                Some(Error::Problems(problems)) => list(&stderr, problems),
                _ => report(&mut &*stderr, &error.context("cannot restore")),
            }
            return ExitCode::FAILURE;
        }
    };
    let held = restored.held.values().map(AsRawFd::as_raw_fd).max();
    let last = u64::from(last).max(held.map_or(0, |held| held.unsigned_abs().into()));
    limit::put_back(limit, last);
    execute(&args.command, restored, &stderr)
}

/// Returns the descriptor of the caller for each file that is not to be made.
fn chosen(args: &cli::Restore, image: &mut Image) -> Result<BTreeMap<u32, RawFd>> {
    let mut given = BTreeMap::new();
    for &Given { which, fd } in &args.given {
        let file = match which {
            Which::File(file) if (file as usize) < image.files.len() => file,
            Which::File(file) => bail!("the image has no f{file}"),
            Which::Descriptor(number) => match find(image, number) {
                Some(at) => image.descriptors[at].file,
                None => bail!("the image has no descriptor {number}"),
            },
        };
        match given.insert(file, fd) {
            Some(other) if other != fd => bail!(
                "descriptors {other} and {fd} are given for one open file, f{file} of the image: \
                 give one{}",
                match is_standard(image, file) {
                    true => ", or use --stdio",
                    false => "",
                }
            ),
            _ => {}
        }
    }
    if args.stdio {
        let named = |number| {
            let mut given = args.given.iter();
            given.any(|given| matches!(given.which, Which::Descriptor(n) if n == number))
        };
        for number in (0..3).filter(|&number| !named(number)) {
            if let Some(at) = find(image, number) {
                given.insert(apart(image, &given, at), number as RawFd);
            }
        }
    }
    Ok(given)
}

/// Returns the index of a descriptor in the image.
fn find(image: &Image, number: u32) -> Option<usize> {
    let descriptors = &image.descriptors;
    let found = descriptors.binary_search_by_key(&number, |descriptor| descriptor.number);
    found.ok()
}

/// Whether a standard stream refers to this file.
fn is_standard(image: &Image, file: u32) -> bool {
    let mut descriptors = image.descriptors.iter().take_while(|d| d.number < 3);
    descriptors.any(|descriptor| descriptor.file == file)
}

/// Returns the file of a descriptor, or a copy of it if something else is given for that
/// file. Targets that were added by the descriptor move to the copy.
fn apart(image: &mut Image, given: &BTreeMap<u32, RawFd>, at: usize) -> u32 {
    let Descriptor { number, file, .. } = image.descriptors[at];
    if !given.contains_key(&file) {
        return file;
    }
    let own = image.files.len() as u32;
    let why = "a descriptor of the caller replaces it".into();
    let mut copy = image.files[file as usize].clone();
    copy.kind = Kind::Other { why };
    image.files.push(copy);
    image.descriptors[at].file = own;
    for file_of_set in &mut image.files {
        let Kind::Epoll { items } = &mut file_of_set.kind else {
            continue;
        };
        for item in items {
            if (item.tfd, item.file) == (number, file) {
                item.file = own;
            }
        }
    }
    own
}

fn list(mut stderr: &File, problems: &[restore::Problem]) {
    for problem in problems {
        let problem = printable(&problem.to_string());
        let _ = writeln!(stderr, "{TOOL}: cannot restore: {problem}");
    }
}

fn prepare<'a>(
    args: &cli::Restore,
    image: &'a Image,
    given: &BTreeMap<u32, RawFd>,
    inherited: Vec<RawFd>,
) -> Result<Ready<'a>> {
    let mut parking = Parking::new(image);
    let mut park = |fd: RawFd| -> Result<OwnedFd> {
        anyhow::ensure!(inherited.contains(&fd), "descriptor {fd} is not open");
        // SAFETY: we were started with this descriptor, and nothing closes it before the
        // loop below.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        parking
            .park(fd)
            .context("no descriptor is left (raise the limit with ulimit -n)")
    };
    let mut restore = Restore::new(image);
    if !args.keep_cloexec {
        restore = restore.keep_across_exec();
    }
    for (&file, &fd) in given {
        restore.give(file, park(fd)?);
    }
    let stderr = Arc::new(park(libc::STDERR_FILENO)?.into());
    for fd in inherited {
        // SAFETY: we were started with this descriptor, so that only the standard
        // streams refer to it, which are not used any more.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(Ready { stderr, restore })
}

/// Opens the device, at a descriptor that the image does not have, if it is used and
/// there is one.
fn open_device(
    args: &cli::Restore,
    image: &Image,
    restore: &Restore<'_>,
) -> Result<Option<Device>> {
    let device = crate::open_device(args.no_device || !restore.uses_device())?;
    let moved = device.map(|device| Parking::new(image).park(device));
    let moved = moved.transpose();
    let moved = moved.context("no descriptor is left (raise the limit with ulimit -n)")?;
    Ok(moved.map(Device::from))
}

fn make(
    args: &cli::Restore,
    image: &Image,
    restore: Restore<'_>,
    stderr: &Arc<File>,
) -> Result<Restored> {
    let device = open_device(args, image, &restore)?;
    let mut progress = Progress::new(stderr.clone());
    let restore = restore.on_progress(|now| advance(&mut progress, now));
    Ok(restore.run(device.as_ref())?)
}

fn execute(command: &[OsString], restored: Restored, mut stderr: &File) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::FAILURE;
    };
    // execve(2) must not close these: their targets would be removed.
    for fd in restored.held.values() {
        if let Err(error) = fcntl_setfd(fd, FdFlags::empty()) {
            let _ = writeln!(stderr, "{TOOL}: cannot keep a target: {error}");
            return ExitCode::FAILURE;
        }
    }
    // The command inherits them.
    for fd in restored
        .descriptors
        .into_values()
        .chain(restored.held.into_values())
    {
        let _ = fd.into_raw_fd();
    }
    let error = Command::new(program).args(arguments).exec();
    let code = match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    };
    let what = format!("cannot execute {}", program.to_string_lossy());
    report(&mut stderr, &anyhow::Error::new(error).context(what));
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use libepollcr::image::{Item, OpenFile};
    use std::path::PathBuf;

    fn file(kind: Kind) -> OpenFile {
        OpenFile::new(kind, libc::O_RDWR as u32)
    }

    /// A terminal that is descriptors 0, 1, 2 and 9, and a target by 1 and by 9.
    fn image() -> Image {
        let mut image = Image::default();
        let why = "a terminal".into();
        image.files.push(file(Kind::Other { why }));
        let item = |tfd| Item {
            tfd,
            file: 0,
            events: 1,
            data: 0,
            ready: false,
            guessed: None,
        };
        let items = vec![item(1), item(9)];
        image.files.push(file(Kind::Epoll { items }));
        for (number, file) in [(0, 0), (1, 0), (2, 0), (7, 1), (9, 0)] {
            image.descriptors.push(Descriptor {
                number,
                file,
                cloexec: false,
            });
        }
        image
    }

    fn choose(stdio: bool, given: &[&str]) -> Result<(Image, BTreeMap<u32, RawFd>)> {
        let args = cli::Restore {
            file: PathBuf::new(),
            given: given.iter().map(|text| text.parse().unwrap()).collect(),
            stdio,
            keep_cloexec: false,
            dry_run: true,
            no_device: true,
            command: Vec::new(),
        };
        let mut image = image();
        let given = chosen(&args, &mut image)?;
        Ok((image, given))
    }

    /// What is given for each descriptor of the image, and for each target.
    fn wired(stdio: bool, given: &[&str]) -> (Vec<Option<RawFd>>, Vec<Option<RawFd>>) {
        let (image, given) = choose(stdio, given).unwrap();
        let of = |file: u32| given.get(&file).copied();
        let Kind::Epoll { items } = &image.files[1].kind else {
            unreachable!();
        };
        (
            image.descriptors.iter().map(|d| of(d.file)).collect(),
            items.iter().map(|item| of(item.file)).collect(),
        )
    }

    #[test]
    fn standard_streams_are_each_their_own() {
        let (descriptors, items) = wired(true, &[]);
        assert_eq!(descriptors, [Some(0), Some(1), Some(2), None, Some(0)]);
        assert_eq!(items, [Some(1), Some(0)]);
    }

    #[test]
    fn what_is_named_comes_first() {
        let (descriptors, items) = wired(true, &["1=7"]);
        assert_eq!(descriptors, [Some(0), Some(7), Some(2), None, Some(7)]);
        assert_eq!(items, [Some(7), Some(7)]);
        let (descriptors, _) = wired(true, &["f0=7", "f1=8"]);
        assert_eq!(descriptors, [Some(0), Some(1), Some(2), Some(8), Some(7)]);
    }

    #[test]
    fn one_file_is_given_once() {
        let (descriptors, _) = wired(false, &["1=7", "f0=7"]);
        assert_eq!(descriptors, [Some(7), Some(7), Some(7), None, Some(7)]);
        let error = choose(false, &["0=0", "1=1"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "descriptors 0 and 1 are given for one open file, f0 of the image: give one, or use \
             --stdio"
        );
        let error = choose(false, &["7=3", "f1=4"]).unwrap_err();
        assert!(!error.to_string().contains("--stdio"), "{error}");
        assert!(choose(false, &["8=3"]).is_err() && choose(false, &["f2=3"]).is_err());
    }
}
