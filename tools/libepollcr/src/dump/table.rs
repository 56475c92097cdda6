// SPDX-License-Identifier: GPL-2.0

//! The descriptor table, and what is known of each open file.

use super::kernel::Kernel;
use super::types::Source;
use super::{Dump, Error, Result, While};
use crate::device::{ByIdentity, Description};
use crate::image::{Descriptor, Image, Kind, OpenFile, Origin, check_alone};
use crate::types::{DeviceNumber, PipeEnds, Progress};
use crate::{fdinfo, sys};
use epoll_targets::pidfd::PidFd;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// How many files are described in one call.
pub const AT_ONCE: usize = 256;

/// Ends of a pipe.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// Those in the image.
    pub here: PipeEnds,
    /// Those that any process has open.
    pub open: PipeEnds,
}

/// An image in the making.
pub struct Dumper<'a, 'b> {
    pub kernel: Kernel<'a>,
    pub process: PidFd,
    pub options: Dump<'b>,
    pub image: Image,
    /// Indexes of files by their identity.
    pub index: ByIdentity<u32>,
    /// Indexes of pipes by device and inode.
    pub pipes: HashMap<(DeviceNumber, u64), u32>,
    /// Indexes of files of memory by device and inode.
    pub memories: HashMap<(DeviceNumber, u64), u32>,
    /// The ends of each pipe.
    pub ends: Vec<Ends>,
    /// Indexes of files that are sockets by their inode.
    pub sockets: HashMap<u32, u32>,
    /// Files that may lead to further ones.
    pub pending: VecDeque<(u32, Source)>,
    /// The inodes of files that have locks: `/proc/locks`; `None` if it cannot be read.
    locked: Option<HashSet<u64>>,
}

impl<'a, 'b> Dumper<'a, 'b> {
    pub fn new(kernel: Kernel<'a>, process: PidFd, options: Dump<'b>, origin: Origin) -> Self {
        Self {
            kernel,
            process,
            options,
            image: Image {
                origin,
                ..Image::default()
            },
            index: ByIdentity::default(),
            pipes: HashMap::new(),
            memories: HashMap::new(),
            ends: Vec::new(),
            sockets: HashMap::new(),
            pending: VecDeque::new(),
            locked: fs::read_to_string("/proc/locks")
                .ok()
                .map(|locks| fdinfo::locked(&locks)),
        }
    }

    /// The image, once everything is in it.
    pub fn finish(mut self) -> Result<Image> {
        if !self.is_running() {
            self.image.origin.running = self.options.runs()?;
        }
        Ok(self.image)
    }
}

impl Dumper<'_, '_> {
    /// Whether the process may change during the dump.
    pub const fn is_running(&self) -> bool {
        self.image.origin.running
    }

    pub fn fdinfo(&self, source: &Source) -> Result<String> {
        let path = match source {
            Source::Theirs(fd) => format!("/proc/{}/fdinfo/{fd}", self.options.pid),
            Source::Ours(fd) => format!("/proc/self/fdinfo/{}", fd.as_raw_fd()),
        };
        fs::read_to_string(&path).to(|| format!("read {path}"))
    }

    /// Calls `act` with a descriptor of ours for the file.
    pub fn with<T>(
        &self,
        source: &Source,
        act: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Result<T> {
        match source {
            Source::Theirs(fd) => {
                let copy = self.process.getfd(*fd as i32);
                copy.and_then(|fd| act(fd.as_fd()))
                    .to(|| format!("inspect descriptor {fd}"))
            }
            Source::Ours(fd) => act(fd.as_fd()).to(|| "inspect an open file".into()),
        }
    }

    /// Adds the descriptor table, and each file in it.
    pub fn descriptors(&mut self) -> Result<()> {
        let listed = self
            .kernel
            .files(&self.process)
            .to(|| format!("list the descriptors of process {}", self.options.pid))?;
        let mut first = Vec::new();
        for descriptor in &listed {
            if self.options.left_out.contains(&descriptor.fd) {
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
            let fds: Vec<_> = chunk.iter().map(|&(fd, _)| fd).collect();
            let descriptions = self
                .kernel
                .describe(&self.process, &fds)
                .to(|| format!("describe the files of process {}", self.options.pid))?;
            for (&(fd, identity), description) in chunk.iter().zip(descriptions) {
                match description.filter(|description| description.file == identity) {
                    Some(description) => self.add(Source::Theirs(fd), &description)?,
                    None => self.lost()?,
                }
            }
            let done = self.image.files.len();
            (self.options.progress)(Progress::Files { done, total });
        }
        Ok(())
    }

    /// Adds a file whose descriptor refers to another one by now.
    fn lost(&mut self) -> Result<()> {
        if !self.is_running() {
            return Err(Error::Changed);
        }
        self.unknown("it was closed during the dump");
        Ok(())
    }

    /// Adds a file that nothing is known of.
    pub fn unknown(&mut self, why: &str) {
        let why = why.into();
        self.image.files.push(OpenFile::new(Kind::Other { why }, 0));
    }

    /// Adds a file.
    pub fn add(&mut self, source: Source, description: &Description) -> Result<()> {
        let mut link = description.path.as_deref().unwrap_or_default().to_vec();
        if description.unlinked && description.reachable {
            link.extend(b" (deleted)");
        }
        let kind = match self.kind(&source, description) {
            // It may have been closed.
            Err(Error::Io { source, .. }) if self.is_running() => Kind::Other {
                why: format!("it could not be inspected ({source})"),
            },
            kind => kind?,
        };
        // Of most pipes and sockets, fdinfo need not be read.
        let has_path = description.reachable || matches!(kind, Kind::Path { .. });
        let inode = description.stat.map_or(0, |stat| stat.inode);
        let is_memory = matches!(kind, Kind::Memory { .. });
        let locked = self.locked.as_ref();
        let may_be_locked = locked.is_none_or(|locked| locked.contains(&inode));
        let locks = match has_path || is_memory || may_be_locked {
            true => self.locks(&source)?,
            false => None,
        };
        // Before the interest lists are read: an event that comes in between is on a ready list.
        let events = match (&kind, &source) {
            (Kind::Pipe { .. }, Source::Theirs(_)) => {
                self.with(&source, |fd| Ok(sys::events(fd)?)).ok()
            }
            _ => None,
        };
        let mut file = OpenFile {
            kind,
            flags: description.flags,
            link,
            owner: description.owner,
            opener: description.opener,
            locks,
            events: events.map(|events| events.bits().into()),
        };
        // One that an image cannot hold is no reason to have no image.
        if let Err(invalid) = check_alone(&file) {
            let why = invalid.to_string();
            file.kind = Kind::Other { why };
        }
        let index = self.image.files.len() as u32;
        if matches!(file.kind, Kind::Epoll { .. } | Kind::Socket(_)) {
            // Messages first: the files of targets may be in them.
            match file.kind {
                Kind::Socket(_) => self.pending.push_front((index, source)),
                _ => self.pending.push_back((index, source)),
            }
        }
        self.image.files.push(file);
        Ok(())
    }

    fn locks(&self, source: &Source) -> Result<Option<u32>> {
        let locks = match self.fdinfo(source) {
            Err(_) if self.is_running() => 0,
            fdinfo => fdinfo::locks(&fdinfo?),
        };
        Ok(Some(locks).filter(|&locks| locks > 0))
    }
}
