// SPDX-License-Identifier: GPL-2.0

//! The BPF programs of `bpf/walk.bpf.c` and their records.

use super::runner::{Runner, Tag, records};
use crate::fdinfo;
use crate::libbpf::{self, Aligned};
use libbpf_sys::bpf_iter_link_info;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::thread::CapabilitySet;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

static PROGRAMS: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/walk.bpf.o")));

/// The address of an open file in the kernel. It identifies the file as long as that
/// is held. It is not to be printed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct File(u64);

impl File {
    pub(super) fn new(address: u64) -> Self {
        Self(address)
    }
}

/// The address of a target in the kernel. The same holds for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Epitem(u64);

/// See [`Seen::identity`].
pub(super) type Identity = (RawFd, File, Epitem);

/// A task that has descriptors. Threads that have the table of their leader are not
/// listed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TableOf {
    /// The id of its process.
    pub(super) pid: i32,
    /// Its own.
    pub(super) tid: i32,
}

/// The address of a descriptor table in the kernel. The same holds for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TableId(u64);

/// A descriptor table.
pub(super) struct Table {
    pub(super) id: TableId,
    pub(super) tasks: Vec<TableOf>,
    /// Its descriptors, ascending.
    pub(super) open: Vec<(RawFd, File)>,
    /// Those of epoll instances.
    pub(super) instances: Vec<(RawFd, File)>,
}

/// All descriptors.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) tables: Vec<Table>,
}

/// How often each thread that has a table has left its CPU, by addresses.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Threads {
    switches: Vec<(u64, u64)>,
    /// Whether one of them was running.
    pub(super) run: bool,
}

/// All threads, except for the one that calls.
#[derive(Default)]
pub(super) struct Switches {
    pub(super) tables: HashMap<TableId, Threads>,
    /// How many are giving up their descriptors.
    pub(super) exiting: u32,
}

/// A descriptor of a task.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pid: i32,
    pub(super) tid: i32,
    /// The table is that of a thread, and its process has another one.
    pub(super) is_own: bool,
    pub(super) fd: RawFd,
}

/// A target of an epoll instance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) tfd: RawFd,
    pub(super) file: File,
    epitem: Epitem,
    pub(super) events: u32,
    pub(super) data: u64,
    /// Whether it is on the ready list, if the programs can tell.
    pub(super) ready: Option<bool>,
}

impl Seen {
    pub(super) fn new(tfd: RawFd, file: File, epitem: u64, events: u32, data: u64) -> Self {
        Self {
            tfd,
            file,
            epitem: Epitem(epitem),
            events,
            data,
            ready: None,
        }
    }

    /// What does not change as long as the target is there.
    pub(super) fn identity(&self) -> Identity {
        (self.tfd, self.file, self.epitem)
    }
}

/// The interest list of an instance, in the kernel's order.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) targets: Vec<Seen>,
    /// Whether it was followed to its end.
    pub(super) whole: bool,
}

/// How many instances are walked in one pass: `MAX_WANTED`.
const MAX_WANTED: usize = 1 << 12;

/// How many tables can be chosen: `MAX_CHOSEN`.
const MAX_CHOSEN: usize = 1 << 10;

/// The programs, loaded, and what they have to know.
pub(super) struct Programs {
    runner: Runner,
    /// Whether they can tell what is on a ready list.
    tells_ready: bool,
}

fn unsupported(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// Checks what the programs need, where the error would not tell.
fn check() -> io::Result<()> {
    libbpf::check()?;
    let has = rustix::thread::capabilities(None)?.effective;
    let admin = has.contains(CapabilitySet::SYS_ADMIN);
    let bpf = has.contains(CapabilitySet::BPF) && has.contains(CapabilitySet::PERFMON);
    if !(admin || bpf) || !has.contains(CapabilitySet::SYS_PTRACE) {
        let why = "it takes CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE, which root has";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

/// An epoll instance of ours, of which everything is known. Two of its targets have one
/// file, and that of the third lies between them by its descriptor, and is ready.
struct Sample {
    instance: OwnedFd,
    outer: [OwnedFd; 2],
    inner: OwnedFd,
}

impl Sample {
    fn new() -> io::Result<Self> {
        let instance = epoll::create(CreateFlags::CLOEXEC)?;
        let file = || eventfd(0, EventfdFlags::CLOEXEC);
        let first = file()?;
        let inner = fcntl_dupfd_cloexec(file()?, first.as_raw_fd() + 1)?;
        let last = fcntl_dupfd_cloexec(&first, inner.as_raw_fd() + 1)?;
        for (data, fd) in [(1, &first), (2, &inner), (3, &last)] {
            epoll::add(&instance, fd, EventData::new_u64(data), EventFlags::IN)?;
        }
        // Only the target in between is ready.
        rustix::io::write(&inner, &1u64.to_ne_bytes())?;
        let outer = [first, last];
        Ok(Self {
            instance,
            outer,
            inner,
        })
    }

    /// The targets' descriptors and data, in the kernel's order.
    fn order(&self) -> io::Result<Vec<(RawFd, u64)>> {
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        let path = format!("/proc/self/task/{own}/fdinfo/{}", self.instance.as_raw_fd());
        let file = fs::File::open(&path);
        // The message of the error alone would not tell that it is `/proc` that is missing.
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot read {path}: {error}"));
        let targets = fdinfo::Targets::new(io::BufReader::new(file.map_err(named)?));
        targets
            .map(|target| target.map(|t| (t.tfd, t.data)))
            .collect()
    }
}

impl Programs {
    /// Loads the programs.
    pub(super) fn load() -> io::Result<Self> {
        check()?;
        let mut programs = Self {
            runner: Runner::load(&PROGRAMS.0)?,
            tells_ready: true,
        };
        programs.learn(&Sample::new()?)?;
        Ok(programs)
    }

    /// Tries them on an instance of this process: do they follow interest lists?
    pub(super) fn try_walk(&mut self) -> io::Result<()> {
        if self.is_right(&Sample::new()?)? {
            return Ok(());
        }
        let why = "the kernel's interest lists are not as expected";
        Err(unsupported(why))
    }

    fn learn(&mut self, sample: &Sample) -> io::Result<()> {
        let order = sample.order()?;
        let inner = sample.inner.as_raw_fd();
        // Ordered by file, the two of one file are neighbours.
        self.runner.control.by_fd = (order.len() == 3 && order[1].0 == inner).into();
        self.runner.control.own_efd = sample.instance.as_raw_fd();
        self.runner.run("walk_instances", own(), |_| {})?;
        self.runner.control.fops = self.runner.control.learned;
        if self.runner.control.fops == 0 {
            return Err(unsupported("the files of epoll cannot be told"));
        }
        Ok(())
    }

    /// Whether the programs see the sample as it is.
    fn is_right(&mut self, sample: &Sample) -> io::Result<bool> {
        let listing = self.list_tasks(own(), true)?;
        let fd = |fd: &OwnedFd| fd.as_raw_fd();
        // Other threads can have tables of their own, and instances by the same descriptors.
        for table in &listing.tables {
            let file = |fd: &OwnedFd| table.file(fd.as_raw_fd());
            let (a, b, c) = (
                file(&sample.outer[0]),
                file(&sample.inner),
                file(&sample.outer[1]),
            );
            let mut instances = table.instances.iter();
            let Some(&(_, instance)) = instances.find(|i| i.0 == fd(&sample.instance)) else {
                continue;
            };
            let own = HashMap::from([(std::process::id() as i32, vec![instance])]);
            let walks = self.walk(&own)?;
            let Some(walk) = walks.get(&instance).filter(|walk| walk.whole) else {
                continue;
            };
            let seen: Vec<_> = walk.targets.iter().map(|t| (t.tfd, t.data)).collect();
            if seen != sample.order()? {
                continue;
            }
            let of = |fd: &OwnedFd| {
                let mut targets = walk.targets.iter();
                targets.find(|t| t.tfd == fd.as_raw_fd()).map(|t| t.file)
            };
            let mut ready = walk.targets.iter().map(|t| (t.tfd, t.ready));
            let is_inner = |tfd| tfd == fd(&sample.inner);
            self.tells_ready = ready.all(|(tfd, ready)| ready == Some(is_inner(tfd)));
            return Ok(a.is_some()
                && b.is_some()
                && a == c
                && a != b
                && of(&sample.outer[0]) == a
                && of(&sample.inner) == b
                && of(&sample.outer[1]) == c);
        }
        Ok(false)
    }

    /// Lists the descriptors of all tasks; with `kinds`, says which are of epoll.
    pub(super) fn list(&mut self, kinds: bool) -> io::Result<Listing> {
        self.list_tasks(bpf_iter_link_info::default(), kinds)
    }

    fn list_tasks(&mut self, info: bpf_iter_link_info, kinds: bool) -> io::Result<Listing> {
        self.runner.control.kinds = kinds.into();
        let mut listing = Listing::default();
        let mut known: HashMap<u64, usize> = HashMap::new();
        // The table that descriptors are of, unless it was listed before.
        let mut current = None;
        self.runner.run("list_tables", info, |words| {
            for (tag, head, rest) in records(words) {
                match tag {
                    Tag::Task => {
                        let (pid, tid) = ((head >> 32) as i32, head as i32);
                        let next = listing.tables.len();
                        let table = *known.entry(rest[0]).or_insert(next);
                        current = (table == next).then_some(table);
                        if current.is_some() {
                            listing.tables.push(Table {
                                id: TableId(rest[0]),
                                tasks: Vec::new(),
                                open: Vec::new(),
                                instances: Vec::new(),
                            });
                        }
                        // It has ended, or is in no namespace of ours, without ids.
                        if tid > 0 {
                            let pid = if pid > 0 { pid } else { tid };
                            listing.tables[table].tasks.push(TableOf { pid, tid });
                        }
                    }
                    Tag::Fd => {
                        let Some(table) = current.map(|table| &mut listing.tables[table]) else {
                            continue;
                        };
                        let (fd, file) = (head as i32, File(rest[0]));
                        table.open.push((fd, file));
                        if head >> 32 != 0 {
                            table.instances.push((fd, file));
                        }
                    }
                    _ => {}
                }
            }
        })?;
        Ok(listing)
    }

    /// How often threads have left their CPUs.
    pub(super) fn switches(&mut self) -> io::Result<Switches> {
        let mut switches = Switches::default();
        self.runner
            .run("list_threads", bpf_iter_link_info::default(), |words| {
                for (tag, head, rest) in records(words) {
                    if let Tag::Thread = tag {
                        let of_table = switches.tables.entry(TableId(rest[0])).or_default();
                        of_table.run |= head != 0;
                        of_table.switches.push((rest[1], rest[2]));
                    }
                }
            })?;
        switches.exiting = self.runner.control.exiting;
        Ok(switches)
    }

    /// Looks for descriptors of files in these tables, and notes one for each that it
    /// finds.
    pub(super) fn find(
        &mut self,
        files: &mut HashMap<File, Option<Place>>,
        tables: &[TableId],
    ) -> io::Result<()> {
        let only = tables.len() <= MAX_CHOSEN;
        let tables = if only { tables } else { &[] };
        let chosen = self.runner.map("chosen")?;
        for table in tables {
            chosen.write(&table.0.to_ne_bytes(), &0u32)?;
        }
        self.runner.control.kinds = 0;
        self.runner.control.only = only.into();
        let mut task = (0, 0, false);
        let result = self
            .runner
            .run("list_tables", bpf_iter_link_info::default(), |words| {
                for (tag, head, rest) in records(words) {
                    match tag {
                        Tag::Task => task = ((head >> 32) as i32, head as i32, rest[1] != 0),
                        Tag::Fd => {
                            if let Some(found) = files.get_mut(&File(rest[0])) {
                                let (pid, tid, is_own) = task;
                                let fd = head as i32;
                                let place = Place {
                                    pid,
                                    tid,
                                    is_own,
                                    fd,
                                };
                                *found = Some(place);
                            }
                        }
                        _ => {}
                    }
                }
            });
        self.runner.control.only = 0;
        let chosen = self.runner.map("chosen")?;
        for table in tables {
            // There is nothing to do if it fails.
            let _ = chosen.delete(&table.0.to_ne_bytes());
        }
        result
    }

    /// Walks the interest lists of instances, each of which a process has open.
    pub(super) fn walk(
        &mut self,
        instances: &HashMap<i32, Vec<File>>,
    ) -> io::Result<HashMap<File, Walk>> {
        let mut walks = HashMap::new();
        if instances.len() > SOME {
            let files: Vec<File> = instances.values().flatten().copied().collect();
            for files in files.chunks(MAX_WANTED) {
                self.walk_in(bpf_iter_link_info::default(), files, &mut walks)?;
            }
        } else {
            for (&pid, files) in instances {
                for files in files.chunks(MAX_WANTED) {
                    self.walk_in(of(pid), files, &mut walks)?;
                }
            }
        }
        Ok(walks)
    }

    fn walk_in(
        &mut self,
        info: bpf_iter_link_info,
        files: &[File],
        walks: &mut HashMap<File, Walk>,
    ) -> io::Result<()> {
        let wanted = self.runner.map("wanted")?;
        for file in files {
            wanted.write(&file.0.to_ne_bytes(), &0u32)?;
        }
        self.runner.control.left = files.len() as u32;
        let mut current: Option<(File, Walk)> = None;
        let tells_ready = self.tells_ready;
        let result = self.runner.run("walk_instances", info, |words| {
            for (tag, head, rest) in records(words) {
                match tag {
                    // If the last one did not end, it was closed.
                    Tag::Instance => current = Some((File(rest[0]), Walk::default())),
                    Tag::Target => {
                        if let Some((_, walk)) = &mut current {
                            let (tfd, file, events) = (head as RawFd, rest[0], rest[2] as u32);
                            let mut seen = Seen::new(tfd, File(file), rest[3], events, rest[1]);
                            seen.ready = tells_ready.then_some(rest[2] >> 32 != 0);
                            walk.targets.push(seen);
                        }
                    }
                    Tag::End => {
                        if let Some((file, mut walk)) = current.take() {
                            walk.whole = head == 0;
                            walks.insert(file, walk);
                        }
                    }
                    _ => {}
                }
            }
        });
        self.runner.control.left = 0;
        let wanted = self.runner.map("wanted")?;
        for file in files {
            // There is nothing to do if it fails.
            let _ = wanted.delete(&file.0.to_ne_bytes());
        }
        result
    }
}

/// In how many processes instances are walked one process after the other.
const SOME: usize = 16;

/// Restricts an iterator to the tasks of a process. Linux before 6.1 ignores it.
fn of(pid: i32) -> bpf_iter_link_info {
    let mut info = bpf_iter_link_info::default();
    info.task.pid = pid as u32;
    info
}

fn own() -> bpf_iter_link_info {
    of(std::process::id() as i32)
}

impl Table {
    /// The file of a descriptor.
    pub(super) fn file(&self, fd: RawFd) -> Option<File> {
        let place = self.open.binary_search_by_key(&fd, |open| open.0).ok()?;
        Some(self.open[place].1)
    }
}

#[cfg(test)]
impl Seen {
    pub(super) fn address(&self) -> u64 {
        self.file.0
    }
}
