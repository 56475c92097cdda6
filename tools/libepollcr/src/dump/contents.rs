// SPDX-License-Identifier: GPL-2.0

//! Targets of epoll instances, and messages in sockets, with the files that they lead to.

use super::table::{AT_ONCE, Dumper};
use super::types::{Fetched, Source, Target};
use super::{Error, Result, While, socket};
use crate::image::{Item, Kind, Message};
use crate::types::Progress;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

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
        let targets = match self.kernel.targets(&self.process, source) {
            Err(error)
                if self.is_running()
                    && is(&error, &[Errno::BADF, Errno::OPNOTSUPP, Errno::STALE]) =>
            {
                Vec::new()
            }
            targets => targets.to(|| format!("read the interest list of descriptor {efd}"))?,
        };
        let total = targets.len();
        let mut items = Vec::with_capacity(total);
        for (done, target) in targets.iter().enumerate() {
            if done % AT_ONCE == 0 {
                (self.options.progress)(Progress::Items { done, total });
            }
            let Some(file) = self.target(source, efd, target)? else {
                continue;
            };
            let item = target.item;
            items.push(Item {
                tfd: item.tfd,
                file,
                events: item.events,
                data: item.data,
                ready: item.ready,
                guessed: target.guessed.then_some(true),
            });
        }
        self.image.files[index as usize].kind = Kind::Epoll { items };
        Ok(())
    }

    /// The file of a target; `None` if it is gone, and the process runs.
    fn target(&mut self, source: &Source, efd: u32, target: &Target) -> Result<Option<u32>> {
        let item = &target.item;
        if let Some(&file) = self.index.get(&item.file) {
            return Ok(Some(file));
        }
        let fetched = match self.kernel.fetch(&self.process, source, item) {
            Err(error) if self.is_running() && is(&error, &[Errno::NOENT, Errno::STALE]) => {
                return Ok(None);
            }
            fetched => fetched.to(|| format!("fetch target {} of descriptor {efd}", item.tfd))?,
        };
        match fetched {
            Fetched::File(fd) => self.received(fd).map(Some),
            Fetched::Refused(why) => {
                let file = self.image.files.len() as u32;
                self.unknown(&why);
                self.index.insert(item.file, file);
                Ok(Some(file))
            }
        }
    }

    /// The index of a file that we got a descriptor for. Adds the file if it is new.
    fn received(&mut self, fd: OwnedFd) -> Result<u32> {
        let described = self
            .kernel
            .describe_own(fd.as_fd())
            .to(|| "describe an open file".into())?;
        let description = described.ok_or(Error::Changed)?;
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
        let kind = &mut self.image.files[index as usize].kind;
        if messages.has_mark() {
            let why = "it has the mark of data that were sent out of band (MSG_OOB)".into();
            *kind = Kind::Other { why };
        } else if let Kind::Socket(socket) = kind {
            socket.queue = queue;
        }
        Ok(())
    }
}

/// Whether an error is one of these.
fn is(error: &io::Error, errnos: &[Errno]) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| errnos.contains(&errno))
}
