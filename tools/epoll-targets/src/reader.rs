// SPDX-License-Identifier: GPL-2.0

//! Reads files of `/proc`, and asks whether targets are ready, in another process.
//!
//! The fdinfo of an epoll instance takes its mutex, and whoever waits for that cannot be
//! killed. The mutex can be held for as long as its holder likes: epoll_wait(2) that
//! writes to memory whose pages do not come holds it. A thread that waits for it would
//! keep its whole process from ending, so that this is left to another one, which is
//! given up if it does not answer.

use crate::proc::{Stat, State};
use crate::question::Question;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::PipeFlags;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// The size of a request: a path or a question, and zeros.
pub(crate) const REQUEST: usize = 128;

/// Begins a request for what a descriptor of the caller's refers to.
const FD: &str = "fd:";

/// Begins a request for which events a target is ready.
const POLL: &str = "poll:";

/// How much is passed on at once.
const CHUNK: usize = 1 << 16;

/// How long a reader may sleep uninterruptibly before it is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked at meanwhile.
const TICK: Duration = Duration::from_millis(50);

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
#[error("a thread of the process keeps its mutex locked")]
pub(crate) struct Held;

/// The error that says so.
pub(crate) fn held() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, Held)
}

/// Whether an error says that the mutex of an instance is held.
pub(crate) fn is_held(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Held>())
}

/// A process that reads files for this one.
#[derive(Debug)]
struct Helper {
    requests: File,
    answers: File,
    /// The last one, for the pipes to be closed when it is waited for.
    process: Process,
}

/// A child that ends when it is dropped.
#[derive(Debug)]
struct Process(libc::pid_t);

impl Helper {
    fn start() -> io::Result<Self> {
        let (request, requests) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (answers, answer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // Not what the child has for its standard input and output.
        let request = fcntl_dupfd_cloexec(request, 3)?;
        let answer = fcntl_dupfd_cloexec(answer, 3)?;
        // Fewer switches; the default will do as well.
        let _ = rustix::pipe::fcntl_setpipe_size(&answer, 1 << 20);
        let mut buffer = vec![0; CHUNK];
        // SAFETY: The child calls serve(), which only makes system calls: it allocates
        // nothing, takes no lock, and does not return.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => serve(request.as_raw_fd(), answer.as_raw_fd(), &mut buffer),
            pid => Ok(Self {
                requests: requests.into(),
                answers: answers.into(),
                process: Process(pid),
            }),
        }
    }

    /// Waits for an answer. An error if the reader sleeps for long.
    fn wait(&self) -> io::Result<()> {
        let tick = Timespec::try_from(TICK).map_err(io::Error::other)?;
        let mut asleep: Option<Instant> = None;
        loop {
            let mut fds = [PollFd::new(&self.answers, PollFlags::IN)];
            if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&tick)))? > 0 {
                return Ok(());
            }
            // A long list takes long, but then it runs. A server of a file system that it
            // waits for may let it sleep otherwise.
            let stat = Stat::of(self.process.0);
            let sleeps = [State::Uninterruptible, State::Sleeping];
            if !stat.is_ok_and(|stat| sleeps.contains(&stat.state)) {
                asleep = None;
                continue;
            }
            if asleep.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return Err(held());
            }
        }
    }

    fn number(&mut self) -> io::Result<i32> {
        let mut bytes = [0; 4];
        self.wait()?;
        self.answers.read_exact(&mut bytes)?;
        Ok(i32::from_ne_bytes(bytes))
    }

    fn read(&mut self, path: &str, meanwhile: impl FnOnce()) -> io::Result<Vec<u8>> {
        let mut request = [0; REQUEST];
        // One zero is left to end it.
        let room = request[..REQUEST - 1].get_mut(..path.len());
        room.ok_or(Errno::NAMETOOLONG)?
            .copy_from_slice(path.as_bytes());
        self.requests.write_all(&request)?;
        meanwhile();
        let mut content = Vec::new();
        loop {
            match self.number()? {
                0 => return Ok(content),
                errno @ ..0 => return Err(io::Error::from_raw_os_error(-errno)),
                more => {
                    let filled = content.len();
                    content.resize(filled + more as usize, 0);
                    self.answers.read_exact(&mut content[filled..])?;
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: This is our child, which nobody else waits for, so that the id means
        // it and no other process.
        let killed = unsafe { libc::kill(self.0, libc::SIGKILL) } == 0;
        let begin = Instant::now();
        loop {
            // One that cannot end yet is left to init.
            let stat = Stat::of(self.0);
            let waits = stat.is_ok_and(|stat| stat.state == State::Uninterruptible);
            // One that may not be killed, as a filter of system calls forbids it, ends by
            // itself: nobody asks any more.
            let flags = if waits || !killed { libc::WNOHANG } else { 0 };
            // SAFETY: As above.
            let waited = unsafe { libc::waitpid(self.0, std::ptr::null_mut(), flags) };
            if waited != 0 || killed || begin.elapsed() > PATIENCE {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What the child does, until nobody asks any more. It must not allocate or take locks.
fn serve(request: RawFd, answer: RawFd, buffer: &mut [u8]) -> ! {
    // SAFETY: These only take integers. No value in this process uses its descriptors
    // from here on except these two, of which copies are made first: nothing runs here
    // but this function, which does not return, so that no destructor runs.
    unsafe {
        // Not to hold what the caller has open, nor to answer to its standard output.
        if libc::dup2(request, 0) < 0 || libc::dup2(answer, 1) < 0 {
            libc::_exit(1);
        }
        // Before 5.9 there is no such call.
        if libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0) != 0 {
            for fd in 2..1 << 16 {
                libc::close(fd);
            }
        }
        // A signal that a terminal sends is for the caller, which then closes the pipe.
        libc::setpgid(0, 0);
        let (request, answer) = (BorrowedFd::borrow_raw(0), BorrowedFd::borrow_raw(1));
        let _ = answer_all(request, answer, buffer);
        libc::_exit(0)
    }
}

fn answer_all(request: BorrowedFd<'_>, answer: BorrowedFd<'_>, buffer: &mut [u8]) -> Option<()> {
    loop {
        let mut path = [0; REQUEST];
        if rustix::io::read(request, &mut path).ok()? != REQUEST {
            return None;
        }
        let path = CStr::from_bytes_until_nul(&path).ok()?;
        let end = match pass_on(path, answer, buffer) {
            Ok(()) => 0,
            Err(errno) => -errno.raw_os_error(),
        };
        write_all(answer, &end.to_ne_bytes()).ok()?;
    }
}

/// A file by its path, or by the number of a descriptor of the caller's.
fn open(path: &CStr) -> rustix::io::Result<OwnedFd> {
    let fd = path.to_str().ok().and_then(|path| path.strip_prefix(FD));
    let Some(fd) = fd.and_then(|fd| fd.parse().ok()) else {
        return rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    };
    let parent = rustix::process::getppid().ok_or(Errno::SRCH)?;
    let parent = pidfd_open(parent, PidfdFlags::empty())?;
    pidfd_getfd(&parent, fd, PidfdGetfdFlags::empty())
}

fn pass_on(path: &CStr, answer: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<()> {
    let question = path.to_str().ok().and_then(|path| path.strip_prefix(POLL));
    if let Some(question) = question {
        let question = Question::parse(question).ok_or(Errno::INVAL)?;
        let events = question.answer()?.to_ne_bytes();
        write_all(answer, &(events.len() as i32).to_ne_bytes())?;
        return write_all(answer, &events);
    }
    let file = open(path)?;
    loop {
        let filled = match rustix::io::read(&file, &mut *buffer) {
            // An iterator of BPF that had nothing to say for a long time.
            Err(Errno::AGAIN | Errno::INTR) => continue,
            filled => filled?,
        };
        if filled == 0 {
            return Ok(());
        }
        write_all(answer, &(filled as i32).to_ne_bytes())?;
        write_all(answer, &buffer[..filled])?;
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(to, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Whether a file is one of this process. Nobody else's may be waited for here.
fn is_own(path: &str) -> bool {
    path.starts_with(&format!("/proc/{}/", std::process::id()))
}

/// Reads files, each within reasonable time.
#[derive(Debug, Default)]
pub(crate) struct Reader(Option<Helper>);

impl Reader {
    /// Starts its process, which holds none of the descriptors of this one.
    pub(crate) fn start() -> io::Result<Self> {
        let mut reader = Self(Some(Helper::start()?));
        // It has closed what it inherited when it answers.
        let _ = reader.read("");
        Ok(reader)
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// That of opening or reading it, or `TimedOut`, see [`is_held`].
    pub(crate) fn read(&mut self, path: &str) -> io::Result<Vec<u8>> {
        self.read_while(path, || {})
    }

    /// Reads a file, and does something else in the time that this takes.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub(crate) fn read_while(
        &mut self,
        path: &str,
        meanwhile: impl FnOnce(),
    ) -> io::Result<Vec<u8>> {
        let helper = match &mut self.0 {
            Some(helper) => helper,
            none => none.insert(Helper::start()?),
        };
        let read = helper.read(path, meanwhile);
        let broken = |error: &io::Error| is_held(error) || error.raw_os_error().is_none();
        if read.as_ref().is_err_and(broken) {
            self.0 = None;
        }
        match read {
            // A thread that has given up capabilities may still read what is its own
            // process's; another process with the same capabilities may not.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_own(path) => {
                std::fs::read(path)
            }
            read => read,
        }
    }

    /// Reads what a descriptor of this process refers to. This takes ptrace(2) access to
    /// it, which `CAP_SYS_PTRACE` gives.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    #[cfg(any(test, feature = "bpf"))]
    pub(crate) fn read_descriptor(&mut self, fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
        self.read(&format!("{FD}{}", fd.as_raw_fd()))
    }

    /// Asks for which events a target is ready.
    ///
    /// # Errors
    ///
    /// Those of the question, or `TimedOut`, see [`is_held`].
    pub(crate) fn ask(&mut self, question: &Question) -> io::Result<u32> {
        let events = self.read(&format!("{POLL}{}", question.to_text()))?;
        let events = events.try_into().map_err(|_| Errno::IO)?;
        Ok(u32::from_ne_bytes(events))
    }

    /// The process that reads.
    #[cfg(any(test, feature = "bpf"))]
    pub(crate) fn pid(&self) -> Option<i32> {
        self.0.as_ref().map(|helper| helper.process.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn what_is_read_is_what_is_there() {
        let mut reader = Reader::start().unwrap();
        let pid = reader.pid().unwrap();
        for _ in 0..3 {
            let there = std::fs::read("/proc/filesystems").unwrap();
            assert_eq!(reader.read("/proc/filesystems").unwrap(), there);
            let missing = reader.read("/proc/nothing").unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        }
        assert_eq!(reader.pid(), Some(pid));
        // More than a pipe takes.
        let big = reader.read("/proc/self/smaps").unwrap();
        assert!(big.ends_with(b"\n"));
        assert_eq!(
            reader
                .read(&"x".repeat(REQUEST))
                .unwrap_err()
                .raw_os_error(),
            Some(libc::ENAMETOOLONG)
        );
    }

    #[test]
    fn what_a_descriptor_refers_to() {
        let mut reader = Reader::start().unwrap();
        let file = File::open("/proc/filesystems").unwrap();
        match reader.read_descriptor(file.as_fd()) {
            Ok(content) => assert_eq!(content, std::fs::read("/proc/filesystems").unwrap()),
            // Yama lets a child attach to its parent only with the capability.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }

    #[test]
    fn it_holds_nothing_of_ours() {
        let ours = rustix::pipe::pipe().unwrap();
        let reader = Reader::start().unwrap();
        let fds = crate::proc::fds(reader.pid().unwrap()).unwrap();
        assert_eq!(fds, [0, 1]);
        drop(ours);
    }
}
