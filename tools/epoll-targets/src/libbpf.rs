// SPDX-License-Identifier: GPL-2.0

//! What all BPF programs of this crate need: loading them, running iterators, and
//! access to their maps.

mod loaded;

pub(crate) use loaded::{Loaded, MapRef};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, Object, ObjectBuilder};
use libbpf_rs::{Map, OpenObject};
use libbpf_sys::{BPF_TRACE_ITER, bpf_iter_link_info, bpf_link_create_opts};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::borrow::Cow;
use std::fs::{File, read_to_string};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use zerocopy::FromBytes;

/// An object that build.rs compiled; libelf needs it aligned.
#[repr(C, align(8))]
pub(crate) struct Aligned<T: ?Sized>(pub(crate) T);

/// Held while the print function of libbpf, which is global, is replaced.
static PRINT: Mutex<()> = Mutex::new(());

/// The key of the element of an array that has one.
pub(crate) const FIRST: [u8; 4] = [0; 4];

/// An error of libbpf.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct BpfError {
    what: Cow<'static, str>,
    source: libbpf_rs::Error,
}

/// Says what failed.
pub(crate) fn failed(
    what: impl Into<Cow<'static, str>>,
) -> impl FnOnce(libbpf_rs::Error) -> io::Error {
    let what = what.into();
    move |source| {
        let kind = match source.kind() {
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
            // Not `NotFound`: that would mean a process or a descriptor.
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, BpfError { what, source })
    }
}

/// Checks what the kernel needs, where libbpf's error would not tell.
pub(crate) fn check() -> io::Result<()> {
    if let Some(why) = no_type_information(Path::new("/sys")) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let lockdown = read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        let why = "the kernel is locked down: BPF may not read its memory";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

/// Why the kernel's type information is not in a sysfs; `None` if it is.
fn no_type_information(sys: &Path) -> Option<&'static str> {
    if !sys.join("kernel").exists() {
        return Some("/sys, where the kernel's type information is, is not mounted");
    }
    let is_there = sys.join("kernel/btf/vmlinux").exists();
    let why = "there is no /sys/kernel/btf/vmlinux: the kernel has no type information \
               (CONFIG_DEBUG_INFO_BTF)";
    (!is_there).then_some(why)
}

/// Runs what would print errors on standard error, besides returning them.
pub(crate) fn quiet<T>(run: impl FnOnce() -> T) -> T {
    let _alone = PRINT.lock().unwrap_or_else(PoisonError::into_inner);
    let print = libbpf_rs::set_print(None);
    let result = run();
    libbpf_rs::set_print(print);
    result
}

/// Lets signals wait, or this thread's part in them.
struct Undisturbed(Option<SigSet>);

impl Undisturbed {
    fn new() -> Self {
        Self(SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            let _ = before.thread_set_mask();
        }
    }
}

/// Loads the programs of an object, once `prepare` has set it up.
///
/// The verifier gives up with `EAGAIN` if a signal is pending, also one that the process
/// ignores: the end of a child can disturb all threads. libbpf tries again, but not often.
/// So signals wait here.
pub(crate) fn load(
    object: &'static [u8],
    prepare: impl FnOnce(&mut OpenObject) -> libbpf_rs::Result<()>,
) -> libbpf_rs::Result<Object> {
    let _undisturbed = Undisturbed::new();
    quiet(|| {
        let mut object = ObjectBuilder::default().open_memory(object)?;
        prepare(&mut object)?;
        object.load()
    })
}

/// A map by its name.
pub(crate) fn map<'a>(object: &'a Object, name: &str) -> io::Result<Map<'a>> {
    let map = object.maps().find(|map| map.name() == name);
    map.ok_or_else(|| io::Error::other(format!("there is no BPF map {name}")))
}

/// Reads an element of a map; `None` if there is none, or it has another size.
pub(crate) fn read<T: FromBytes>(map: &impl MapCore, key: &[u8]) -> io::Result<Option<T>> {
    let value = map.lookup(key, MapFlags::ANY);
    let value = value.map_err(failed("cannot read a BPF map"))?;
    Ok(value.and_then(|bytes| T::read_from_bytes(&bytes).ok()))
}

/// Writes an element of a map.
pub(crate) fn write(map: &impl MapCore, key: &[u8], value: &[u8]) -> io::Result<()> {
    let written = map.update(key, value, MapFlags::ANY);
    written.map_err(failed("cannot write a BPF map"))
}

/// An iterator that runs a program.
pub(crate) fn iterate(program: BorrowedFd<'_>, mut info: bpf_iter_link_info) -> io::Result<File> {
    let opts = bpf_link_create_opts {
        sz: size_of::<bpf_link_create_opts>() as u64,
        iter_info: &raw mut info,
        iter_info_len: size_of::<bpf_iter_link_info>() as u32,
        ..Default::default()
    };
    let fd = program.as_raw_fd();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_sysfs_is_not_taken_for_a_kernel_without_types() {
        let sys = std::env::temp_dir().join(format!("epoll-targets-sys-{}", std::process::id()));
        let why = || no_type_information(&sys).unwrap_or_default();
        assert!(why().ends_with("is not mounted"));
        std::fs::create_dir_all(sys.join("kernel/btf")).unwrap();
        assert!(why().contains("CONFIG_DEBUG_INFO_BTF"));
        File::create(sys.join("kernel/btf/vmlinux")).unwrap();
        assert_eq!(why(), "");
        std::fs::remove_dir_all(&sys).unwrap();
    }
}
