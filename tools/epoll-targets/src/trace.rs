// SPDX-License-Identifier: GPL-2.0

//! Watches which closing of a descriptor leaves a target behind, with BPF.
//!
//! A target stays in its interest list until its file is released. So a program that
//! closes a descriptor without `EPOLL_CTL_DEL`, while a duplicate, a child or a message
//! keeps the file open, cannot remove the target any more, and gets its events for
//! ever. [`Tracer`] tells which call that was, and which call had added the target.
//!
//! Programs at the functions of system calls, or at the tracepoints that all calls pass
//! where that cannot be done, show who adds, and who is about to close. Whether a
//! target is left behind is decided a little later, by [`Tracer::settle`]: it is, if
//!
//! - it is in the interest list, and a process has the instance;
//! - no process that has the instance has the file at the target's number.
//!
//! A process that added a target, or through which a target that was there before can be
//! removed, may close the descriptor and keep the instance, while another one has both. It
//! gets the events, and cannot remove the target. [`Fate::Kept`] names the others, and
//! [`Tracer::has_instance`] tells whether the first one is such a process.
//!
//! What io_uring adds or closes is not seen, nor is what 32-bit programs do.
//!
//! [`hidden_holders`] finds what is watched, and held by something else than a
//! descriptor. Where its owners are found with BPF, too,
//! [`Resolver::find_holders`](crate::resolve::Resolver::find_holders) takes less.
//!
//! This needs `CAP_BPF`, `CAP_PERFMON` and `CAP_SYS_PTRACE`, which root has, Linux 6.4
//! or later with `CONFIG_DEBUG_INFO_BTF` and `CONFIG_FTRACE_SYSCALLS`, and x86-64.

mod programs;

pub use crate::holder::Holder;

use crate::descriptor::Descriptor;
use libbpf_rs::RingBuffer;
use programs::{
    CANDIDATES, Config, Found, HOLDER_FD, HOLDER_INSTANCE, HOLDER_MAPPING, HOLDER_MESSAGE,
    HOLDER_RING, HOLDER_TARGET, Key, Mode, Programs, RawEvent, RawStack, Record, WHAT_EXISTS,
    WHAT_LEFT, WHAT_PROCESS, Who,
};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

/// How often a target that is not found is looked for: the list may have changed
/// during the search.
const LOOKS: usize = 3;

/// Which processes are traced, with the children that they get.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// All processes.
    All,
    /// These.
    Processes(Vec<i32>),
    /// Only the children of this process.
    ChildrenOf(i32),
}

/// The registers of a call, and the stack of its thread from `sp` on: what is needed to
/// unwind it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Stack {
    /// The address after the system call instruction; 0 if it is not known.
    pub ip: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The frame pointer, if the program uses one.
    pub bp: u64,
    /// The innermost bytes of the stack.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("ip", &format_args!("{:#x}", self.ip))
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl From<&RawStack> for Stack {
    fn from(raw: &RawStack) -> Self {
        Self {
            ip: raw.ip,
            sp: raw.sp,
            bp: raw.bp,
            bytes: raw.bytes[..raw.bytes.len().min(raw.size as usize)].to_vec(),
        }
    }
}

/// A system call of a traced process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The process; 0 if it is of another PID namespace.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// The command name of the thread.
    pub command: String,
    /// When, since boot; `None` if it was before the trace began.
    pub time: Option<Duration>,
    /// The number of the system call; `None` if the process ended, or it is not known.
    pub syscall: Option<i32>,
    /// Where it was called.
    pub stack: Stack,
}

impl Call {
    fn new(who: &Who, time: u64, stack: &RawStack) -> Self {
        let end = who.comm.iter().position(|&byte| byte == 0);
        let command = &who.comm[..end.unwrap_or(who.comm.len())];
        Self {
            pid: who.tgid,
            tid: who.tid,
            command: String::from_utf8_lossy(command).into_owned(),
            time: (time != 0).then(|| Duration::from_nanos(time)),
            syscall: (stack.syscall >= 0).then_some(stack.syscall),
            stack: stack.into(),
        }
    }

    fn of_add(record: &Record) -> Self {
        Self::new(&record.who, record.time, &record.stack)
    }
}

/// Identifies a target as long as a [`Tracer`] knows it. It is no address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TargetId(Key);

impl fmt::Debug for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TargetId").field(&self.0.fd).finish()
    }
}

/// A descriptor table, by its address, which is not shown.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Table(u64);

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Table")
    }
}

/// A closing that may leave a target behind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// The target.
    pub target: TargetId,
    /// The descriptor that is closed: tfd of the target.
    pub tfd: RawFd,
    /// The call that added the target.
    pub added: Call,
    /// The call that closes the descriptor.
    pub closed: Call,
    /// The process has ended.
    pub is_exit: bool,
    table: Table,
}

/// An ADD that failed with `EEXIST`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exists {
    /// The target that is in the way.
    pub target: TargetId,
    /// The descriptor of the instance, in the process that called.
    pub efd: RawFd,
    /// The descriptor that was to be added.
    pub tfd: RawFd,
    /// The call that failed.
    pub call: Call,
    /// The call that added the target; `None` if it is not remembered.
    pub added: Option<Call>,
}

/// What a tracer has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A process adds its first target: now is the time to look at its mappings.
    Process(i32),
    /// See [`Tracer::settle`].
    Closed(Box<Closed>),
    /// An ADD failed.
    Exists(Box<Exists>),
}

fn holder(found: &Found) -> Option<Holder> {
    let Found { pid, fd, .. } = *found;
    let descriptor = Descriptor { pid, fd };
    Some(match found.kind {
        HOLDER_FD => Holder::Descriptor(descriptor),
        HOLDER_MESSAGE => Holder::Message {
            socket: descriptor,
            sender: (found.sender > 0).then_some(found.sender),
        },
        HOLDER_RING => Holder::Ring(descriptor),
        HOLDER_MAPPING => Holder::Mapping {
            pid,
            address: found.at,
        },
        _ => return None,
    })
}

/// What became of a target whose descriptor was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It was removed: by `EPOLL_CTL_DEL`, the release of its file, or that of the
    /// instance.
    Removed,
    /// The descriptor was not closed, or another process that has the instance has the
    /// file at the same number, and can remove it.
    Kept {
        /// The descriptors of the instance.
        instance: Vec<Descriptor>,
        /// What keeps the file open.
        holders: Vec<Holder>,
        /// Those of `holders` by which the target can be removed. If there are none any more
        /// when this is asked again, the target was left behind.
        by: Vec<Descriptor>,
        /// Whether the target was found, and an instance. If not, the list has changed during
        /// the search, or the target was removed.
        is_there: bool,
    },
    /// It was left behind.
    Left {
        /// The descriptors of the instance.
        instance: Vec<Descriptor>,
        /// What keeps the file open. None if it is a system call that still runs, or
        /// something that cannot be found out.
        holders: Vec<Holder>,
    },
}

/// How much was traced, and what was missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Targets that were added.
    pub adds: u64,
    /// Targets that were removed.
    pub dels: u64,
    /// ADDs that failed with `EEXIST`.
    pub exists: u64,
    /// Descriptors of watched files that were closed.
    pub closes: u64,
    /// Targets that were not remembered, as there were too many.
    pub forgotten: u64,
    /// Events that were lost, as the reader was too slow.
    pub lost: u64,
    /// Calls whose descriptors changed while they ran.
    pub raced: u64,
    /// Searches that ended early, as there was too much to see.
    pub cut: u64,
}

/// Traces processes.
pub struct Tracer {
    programs: Programs,
    ring: RingBuffer<'static>,
    queue: Rc<RefCell<Vec<RawEvent>>>,
    room: u32,
    /// How many targets were forgotten from here.
    swept: u64,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer")
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

impl Tracer {
    /// Begins to trace. At most `room` targets are remembered, with some 2 KiB each.
    ///
    /// # Errors
    ///
    /// `Unsupported`, `PermissionDenied`, or what libbpf says; those of reading `/proc`.
    pub fn start(scope: &Scope, room: u32) -> io::Result<Self> {
        let programs = Programs::load(room, true)?;
        let queue = Rc::default();
        let ring = programs.ring(&queue)?;
        match scope {
            Scope::All => programs.set_config(&Config {
                all: 1,
                ..programs.config()?
            })?,
            Scope::Processes(pids) => {
                for &pid in pids {
                    programs.trace(pid, false)?;
                }
            }
            Scope::ChildrenOf(pid) => programs.trace(*pid, true)?,
        }
        let mut tracer = Self {
            programs,
            ring,
            queue,
            room,
            swept: 0,
        };
        tracer.see_targets()?;
        Ok(tracer)
    }

    /// Notes which targets there are, and can be removed.
    fn see_targets(&mut self) -> io::Result<()> {
        self.programs.next_generation()?;
        self.programs.visit("visit_files", Mode::Instances)?;
        self.programs.visit("visit_files", Mode::Targets)?;
        Ok(())
    }

    /// Waits for events, for this time at most, or until a signal arrives.
    ///
    /// # Errors
    ///
    /// Those of libbpf.
    pub fn poll(&mut self, timeout: Duration) -> io::Result<Vec<Event>> {
        Programs::poll(&self.ring, timeout)?;
        let events = std::mem::take(&mut *self.queue.borrow_mut());
        self.sweep()?;
        Ok(events.iter().filter_map(event).collect())
    }

    /// If much is remembered, forgets what was not removed by a call: the targets of
    /// instances that were released.
    fn sweep(&mut self) -> io::Result<()> {
        let known = self.programs.counts()?.known.saturating_sub(self.swept);
        if known < u64::from(self.room) / 4 * 3 {
            return Ok(());
        }
        let before = self.programs.keys()?;
        self.see_targets()?;
        let generation = self.programs.config()?.generation;
        for key in before {
            let record = self.programs.record(&key)?;
            if record.is_some_and(|record| record.generation != generation) {
                self.swept += u64::from(self.programs.forget(&key)?);
            }
        }
        Ok(())
    }

    /// The processes that were named, or created, and have not ended; none if all processes
    /// are traced.
    ///
    /// # Errors
    ///
    /// Those of libbpf.
    pub fn traced(&self) -> io::Result<Vec<i32>> {
        self.programs.traced()
    }

    /// What was counted so far.
    ///
    /// # Errors
    ///
    /// Those of libbpf.
    pub fn counts(&self) -> io::Result<Counts> {
        let counts = self.programs.counts()?;
        Ok(Counts {
            adds: counts.adds,
            dels: counts.dels,
            exists: counts.exists,
            closes: counts.closes,
            forgotten: counts.full,
            lost: counts.lost,
            raced: counts.raced,
            cut: counts.cut,
        })
    }

    /// Whether the descriptor table in which a descriptor was closed had the instance when
    /// [`settle`](Self::settle) looked last. If the process has ended, another one can have
    /// got that table: compare [`Call::pid`] with the descriptors of the instance, too.
    ///
    /// # Errors
    ///
    /// Those of libbpf.
    pub fn has_instance(&self, closed: &Closed) -> io::Result<bool> {
        self.programs
            .has_instance(closed.table.0, closed.target.0.ep)
    }

    /// Whether the target is still remembered, as it was when its descriptor was closed. If
    /// not, it was removed. This takes less than [`settle`](Self::settle).
    ///
    /// # Errors
    ///
    /// Those of libbpf.
    pub fn is_known(&self, closed: &Closed) -> io::Result<bool> {
        let record = self.programs.record(&closed.target.0)?;
        Ok(record.is_some_and(|record| is_of(&record, closed)))
    }

    /// Finds out what became of targets. Call this some time after the closing, as
    /// others may be about to close the file, too: a child that will call execve(2).
    ///
    /// # Errors
    ///
    /// Those of libbpf.
    pub fn settle(&mut self, closed: &[Closed]) -> io::Result<Vec<Fate>> {
        let mut fates = Vec::new();
        for some in closed.chunks(CANDIDATES / 8) {
            fates.extend(self.settle_some(some)?);
        }
        Ok(fates)
    }

    fn settle_some(&mut self, closed: &[Closed]) -> io::Result<Vec<Fate>> {
        let keys: Vec<Key> = closed.iter().map(|closed| closed.target.0).collect();
        self.programs.next_generation()?;
        let instances = self.programs.visit("visit_files", Mode::Instances)?;
        self.programs.look_for(&keys)?;
        let looked = self.look(&keys);
        self.programs.look_for_none(&keys)?;
        let (there, holders) = looked?;

        let mut of_instance: HashMap<u64, Vec<Descriptor>> = HashMap::new();
        for found in instances.iter().filter(|f| f.kind == HOLDER_INSTANCE) {
            let Found { ep, pid, fd, .. } = *found;
            let descriptors = of_instance.entry(ep).or_default();
            descriptors.push(Descriptor { pid, fd });
        }
        let mut fates = Vec::new();
        for closed in closed {
            let key = closed.target.0;
            let record = self.programs.record(&key)?;
            let record = record.filter(|record| is_of(record, closed));
            let instance = of_instance.get(&key.ep).cloned();
            let holders = holders.get(&key.file).cloned().unwrap_or_default();
            fates.push(match (record, instance) {
                (Some(record), instance) if record.left == 0 => {
                    let instance = instance.unwrap_or_default();
                    let is_there = there.contains(&key) && !instance.is_empty();
                    let removers = holders.iter().filter_map(|holder| match holder {
                        Holder::Descriptor(d) if d.fd == key.fd => Some(*d),
                        _ => None,
                    });
                    let by = removers.filter(|d| instance.iter().any(|i| i.pid == d.pid));
                    Fate::Kept {
                        by: by.collect(),
                        instance,
                        holders,
                        is_there,
                    }
                }
                (Some(_), Some(instance)) if there.contains(&key) => {
                    Fate::Left { instance, holders }
                }
                (Some(_), _) => {
                    self.swept += u64::from(self.programs.forget(&key)?);
                    Fate::Removed
                }
                (None, _) => Fate::Removed,
            });
        }
        Ok(fates)
    }

    /// Which of the targets are there, and who holds their files.
    fn look(&self, keys: &[Key]) -> io::Result<(HashSet<Key>, Holders)> {
        let mut there = HashSet::new();
        let mut holders = Holders::new();
        for round in 0..LOOKS {
            let found = self.programs.visit("visit_files", Mode::Holders)?;
            let targets = found.iter().filter(|f| f.kind == HOLDER_TARGET);
            there.extend(targets.map(|target| Key {
                ep: target.ep,
                file: target.file,
                fd: target.tfd,
                pad: 0,
            }));
            if round == 0 {
                take_in(&mut holders, &found);
            }
            if keys.iter().all(|key| there.contains(key)) {
                break;
            }
        }
        // Only if nothing else was found, as there are many mappings.
        if there.iter().any(|key| !holders.contains_key(&key.file)) {
            let found = self.programs.visit("visit_mappings", Mode::Holders)?;
            take_in(&mut holders, &found);
        }
        Ok((there, holders))
    }
}

/// Whether a record is of the target that was closed, not of one that was added later.
fn is_of(record: &Record, closed: &Closed) -> bool {
    let time = Duration::from_nanos(record.time);
    record.files != 0 && closed.added.time.unwrap_or_default() == time
}

/// What holds files, by their addresses.
type Holders = HashMap<u64, Vec<Holder>>;

fn take_in(holders: &mut Holders, found: &[Found]) {
    for found in found {
        if let Some(holder) = holder(found) {
            let of_file = holders.entry(found.file).or_default();
            if !of_file.contains(&holder) {
                of_file.push(holder);
            }
        }
    }
}

fn event(raw: &RawEvent) -> Option<Event> {
    let call = || Call::new(&raw.who, raw.time, &raw.stack);
    let added = (raw.has_record != 0).then(|| Call::of_add(&raw.record));
    let target = TargetId(raw.key);
    let tfd = raw.key.fd;
    Some(match raw.what {
        WHAT_PROCESS => Event::Process(raw.who.tgid),
        WHAT_LEFT => Event::Closed(Box::new(Closed {
            target,
            tfd,
            added: added?,
            closed: call(),
            is_exit: raw.is_exit != 0,
            table: Table(raw.files),
        })),
        WHAT_EXISTS => Event::Exists(Box::new(Exists {
            target,
            efd: raw.efd,
            tfd,
            call: call(),
            added,
        })),
        _ => return None,
    })
}

/// A watched file that something else than a descriptor holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Hidden {
    /// The descriptors of the instance that watches it.
    pub instance: Vec<Descriptor>,
    /// The number of the target.
    pub tfd: RawFd,
    /// What the target was added with.
    pub data: u64,
    /// The inode of the file.
    pub ino: u64,
    /// What holds it.
    pub holder: Holder,
}

/// The watched files that something else than a descriptor holds: see [`hidden_holders`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HiddenHolders {
    /// What was found, each once.
    pub found: Vec<Hidden>,
    /// Whether that is all. More than a program can look at is left out: the messages of a
    /// socket beyond the 256th, for instance.
    pub is_complete: bool,
}

/// Finds the watched files that messages, io_urings and mappings hold. They may have
/// descriptors as well.
///
/// # Errors
///
/// As [`Tracer::start`].
pub fn hidden_holders() -> io::Result<HiddenHolders> {
    let mut programs = Programs::load(1, false)?;
    programs.next_generation()?;
    let mut instances: HashMap<u64, Vec<Descriptor>> = HashMap::new();
    for found in programs.visit("visit_files", Mode::Instances)? {
        let Found { ep, pid, fd, .. } = found;
        let descriptors = instances.entry(ep).or_default();
        descriptors.push(Descriptor { pid, fd });
    }
    let mut found = programs.visit("visit_files", Mode::Hidden)?;
    found.extend(programs.visit("visit_mappings", Mode::Hidden)?);
    let hidden = found.iter().filter_map(|found| {
        Some(Hidden {
            instance: instances.get(&found.ep)?.clone(),
            tfd: found.tfd,
            data: found.data,
            ino: found.ino,
            holder: holder(found)?,
        })
    });
    let mut seen = HashSet::new();
    Ok(HiddenHolders {
        found: hidden
            .filter(|hidden| seen.insert(hidden.clone()))
            .collect(),
        is_complete: programs.counts()?.cut == 0,
    })
}
