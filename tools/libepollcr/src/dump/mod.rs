// SPDX-License-Identifier: GPL-2.0

//! Makes an image of a process.

mod diag;
mod fdinfo;
pub(crate) mod pipe;
mod socket;
mod stopped;

pub use stopped::{Runs, running_thread};

use crate::device::{self, ByIdentity, Description, Device, Process, Snapshot};
use crate::image::{
    Descriptor, FLAGS, Image, Item, Kind, Message, OpenFile, Opener, Origin, Owner, Peer, Pipe,
    Place, Socket, check_alone,
};
use diag::Connection;
use epoll_targets::pidfd::PidFd;
use epoll_targets::proc;
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

/// `__O_TMPFILE`, without the `O_DIRECTORY` that comes with it.
const TMPFILE: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

/// How many files are described in one call.
const AT_ONCE: usize = 256;

/// Why there is no image.
#[derive(Debug)]
pub enum Error {
    /// The process was not stopped.
    Running(Runs),
    /// Something else was there than a moment before, as if the process had not
    /// been stopped.
    Changed,
    /// A thread of the process has a table of descriptors of its own, so that what
    /// is in the image would not be all that the process has.
    Tables(i32),
    /// Something that was to be looked at, and what came of it.
    Io(String, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(runs) => write!(f, "the process is not stopped: {runs}"),
            Self::Changed => f.write_str("the process went on while it was looked at"),
            Self::Tables(tid) => write!(f, "thread {tid} has descriptors of its own"),
            Self::Io(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            _ => None,
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

trait While<T> {
    /// What was being done, as the rest of 'cannot ...'.
    fn to(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> While<T> for std::result::Result<T, E> {
    fn to(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io(what(), error.into()))
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Open files are being looked at.
    Files {
        /// So many were.
        done: usize,
        /// Of so many.
        total: usize,
    },
    /// Items of epoll sets are.
    Items {
        /// So many were, of this set.
        done: usize,
        /// Of so many.
        total: usize,
    },
}

/// A dump to be made.
pub struct Dump<'a> {
    pid: i32,
    running: bool,
    left_out: Vec<u32>,
    progress: Box<dyn FnMut(Progress) + 'a>,
}

impl fmt::Debug for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dump")
            .field("pid", &self.pid)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl<'a> Dump<'a> {
    /// Of this process. If it is the caller's, the thread that calls
    /// [`make`](Self::make) counts as stopped.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use libepollcr::device::Device;
    /// use libepollcr::dump::Dump;
    ///
    /// let image = Dump::new(1234).make(&Device::open()?)?;
    /// println!("{} descriptors", image.descriptors.len());
    /// # Ok(()) }
    /// ```
    pub fn new(pid: i32) -> Self {
        Self {
            pid,
            running: false,
            left_out: Vec::new(),
            progress: Box::new(|_| {}),
        }
    }

    /// Even if it is not stopped. The image says so.
    #[must_use]
    pub fn even_if_running(mut self) -> Self {
        self.running = true;
        self
    }

    /// Without this descriptor: a program that dumps itself may have some that are
    /// only for that. The device is left out of such a dump anyway.
    #[must_use]
    pub fn leave_out(mut self, fd: BorrowedFd<'_>) -> Self {
        self.left_out.push(fd.as_raw_fd() as u32);
        self
    }

    /// Tells how far it is from time to time.
    #[must_use]
    pub fn on_progress(mut self, tell: impl FnMut(Progress) + 'a) -> Self {
        self.progress = Box::new(tell);
        self
    }

    /// Looks at the process, and changes nothing of it.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`]; each is a sentence.
    pub fn make(mut self, device: &Device) -> Result<Image> {
        let pid = self.pid;
        let process = PidFd::open(pid).to(|| format!("open process {pid}"))?;
        if pid.unsigned_abs() == std::process::id() {
            self = self.leave_out(device.as_fd()).leave_out(process.as_fd());
        }
        let command = proc::command(pid).to(|| format!("tell the name of process {pid}"))?;
        let mut running = self.runs()?;
        if let Some(tid) = other_table(device, &process, pid)? {
            if !self.running {
                return Err(Error::Tables(tid));
            }
            running = true;
        }
        let uname = rustix::system::uname();
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let origin = Origin {
            pid: pid.unsigned_abs(),
            command,
            kernel: uname.release().to_string_lossy().into_owned(),
            time: time.map_or(0, |time| time.as_secs()),
            running,
        };
        let mut dumper = Dumper {
            device,
            process,
            image: Image {
                origin,
                ..Image::default()
            },
            asked: self,
            index: ByIdentity::default(),
            pipes: HashMap::new(),
            ends: Vec::new(),
            sockets: HashMap::new(),
            pending: VecDeque::new(),
        };
        dumper.descriptors()?;
        dumper.contents()?;
        dumper.connect()?;
        dumper.finish_pipes();
        if !running {
            dumper.image.origin.running = dumper.asked.runs()?;
        }
        Ok(dumper.image)
    }

    /// Whether it runs, if that is allowed.
    fn runs(&self) -> Result<bool> {
        let pid = self.pid;
        match running_thread(pid).to(|| format!("look at the threads of {pid}"))? {
            Some(runs) if !self.running => Err(Error::Running(runs)),
            runs => Ok(runs.is_some()),
        }
    }
}

/// A thread of the process that has another table than the process.
fn other_table(device: &Device, process: &PidFd, pid: i32) -> Result<Option<i32>> {
    let threads = || format!("look at the threads of {pid}");
    let table = device
        .table(Process::Other(process.as_fd()))
        .to(|| "list its descriptors".into())?;
    for tid in stopped::threads(pid).to(threads)? {
        let thread = match stopped::open(tid) {
            Err(Errno::SRCH) => continue,
            // Before 6.9 a thread has no pidfd.
            Err(Errno::INVAL) => return Ok(None),
            thread => thread.to(threads)?,
        };
        match device.table(Process::Other(thread.as_fd())) {
            // It has ended, or executes something.
            Err(Errno::SRCH | Errno::STALE) => {}
            other if other.to(threads)? != table => return Ok(Some(tid)),
            _ => {}
        }
    }
    Ok(None)
}

/// A descriptor for a file that is looked at.
#[derive(Debug)]
enum Source {
    /// Of the process.
    Theirs(u32),
    /// Of ours: what nobody else need have open.
    Ours(OwnedFd),
}

/// Ends of a pipe: those in the image, and those that there are.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    here: u32,
    open: u32,
}

struct Dumper<'a, 'b> {
    device: &'a Device,
    process: PidFd,
    asked: Dump<'b>,
    image: Image,
    /// By the identity of the file.
    index: ByIdentity<u32>,
    /// By device and inode.
    pipes: HashMap<((u32, u32), u64), u32>,
    ends: Vec<Ends>,
    /// By inode.
    sockets: HashMap<u32, u32>,
    /// What may lead to further files.
    pending: VecDeque<(u32, Source)>,
}

impl Dumper<'_, '_> {
    fn whose(&self, source: &Source) -> Process<'_> {
        match source {
            Source::Theirs(_) => Process::Other(self.process.as_fd()),
            Source::Ours(_) => Process::Own,
        }
    }

    fn fdinfo(&self, source: &Source) -> Result<String> {
        let path = match source {
            Source::Theirs(fd) => format!("/proc/{}/fdinfo/{fd}", self.asked.pid),
            Source::Ours(fd) => format!("/proc/self/fdinfo/{}", fd.as_raw_fd()),
        };
        fs::read_to_string(&path).to(|| format!("read {path}"))
    }

    /// Does something with the file itself.
    fn with<T>(
        &self,
        source: &Source,
        act: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Result<T> {
        match source {
            Source::Theirs(fd) => {
                let copy = self.process.getfd(*fd as i32);
                copy.and_then(|fd| act(fd.as_fd()))
                    .to(|| format!("look into descriptor {fd}"))
            }
            Source::Ours(fd) => act(fd.as_fd()).to(|| "look into an open file".into()),
        }
    }

    /// The table, and each file in it.
    fn descriptors(&mut self) -> Result<()> {
        let table = self
            .device
            .files(Process::Other(self.process.as_fd()))
            .to(|| "list its descriptors".into())?;
        let mut first = Vec::new();
        for descriptor in &table.descriptors {
            if self.asked.left_out.contains(&descriptor.fd) {
                continue;
            }
            let next = first.len() as u32;
            let file = *self.index.entry(descriptor.file).or_insert(next);
            if file == next {
                first.push((descriptor.fd, descriptor.file));
            }
            self.image.descriptors.push(Descriptor {
                number: descriptor.fd,
                file,
                cloexec: descriptor.cloexec,
            });
        }
        let total = first.len();
        for chunk in first.chunks(AT_ONCE) {
            let numbers: Vec<_> = chunk.iter().map(|&(fd, _)| fd).collect();
            let descriptions = self
                .device
                .describe(Process::Other(self.process.as_fd()), &numbers)
                .to(|| "describe its files".into())?;
            for (&(fd, identity), description) in chunk.iter().zip(descriptions) {
                match description.filter(|description| description.file == identity) {
                    Some(description) => self.add(Source::Theirs(fd), &description)?,
                    None => self.lost()?,
                }
            }
            let done = self.image.files.len();
            (self.asked.progress)(Progress::Files { done, total });
        }
        Ok(())
    }

    /// A file that is not what it was.
    fn lost(&mut self) -> Result<()> {
        if !self.image.origin.running {
            return Err(Error::Changed);
        }
        self.unknown("it was closed while it was looked at");
        Ok(())
    }

    /// A file of which nothing is known.
    fn unknown(&mut self, why: &str) {
        self.image.files.push(OpenFile {
            kind: Kind::Other { why: why.into() },
            flags: 0,
            link: Vec::new(),
            owner: None,
            opener: None,
            locks: None,
        });
    }

    /// The next file of the image.
    fn add(&mut self, source: Source, description: &Description) -> Result<()> {
        let mut link = description.path.as_deref().unwrap_or_default().to_vec();
        if description.unlinked && description.reachable {
            link.extend(b" (deleted)");
        }
        let kind = match self.kind(&source, description) {
            // It may be gone, if the process runs on.
            Err(Error::Io(_, error)) if self.image.origin.running => Kind::Other {
                why: format!("it could not be looked at ({error})"),
            },
            kind => kind?,
        };
        let locks = match description.reachable {
            true => self.locks(&source)?,
            false => None,
        };
        let owner = (description.owner.is_some() || description.signal != 0).then(|| {
            let (kind, id) = description.owner.unwrap_or_default();
            Owner {
                kind,
                id,
                signal: description.signal,
            }
        });
        let (uid, gid) = description.opener;
        let mut file = OpenFile {
            kind,
            flags: description.flags,
            link,
            owner,
            opener: Some(Opener { uid, gid }),
            locks,
        };
        // One that an image cannot hold is no reason to have no image.
        if let Err(invalid) = check_alone(&file) {
            let why = invalid.to_string();
            file.kind = Kind::Other { why };
        }
        let index = self.image.files.len() as u32;
        if matches!(file.kind, Kind::Epoll { .. } | Kind::Socket(_)) {
            self.pending.push_back((index, source));
        }
        self.image.files.push(file);
        Ok(())
    }

    fn locks(&self, source: &Source) -> Result<Option<u32>> {
        let locks = match self.fdinfo(source) {
            Err(_) if self.image.origin.running => 0,
            fdinfo => fdinfo::locks(&fdinfo?),
        };
        Ok(Some(locks).filter(|&locks| locks > 0))
    }

    fn kind(&mut self, source: &Source, description: &Description) -> Result<Kind> {
        let other = |why: &str| Ok(Kind::Other { why: why.into() });
        match description.flags & !FLAGS {
            0 => {}
            flags if flags & TMPFILE != 0 => return other("it was opened with O_TMPFILE"),
            flags => {
                return other(&format!(
                    "it has flags that are not known here ({flags:#o})"
                ));
            }
        }
        let is_path_only = description.flags & libc::O_PATH as u32 != 0;
        let mode = description.mode & libc::S_IFMT;
        let name = description.path.as_deref().unwrap_or_default();
        if !description.reachable {
            return match name {
                _ if is_path_only => other("it is only a reference (O_PATH), and has no path"),
                b"anon_inode:[eventfd]" => self.shown(source, fdinfo::eventfd),
                b"anon_inode:[signalfd]" => self.shown(source, fdinfo::signalfd),
                b"anon_inode:[timerfd]" => self.timer(source),
                _ if description.epoll_id.is_some() => {
                    let items = Vec::new();
                    Ok(Kind::Epoll { items })
                }
                _ if mode == libc::S_IFIFO && name.starts_with(b"pipe:") => {
                    self.pipe(source, description, None)
                }
                _ if mode == libc::S_IFSOCK => self.socket(source, description),
                _ if name.starts_with(b"/") => other("its path leads nowhere here"),
                _ => other("there is no way to recreate such a file"),
            };
        }
        let Some(stat) = description.stat else {
            return other("its file system does not tell what it is");
        };
        let Some(path) = &description.path else {
            return other("its path is too long");
        };
        let place = Place {
            path: path.to_vec(),
            mode: description.mode,
            device: stat.device,
            inode: stat.inode,
            special: matches!(mode, libc::S_IFCHR | libc::S_IFBLK).then_some(stat.special),
            unlinked: description.unlinked,
        };
        match mode {
            libc::S_IFIFO if !is_path_only => self.pipe(source, description, Some(place)),
            libc::S_IFSOCK if !is_path_only => other("it is a socket"),
            _ => {
                let position = description.position;
                Ok(Kind::Path { place, position })
            }
        }
    }

    fn shown(&self, source: &Source, parse: fn(&str) -> Option<Kind>) -> Result<Kind> {
        parse(&self.fdinfo(source)?)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
            .to(|| "understand its fdinfo".into())
    }

    fn timer(&self, source: &Source) -> Result<Kind> {
        // One that repeats and has expired goes on only when it is looked at, and
        // fdinfo does not. It may expire once more until then.
        self.with(source, |fd| {
            rustix::time::timerfd_gettime(fd)?;
            Ok(())
        })?;
        self.shown(source, fdinfo::timerfd)
    }

    fn pipe(
        &mut self,
        source: &Source,
        description: &Description,
        place: Option<Place>,
    ) -> Result<Kind> {
        let stat = description.stat.unwrap_or_default();
        let known = self.pipes.get(&(stat.device, stat.inode)).copied();
        let mode = description.flags as i32 & libc::O_ACCMODE;
        let here = pipe::ends(mode);
        let index = match known {
            Some(index) => index,
            None => {
                let capacity = self.with(source, pipe::capacity)?;
                let index = self.image.pipes.len() as u32;
                self.image.pipes.push(Pipe {
                    capacity,
                    data: Vec::new(),
                    place,
                    elsewhere: 0,
                });
                self.ends.push(Ends::default());
                self.pipes.insert((stat.device, stat.inode), index);
                index
            }
        };
        let open = self.with(source, |fd| pipe::other_end(fd, mode))?;
        let pipe = &self.image.pipes[index as usize];
        let first = self.ends[index as usize].here & pipe::READ == 0;
        if here & pipe::READ != 0 && first {
            let capacity = pipe.capacity;
            let data = self.with(source, |fd| pipe::data(fd, capacity))?;
            self.image.pipes[index as usize].data = data;
        }
        let ends = &mut self.ends[index as usize];
        ends.here |= here;
        ends.open |= open;
        Ok(Kind::Pipe { pipe: index })
    }

    fn finish_pipes(&mut self) {
        for (pipe, ends) in self.image.pipes.iter_mut().zip(&self.ends) {
            // Those of a FIFO find each other by its path.
            if pipe.place.is_none() {
                pipe.elsewhere = ends.open & !ends.here;
            }
        }
    }

    fn socket(&mut self, source: &Source, description: &Description) -> Result<Kind> {
        let inode = description.stat.unwrap_or_default().inode as u32;
        let index = self.image.files.len() as u32;
        let known = self.with(source, socket::describe)?;
        Ok(match known {
            Ok(socket) => {
                self.sockets.insert(inode, index);
                Kind::Socket(socket)
            }
            Err(why) => Kind::Other { why: why.into() },
        })
    }

    /// What epoll sets watch, and what is on its way over sockets, until that
    /// leads to no further files.
    fn contents(&mut self) -> Result<()> {
        while let Some((index, source)) = self.pending.pop_front() {
            match self.image.files[index as usize].kind {
                Kind::Epoll { .. } => self.items(index, &source)?,
                _ => match self.messages(index, &source) {
                    // As are descriptors and sets then: as far as they were there.
                    Err(Error::Io(..)) if self.image.origin.running => {}
                    messages => messages?,
                },
            }
        }
        Ok(())
    }

    fn items(&mut self, index: u32, source: &Source) -> Result<()> {
        let efd = match source {
            Source::Theirs(fd) => *fd,
            Source::Ours(fd) => fd.as_raw_fd() as u32,
        };
        let snapshot = match self.device.snapshot(self.whose(source), efd) {
            Err(Errno::BADF | Errno::OPNOTSUPP | Errno::STALE) if self.image.origin.running => {
                Snapshot::default()
            }
            snapshot => snapshot.to(|| format!("take a snapshot of epoll set {efd}"))?,
        };
        let total = snapshot.items.len();
        let mut items = Vec::with_capacity(total);
        for (done, item) in snapshot.items.iter().enumerate() {
            if done % AT_ONCE == 0 {
                (self.asked.progress)(Progress::Items { done, total });
            }
            let Some(file) = self.target(source, efd, item)? else {
                continue;
            };
            items.push(Item {
                tfd: item.tfd,
                file,
                events: item.events,
                data: item.data,
                ready: item.ready,
            });
        }
        self.image.files[index as usize].kind = Kind::Epoll { items };
        Ok(())
    }

    /// The file of an item; nothing if it is gone, as can be if processes run on.
    fn target(&mut self, source: &Source, efd: u32, item: &device::Item) -> Result<Option<u32>> {
        if let Some(&file) = self.index.get(&item.file) {
            return Ok(Some(file));
        }
        let fetched = match self.device.fetch(self.whose(source), efd, item) {
            Err(Errno::NOENT | Errno::STALE) if self.image.origin.running => return Ok(None),
            // The set could be looked at, so it is not about the process.
            Err(Errno::PERM) => {
                let file = self.image.files.len() as u32;
                self.unknown("it was opened by another process, or before this one became what it is, and only root may fetch that");
                self.index.insert(item.file, file);
                return Ok(Some(file));
            }
            fetched => {
                fetched.to(|| format!("fetch what epoll set {efd} watches as {}", item.tfd))?
            }
        };
        self.ours(fetched).map(Some)
    }

    /// A file that came to us as a descriptor.
    fn ours(&mut self, fd: OwnedFd) -> Result<u32> {
        let described = self
            .device
            .describe(Process::Own, &[fd.as_raw_fd() as u32])
            .to(|| "describe a file".into())?;
        let Some(description) = described.into_iter().next().flatten() else {
            return Err(Error::Changed);
        };
        let next = self.image.files.len() as u32;
        let file = *self.index.entry(description.file).or_insert(next);
        if file == next {
            self.add(Source::Ours(fd), &description)?;
        }
        Ok(file)
    }

    fn messages(&mut self, index: u32, source: &Source) -> Result<()> {
        let what = || "look at what was sent to a socket".into();
        let socket = self.with(source, |fd| fd.try_clone_to_owned())?;
        let mut messages = socket::Queue::new(socket).to(what)?;
        let mut queue = Vec::new();
        // Each with its files, so that few of them are open at any one time.
        while let Some(message) = messages.next().to(what)? {
            let mut files = Vec::with_capacity(message.files.len());
            for fd in message.files {
                files.push(self.ours(fd)?);
            }
            let data = message.data;
            queue.push(Message { data, files });
        }
        if let Kind::Socket(socket) = &mut self.image.files[index as usize].kind {
            socket.queue = queue;
        }
        Ok(())
    }

    /// Finds out which sockets are connected to which.
    fn connect(&mut self) -> Result<()> {
        if self.sockets.is_empty() {
            return Ok(());
        }
        let all = match diag::unix_sockets() {
            Ok(all) => all,
            Err(error) => {
                for &index in self.sockets.values() {
                    let why = format!("the kernel does not tell what it is connected to: {error}");
                    self.image.files[index as usize].kind = Kind::Other { why };
                }
                return Ok(());
            }
        };
        let of = |inode: &u32| all.get(inode).copied();
        for (inode, &index) in &self.sockets {
            let connection = of(inode);
            let file = &mut self.image.files[index as usize];
            let Kind::Socket(socket) = &mut file.kind else {
                continue;
            };
            match peer(*inode, connection, of, &self.sockets) {
                Ok(peer) => {
                    socket.peer = peer;
                    socket.shutdown = connection.map_or(0, |known| known.shutdown.into()) & 3;
                }
                Err(why) => file.kind = Kind::Other { why: why.into() },
            }
        }
        // What could not be told about one end concerns the other one as well.
        for &index in self.sockets.values() {
            let Kind::Socket(Socket {
                peer: Peer::File(peer),
                ..
            }) = self.image.files[index as usize].kind
            else {
                continue;
            };
            if !matches!(self.image.files[peer as usize].kind, Kind::Socket(_)) {
                let Kind::Socket(socket) = &mut self.image.files[index as usize].kind else {
                    continue;
                };
                socket.peer = Peer::Elsewhere;
            }
        }
        Ok(())
    }
}

/// What a socket is connected to, or why that cannot be told.
fn peer(
    inode: u32,
    connection: Option<Connection>,
    of: impl Fn(&u32) -> Option<Connection>,
    sockets: &HashMap<u32, u32>,
) -> std::result::Result<Peer, &'static str> {
    let connection = connection.ok_or("it is a socket of another network namespace")?;
    match connection.peer {
        None => Ok(Peer::Nobody),
        Some(0) => Ok(Peer::Closed),
        Some(other) => match sockets.get(&other) {
            None => Ok(Peer::Elsewhere),
            Some(_) if of(&other).and_then(|other| other.peer) != Some(inode) => {
                Err("the socket that it is connected to is not connected to it")
            }
            Some(&file) => Ok(Peer::File(file)),
        },
    }
}
