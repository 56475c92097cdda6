// SPDX-License-Identifier: GPL-2.0

//! The ioctls of the device: arguments together with the memory that they point to,
//! so that the rest of the library calls them safely.

use super::Process;
use crate::abi;
use rustix::io::retry_on_intr;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The argument of an ioctl. It borrows whatever memory its addresses point to.
#[derive(Debug)]
pub struct Call<'a, T> {
    argument: T,
    memory: PhantomData<&'a mut [u8]>,
}

/// An argument, and the ioctl that takes it.
pub trait Argument {
    const REQUEST: Opcode;
}

impl Argument for abi::Snapshot {
    const REQUEST: Opcode = abi::SNAPSHOT;
}

impl Argument for abi::Files {
    const REQUEST: Opcode = abi::FILES;
}

impl Argument for abi::Describe {
    const REQUEST: Opcode = abi::DESCRIBE;
}

impl Argument for abi::Fetch {
    const REQUEST: Opcode = abi::FETCH;
}

impl Argument for abi::Restore {
    const REQUEST: Opcode = abi::RESTORE;
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr().expose_provenance() as u64
}

fn address_mut<T>(slice: &mut [T]) -> u64 {
    slice.as_mut_ptr().expose_provenance() as u64
}

impl<T> Call<'_, T> {
    const fn new(argument: T) -> Self {
        Self {
            argument,
            memory: PhantomData,
        }
    }

    /// The argument, with what the kernel has written to it.
    pub const fn argument(&self) -> &T {
        &self.argument
    }
}

impl<'a> Call<'a, abi::Snapshot> {
    pub fn snapshot(process: Process<'_>, efd: u32, items: &'a mut [abi::Item]) -> Self {
        Self::new(abi::Snapshot {
            size: size_of::<abi::Snapshot>() as u32,
            pidfd: process.pidfd(),
            efd,
            capacity: items.len() as u64,
            items: address_mut(items),
            item_size: size_of::<abi::Item>() as u32,
            ..Default::default()
        })
    }
}

impl<'a> Call<'a, abi::Files> {
    pub fn files(process: Process<'_>, fds: &'a mut [abi::Fd]) -> Self {
        Self::new(abi::Files {
            size: size_of::<abi::Files>() as u32,
            pidfd: process.pidfd(),
            fd_size: size_of::<abi::Fd>() as u32,
            capacity: fds.len() as u64,
            fds: address_mut(fds),
            ..Default::default()
        })
    }
}

impl<'a> Call<'a, abi::Describe> {
    /// # Panics
    ///
    /// If there are not as many elements of `files` as of `fds`.
    pub fn describe(
        process: Process<'_>,
        fds: &'a [u32],
        files: &'a mut [abi::File],
        paths: &'a mut [u8],
    ) -> Self {
        assert_eq!(fds.len(), files.len());
        Self::new(abi::Describe {
            size: size_of::<abi::Describe>() as u32,
            pidfd: process.pidfd(),
            file_size: size_of::<abi::File>() as u32,
            fds: address(fds),
            files: address_mut(files),
            count: fds.len() as u64,
            paths_size: paths.len() as u64,
            paths: address_mut(paths),
            ..Default::default()
        })
    }
}

impl Call<'_, abi::Fetch> {
    /// Names the target by the identity of its file as well.
    pub fn fetch(process: Process<'_>, efd: u32, tfd: u32, toff: u32, file: u64) -> Self {
        Self::new(abi::Fetch {
            size: size_of::<abi::Fetch>() as u32,
            flags: 0,
            pidfd: process.pidfd(),
            efd,
            tfd: tfd as i32,
            toff,
            file,
        })
    }
}

impl<'a> Call<'a, abi::Restore> {
    pub fn restore(instance: BorrowedFd<'_>, items: &'a [abi::Add]) -> Self {
        Self::new(abi::Restore {
            size: size_of::<abi::Restore>() as u32,
            flags: 0,
            efd: instance.as_raw_fd(),
            item_size: size_of::<abi::Add>() as u32,
            items: address(items),
            count: items.len() as u64,
            bad: items.len() as u64,
        })
    }
}

impl<T: Argument> Call<'_, T> {
    /// Calls the device, again if a signal interrupts it. Returns what the ioctl does.
    pub fn run(&mut self, device: impl AsFd) -> rustix::io::Result<i32> {
        // SAFETY: the implementation of `Ioctl` below says why the call is sound.
        // Should `device` not be the device, then its ioctl is an unknown one, or the
        // caller opened a device that misuses the numbers of this one.
        retry_on_intr(|| unsafe { ioctl(device.as_fd(), &mut *self) })
    }
}

// SAFETY: `REQUEST` is the ioctl that takes a pointer to a `T`, whose layout is that
// of the header (tests of `abi` compare all of it). The kernel reads and writes this
// argument, and the arrays that it points to. Only the constructors above make one:
// they take each address and length from a slice that is mutable if the kernel writes
// to it, that `'a` keeps borrowed as long as this exists, and of integers, for which
// all bits are valid. Both sizes are those of our types, and the kernel writes no more
// than they say.
unsafe impl<T: Argument> Ioctl for &mut Call<'_, T> {
    type Output = i32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        T::REQUEST
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.argument).cast()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        _argument: *mut c_void,
    ) -> rustix::io::Result<i32> {
        Ok(output)
    }
}
