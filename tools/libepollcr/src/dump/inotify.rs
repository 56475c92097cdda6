// SPDX-License-Identifier: GPL-2.0

//! What inotify instances watch. The kernel shows inodes and file handles, see
//! `fs/notify/fdinfo.c`; a restore needs paths.

use super::mounts::{self, Mount};
use crate::fdinfo::{self, Shown};
use crate::image::{Place, Watch};
use crate::sys;
use rustix::fs::{CWD, Mode, OFlags, fstat, inotify, lstat, open};
use rustix::io::ioctl_fionread;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::thread;

/// Returns the watches of an instance, ascending, or why they cannot be recreated.
pub fn describe(inotify: BorrowedFd<'_>, fdinfo: &str) -> io::Result<Result<Vec<Watch>, String>> {
    if ioctl_fionread(inotify)? > 0 {
        return Ok(Err(
            "it has events that were not read, and would be lost".into()
        ));
    }
    let Some(shown) = fdinfo::watches(fdinfo) else {
        return Ok(Err(
            "the kernel shows its watches in a way that is not known here".into(),
        ));
    };
    if shown.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    match search(shown) {
        Ok(found) => Ok(found),
        Err(error) => Ok(Err(format!(
            "its watches cannot be inspected here: {error}"
        ))),
    }
}

fn search(shown: Vec<Shown>) -> io::Result<Result<Vec<Watch>, String>> {
    if !shows_flags()? {
        return Ok(Err(
            "this kernel does not show which of its watches are IN_ONESHOT or IN_EXCL_UNLINK"
                .into(),
        ));
    }
    // In a thread with a working directory of its own: a mount is searched by a descriptor
    // that was opened for reading, which those who watch the mount would notice, or from the
    // working directory.
    thread::scope(|scope| {
        let found = thread::Builder::new().spawn_scoped(scope, || {
            sys::leave_shared_directory()?;
            find_all(shown)
        })?;
        let found = found.join();
        found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Whether fdinfo shows more of a mask than the events, which older kernels do not.
fn shows_flags() -> io::Result<bool> {
    let own = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    let mask = inotify::WatchFlags::DELETE_SELF | inotify::WatchFlags::ONESHOT;
    inotify::add_watch(&own, "/", mask)?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", own.as_raw_fd()))?;
    let shown = fdinfo::watches(&text).unwrap_or_default();
    Ok(shown.iter().any(|watch| watch.mask & libc::IN_ONESHOT != 0))
}

fn find_all(shown: Vec<Shown>) -> io::Result<Result<Vec<Watch>, String>> {
    let mut finder = Finder {
        mounts: mounts::here()?,
        here: None,
    };
    let mut watches = Vec::with_capacity(shown.len());
    for shown in shown {
        match finder.find(&shown) {
            // Older kernels show flags of their own.
            Ok(place) => watches.push(Watch::new(shown.wd, shown.mask & Watch::MASK, place)),
            Err(why) => {
                let Shown { inode, device, .. } = shown;
                return Ok(Err(format!(
                    "it watches inode {inode} of device {device}, {why}"
                )));
            }
        }
    }
    watches.sort_unstable_by_key(|watch| watch.wd);
    Ok(Ok(watches))
}

struct Finder {
    mounts: Vec<Mount>,
    /// The id of the mount whose root is the working directory.
    here: Option<u64>,
}

impl Finder {
    fn find(&mut self, shown: &Shown) -> Result<Place, &'static str> {
        let mut mounts = self.mounts.iter().filter(|m| m.device == shown.device);
        let mut next = mounts.next();
        if next.is_none() {
            return Err("which is in no file system that is mounted here");
        }
        let Some((kind, handle)) = &shown.handle else {
            return Err("whose handle the kernel does not show");
        };
        let mut why = "which is below no directory that is mounted here";
        while let Some(mount) = next {
            next = mounts.next();
            if self.here != Some(mount.id) {
                self.here = enter(mount);
                if self.here.is_none() {
                    continue;
                }
            }
            match sys::open_by_handle(CWD, *kind, handle) {
                Ok(found) => match path_of(&found) {
                    Ok(place) => return Ok(place),
                    Err(reason) => why = reason,
                },
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    return Err("whose path is found only with CAP_DAC_READ_SEARCH");
                }
                Err(_) => why = "which its file system does not find by its handle",
            }
        }
        Err(why)
    }
}

/// Makes the root of a mount the working directory, unless another mount is on top of it.
fn enter(mount: &Mount) -> Option<u64> {
    let path = OsStr::from_bytes(&mount.path);
    let root = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", root.as_raw_fd())).ok()?;
    rustix::process::fchdir(&root).ok()?;
    mounts::of(&info).filter(|&id| id == mount.id)
}

/// Returns the path of a file, if it leads there.
fn path_of(found: &OwnedFd) -> Result<Place, &'static str> {
    const NONE: &str = "which has no path here";

    let stat = fstat(found).map_err(|_| NONE)?;
    if stat.st_nlink == 0 {
        return Err("which was removed");
    }
    let link = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let path = link.map_err(|_| NONE)?.into_os_string();
    let same =
        lstat(&path).is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino));
    if same && path.as_bytes().starts_with(b"/") {
        return Ok(Place::of(path.as_bytes(), &stat));
    }
    // A watch keeps the inode, not its name.
    match path.as_bytes() == b"/" && stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
        true => Err("whose path the kernel does not remember (once it is opened, it does)"),
        false => Err(NONE),
    }
}
