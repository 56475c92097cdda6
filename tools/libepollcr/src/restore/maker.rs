// SPDX-License-Identifier: GPL-2.0

//! Makes the files of an image, and gives them their descriptors.

use super::{Error, Parking, Restored, edges, make, plan};
use crate::device::{Add, Device};
use crate::image::{Image, Item, Kind, Peer};
use crate::sys;
use crate::types::Progress;
use epoll_targets::pidfd::PidFd;
use rustix::event::epoll;
use rustix::fs::SeekFrom;
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// An image that is being restored.
pub struct Maker<'a> {
    pub image: &'a Image,
    /// The descriptors of each file.
    numbers: Vec<Vec<u32>>,
    cloexec: HashMap<u32, bool>,
    inherit: bool,
    /// Which files need not be made.
    pub given: Vec<bool>,
    /// Which files get no events from outside: see [`edges::quiet()`].
    pub quiet: Vec<bool>,
    pub parking: Parking,
    pub placed: BTreeMap<u32, OwnedFd>,
    /// Files without a descriptor in the image.
    parked: HashMap<usize, OwnedFd>,
    /// Peers of sockets that are to be closed at the end.
    pub far: HashMap<usize, OwnedFd>,
    pub progress: Box<dyn FnMut(Progress) + 'a>,
    done: usize,
}

/// Says which file an error is about.
pub fn at<T, E: Into<io::Error>>(file: usize, result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|error| Error::File {
        file: file as u32,
        source: error.into(),
    })
}

/// Says which descriptor an error is about.
fn as_number<T, E: Into<io::Error>>(number: u32, result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|error| Error::Descriptor {
        number,
        source: error.into(),
    })
}

impl<'a> Maker<'a> {
    pub fn new(
        image: &'a Image,
        given: Vec<bool>,
        inherit: bool,
        progress: Box<dyn FnMut(Progress) + 'a>,
    ) -> Self {
        let descriptors = image.descriptors.iter();
        Self {
            image,
            numbers: image.numbers(),
            cloexec: descriptors.map(|d| (d.number, d.cloexec)).collect(),
            inherit,
            quiet: edges::quiet(image, &given),
            given,
            parking: Parking::new(image),
            placed: BTreeMap::new(),
            parked: HashMap::new(),
            far: HashMap::new(),
            progress,
            done: 0,
        }
    }
}

impl Maker<'_> {
    /// Makes all files. `given` are those that need not be made.
    pub fn files(&mut self, given: BTreeMap<u32, OwnedFd>) -> Result<(), Error> {
        for (file, fd) in given {
            if (file as usize) < self.given.len() {
                self.install(file as usize, fd)?;
            }
        }
        self.pipes()?;
        self.memories()?;
        // Last, those that notice if others are opened.
        for notices in [false, true] {
            for (index, file) in self.image.files.iter().enumerate() {
                let is_inotify = matches!(file.kind, Kind::Inotify { .. });
                if !self.given[index] && is_inotify == notices {
                    self.file(index, &file.kind)?;
                }
            }
        }
        Ok(())
    }

    fn pipes(&mut self) -> Result<(), Error> {
        for (pipe, files) in self.image.pipes.iter().zip(plan::pipes(self.image)) {
            let Some(&first) = files.first().filter(|&&file| !self.given[file]) else {
                continue;
            };
            let needed = plan::needed(self.image, &files);
            let packets = plan::writes_packets(self.image, &files);
            let ends = at(first, make::ends(pipe, needed, packets))?;
            // All of them: one may have the number of another file.
            let mut ends = at(first, ends.move_by(|fd| self.make_way(fd)))?;
            for &index in &files {
                let end = at(index, ends.open(&self.image.files[index]))?;
                self.finish(index, end)?;
            }
            if pipe.place.is_some() && plan::has_ended(self.image, &files) {
                at(first, ends.hang_up())?;
            }
        }
        Ok(())
    }

    fn memories(&mut self) -> Result<(), Error> {
        for (memory, files) in self.image.memories.iter().zip(plan::memories(self.image)) {
            let Some(&first) = files.first().filter(|&&file| !self.given[file]) else {
                continue;
            };
            let made = at(first, make::memory(memory))?;
            let made = at(first, self.make_way(made))?;
            for index in files {
                let file = &self.image.files[index];
                let Kind::Memory { position, .. } = file.kind else {
                    continue;
                };
                let fd = at(index, make::reopen(&made, file))?;
                at(index, rustix::fs::seek(&fd, SeekFrom::Start(position)))?;
                self.finish(index, fd)?;
            }
            at(first, make::seal(&made, memory))?;
        }
        Ok(())
    }

    /// Makes a file that is not the end of a pipe, nor of memory.
    fn file(&mut self, index: usize, kind: &Kind) -> Result<(), Error> {
        let made = match kind {
            Kind::Path { place, position } => {
                let file = &self.image.files[index];
                at(index, make::path_at(file, place, *position))?
            }
            Kind::EventFd { count, semaphore } => at(index, make::counter(*count, *semaphore))?,
            Kind::TimerFd(timer) => at(index, make::timer(timer))?,
            Kind::SignalFd { mask } => at(index, sys::signalfd(*mask))?,
            Kind::PidFd => at(index, PidFd::open(std::process::id() as i32))?.into(),
            Kind::Listener(listener) => at(index, make::listener(listener))?,
            Kind::Inotify { watches } => at(index, make::inotify(watches))?,
            Kind::Epoll { .. } => at(index, epoll::create(epoll::CreateFlags::CLOEXEC))?,
            // The first of a pair makes both.
            Kind::Socket(socket) => match socket.peer {
                Peer::File(peer) if (peer as usize) < index => return Ok(()),
                _ => return self.sockets(index, socket),
            },
            // Others were problems; pipes and memory are made.
            Kind::Other { .. } | Kind::Pipe { .. } | Kind::Memory { .. } => return Ok(()),
        };
        self.finish(index, made)
    }

    /// Gives a new file its status flags and its descriptors.
    pub fn finish(&mut self, index: usize, fd: OwnedFd) -> Result<(), Error> {
        at(index, make::finish(&fd, &self.image.files[index]))?;
        self.install(index, fd)?;
        self.done += 1;
        if self.done % 1024 == 0 {
            let (done, total) = (self.done, self.image.files.len());
            (self.progress)(Progress::Files { done, total });
        }
        Ok(())
    }

    /// Gives a file its descriptors, or one that is not of the image if it has none.
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
                let copy = as_number(number, fcntl_dupfd_cloexec(&fd, number as i32))?;
                if copy.as_raw_fd() != number as i32 {
                    let error = io::Error::other("it was opened by another thread");
                    return as_number(number, Err(error));
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
        as_number(number, fcntl_setfd(&fd, flags))?;
        self.placed.insert(number, fd);
        Ok(())
    }

    /// Moves a descriptor whose number the image has.
    pub fn make_way(&mut self, fd: OwnedFd) -> io::Result<OwnedFd> {
        match self.parking.is_used(&fd) {
            true => self.park(fd),
            false => Ok(fd),
        }
    }

    pub fn park(&mut self, fd: OwnedFd) -> io::Result<OwnedFd> {
        self.parking.park(fd)
    }

    /// A descriptor for a file.
    pub fn fd(&self, index: usize) -> Result<BorrowedFd<'_>, Error> {
        let number = self.numbers[index].first();
        let placed = number.and_then(|number| self.placed.get(number));
        let fd = placed.or_else(|| self.parked.get(&index));
        at(index, fd.map(|fd| fd.as_fd()).ok_or(Errno::BADF))
    }

    /// Enables signals. This comes last: no step of the restore is to send one.
    pub fn signals(&self) -> Result<(), Error> {
        for (index, file) in self.image.files.iter().enumerate() {
            let sends = file.owner.is_some() || file.flags & libc::O_ASYNC as u32 != 0;
            if sends && !self.given[index] {
                at(index, make::signals(self.fd(index)?, file))?;
            }
        }
        Ok(())
    }

    /// Closes what is not needed any more.
    pub fn restored(self) -> Result<Restored, Error> {
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

    /// Whether a target must not be reported before its file changes.
    pub fn is_reported(&self, item: &Item) -> bool {
        edges::is_armed(item) && !item.ready && self.quiet[item.file as usize]
    }

    fn has_changed(&self, item: &Item) -> Result<bool, Error> {
        let file = item.file as usize;
        at(file, edges::has_changed(self.image, item, self.fd(file)?))
    }

    /// Lets targets report again whose files have other events than at the dump. From now on,
    /// the kernel notices.
    pub fn changed<'a>(
        &mut self,
        instance: usize,
        items: impl IntoIterator<Item = &'a Item>,
    ) -> Result<(), Error> {
        for item in items {
            if self.is_reported(item) && self.has_changed(item)? {
                self.add_again(instance, item)?;
            }
        }
        Ok(())
    }

    /// Adds the targets of epoll instances.
    pub fn items(&mut self, device: &Device) -> Result<(), Error> {
        let total = plan::items(self.image, &self.given);
        let mut done = 0;
        let image = self.image;
        for instance in plan::order(image)? {
            let Kind::Epoll { items } = &image.files[instance].kind else {
                continue;
            };
            if items.is_empty() || self.given[instance] {
                continue;
            }
            let mut adds = Vec::with_capacity(items.len());
            let mut quiet = Vec::new();
            for item in items {
                let is_quiet = self.is_reported(item) && !self.has_changed(item)?;
                if is_quiet {
                    quiet.push(item);
                }
                adds.push(Add {
                    fd: self.fd(item.file as usize)?,
                    tfd: item.tfd,
                    events: item.events,
                    // Without an event, it is not reported either.
                    ready: item.ready || edges::is_armed(item) && !is_quiet,
                    data: item.data,
                });
            }
            device
                .restore(self.fd(instance)?, &adds)
                .map_err(|error| Error::Items {
                    instance: instance as u32,
                    tfd: error.bad.map(|bad| items[bad].tfd),
                    source: error,
                })?;
            drop(adds);
            // Since they were looked at: to add one again takes its number.
            self.changed(instance, quiet)?;
            done += items.len();
            (self.progress)(Progress::Items { done, total });
        }
        Ok(())
    }
}
