// SPDX-License-Identifier: GPL-2.0
//! A set whose mutex is held for as long as one likes.
//!
//! A thread collects an event into a page that is not there, and nobody
//! provides it: the kernel keeps the set's mutex until it is.

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::process;
use crate::sys;
use crate::tap::skip;

/// From <linux/userfaultfd.h>.
const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_ZEROPAGE: libc::c_ulong = 0xc020_aa04;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;

const PAGE: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(20);

/// The thread is in epoll_wait(2) and holds the set's mutex.
#[derive(Debug)]
pub struct HeldSet {
    page: NonNull<libc::c_void>,
    uffd: OwnedFd,
    thread: Option<JoinHandle<nix::Result<i32>>>,
}

impl HeldSet {
    /// The set must have a ready entry. The thread runs on that processor.
    pub fn hold(efd: i32, cpu: Option<usize>) -> Result<Self> {
        // One that could block cannot be polled.
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: takes and returns numbers.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let fd = match Errno::result(fd) {
            Ok(fd) => fd as i32,
            Err(errno) => return skip(format!("cannot hold a set: userfaultfd: {errno}")),
        };
        // SAFETY: the descriptor is new.
        let uffd = unsafe { OwnedFd::from_raw_fd(fd) };
        let size = NonZeroUsize::new(PAGE).context("no size")?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let page = unsafe { mmap_anonymous(None, size, prot, MapFlags::MAP_PRIVATE) }?;
        let mut held = Self {
            page,
            uffd,
            thread: None,
        };
        let start = page.as_ptr() as u64;
        // struct uffdio_api: api, features, ioctls
        held.ioctl(UFFDIO_API, &mut [UFFD_API, 0, 0])?;
        // struct uffdio_register: start, length, mode, ioctls
        let mode = UFFDIO_REGISTER_MODE_MISSING;
        held.ioctl(UFFDIO_REGISTER, &mut [start, PAGE as u64, mode, 0])?;

        held.thread = Some(std::thread::spawn(move || {
            if let Some(cpu) = cpu {
                process::pin(cpu).map_err(|_| Errno::EINVAL)?;
            }
            let events = start as *mut libc::epoll_event;
            // SAFETY: the page has room for one event, and is there until this
            // thread has ended.
            Errno::result(unsafe { libc::epoll_wait(efd, events, 1, -1) })
        }));
        // What it says when the page is missed need not be read: there is but
        // one, and letting go does not ask for it.
        if !sys::readable(held.uffd.as_raw_fd(), PATIENCE)? {
            bail!("nobody holds the set");
        }
        Ok(held)
    }

    /// Provide the page; when this returns, the set's mutex is free.
    pub fn release(mut self) -> Result<()> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        // struct uffdio_zeropage: start, length, mode, zeroed
        let start = self.page.as_ptr() as u64;
        self.ioctl(UFFDIO_ZEROPAGE, &mut [start, PAGE as u64, 0, 0])?;
        let events = thread.join().ok().context("the holder panicked")??;
        ensure!(events == 1, "the holder got {events} events");
        Ok(())
    }

    fn ioctl<const N: usize>(&self, request: libc::c_ulong, arg: &mut [u64; N]) -> Result<()> {
        // SAFETY: each of the requests above takes as many words as it is given.
        let ret = unsafe { libc::ioctl(self.uffd.as_raw_fd(), request, arg.as_mut_ptr()) };
        Errno::result(ret).context("userfaultfd")?;
        Ok(())
    }
}

impl Drop for HeldSet {
    fn drop(&mut self) {
        if self.let_go().is_ok() {
            // SAFETY: the thread that used the page has ended.
            let _ = unsafe { munmap(self.page, PAGE) };
        }
    }
}
