// SPDX-License-Identifier: GPL-2.0

//! Adds targets with epoll_ctl(2), on a kernel without the device.
//!
//! epoll_ctl() records the descriptor that it is given. So the file is duplicated to that
//! descriptor, unless it has it already, and the descriptor is closed again, or given
//! back to the file that has it in the image.
//!
//! A target that is added is put on the ready list if there is an event. What must not be
//! there is taken off with epoll_wait(2), while the instance has no other targets: edges
//! that were reported, and oneshots that have fired, which fire once more for that. A
//! oneshot whose file has no event is given one, where that can be undone.

use super::maker::{Maker, at};
use super::{Error, make, plan};
use crate::device::RestoreError;
use crate::image::{Item, Kind, Peer};
use crate::sys;
use crate::types::{PipeEnds, Progress};
use epoll_targets::fdinfo::Targets;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::{DupFlags, Errno, FdFlags, dup3, fcntl_dupfd_cloexec, fcntl_getfd};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io::{self, BufReader};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// How many events are taken at once.
const AT_ONCE: usize = 1024;

/// How long a timer may take that expires at once.
const SOON: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// Undoes what gave a file an event.
enum Undo {
    /// Reads the byte again that was written to a pipe.
    Read(usize),
    /// Sets a timer.
    Timer(usize),
    /// Removes a target of an epoll instance.
    Target(usize, OwnedFd),
    /// Receives the byte again that was sent to a socket.
    Receive(usize),
}

impl Maker<'_> {
    /// Adds the targets of epoll instances.
    pub fn items_by_number(&mut self) -> Result<(), Error> {
        let total = plan::items(self.image, &self.given);
        let mut done = 0;
        let image = self.image;
        let order = plan::order(image)?;
        let instances = order.into_iter().filter_map(|instance| {
            let Kind::Epoll { items } = &image.files[instance].kind else {
                return None;
            };
            (!items.is_empty() && !self.given[instance]).then_some((instance, items))
        });
        let instances: Vec<_> = instances.collect();
        // In all of them before anything else: a file is given an event for that.
        for &(instance, items) in &instances {
            self.fired(instance, items)?;
        }
        for &(instance, items) in &instances {
            let (reported, others): (Vec<&Item>, Vec<&Item>) = items
                .iter()
                .filter(|item| !item.has_fired())
                // What is reported disarms a oneshot. One that is armed had no event.
                .partition(|item| !item.is_oneshot() && self.is_reported(item));
            for item in &reported {
                self.add(instance, item, item.events)?;
            }
            if !reported.is_empty() {
                at(instance, take_events(self.fd(instance)?, reported.len()))?;
            }
            let added = others.len();
            for item in others {
                self.add(instance, item, item.events)?;
                done += 1;
                if done % 1024 == 0 {
                    (self.progress)(Progress::Items { done, total });
                }
            }
            self.changed(instance, items)?;
            done += items.len() - added;
            self.check(instance, items)?;
        }
        Ok(())
    }

    /// Adds the oneshots that have fired.
    fn fired(&mut self, instance: usize, items: &[Item]) -> Result<(), Error> {
        let fired: Vec<_> = items.iter().filter(|item| item.has_fired()).collect();
        let mut undo = Vec::new();
        for item in &fired {
            let file = item.file as usize;
            let mut events = at(file, sys::events(self.fd(file)?))?;
            if events.is_empty() {
                undo.extend(self.give_event(file)?);
                events = at(file, sys::events(self.fd(file)?))?;
            }
            if events.is_empty() {
                return Err(Error::Fired {
                    instance: instance as u32,
                    tfd: item.tfd,
                });
            }
            self.add(instance, item, item.events | u32::from(events.bits()))?;
        }
        if !fired.is_empty() {
            at(instance, take_events(self.fd(instance)?, fired.len()))?;
        }
        // What was given last is taken first.
        for undo in undo.into_iter().rev() {
            self.take_event(undo)?;
        }
        Ok(())
    }

    /// Gives a file an event, if there is a way to take it away again.
    fn give_event(&self, file: usize) -> Result<Option<Undo>, Error> {
        if self.given[file] {
            return Ok(None);
        }
        Ok(match &self.image.files[file].kind {
            Kind::Pipe { .. } => {
                let flags = self.image.files[file].flags;
                let writer = plan::writer(self.image, &self.given, file)
                    .filter(|_| PipeEnds::of(flags).contains(PipeEnds::READ));
                let Some(writer) = writer else {
                    return Ok(None);
                };
                // Without an event it is empty, so that this does not wait.
                at(file, rustix::io::write(self.fd(writer)?, &[0]))?;
                Some(Undo::Read(file))
            }
            Kind::TimerFd(_) => {
                let fd = self.fd(file)?;
                at(file, make::expire(fd, SOON))?;
                Some(Undo::Timer(file))
            }
            Kind::Epoll { .. } => {
                let ready = at(file, eventfd(1, EventfdFlags::CLOEXEC))?;
                let (data, events) = (EventData::new_u64(0), EventFlags::IN);
                at(file, epoll::add(self.fd(file)?, &ready, data, events))?;
                Some(Undo::Target(file, ready))
            }
            Kind::Socket(socket) => match socket.peer {
                // Nothing can be received, so that the peer can send.
                Peer::File(peer) => {
                    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                    at(file, send(self.fd(peer as usize)?, &[0], flags))?;
                    Some(Undo::Receive(file))
                }
                _ => None,
            },
            _ => None,
        })
    }

    fn take_event(&self, undo: Undo) -> Result<(), Error> {
        match undo {
            Undo::Read(file) => at(file, rustix::io::read(self.fd(file)?, &mut [0; 1])).map(drop),
            Undo::Timer(file) => match &self.image.files[file].kind {
                Kind::TimerFd(timer) => at(file, make::set_timer(self.fd(file)?, timer)),
                _ => Ok(()),
            },
            Undo::Receive(file) => {
                let flags = RecvFlags::DONTWAIT;
                at(file, recv(self.fd(file)?, &mut [0; 1], flags)).map(drop)
            }
            Undo::Target(file, ready) => at(file, epoll::delete(self.fd(file)?, &ready)),
        }
    }

    /// Adds a target by the descriptor that it was added by.
    fn add(&mut self, instance: usize, item: &Item, events: u32) -> Result<(), Error> {
        self.change(instance, item, |instance, fd| {
            let data = EventData::new_u64(item.data);
            epoll::add(instance, fd, data, EventFlags::from_bits_retain(events))
        })
    }

    /// Removes a target, and adds it again, which reports the events that it has. Some cannot
    /// be modified.
    pub fn add_again(&mut self, instance: usize, item: &Item) -> Result<(), Error> {
        self.change(instance, item, |instance, fd| epoll::delete(instance, fd))?;
        self.add(instance, item, item.events)
    }

    /// Calls epoll_ctl(2) with the descriptor that a target was added by.
    fn change(
        &mut self,
        instance: usize,
        item: &Item,
        change: impl Fn(BorrowedFd<'_>, BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Result<(), Error> {
        let (tfd, file) = (item.tfd, item.file as usize);
        let refused = |errno| Error::Items {
            instance: instance as u32,
            tfd: Some(tfd),
            source: RestoreError { bad: None, errno },
        };
        let number = |error: io::Error| Error::Descriptor {
            number: tfd,
            source: error,
        };
        let change =
            |instance: BorrowedFd<'_>, fd: BorrowedFd<'_>| change(instance, fd).map_err(refused);
        let descriptors = &self.image.descriptors;
        let place = descriptors.binary_search_by_key(&tfd, |d| d.number);
        let owner = place.ok().map(|at| descriptors[at].file as usize);
        let Some(owner) = owner else {
            let fd = fcntl_dupfd_cloexec(self.fd(file)?, tfd as i32);
            let fd = fd.map_err(|error| number(error.into()))?;
            if fd.as_raw_fd() != tfd as i32 {
                let error = io::Error::other("it was opened by another thread");
                return Err(number(error));
            }
            return change(self.fd(instance)?, fd.as_fd());
        };
        if owner == file {
            let fd = self.placed.get(&tfd).ok_or_else(|| refused(Errno::BADF))?;
            return change(self.fd(instance)?, fd.as_fd());
        }
        // The descriptor is lent to this file.
        let mut place = self
            .placed
            .remove(&tfd)
            .ok_or_else(|| refused(Errno::BADF))?;
        let lent = self.lend(&mut place, file, |maker, file_at_number, owners| {
            let instance = match owner == instance {
                true => owners,
                false => maker.fd(instance)?,
            };
            change(instance, file_at_number)
        });
        self.placed.insert(tfd, place);
        lent.map_err(|error| match error {
            Lent::Number(error) => number(error),
            Lent::Other(error) => error,
        })
    }

    /// Calls `act` while `place` is a descriptor for a file, with that, and another one
    /// for the file that it is a descriptor for otherwise.
    fn lend(
        &mut self,
        place: &mut OwnedFd,
        file: usize,
        act: impl FnOnce(&Self, BorrowedFd<'_>, BorrowedFd<'_>) -> Result<(), Error>,
    ) -> Result<(), Lent> {
        let flags = fcntl_getfd(&*place).map_err(io::Error::from)?;
        let flags = match flags.contains(FdFlags::CLOEXEC) {
            true => DupFlags::CLOEXEC,
            false => DupFlags::empty(),
        };
        let owners = self.parking.park(&*place)?;
        let fd = self.fd(file).map_err(Lent::Other)?;
        dup3(fd, place, DupFlags::CLOEXEC).map_err(io::Error::from)?;
        let result = act(self, place.as_fd(), owners.as_fd());
        dup3(&owners, place, flags).map_err(io::Error::from)?;
        result.map_err(Lent::Other)
    }

    /// Checks that an epoll instance has the targets of the image, and no other state of
    /// them than fdinfo can show.
    fn check(&self, instance: usize, items: &[Item]) -> Result<(), Error> {
        let path = format!("/proc/self/fdinfo/{}", self.fd(instance)?.as_raw_fd());
        let file = at(instance, std::fs::File::open(path))?;
        let mut found = Vec::with_capacity(items.len());
        for target in Targets::new(BufReader::new(file)) {
            let target = at(instance, target)?;
            found.push((target.tfd as u32, target.events.0, target.data));
        }
        let mut wanted: Vec<_> = items
            .iter()
            .map(|item| (item.tfd, item.events, item.data))
            .collect();
        found.sort_unstable();
        wanted.sort_unstable();
        let Some(place) = (0..wanted.len()).find(|&at| found.get(at) != wanted.get(at)) else {
            return Ok(());
        };
        Err(Error::Differs {
            instance: instance as u32,
            tfd: wanted[place].0,
        })
    }
}

/// Why a descriptor could not be lent.
enum Lent {
    Number(io::Error),
    Other(Error),
}

impl From<io::Error> for Lent {
    fn from(error: io::Error) -> Self {
        Self::Number(error)
    }
}

/// Takes the events of an epoll instance with `count` targets, none of which is
/// level-triggered.
fn take_events(instance: BorrowedFd<'_>, count: usize) -> rustix::io::Result<()> {
    let mut events = Vec::with_capacity(AT_ONCE);
    let mut taken = 0;
    // What comes later than that is another event.
    while taken < count {
        events.clear();
        let buffer = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(instance, buffer, Some(&Timespec::default())) {
            Ok(0) => break,
            Ok(more) => taken += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
