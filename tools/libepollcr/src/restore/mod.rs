// SPDX-License-Identifier: GPL-2.0

//! Makes what is in an image, in this process.

mod make;
mod plan;

pub use plan::{Problem, is_hidden, printable};

use crate::device::{Add, Device, RestoreError};
use crate::image::{Image, Kind, Message, Peer, Socket};
use crate::sys;
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags,
    SocketType, sendmsg, shutdown, socket_with, socketpair,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Why nothing was restored.
#[derive(Debug)]
pub enum Error {
    /// There are things that cannot be restored: nothing was done.
    Problems(Vec<Problem>),
    /// A file could not be made.
    File(u32, io::Error),
    /// A file could be made, but not be given the number that it had.
    Number(u32, io::Error),
    /// Items could not be added to an epoll set.
    Items {
        /// The file that is the set.
        set: u32,
        /// The number of the item because of which, if it is one.
        tfd: Option<u32>,
        /// Why.
        error: RestoreError,
    },
    /// There are items to be added, and no device to do it.
    NoDevice,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problems(problems) => match &problems[..] {
                [only] => write!(f, "{only}"),
                all => write!(f, "{} things cannot be restored", all.len()),
            },
            Self::File(file, error) => write!(f, "f{file} cannot be made: {error}"),
            Self::Number(number, error) => {
                write!(f, "descriptor {number} cannot be made: {error}")
            }
            Self::Items { set, tfd, error } => {
                write!(f, "epoll set f{set} cannot be given its ")?;
                match tfd {
                    Some(tfd) => write!(f, "item of number {tfd}: ")?,
                    None => f.write_str("items: ")?,
                }
                match error.errno {
                    Errno::NOSPC => f.write_str("/proc/sys/fs/epoll/max_user_watches is too low"),
                    errno => write!(f, "{errno}"),
                }
            }
            Self::NoDevice => {
                f.write_str("items of epoll sets are restored with /dev/epoll_cr only")
            }
        }
    }
}

impl std::error::Error for Error {}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Files are being made.
    Files {
        /// So many were.
        done: usize,
        /// Of so many.
        total: usize,
    },
    /// Items are added to epoll sets.
    Items {
        /// So many were.
        done: usize,
        /// Of so many.
        total: usize,
    },
}

/// An image to be restored.
pub struct Restore<'a> {
    image: &'a Image,
    given: BTreeMap<u32, OwnedFd>,
    inherit: bool,
    progress: Box<dyn FnMut(Progress) + 'a>,
}

impl fmt::Debug for Restore<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Restore")
            .field("given", &self.given)
            .field("inherit", &self.inherit)
            .finish_non_exhaustive()
    }
}

/// Descriptors that were restored. They are closed when this is dropped.
#[derive(Debug, Default)]
pub struct Restored {
    /// By number.
    pub descriptors: BTreeMap<u32, OwnedFd>,
    /// Files that epoll sets watch, and that neither a descriptor nor a message
    /// has. An item goes away with its file, so these keep them, at numbers that
    /// the image does not have, until somebody else does, or they are not wanted
    /// any more. By the index of the file.
    pub held: BTreeMap<u32, OwnedFd>,
}

impl<'a> Restore<'a> {
    /// Of this image.
    ///
    /// ```
    /// use libepollcr::image::{Descriptor, Image, Kind, OpenFile};
    /// use libepollcr::restore::Restore;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut image = Image::default();
    /// image.files.push(OpenFile {
    ///     kind: Kind::EventFd { count: 7, semaphore: false },
    ///     flags: libc::O_RDWR as u32,
    ///     link: Vec::new(),
    ///     owner: None,
    ///     opener: None,
    ///     locks: None,
    /// });
    /// image.descriptors.push(Descriptor { number: 100, file: 0, cloexec: true });
    ///
    /// let restored = Restore::new(&image).run(None)?;
    /// let mut value = [0; 8];
    /// rustix::io::read(&restored.descriptors[&100], &mut value)?;
    /// assert_eq!(u64::from_ne_bytes(value), 7);
    /// # Ok(()) }
    /// ```
    pub fn new(image: &'a Image) -> Self {
        Self {
            image,
            given: BTreeMap::new(),
            inherit: false,
            progress: Box::new(|_| {}),
        }
    }

    /// Takes this for a file of the image, by its index there. Nothing about it
    /// is changed; an epoll set is given no items. [`Parking`] finds a number for
    /// it that is in nobody's way.
    pub fn give(&mut self, file: u32, fd: OwnedFd) {
        self.given.insert(file, fd);
    }

    /// Lets exec close none of the descriptors.
    #[must_use]
    pub fn keep_across_exec(mut self) -> Self {
        self.inherit = true;
        self
    }

    /// Tells how far it is from time to time.
    #[must_use]
    pub fn on_progress(mut self, tell: impl FnMut(Progress) + 'a) -> Self {
        self.progress = Box::new(tell);
        self
    }

    /// Whether there are items to be added, which takes the device.
    pub fn needs_device(&self) -> bool {
        plan::items(self.image, &self.is_given()) > 0
    }

    /// All that cannot be restored, without doing anything.
    pub fn problems(&self) -> Vec<Problem> {
        plan::problems(self.image, &self.is_given())
    }

    fn is_given(&self) -> Vec<bool> {
        let files = 0..self.image.files.len() as u32;
        files.map(|file| self.given.contains_key(&file)).collect()
    }

    /// Restores it, or fails before anything is done if there are
    /// [`problems`](Self::problems). The device is needed if there are items.
    ///
    /// Numbers that the image has must not be open. If it fails later on, what was
    /// made is closed again; of what there was before, only FIFOs can have changed:
    /// those who wait until somebody opens one go on, and what the image has is in
    /// it, if the image has an end to be read.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`]; each is a sentence, or several.
    pub fn run(self, device: Option<&Device>) -> Result<Restored, Error> {
        if self.needs_device() && device.is_none() {
            return Err(Error::NoDevice);
        }
        let problems = self.problems();
        if !problems.is_empty() {
            return Err(Error::Problems(problems));
        }
        let numbers = self.image.numbers();
        let mut maker = Maker {
            image: self.image,
            numbers,
            inherit: self.inherit,
            given: self.is_given(),
            cloexec: self
                .image
                .descriptors
                .iter()
                .map(|d| (d.number, d.cloexec))
                .collect(),
            parking: Parking::new(self.image),
            placed: BTreeMap::new(),
            parked: HashMap::new(),
            far: HashMap::new(),
            progress: self.progress,
            done: 0,
        };
        maker.files(self.given)?;
        maker.messages()?;
        if let Some(device) = device {
            maker.items(device)?;
        }
        maker.signals()?;
        maker.restored()
    }
}

/// Numbers that an image does not have.
///
/// What must not be in its way is moved to one, before it is restored.
#[derive(Debug)]
pub struct Parking {
    used: HashSet<i32>,
    /// None below is both free and not of the image, or was a moment ago.
    next: i32,
}

impl Parking {
    /// Beside the numbers of this image.
    pub fn new(image: &Image) -> Self {
        let numbers = image.descriptors.iter().map(|d| d.number as i32);
        Self {
            used: numbers.collect(),
            next: 0,
        }
    }

    /// Whether the image has the number of a descriptor.
    pub fn is_used(&self, fd: impl AsFd) -> bool {
        self.used.contains(&fd.as_fd().as_raw_fd())
    }

    /// Another descriptor for the same file, which exec closes. `fd` is closed if
    /// it is handed over.
    ///
    /// # Errors
    ///
    /// `EMFILE`: there are no more numbers.
    pub fn park(&mut self, fd: impl AsFd) -> io::Result<OwnedFd> {
        loop {
            while self.used.contains(&self.next) {
                self.next += 1;
            }
            let copy = match fcntl_dupfd_cloexec(&fd, self.next) {
                // The limit is lower than that.
                Err(Errno::INVAL) => return Err(Errno::MFILE.into()),
                copy => copy?,
            };
            if !self.is_used(&copy) {
                // It may be closed and free again the next time.
                self.next = copy.as_raw_fd();
                return Ok(copy);
            }
            self.next = copy.as_raw_fd() + 1;
        }
    }
}

struct Maker<'a> {
    image: &'a Image,
    /// Those of each file.
    numbers: Vec<Vec<u32>>,
    cloexec: HashMap<u32, bool>,
    inherit: bool,
    /// Files that need not be made.
    given: Vec<bool>,
    parking: Parking,
    placed: BTreeMap<u32, OwnedFd>,
    /// Files that have no descriptor.
    parked: HashMap<usize, OwnedFd>,
    /// Ends of sockets that are to be closed.
    far: HashMap<usize, OwnedFd>,
    progress: Box<dyn FnMut(Progress) + 'a>,
    done: usize,
}

/// What was being made when it failed.
fn at<T, E: Into<io::Error>>(file: usize, result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|error| Error::File(file as u32, error.into()))
}

impl Maker<'_> {
    fn files(&mut self, given: BTreeMap<u32, OwnedFd>) -> Result<(), Error> {
        for (file, fd) in given {
            if (file as usize) < self.given.len() {
                self.install(file as usize, fd)?;
            }
        }
        for (pipe, files) in self.image.pipes.iter().zip(plan::pipes(self.image)) {
            let Some(&first) = files.first().filter(|&&file| !self.given[file]) else {
                continue;
            };
            let ends = plan::ends(self.image, &files);
            let packets = plan::writes_packets(self.image, &files);
            let ends = at(first, make::ends(pipe, ends, packets))?;
            // All of them: one might have the number of another one's file.
            let mut ends = at(first, ends.move_by(|fd| self.make_way(fd)))?;
            for index in files {
                let end = at(index, ends.open(&self.image.files[index]))?;
                self.finish(index, end)?;
            }
        }
        for (index, file) in self.image.files.iter().enumerate() {
            if self.given[index] {
                continue;
            }
            let made = match &file.kind {
                Kind::Path { place, position } => at(
                    index,
                    make::path(file, place)
                        .map_err(io::Error::other)
                        .and_then(|fd| {
                            let has_position =
                                matches!(place.mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR);
                            if has_position && !file.is_path_only() {
                                make::seek_to(&fd, *position)?;
                            }
                            Ok(fd)
                        }),
                )?,
                Kind::EventFd { count, semaphore } => at(index, make::counter(*count, *semaphore))?,
                Kind::TimerFd(timer) => at(index, make::timer(timer))?,
                Kind::SignalFd { mask } => at(index, sys::signalfd(*mask))?,
                Kind::Epoll { .. } => at(
                    index,
                    rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC),
                )?,
                Kind::Socket(socket) => {
                    match socket.peer {
                        // The first of them makes both.
                        Peer::File(peer) if (peer as usize) < index => continue,
                        _ => self.sockets(index, socket)?,
                    }
                    continue;
                }
                // There were problems with the former, and the latter are there.
                Kind::Other { .. } | Kind::Pipe { .. } => continue,
            };
            self.finish(index, made)?;
        }
        Ok(())
    }

    fn sockets(&mut self, index: usize, socket: &Socket) -> Result<(), Error> {
        let kind = SocketType::from_raw(socket.kind);
        let flags = SocketFlags::CLOEXEC;
        let (near, far) = match socket.peer {
            Peer::Nobody => (
                at(index, socket_with(AddressFamily::UNIX, kind, flags, None))?,
                None,
            ),
            _ => {
                let (near, far) = at(index, socketpair(AddressFamily::UNIX, kind, flags, None))?;
                // It might have the number of the other one.
                let far = at(index, self.make_way(far))?;
                (near, Some(far))
            }
        };
        at(index, options(near.as_fd(), socket))?;
        self.finish(index, near)?;
        match (socket.peer, far) {
            (Peer::File(peer), Some(far)) => {
                let peer = peer as usize;
                if let Kind::Socket(other) = &self.image.files[peer].kind {
                    at(peer, options(far.as_fd(), other))?;
                }
                self.finish(peer, far)
            }
            (_, Some(far)) => {
                let far = self
                    .park(far)
                    .map_err(|error| Error::File(index as u32, error))?;
                self.far.insert(index, far);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What is the same for all kinds.
    fn finish(&mut self, index: usize, fd: OwnedFd) -> Result<(), Error> {
        at(index, make::finish(&fd, &self.image.files[index]))?;
        self.install(index, fd)?;
        self.done += 1;
        if self.done % 1024 == 0 {
            let (done, total) = (self.done, self.image.files.len());
            (self.progress)(Progress::Files { done, total });
        }
        Ok(())
    }

    /// Gives a file all numbers that it had, or one that is in nobody's way.
    fn install(&mut self, index: usize, fd: OwnedFd) -> Result<(), Error> {
        let numbers = std::mem::take(&mut self.numbers[index]);
        let at_once = matches!(numbers[..], [number] if number as i32 == fd.as_raw_fd());
        let fd = if at_once {
            self.place(numbers[0], fd)?;
            None
        } else if numbers.is_empty() {
            Some(at(index, self.park(fd))?)
        } else {
            Some(at(index, self.make_way(fd))?)
        };
        if let Some(fd) = fd {
            for &number in &numbers {
                let copy = fcntl_dupfd_cloexec(&fd, number as i32)
                    .map_err(|errno| Error::Number(number, errno.into()))?;
                if copy.as_raw_fd() != number as i32 {
                    let error = io::Error::other("the number was taken meanwhile");
                    return Err(Error::Number(number, error));
                }
                self.place(number, copy)?;
            }
            if numbers.is_empty() {
                self.parked.insert(index, fd);
            }
        }
        self.numbers[index] = numbers;
        Ok(())
    }

    fn place(&mut self, number: u32, fd: OwnedFd) -> Result<(), Error> {
        let cloexec = !self.inherit && self.cloexec.get(&number).copied().unwrap_or(true);
        let flags = if cloexec {
            FdFlags::CLOEXEC
        } else {
            FdFlags::empty()
        };
        fcntl_setfd(&fd, flags).map_err(|errno| Error::Number(number, errno.into()))?;
        self.placed.insert(number, fd);
        Ok(())
    }

    /// Moves a descriptor if a file of the image is to have its number.
    fn make_way(&mut self, fd: OwnedFd) -> io::Result<OwnedFd> {
        match self.parking.is_used(&fd) {
            true => self.park(fd),
            false => Ok(fd),
        }
    }

    fn park(&mut self, fd: OwnedFd) -> io::Result<OwnedFd> {
        self.parking.park(fd)
    }

    fn fd(&self, index: usize) -> Result<BorrowedFd<'_>, Error> {
        let number = self.numbers[index].first();
        let placed = number.and_then(|number| self.placed.get(number));
        let fd = placed.or_else(|| self.parked.get(&index));
        fd.map(|fd| fd.as_fd())
            .ok_or_else(|| Error::File(index as u32, Errno::BADF.into()))
    }

    /// What was on its way, and who has hung up.
    fn messages(&mut self) -> Result<(), Error> {
        for (index, file) in self.image.files.iter().enumerate() {
            let Kind::Socket(socket) = &file.kind else {
                continue;
            };
            if !socket.queue.is_empty() && !self.given[index] {
                at(index, self.send(index, socket))?;
            }
        }
        for (index, file) in self.image.files.iter().enumerate() {
            let Kind::Socket(socket) = &file.kind else {
                continue;
            };
            let how = match socket.shutdown {
                1 => Shutdown::Read,
                2 => Shutdown::Write,
                3 => Shutdown::Both,
                _ => continue,
            };
            // If the other end was closed, that is what has done it.
            if matches!(socket.peer, Peer::File(_)) && !self.given[index] {
                at(index, shutdown(self.fd(index)?, how))?;
            }
        }
        self.far.clear();
        Ok(())
    }

    /// Who can send to the socket.
    fn far_of(&self, index: usize, socket: &Socket) -> Option<BorrowedFd<'_>> {
        match socket.peer {
            Peer::File(peer) => self.fd(peer as usize).ok(),
            _ => self.far.get(&index).map(|fd| fd.as_fd()),
        }
    }

    fn send(&self, index: usize, socket: &Socket) -> io::Result<()> {
        let far = self.far_of(index, socket).ok_or(Errno::NOTCONN)?;
        // It held all of it once, whatever its buffer was then.
        let size = sys::socket_option(far, libc::SO_SNDBUF)?;
        let all: usize = socket
            .queue
            .iter()
            .map(|message| message.data.0.len() + 1024)
            .sum();
        let large = i32::try_from(all).unwrap_or(i32::MAX).max(size);
        if large > size && sys::set_socket_option(far, libc::SO_SNDBUFFORCE, large).is_err() {
            sys::set_socket_option(far, libc::SO_SNDBUF, large)?;
        }
        for message in &socket.queue {
            self.send_one(far, message)?;
        }
        if large > size {
            sys::set_socket_option(far, libc::SO_SNDBUF, size / 2)?;
        }
        Ok(())
    }

    fn send_one(&self, far: BorrowedFd<'_>, message: &Message) -> io::Result<()> {
        let files: Result<Vec<_>, Error> = message
            .files
            .iter()
            .map(|&file| self.fd(file as usize))
            .collect();
        let files = files.map_err(|error| io::Error::other(error.to_string()))?;
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(Errno::INVAL.into());
        }
        let data = IoSlice::new(&message.data.0);
        let sent = sendmsg(
            far,
            &[data],
            &mut control,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )?;
        if sent != message.data.0.len() {
            return Err(Errno::NOBUFS.into());
        }
        Ok(())
    }

    /// Last of all: what was done so far is no news to anybody.
    fn signals(&self) -> Result<(), Error> {
        for (index, file) in self.image.files.iter().enumerate() {
            let sends = file.owner.is_some() || file.flags & libc::O_ASYNC as u32 != 0;
            if sends && !self.given[index] {
                at(index, make::signals(self.fd(index)?, file))?;
            }
        }
        Ok(())
    }

    /// Keeps what is needed.
    fn restored(self) -> Result<Restored, Error> {
        let mut watched = HashSet::<u32>::new();
        let mut passed = HashSet::<u32>::new();
        let made = self.image.files.iter().zip(&self.given);
        for (file, _) in made.filter(|&(_, &given)| !given) {
            match &file.kind {
                Kind::Epoll { items } => watched.extend(items.iter().map(|item| item.file)),
                Kind::Socket(socket) => {
                    passed.extend(socket.queue.iter().flat_map(|message| &message.files));
                }
                _ => {}
            }
        }
        let mut held = BTreeMap::new();
        for (index, fd) in self.parked {
            let file = index as u32;
            if watched.contains(&file) && !passed.contains(&file) {
                if self.inherit {
                    at(index, fcntl_setfd(&fd, FdFlags::empty()))?;
                }
                held.insert(file, fd);
            }
        }
        Ok(Restored {
            descriptors: self.placed,
            held,
        })
    }

    fn items(&mut self, device: &Device) -> Result<(), Error> {
        let total = plan::items(self.image, &self.given);
        let mut done = 0;
        for set in plan::order(self.image) {
            let Kind::Epoll { items } = &self.image.files[set].kind else {
                continue;
            };
            if items.is_empty() || self.given[set] {
                continue;
            }
            let mut adds = Vec::with_capacity(items.len());
            for item in items {
                adds.push(Add {
                    fd: self.fd(item.file as usize)?,
                    tfd: item.tfd,
                    events: item.events,
                    ready: item.ready,
                    data: item.data,
                });
            }
            device
                .restore(self.fd(set)?, &adds)
                .map_err(|error| Error::Items {
                    set: set as u32,
                    tfd: error.bad.map(|bad| items[bad].tfd),
                    error,
                })?;
            drop(adds);
            done += items.len();
            (self.progress)(Progress::Items { done, total });
        }
        Ok(())
    }
}

/// Options of a new socket.
fn options(fd: BorrowedFd<'_>, socket: &Socket) -> io::Result<()> {
    let (send, receive) = socket.buffers;
    for (name, force, value) in [
        (libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, send),
        (libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, receive),
    ] {
        let value = i32::try_from(value).unwrap_or(i32::MAX);
        if sys::socket_option(fd, name)? == value {
            continue;
        }
        // The kernel takes it twice; and without the right to more, there is less.
        if sys::set_socket_option(fd, force, value / 2).is_err() {
            sys::set_socket_option(fd, name, value / 2)?;
        }
    }
    if socket.passcred {
        sys::set_socket_option(fd, libc::SO_PASSCRED, 1)?;
    }
    Ok(())
}
