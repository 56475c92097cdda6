// SPDX-License-Identifier: GPL-2.0

//! Processes and their descriptors, as `/proc` shows them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The link of an epoll instance's descriptor.
pub const EPOLL_LINK: &str = "anon_inode:[eventpoll]";

/// A flag in [`Stat::flags`]: it ends, and gives up what it has.
const PF_EXITING: u32 = 0x0000_0004;

/// A flag in [`Stat::flags`]: a kernel thread.
const PF_KTHREAD: u32 = 0x0020_0000;

/// The ids of all processes that `/proc` shows, ascending.
///
/// # Errors
///
/// Those of reading `/proc`; `Unsupported` if no procfs is mounted there.
///
/// ```
/// use epoll_targets::proc;
///
/// assert!(proc::pids()?.contains(&(std::process::id() as i32)));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn pids() -> io::Result<Vec<i32>> {
    let pids = numbers(Path::new("/proc"))?;
    // A procfs has at least one, unless its PID namespace has ended.
    if !is_mounted() || pids.is_empty() {
        let why = "no procfs is mounted at /proc";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(pids)
}

/// Whether `/proc` is a procfs, and not what is below.
pub(crate) fn is_mounted() -> bool {
    let filesystem = rustix::fs::statfs("/proc");
    filesystem.is_ok_and(|filesystem| filesystem.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// The descriptors of a process, or of a thread, ascending.
///
/// # Errors
///
/// `NotFound` if there is no such process, `PermissionDenied` if the caller lacks
/// ptrace(2) access to it.
pub fn fds(pid: i32) -> io::Result<Vec<RawFd>> {
    numbers(Path::new(&format!("/proc/{pid}/fd")))
}

/// The threads of a process, ascending.
///
/// # Errors
///
/// `NotFound` if there is no such process.
pub fn tasks(pid: i32) -> io::Result<Vec<i32>> {
    numbers(Path::new(&format!("/proc/{pid}/task")))
}

/// The process that a thread belongs to.
///
/// # Errors
///
/// `NotFound` if there is no such thread.
pub fn tgid(tid: i32) -> io::Result<i32> {
    let status = fs::read(format!("/proc/{tid}/status"))?;
    let status = String::from_utf8_lossy(&status);
    let mut lines = status.lines();
    let tgid = lines.find_map(|line| line.strip_prefix("Tgid:"));
    let tgid = tgid.and_then(|tgid| tgid.trim().parse().ok());
    tgid.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A thread of the process that has descriptors: the first thread may have ended by
/// itself, and others go on with its table.
pub(crate) fn heir(pid: i32) -> Option<i32> {
    let state = Stat::of(pid).ok()?.state;
    if !matches!(state, State::Zombie | State::Dead) {
        return None;
    }
    let tasks = tasks(pid).ok()?.into_iter();
    let mut others = tasks.filter(|&tid| tid != pid);
    others.find(|&tid| fds(tid).is_ok_and(|fds| !fds.is_empty()))
}

/// The names in a directory that are numbers, ascending.
fn numbers(directory: &Path) -> io::Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What a descriptor refers to: a path, or something like `socket:[1234]`. If the
/// first thread of a process has ended, that of the other threads. A path that is too long
/// for the kernel to show is replaced.
///
/// # Errors
///
/// `NotFound` if it is not open, or there is no such process; `PermissionDenied`
/// if the caller lacks ptrace(2) access to the process.
pub fn link(pid: i32, fd: RawFd) -> io::Result<OsString> {
    let read = |pid| fs::read_link(format!("/proc/{pid}/fd/{fd}"));
    let link = read(pid).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => heir(pid).map_or(Err(error), read),
        _ => Err(error),
    });
    match link {
        Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => {
            Ok("(a path that is too long)".into())
        }
        link => Ok(link?.into()),
    }
}

/// Whether this is the link of a socket.
pub(crate) fn is_socket(link: &OsStr) -> bool {
    link.as_bytes().starts_with(b"socket:[")
}

/// The descriptors of a process that refer to epoll instances, ascending.
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
/// let instance = epoll::create(CreateFlags::CLOEXEC)?;
/// let instances = proc::epoll_fds(std::process::id() as i32)?;
/// assert!(instances.contains(&instance.as_raw_fd()));
/// # Ok(()) }
/// ```
pub fn epoll_fds(pid: i32) -> io::Result<Vec<RawFd>> {
    let mut fds = fds(pid)?;
    // One that is closed meanwhile is no instance any more.
    let is_epoll = |fd| link(pid, fd).is_ok_and(|link| link == EPOLL_LINK);
    fds.retain(|&fd| is_epoll(fd) && !is_path_only(pid, fd));
    Ok(fds)
}

/// Whether a descriptor was opened with `O_PATH`: it has the link of what its path leads
/// to, and another open file description, by which nothing but the path can be used.
pub(crate) fn is_path_only(pid: i32, fd: RawFd) -> bool {
    // The permissions of the link are the modes of the file: neither to read nor to
    // write. The flags in fdinfo say it, too, but an instance's takes its mutex.
    let link = fs::symlink_metadata(format!("/proc/{pid}/fd/{fd}"));
    link.is_ok_and(|link| link.permissions().mode() & 0o600 == 0)
}

/// The command name of a process, at most 15 bytes; what is not UTF-8 is replaced.
///
/// # Errors
///
/// `NotFound` if there is no such process.
pub fn command(pid: i32) -> io::Result<String> {
    let name = fs::read(format!("/proc/{pid}/comm"))?;
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// What a task does: the third field of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// `R`: it runs, or waits for a CPU.
    Running,
    /// `S`: it sleeps until an event or a signal.
    Sleeping,
    /// `D`: it sleeps, and no signal wakes it, or only a fatal one.
    Uninterruptible,
    /// `T`: a signal stopped it.
    Stopped,
    /// `t`: a debugger stopped it, with ptrace(2).
    Tracing,
    /// `Z`: it ended, and its parent did not wait for it yet.
    Zombie,
    /// `X`: it has ended.
    Dead,
    /// `I`: a kernel thread that is idle.
    Idle,
    /// Any other letter.
    Other(char),
}

impl From<char> for State {
    fn from(letter: char) -> Self {
        match letter {
            'R' => Self::Running,
            'S' => Self::Sleeping,
            'D' => Self::Uninterruptible,
            'T' => Self::Stopped,
            't' => Self::Tracing,
            'Z' => Self::Zombie,
            'X' => Self::Dead,
            'I' => Self::Idle,
            other => Self::Other(other),
        }
    }
}

/// What `/proc/PID/stat` says of a process, or `/proc/PID/task/TID/stat` of a thread.
///
/// ```
/// use epoll_targets::proc::{Stat, State};
///
/// let own = Stat::of(std::process::id() as i32)?;
/// assert_eq!(own.state, State::Running);
/// assert!(own.threads >= 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// The command name, at most 15 bytes, which can have any byte in it, blanks and
    /// parentheses too. (Field 2, `comm`.)
    pub command: OsString,
    /// What it does. (Field 3.)
    pub state: State,
    /// The parent's process id; 0 if that is in another PID namespace. (Field 4.)
    pub ppid: i32,
    /// The process group's id. (Field 5.)
    pub pgrp: i32,
    /// Flags of the kernel, `PF_*` of its `linux/sched.h`. (Field 9.)
    pub flags: u32,
    /// The number of threads in the process. (Field 20, `num_threads`.)
    pub threads: u32,
    /// When it started: clock ticks, of `sysconf(_SC_CLK_TCK)` a second, after the
    /// system booted. Together with its id it identifies a process. (Field 22.)
    pub starttime: u64,
}

impl Stat {
    /// Reads the stat of a process, or of a thread, by its id in the caller's PID
    /// namespace.
    ///
    /// # Errors
    ///
    /// `NotFound` or `ESRCH` if there is no such task (see [`is_no_process`]),
    /// `InvalidData` if it cannot be parsed.
    pub fn of(pid: i32) -> io::Result<Self> {
        Self::read(format!("/proc/{pid}/stat"))
    }

    /// Reads a stat file, such as that of a thread.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of).
    pub fn read(path: impl AsRef<Path>) -> io::Result<Self> {
        let stat = fs::read(path)?;
        Self::parse(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Parses the content of a stat file; `None` if a field is missing or malformed.
    pub fn parse(stat: &[u8]) -> Option<Self> {
        let begin = stat.iter().position(|&byte| byte == b'(')?;
        let end = stat.iter().rposition(|&byte| byte == b')')?;
        let command = OsStr::from_bytes(stat.get(begin + 1..end)?).to_owned();
        let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
        // From field 3.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            command,
            state: field(3)?.chars().next()?.into(),
            ppid: field(4)?.parse().ok()?,
            pgrp: field(5)?.parse().ok()?,
            flags: field(9)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
            starttime: field(22)?.parse().ok()?,
        })
    }

    /// Whether it is about to end.
    pub(crate) fn is_exiting(&self) -> bool {
        self.flags & PF_EXITING != 0
    }

    /// Whether it is a kernel thread, which has no descriptors.
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

/// Whether a process is a kernel thread, which has no descriptors.
///
/// # Errors
///
/// As [`Stat::of`].
pub fn is_kernel_thread(pid: i32) -> io::Result<bool> {
    Ok(Stat::of(pid)?.is_kernel_thread())
}

/// Whether an error says that a process does not exist, or has ended: `NotFound` from
/// `/proc`, `ESRCH` from a system call.
pub fn is_no_process(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The number of the inode in a link such as `socket:[1234]` or `pipe:[1234]`.
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

    /// Fields from the fourth on.
    const REST: &str = "1 2 3 4 5 2129984 0 0 0 0 0 0 0 0 20 0 7 0 12345 0";

    #[test]
    fn a_name_can_have_anything_in_it() {
        for name in ["a", "(a) S 1 (b", ") R 1 2", "a\nb", ""] {
            let stat = Stat::parse(format!("12 ({name}) t {REST}\n").as_bytes()).unwrap();
            assert_eq!(stat.command, name);
            assert_eq!(stat.state, State::Tracing);
            assert_eq!((stat.ppid, stat.pgrp), (1, 2));
            assert_eq!((stat.threads, stat.starttime), (7, 12345));
            assert!(stat.is_kernel_thread());
        }
        let bytes = [b"12 (\xff) Z ", REST.as_bytes()].concat();
        let stat = Stat::parse(&bytes).unwrap();
        assert_eq!(stat.command.as_bytes(), b"\xff");
        assert_eq!(stat.state, State::Zombie);
    }

    #[test]
    fn what_is_cut_off_is_no_stat() {
        let whole = format!("12 (a) S {REST}");
        assert!(Stat::parse(whole.as_bytes()).is_some());
        for len in 0..whole.rfind("12345").unwrap() {
            assert_eq!(Stat::parse(&whole.as_bytes()[..len]), None);
        }
        assert_eq!(Stat::parse(b"12 )a( S 1"), None);
    }

    #[test]
    fn states_by_their_letters() {
        for (letter, state) in [('T', State::Stopped), ('t', State::Tracing)] {
            assert_eq!(State::from(letter), state);
        }
        assert_eq!(State::from('?'), State::Other('?'));
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
    fn a_path_is_no_instance() {
        use rustix::event::epoll::{self, CreateFlags};
        use rustix::fs::{Mode, OFlags};
        use std::os::fd::AsRawFd as _;

        let pid = std::process::id() as i32;
        let instance = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let efd = instance.as_raw_fd();
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let path = rustix::fs::open(format!("/proc/self/fd/{efd}"), flags, Mode::empty());
        let path = path.unwrap();
        assert_eq!(link(pid, path.as_raw_fd()).unwrap(), EPOLL_LINK);
        let found = epoll_fds(pid).unwrap();
        assert!(found.contains(&efd) && !found.contains(&path.as_raw_fd()));
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
