// SPDX-License-Identifier: GPL-2.0

//! BPF programs that iterators run: loading them, and running them.

use libbpf_rs::{AsRawLibbpf as _, Map, MapCore as _, Object, ObjectBuilder, OpenMapMut};
use libbpf_sys::{BPF_TRACE_ITER, bpf_iter_link_info, bpf_link_create_opts};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// An object that build.rs compiled; libelf needs it aligned.
#[repr(C, align(8))]
pub(crate) struct Aligned<T: ?Sized>(pub(crate) T);

/// Held while the print function of libbpf, which is global, is replaced.
static PRINT: Mutex<()> = Mutex::new(());

/// An error of libbpf.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct BpfError {
    what: &'static str,
    source: libbpf_rs::Error,
}

pub(super) fn from_libbpf(what: &'static str, source: libbpf_rs::Error) -> io::Error {
    let kind = match source.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        libbpf_rs::ErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, BpfError { what, source })
}

/// Runs what would print errors on standard error, besides returning them.
pub(crate) fn quiet<T>(run: impl FnOnce() -> T) -> T {
    let _alone = PRINT.lock().unwrap_or_else(PoisonError::into_inner);
    let print = libbpf_rs::set_print(None);
    let result = run();
    libbpf_rs::set_print(print);
    result
}

/// Loads the programs of an object, once `prepare` has seen each of its maps.
pub(super) fn load(
    object: &'static [u8],
    prepare: impl Fn(&mut OpenMapMut<'_>) -> libbpf_rs::Result<()>,
) -> io::Result<Object> {
    let object = quiet(|| {
        let mut object = ObjectBuilder::default().open_memory(object)?;
        for mut map in object.maps_mut() {
            prepare(&mut map)?;
        }
        object.load()
    });
    object.map_err(|error| from_libbpf("cannot load the BPF programs", error))
}

/// A map by its name.
pub(super) fn map<'a>(object: &'a Object, name: &str) -> io::Result<Map<'a>> {
    let map = object.maps().find(|map| map.name() == name);
    map.ok_or_else(|| io::Error::other(format!("there is no BPF map {name}")))
}

/// An iterator that runs a program.
pub(super) fn iterate(
    object: &Object,
    program: &str,
    mut info: bpf_iter_link_info,
) -> io::Result<File> {
    let program = object.progs().find(|p| p.name() == program);
    let program = program.ok_or_else(|| io::Error::other("a BPF program is missing"))?;
    let opts = bpf_link_create_opts {
        sz: size_of::<bpf_link_create_opts>() as u64,
        iter_info: &raw mut info,
        iter_info_len: size_of::<bpf_iter_link_info>() as u32,
        ..Default::default()
    };
    // SAFETY: The program's pointer is valid as long as the object, which is
    // borrowed.
    let fd = unsafe { libbpf_sys::bpf_program__fd(program.as_libbpf_object().as_ptr()) };
    // SAFETY: `opts` has its size, and the address and size of `info`. Both live
    // until this returns, and are only read.
    let link = unsafe { libbpf_sys::bpf_link_create(fd, 0, BPF_TRACE_ITER, &raw const opts) };
    let link = owned(link)?;
    // SAFETY: It takes only an integer.
    let iter = owned(unsafe { libbpf_sys::bpf_iter_create(link.as_raw_fd()) })?;
    Ok(iter.into())
}

/// Converts what libbpf returns: a descriptor, or a negative errno.
fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: libbpf has just opened it for the caller, who owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
