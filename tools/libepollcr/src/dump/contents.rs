// SPDX-License-Identifier: GPL-2.0

//! Targets of epoll instances, and messages in sockets, with the files that they lead to.

use super::table::{AT_ONCE, Dumper, Source};
use super::{Error, Result, While, socket};
use crate::device::{self, Process, Snapshot};
use crate::image::{Item, Kind, Message};
use crate::types::Progress;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};

impl Dumper<'_, '_> {
    /// Adds targets and messages until they lead to no further files.
    pub fn contents(&mut self) -> Result<()> {
        while let Some((index, source)) = self.pending.pop_front() {
            match self.image.files[index as usize].kind {
                Kind::Epoll { .. } => self.items(index, &source)?,
                _ => match self.messages(index, &source) {
                    // The socket may have been closed.
                    Err(Error::Io { .. }) if self.is_running() => {}
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
        let snapshot = match self.device.snapshot(self.process_of(source), efd) {
            Err(Errno::BADF | Errno::OPNOTSUPP | Errno::STALE) if self.is_running() => {
                Snapshot::default()
            }
            snapshot => snapshot.to(|| format!("read the interest list of descriptor {efd}"))?,
        };
        let total = snapshot.items.len();
        let mut items = Vec::with_capacity(total);
        for (done, item) in snapshot.items.iter().enumerate() {
            if done % AT_ONCE == 0 {
                (self.options.progress)(Progress::Items { done, total });
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

    /// The file of a target; `None` if it is gone, and the process runs.
    fn target(&mut self, source: &Source, efd: u32, item: &device::Item) -> Result<Option<u32>> {
        if let Some(&file) = self.index.get(&item.file) {
            return Ok(Some(file));
        }
        let fetched = match self.device.fetch(self.process_of(source), efd, item) {
            Err(Errno::NOENT | Errno::STALE) if self.is_running() => return Ok(None),
            // The interest list could be read: this is about the opener of the file.
            Err(Errno::PERM) => {
                let file = self.image.files.len() as u32;
                self.unknown(
                    "no process of the dump has a descriptor for it: only root may fetch it, and \
                     not from within a container",
                );
                self.index.insert(item.file, file);
                return Ok(Some(file));
            }
            fetched => fetched.to(|| format!("fetch target {} of descriptor {efd}", item.tfd))?,
        };
        self.received(fetched).map(Some)
    }

    /// The index of a file that we got a descriptor for. Adds the file if it is new.
    fn received(&mut self, fd: OwnedFd) -> Result<u32> {
        let described = self
            .device
            .describe(Process::Own, &[fd.as_raw_fd() as u32])
            .to(|| "describe an open file".into())?;
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
        let what = || "read the messages in a socket".into();
        let socket = self.with(source, |fd| fd.try_clone_to_owned())?;
        let mut messages = socket::Queue::new(socket).to(what)?;
        let mut queue = Vec::new();
        // One by one, so that few of their files are open at a time.
        while let Some(message) = messages.next().to(what)? {
            let mut files = Vec::with_capacity(message.files.len());
            for fd in message.files {
                files.push(self.received(fd)?);
            }
            let data = message.data;
            queue.push(Message { data, files });
        }
        if let Kind::Socket(socket) = &mut self.image.files[index as usize].kind {
            socket.queue = queue;
        }
        Ok(())
    }
}
