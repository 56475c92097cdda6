// SPDX-License-Identifier: GPL-2.0

//! What inotify instances watch. The kernel shows inodes and file handles, see
//! `fs/notify/fdinfo.c`; a restore needs paths.

use super::mounts::{self, Mount};
use crate::fdinfo::{self, Shown};
use crate::image::{Place, Watch};
use crate::sys;
use crate::types::DeviceNumber;
use rustix::fs::{Mode, OFlags, fstat, lstat, open};
use rustix::io::ioctl_fionread;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Returns the watches of an instance, ascending, or why they cannot be recreated.
pub fn describe(inotify: BorrowedFd<'_>, fdinfo: &str) -> io::Result<Result<Vec<Watch>, String>> {
    // This comes first: the search may cause events itself, if the root of a mount is watched.
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
    let mut finder = Finder::default();
    if !shown.is_empty() {
        finder.mounts = mounts::here()?;
    }
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

#[derive(Default)]
struct Finder {
    mounts: Vec<Mount>,
    /// The roots of mounts that were opened, by the ids of these.
    roots: HashMap<u64, Option<OwnedFd>>,
}

impl Finder {
    fn find(&mut self, shown: &Shown) -> Result<Place, &'static str> {
        let here = self.mounts.iter();
        let here: Vec<_> = here.filter(|m| m.device == shown.device).collect();
        if here.is_empty() {
            return Err("which is in no file system that is mounted here");
        }
        // A root needs no handle, and the file systems of the kernel have none.
        for mount in &here {
            let root = lstat(OsStr::from_bytes(&mount.path)).ok();
            let root = root.filter(|root| {
                DeviceNumber::of(root.st_dev) == shown.device && root.st_ino == shown.inode
            });
            if let Some(root) = root {
                return Ok(Place::of(&mount.path[..], &root));
            }
        }
        let Some((kind, handle)) = &shown.handle else {
            return Err("whose handle its file system does not show");
        };
        let mut why = "which its file system does not open by its handle";
        for mount in here {
            let root = self.roots.entry(mount.id).or_insert_with(|| root(mount));
            let Some(root) = root else { continue };
            match sys::open_by_handle(root.as_fd(), *kind, handle) {
                Ok(found) => match path_of(&found) {
                    Ok(place) => return Ok(place),
                    Err(reason) => why = reason,
                },
                Err(error) => match error.raw_os_error() {
                    Some(libc::EPERM) => {
                        return Err("whose path is found only with CAP_DAC_READ_SEARCH");
                    }
                    Some(libc::ESTALE) => why = "which is not in its file system any more",
                    _ => {}
                },
            }
        }
        Err(why)
    }
}

/// Opens the root of a mount, unless another mount is on top of it.
fn root(mount: &Mount) -> Option<OwnedFd> {
    let path = OsStr::from_bytes(&mount.path);
    // O_PATH would not do.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(path, flags, Mode::empty()).ok()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", root.as_raw_fd())).ok()?;
    (mounts::of(&info) == Some(mount.id)).then_some(root)
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
    match same && path.as_bytes().starts_with(b"/") {
        true => Ok(Place::of(path.as_bytes(), &stat)),
        false => Err(NONE),
    }
}
