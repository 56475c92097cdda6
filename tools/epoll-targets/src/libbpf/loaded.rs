// SPDX-License-Identifier: GPL-2.0

//! Programs and maps that are loaded in the way that takes least.
//!
//! To adapt programs to the running kernel, libbpf reads the types of all of it, some
//! megabytes, whenever it loads an object, and searches them for each type that the programs
//! use. The kernel has them, and remembers what it has found. So libbpf is only asked for a
//! program that makes the system calls, as for what bpftool(8) calls a light skeleton, and the
//! kernel runs that. Where it does not, libbpf does all by itself.

use super::{failed, quiet};
use libbpf_rs::{AsRawLibbpf as _, MapCore as _, Object, ObjectBuilder, OpenObject};
use libbpf_sys::{
    BPF_F_SLEEPABLE, BPF_MAP_TYPE_ARRAY, BPF_PROG_TYPE_SYSCALL, bpf_insn, bpf_prog_load_opts,
    bpf_test_run_opts, gen_loader_opts,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A map and how large its values are.
struct Map {
    name: String,
    fd: OwnedFd,
    keys: usize,
    values: usize,
}

/// Programs and maps, loaded.
pub(crate) struct Loaded {
    maps: Vec<Map>,
    programs: Vec<(String, OwnedFd)>,
}

/// A map of [`Loaded`].
#[derive(Clone, Copy)]
pub(crate) struct MapRef<'a>(&'a Map);

impl Loaded {
    /// Loads the programs of an object.
    pub(crate) fn load(object: &'static [u8]) -> io::Result<Self> {
        let _undisturbed = super::Undisturbed::new();
        quiet(|| Self::by_kernel(object).or_else(|_| Self::by_libbpf(object)))
    }

    fn by_libbpf(object: &'static [u8]) -> io::Result<Self> {
        let cannot = || failed("cannot load the BPF programs");
        let object = open(object)?.load().map_err(cannot())?;
        let maps = object.maps().map(|map| {
            Ok(Map {
                name: map.name().to_string_lossy().into_owned(),
                keys: map.key_size() as usize,
                values: map.value_size() as usize,
                fd: map.as_fd().try_clone_to_owned()?,
            })
        });
        let maps = maps.collect::<io::Result<_>>()?;
        let programs = object.progs().map(|program| {
            let name = program.name().to_string_lossy().into_owned();
            Ok((name, program.as_fd().try_clone_to_owned()?))
        });
        let programs = programs.collect::<io::Result<_>>()?;
        Ok(Self { maps, programs })
    }

    fn by_kernel(object: &'static [u8]) -> io::Result<Self> {
        let object = open(object)?;
        let programs = object
            .progs()
            .map(|p| p.name().to_string_lossy().into_owned());
        let programs: Vec<String> = programs.collect();
        let maps = object.maps().map(|map| {
            let raw = map.as_libbpf_object().as_ptr();
            // SAFETY: The map is valid as long as the object, which is borrowed.
            let sizes = unsafe {
                (
                    libbpf_sys::bpf_map__key_size(raw),
                    libbpf_sys::bpf_map__value_size(raw),
                )
            };
            (map.name().to_string_lossy().into_owned(), sizes)
        });
        let maps: Vec<_> = maps.collect();
        let loader = Loader::new(object)?;
        let fds = loader.run(maps.len(), programs.len())?;
        let mut fds = fds.into_iter();
        let maps = maps.into_iter().zip(fds.by_ref());
        let maps = maps.map(|((name, (keys, values)), fd)| Map {
            name,
            fd,
            keys: keys as usize,
            values: values as usize,
        });
        Ok(Self {
            maps: maps.collect(),
            programs: programs.into_iter().zip(fds).collect(),
        })
    }

    /// A map by its name.
    pub(crate) fn map(&self, name: &str) -> io::Result<MapRef<'_>> {
        let map = self.maps.iter().find(|map| map.name == name);
        map.map(MapRef)
            .ok_or_else(|| io::Error::other(format!("there is no BPF map {name}")))
    }

    /// A program by its name.
    pub(crate) fn program(&self, name: &str) -> io::Result<BorrowedFd<'_>> {
        let program = self.programs.iter().find(|program| program.0 == name);
        program
            .map(|(_, fd)| fd.as_fd())
            .ok_or_else(|| io::Error::other("a BPF program is missing"))
    }
}

impl MapRef<'_> {
    /// Whether keys and values have these sizes: the kernel would read or write beyond what is
    /// shorter.
    fn check(self, key: usize, value: Option<usize>) -> io::Result<()> {
        if key == self.0.keys && value.is_none_or(|value| value == self.0.values) {
            return Ok(());
        }
        Err(io::Error::other("the BPF programs are of another version"))
    }

    /// Reads an element.
    pub(crate) fn read<T: FromBytes + IntoBytes>(
        self,
        key: &[u8],
        value: &mut T,
    ) -> io::Result<()> {
        let value = value.as_mut_bytes();
        self.check(key.len(), Some(value.len()))?;
        let (key, value) = (key.as_ptr().cast(), value.as_mut_ptr().cast());
        // SAFETY: The kernel reads a key and writes a value, which have the sizes of the
        // map's; any bytes are a value of this type.
        let result = unsafe { libbpf_sys::bpf_map_lookup_elem(self.0.fd.as_raw_fd(), key, value) };
        done(result, "cannot read a BPF map")
    }

    /// Writes an element.
    pub(crate) fn write(self, key: &[u8], value: &(impl IntoBytes + Immutable)) -> io::Result<()> {
        let value = value.as_bytes();
        self.check(key.len(), Some(value.len()))?;
        let (key, value) = (key.as_ptr().cast(), value.as_ptr().cast());
        // SAFETY: The kernel reads a key and a value, which have the sizes of the map's.
        let result =
            unsafe { libbpf_sys::bpf_map_update_elem(self.0.fd.as_raw_fd(), key, value, 0) };
        done(result, "cannot write a BPF map")
    }

    /// Deletes an element.
    pub(crate) fn delete(self, key: &[u8]) -> io::Result<()> {
        self.check(key.len(), None)?;
        let key = key.as_ptr().cast();
        // SAFETY: The kernel reads a key, which has the size of the map's.
        let result = unsafe { libbpf_sys::bpf_map_delete_elem(self.0.fd.as_raw_fd(), key) };
        done(result, "cannot write a BPF map")
    }
}

fn open(object: &'static [u8]) -> io::Result<OpenObject> {
    let object = ObjectBuilder::default().open_memory(object);
    object.map_err(failed("cannot load the BPF programs"))
}

/// What libbpf returned: 0, a descriptor, or a negative errno.
fn done(result: i32, what: &'static str) -> io::Result<()> {
    if result >= 0 {
        return Ok(());
    }
    let error = libbpf_rs::Error::from_raw_os_error(-result);
    Err(failed(what)(error))
}

/// A program that loads those of an object.
struct Loader {
    /// It owns what is below.
    _object: Object,
    instructions: *const bpf_insn,
    count: usize,
    data: *const u8,
    size: u32,
}

impl Loader {
    fn new(object: OpenObject) -> io::Result<Self> {
        let mut opts = gen_loader_opts {
            sz: size_of::<gen_loader_opts>() as u64,
            ..Default::default()
        };
        let raw = object.as_libbpf_object().as_ptr();
        // SAFETY: The object is open. It keeps the address of `opts`, and writes there when
        // it is loaded, which is below, while `opts` has not moved.
        let result = unsafe { libbpf_sys::bpf_object__gen_loader(raw, &raw mut opts) };
        done(result, "cannot load the BPF programs")?;
        let object = object.load();
        let object = object.map_err(failed("cannot load the BPF programs"))?;
        // SAFETY: It was written through the pointer above.
        let opts = unsafe { ptr::read_volatile(&raw const opts) };
        Ok(Self {
            _object: object,
            instructions: opts.insns.cast(),
            count: opts.insns_sz as usize / size_of::<bpf_insn>(),
            data: opts.data.cast(),
            size: opts.data_sz,
        })
    }

    /// Runs it. Returns the descriptors of the maps, and then those of the programs.
    fn run(&self, maps: usize, programs: usize) -> io::Result<Vec<OwnedFd>> {
        let what = "cannot load the BPF programs";
        let name = c"epoll_targets";
        // SAFETY: The name ends with a zero, and there are no options.
        let map = owned(unsafe {
            let (size, none) = (self.size, ptr::null());
            libbpf_sys::bpf_map_create(BPF_MAP_TYPE_ARRAY, name.as_ptr(), 4, size, 1, none)
        })?;
        // SAFETY: The key is that of an array, and there are as many bytes of data as a value
        // of this map has.
        let result = unsafe {
            let (key, data) = (super::FIRST.as_ptr().cast(), self.data.cast());
            libbpf_sys::bpf_map_update_elem(map.as_raw_fd(), key, data, 0)
        };
        done(result, what)?;
        let maps_of_it = [map.as_raw_fd()];
        let mut opts = bpf_prog_load_opts {
            sz: size_of::<bpf_prog_load_opts>() as u64,
            prog_flags: BPF_F_SLEEPABLE,
            fd_array: maps_of_it.as_ptr(),
            ..Default::default()
        };
        // SAFETY: The strings end with zeros, there are as many instructions, and what the
        // options refer to is there until this returns.
        let program = owned(unsafe {
            libbpf_sys::bpf_prog_load(
                BPF_PROG_TYPE_SYSCALL,
                name.as_ptr(),
                c"Dual BSD/GPL".as_ptr(),
                self.instructions,
                self.count as u64,
                &raw mut opts,
            )
        })?;
        // `struct bpf_loader_ctx`, then a `struct bpf_map_desc` of four words for each map,
        // then a word for each program. Descriptors are at the start of each.
        const HEAD: usize = 6;
        const MAP: usize = 4;
        let mut context = vec![0u32; HEAD + MAP * maps + programs];
        let size = size_of_val(&context[..]) as u32;
        context[0] = size;
        let mut opts = bpf_test_run_opts {
            sz: size_of::<bpf_test_run_opts>() as u64,
            ctx_in: context.as_mut_ptr().cast_const().cast(),
            ctx_size_in: size,
            ..Default::default()
        };
        // SAFETY: The kernel reads and writes a context of this size, which is there until
        // this returns, and is not used otherwise meanwhile.
        let result =
            unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut opts) };
        done(result, what)?;
        done(opts.retval as i32, what)?;
        let (of_maps, of_programs) = context[HEAD..].split_at(MAP * maps);
        let fds = of_maps.iter().step_by(MAP).chain(of_programs);
        // What it has not written is 0, which is somebody else's descriptor.
        fds.map(|&fd| match fd {
            0 => Err(io::Error::other(
                "the kernel has not loaded all BPF programs",
            )),
            _ => owned(fd as RawFd),
        })
        .collect()
    }
}

/// Converts what was opened for the caller: a descriptor, or a negative errno.
fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    done(fd, "cannot load the BPF programs")?;
    // SAFETY: It was just opened for the caller, who owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libbpf::{Aligned, FIRST};

    static OBJECTS: [&Aligned<[u8]>; 2] = [
        &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/walk.bpf.o"))),
        &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/holders.bpf.o"))),
    ];

    #[test]
    fn both_ways_load_the_same() {
        for object in OBJECTS {
            let (by_kernel, by_libbpf) = match Loaded::by_libbpf(&object.0) {
                Ok(loaded) => (Loaded::by_kernel(&object.0).unwrap(), loaded),
                Err(error) => return crate::skipped(format_args!("BPF cannot be used: {error}")),
            };
            let maps = |loaded: &Loaded| {
                let maps = loaded.maps.iter();
                let maps = maps.map(|map| (map.name.clone(), map.keys, map.values));
                maps.collect::<Vec<_>>()
            };
            assert_eq!(maps(&by_kernel), maps(&by_libbpf));
            let programs = |loaded: &Loaded| {
                let programs = loaded.programs.iter();
                programs.map(|(name, _)| name.clone()).collect::<Vec<_>>()
            };
            assert_eq!(programs(&by_kernel), programs(&by_libbpf));

            // Each descriptor is that of the map of the name.
            for loaded in [&by_kernel, &by_libbpf] {
                let mut words = Box::new([0u64; 1 << 11]);
                words[7] = 7;
                let output = loaded.map("output").unwrap();
                output.write(&FIRST, &*words).unwrap();
                *words = [0; 1 << 11];
                output.read(&FIRST, &mut *words).unwrap();
                assert_eq!(words[7], 7);
                let mut short = 0u32;
                assert!(output.read(&FIRST, &mut short).is_err());
            }
        }
    }
}
