// SPDX-License-Identifier: GPL-2.0

//! Processes and their descriptors, as `/proc` shows them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the link of a descriptor of an epoll set says.
pub const EPOLL_LINK: &str = "anon_inode:[eventpoll]";

/// A flag of the kernel's, in `/proc/PID/stat`: a thread of its own.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The pids of all processes that `/proc` shows, ascending.
///
/// # Errors
///
/// Those of reading `/proc`.
///
/// ```
/// use epoll_targets::proc;
///
/// assert!(proc::pids()?.contains(&(std::process::id() as i32)));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn pids() -> io::Result<Vec<i32>> {
    numbers(Path::new("/proc"))
}

/// The descriptors of a process, or of a thread, ascending.
///
/// # Errors
///
/// `NotFound` if there is no such process, `PermissionDenied` if the caller may
/// not read it as with ptrace(2).
pub fn fds(pid: i32) -> io::Result<Vec<RawFd>> {
    numbers(Path::new(&format!("/proc/{pid}/fd")))
}

/// The names in a folder that are numbers, ascending.
fn numbers(folder: &Path) -> io::Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What a descriptor stands for: a path, or something like `socket:[1234]`.
///
/// # Errors
///
/// `NotFound` if it is not open, or there is no such process; `PermissionDenied`
/// if the caller may not read it as with ptrace(2).
pub fn link(pid: i32, fd: RawFd) -> io::Result<OsString> {
    Ok(fs::read_link(format!("/proc/{pid}/fd/{fd}"))?.into())
}

/// The epoll sets among the descriptors of a process, ascending.
///
/// # Errors
///
/// As [`fds`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use epoll_targets::proc;
/// use rustix::event::epoll::{self, CreateFlags};
/// use std::os::fd::AsRawFd;
///
/// let set = epoll::create(CreateFlags::CLOEXEC)?;
/// let sets = proc::epoll_fds(std::process::id() as i32)?;
/// assert!(sets.contains(&set.as_raw_fd()));
/// # Ok(()) }
/// ```
pub fn epoll_fds(pid: i32) -> io::Result<Vec<RawFd>> {
    let mut fds = fds(pid)?;
    // One that is closed meanwhile is no set any more.
    fds.retain(|&fd| link(pid, fd).is_ok_and(|link| link == EPOLL_LINK));
    Ok(fds)
}

/// The name of a process, as `ps` shows it: at most 15 bytes.
///
/// # Errors
///
/// `NotFound` if there is no such process.
pub fn command(pid: i32) -> io::Result<String> {
    let name = fs::read(format!("/proc/{pid}/comm"))?;
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Whether this is a thread of the kernel's, which has no descriptors.
///
/// # Errors
///
/// `NotFound` if there is no such process.
pub fn is_kernel_thread(pid: i32) -> io::Result<bool> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    Ok(flags(&stat).is_some_and(|flags| flags & PF_KTHREAD != 0))
}

/// Whether an error says that a process does not exist, or has ended: `NotFound` from
/// `/proc`, `ESRCH` from a system call.
pub fn is_no_process(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The ninth field; the second is a name, and can have anything in it.
fn flags(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(6)?.parse().ok()
}

/// The inode's number in a link such as `socket:[1234]` or `pipe:[1234]`.
pub(crate) fn linked_inode(link: &OsStr) -> Option<u64> {
    let bytes = link.as_bytes();
    let rest = bytes
        .strip_prefix(b"socket:[")
        .or_else(|| bytes.strip_prefix(b"pipe:["))?;
    let digits = std::str::from_utf8(rest.strip_suffix(b"]")?).ok()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_have_anything_in_it() {
        let stat = b"12 (a) S 1 (b) S 1 12 12 0 -1 2129984 0 0";
        assert_eq!(flags(stat), Some(2_129_984));
        assert_eq!(flags(b"12 (a"), None);
        assert_eq!(flags(b"12 (a) S 1"), None);
    }

    #[test]
    fn inodes_of_links() {
        assert_eq!(linked_inode(OsStr::new("socket:[12]")), Some(12));
        assert_eq!(linked_inode(OsStr::new("pipe:[3]")), Some(3));
        for other in [
            "anon_inode:[eventfd]",
            "/a/socket:[12]",
            "socket:[]",
            "pipe:[1",
        ] {
            assert_eq!(linked_inode(OsStr::new(other)), None);
        }
    }

    #[test]
    fn of_this_process() {
        let pid = std::process::id() as i32;
        assert!(!is_kernel_thread(pid).unwrap());
        assert!(!command(pid).unwrap().ends_with('\n'));
        for error in [
            fds(i32::MAX).unwrap_err(),
            command(i32::MAX).unwrap_err(),
            is_kernel_thread(i32::MAX).unwrap_err(),
            link(pid, i32::MAX).unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }
}
