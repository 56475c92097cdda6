// SPDX-License-Identifier: GPL-2.0

//! The BPF programs of `bpf/trace.bpf.c` and their records.

use crate::libbpf::{self, Aligned, FIRST, failed, quiet};
use libbpf_rs::{
    ErrorKind, Iter, Link, Map, MapCore as _, MapFlags, Object, RingBuffer, RingBufferBuilder,
};
use std::cell::RefCell;
use std::io::{self, Read as _};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes};

static PROGRAMS: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/trace.bpf.o")));

/// `STACK`: how much of a stack is kept.
pub(super) const STACK: usize = 2048;

/// How many targets can be looked for at a time: the size of `candidates`.
pub(super) const CANDIDATES: usize = 8192;

/// `MAX_RECORDS`: how many records of one file a pass writes.
const MAX_RECORDS: u32 = 256;

/// `struct key`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Key {
    pub(super) ep: u64,
    pub(super) file: u64,
    pub(super) fd: RawFd,
    pub(super) pad: u32,
}

/// `struct stack`
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C)]
pub(super) struct RawStack {
    pub(super) ip: u64,
    pub(super) sp: u64,
    pub(super) bp: u64,
    pub(super) syscall: i32,
    pub(super) size: u32,
    pub(super) bytes: [u8; STACK],
}

/// `struct who`
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C)]
pub(super) struct Who {
    pub(super) tgid: i32,
    pub(super) tid: i32,
    pub(super) comm: [u8; 16],
}

/// `struct record`
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C)]
pub(super) struct Record {
    pub(super) files: u64,
    pub(super) time: u64,
    pub(super) who: Who,
    pub(super) efd: RawFd,
    pub(super) left: u32,
    pub(super) generation: u32,
    _pad: u32,
    pub(super) stack: RawStack,
}

pub(super) const WHAT_PROCESS: u32 = 0;
pub(super) const WHAT_LEFT: u32 = 1;
pub(super) const WHAT_EXISTS: u32 = 2;

/// `struct event`
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C)]
pub(super) struct RawEvent {
    pub(super) key: Key,
    pub(super) time: u64,
    pub(super) files: u64,
    pub(super) what: u32,
    pub(super) efd: RawFd,
    pub(super) has_record: u32,
    pub(super) is_exit: u32,
    pub(super) who: Who,
    pub(super) stack: RawStack,
    pub(super) record: Record,
}

/// `enum mode`
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    Learn = 0,
    Instances = 1,
    Targets = 2,
    Holders = 3,
    Hidden = 4,
}

/// `struct config`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Config {
    pub(super) ep_fops: u64,
    pub(super) reader_ns: u64,
    pub(super) reader_level: u32,
    pub(super) efd: RawFd,
    pub(super) mode: u32,
    pub(super) generation: u32,
    pub(super) all: u32,
    pub(super) candidates: u32,
    pub(super) from: u32,
    pub(super) more: u32,
}

/// `struct counts`
#[derive(Clone, Copy, Debug, Default, FromBytes)]
#[repr(C)]
pub(super) struct RawCounts {
    pub(super) adds: u64,
    pub(super) dels: u64,
    pub(super) exists: u64,
    pub(super) closes: u64,
    pub(super) known: u64,
    pub(super) full: u64,
    pub(super) lost: u64,
    pub(super) raced: u64,
    pub(super) cut: u64,
}

impl RawCounts {
    fn add(&mut self, other: &Self) {
        // What is not known any more was counted down, on another CPU perhaps.
        let add = |sum: &mut u64, other: u64| *sum = sum.wrapping_add(other);
        add(&mut self.adds, other.adds);
        add(&mut self.dels, other.dels);
        add(&mut self.exists, other.exists);
        add(&mut self.closes, other.closes);
        add(&mut self.known, other.known);
        add(&mut self.full, other.full);
        add(&mut self.lost, other.lost);
        add(&mut self.raced, other.raced);
        add(&mut self.cut, other.cut);
    }
}

/// `struct traced`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Traced {
    is_root: u32,
    pad: u32,
    mm: u64,
}

/// `struct instance`
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Instance {
    ep: u64,
    files: u64,
}

/// `enum holder`
pub(super) const HOLDER_FD: u32 = 0;
pub(super) const HOLDER_MESSAGE: u32 = 1;
pub(super) const HOLDER_RING: u32 = 2;
pub(super) const HOLDER_MAPPING: u32 = 3;
pub(super) const HOLDER_INSTANCE: u32 = 4;
pub(super) const HOLDER_TARGET: u32 = 5;

/// `struct found`
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C)]
pub(super) struct Found {
    pub(super) ep: u64,
    pub(super) file: u64,
    pub(super) at: u64,
    pub(super) ino: u64,
    pub(super) data: u64,
    pub(super) kind: u32,
    pub(super) pid: i32,
    pub(super) fd: RawFd,
    pub(super) tfd: RawFd,
    pub(super) sender: i32,
    nr: u32,
}

const _: () = assert!(size_of::<Key>() == 24 && size_of::<RawStack>() == 32 + STACK);
const _: () = assert!(size_of::<Record>() == 56 + size_of::<RawStack>());
const _: () = assert!(size_of::<RawEvent>() == 80 + size_of::<RawStack>() + size_of::<Record>());
const _: () = assert!(size_of::<Config>() == 48 && size_of::<Found>() == 64);

/// The programs that are attached to the functions of system calls, and what is attached
/// in any case.
const FUNCTIONS: [&str; 9] = [
    "on_fork",
    "on_exit",
    "exit_epoll_ctl",
    "enter_close",
    "enter_dup2",
    "enter_dup3",
    "enter_close_range",
    "enter_execve",
    "enter_execveat",
];

/// Those that all calls pass.
const TRACEPOINTS: [&str; 4] = ["on_fork", "on_exit", "exit_call", "enter_call"];

/// The programs, loaded.
pub(super) struct Programs {
    object: Object,
    links: Vec<Link>,
    generation: u32,
}

impl Programs {
    /// `room`: how many targets can be remembered; `hooks`: whether calls are traced.
    pub(super) fn load(room: u32, hooks: bool) -> io::Result<Self> {
        if cfg!(not(target_arch = "x86_64")) {
            let why = "calls are traced on x86-64 only";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        libbpf::check()?;
        if !hooks {
            return Self::load_with(room, &[]);
        }
        // Not each kernel lets programs be attached to functions.
        let functions = Self::load_with(room, &FUNCTIONS);
        let functions = functions.and_then(|mut programs| {
            programs.attach(&FUNCTIONS)?;
            Ok(programs)
        });
        functions.or_else(|_| {
            let mut programs = Self::load_with(room, &TRACEPOINTS)?;
            programs.attach(&TRACEPOINTS)?;
            Ok(programs)
        })
    }

    fn load_with(room: u32, hooks: &[&str]) -> io::Result<Self> {
        let object = libbpf::load(&PROGRAMS.0, |object| {
            for mut map in object.maps_mut() {
                if map.name() == "records" {
                    map.set_max_entries(room)?;
                }
            }
            for mut program in object.progs_mut() {
                let name = program.name().to_string_lossy();
                let is_wanted = name.starts_with("visit_") || hooks.iter().any(|h| *h == name);
                program.set_autoload(is_wanted);
            }
            Ok(())
        });
        let what = "cannot load the BPF programs (it takes CAP_BPF and CAP_PERFMON)";
        let mut programs = Self {
            object: object.map_err(failed(what))?,
            links: Vec::new(),
            generation: 0,
        };
        programs.learn()?;
        Ok(programs)
    }

    /// Finds out what an epoll file is, by one of its own.
    fn learn(&mut self) -> io::Result<()> {
        use rustix::event::epoll;
        use std::os::fd::AsRawFd as _;

        let own = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let config = Config {
            efd: own.as_raw_fd(),
            ..Config::default()
        };
        self.set_config(&config)?;
        self.visit("visit_files", Mode::Learn)?;
        if self.config()?.ep_fops == 0 {
            let why = "the BPF iterator does not show the descriptors of this process";
            return Err(io::Error::other(why));
        }
        Ok(())
    }

    /// Begins to trace.
    fn attach(&mut self, hooks: &[&str]) -> io::Result<()> {
        for program in hooks {
            let link = quiet(|| self.attach_one(program));
            let link = link.map_err(failed(format!("cannot attach the BPF program {program}")))?;
            self.links.push(link);
        }
        Ok(())
    }

    fn attach_one(&self, name: &str) -> libbpf_rs::Result<Link> {
        let program = self.object.progs_mut().find(|p| p.name() == name);
        let missing = || libbpf_rs::Error::from(io::Error::other("it is missing"));
        program.ok_or_else(missing)?.attach()
    }

    /// What the hooks tell is put into the queue when the ring buffer is polled.
    pub(super) fn ring(
        &self,
        queue: &Rc<RefCell<Vec<RawEvent>>>,
    ) -> io::Result<RingBuffer<'static>> {
        let queue = Rc::clone(queue);
        let map = self.map("events")?;
        let mut ring = RingBufferBuilder::new();
        ring.add(&map, move |bytes| {
            queue
                .borrow_mut()
                .extend(RawEvent::read_from_bytes(bytes).ok());
            0
        })
        .map_err(failed("cannot read the BPF events"))?;
        ring.build().map_err(failed("cannot read the BPF events"))
    }

    fn map(&self, name: &str) -> io::Result<Map<'_>> {
        libbpf::map(&self.object, name)
    }

    fn read<T: FromBytes>(&self, map: &str, key: &[u8]) -> io::Result<Option<T>> {
        libbpf::read(&self.map(map)?, key)
    }

    fn write(&self, map: &str, key: &[u8], value: &[u8]) -> io::Result<()> {
        libbpf::write(&self.map(map)?, key, value)
    }

    pub(super) fn config(&self) -> io::Result<Config> {
        Ok(self.read("config", &FIRST)?.unwrap_or_default())
    }

    pub(super) fn set_config(&self, config: &Config) -> io::Result<()> {
        self.write("config", &FIRST, config.as_bytes())
    }

    pub(super) fn counts(&self) -> io::Result<RawCounts> {
        let counts = self.map("counts")?.lookup_percpu(&FIRST, MapFlags::ANY);
        let counts = counts.map_err(failed("cannot read a BPF map"))?;
        let mut sum = RawCounts::default();
        for of_cpu in counts.iter().flatten() {
            if let Ok(of_cpu) = RawCounts::read_from_bytes(of_cpu) {
                sum.add(&of_cpu);
            }
        }
        Ok(sum)
    }

    pub(super) fn record(&self, key: &Key) -> io::Result<Option<Record>> {
        self.read("records", key.as_bytes())
    }

    /// Whether a descriptor table had an instance in the last pass with [`Mode::Instances`].
    pub(super) fn has_instance(&self, files: u64, ep: u64) -> io::Result<bool> {
        let instance = Instance { ep, files };
        let seen: Option<u32> = self.read("instances", instance.as_bytes())?;
        Ok(seen == Some(self.generation))
    }

    /// Forgets a target; returns whether it was known.
    pub(super) fn forget(&self, key: &Key) -> io::Result<bool> {
        match self.map("records")?.delete(key.as_bytes()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("cannot write a BPF map")(error)),
        }
    }

    /// All targets that are remembered.
    pub(super) fn keys(&self) -> io::Result<Vec<Key>> {
        let keys = self.map("records")?;
        Ok(keys
            .keys()
            .filter_map(|key| Key::read_from_bytes(&key).ok())
            .collect())
    }

    /// The processes that are traced, without a root.
    pub(super) fn traced(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for key in self.map("traced")?.keys() {
            let traced: Option<Traced> = self.read("traced", &key)?;
            if traced.is_some_and(|traced| traced.is_root == 0) {
                pids.extend(i32::read_from_bytes(&key));
            }
        }
        Ok(pids)
    }

    /// Traces a process; or, if it is a root, its children only.
    pub(super) fn trace(&self, pid: i32, is_root: bool) -> io::Result<()> {
        let traced = Traced {
            is_root: is_root.into(),
            pad: 0,
            mm: 0,
        };
        self.write("traced", &pid.to_ne_bytes(), traced.as_bytes())
    }

    /// Sets what is looked for by [`Mode::Holders`].
    pub(super) fn look_for(&self, keys: &[Key]) -> io::Result<()> {
        for (index, key) in keys.iter().enumerate() {
            let index = index as u32;
            self.write("candidates", index.as_bytes(), key.as_bytes())?;
            self.write("wanted", key.file.as_bytes(), index.as_bytes())?;
        }
        self.set_config(&Config {
            candidates: keys.len() as u32,
            ..self.config()?
        })
    }

    /// The opposite.
    pub(super) fn look_for_none(&self, keys: &[Key]) -> io::Result<()> {
        let wanted = self.map("wanted")?;
        for key in keys {
            // Several targets can have one file.
            match wanted.delete(key.file.as_bytes()) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(failed("cannot write a BPF map")(error));
                }
                _ => {}
            }
        }
        self.look_for(&[])
    }

    /// Begins a pass of several iterators.
    pub(super) fn next_generation(&mut self) -> io::Result<u32> {
        self.generation += 1;
        self.set_config(&Config {
            generation: self.generation,
            ..self.config()?
        })?;
        Ok(self.generation)
    }

    /// Runs an iterator, once more while a file has more records than fit in its buffer.
    pub(super) fn visit(&self, program: &str, mode: Mode) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut config = Config {
            mode: mode as u32,
            from: 0,
            ..self.config()?
        };
        loop {
            config.more = 0;
            self.set_config(&config)?;
            self.pass(program, &mut found)?;
            config = self.config()?;
            if config.more == 0 {
                return Ok(found);
            }
            config.from += MAX_RECORDS;
        }
    }

    fn pass(&self, program: &str, found: &mut Vec<Found>) -> io::Result<()> {
        let failed = || failed("cannot run a BPF iterator");
        let link = self.attach_one(program).map_err(failed())?;
        let mut iter = Iter::new(&link).map_err(failed())?;
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match iter.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let records = bytes.chunks_exact(size_of::<Found>());
        found.extend(records.flat_map(Found::read_from_bytes));
        Ok(())
    }

    pub(super) fn poll(ring: &RingBuffer<'_>, timeout: Duration) -> io::Result<()> {
        match ring.poll(timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            polled => polled.map_err(failed("cannot read the BPF events")),
        }
    }
}
