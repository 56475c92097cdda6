// SPDX-License-Identifier: GPL-2.0
//! Holds the mutex of an epoll instance for as long as a test needs.
//!
//! A thread lets epoll_wait(2) write an event to a page that is missing, which
//! userfaultfd(2) reports and does not resolve: the kernel holds the mutex until the page
//! is there.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, UserfaultfdFlags, mmap_anonymous, munmap, userfaultfd};

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

/// An epoll instance whose mutex a thread in epoll_wait(2) holds.
#[derive(Debug)]
pub struct HeldSet {
    page: *mut libc::c_void,
    uffd: OwnedFd,
    thread: Option<JoinHandle<rustix::io::Result<i32>>>,
}

impl HeldSet {
    /// Holds the mutex of `efd`, which must have a target that is ready. The thread runs
    /// on that CPU.
    pub fn hold(efd: i32, cpu: Option<usize>) -> Result<Self> {
        // A userfaultfd can be polled only if it does not block.
        let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
        // SAFETY: it is used for one page, which no reference is to.
        let uffd = match unsafe { userfaultfd(flags) } {
            Ok(uffd) => uffd,
            Err(errno) => {
                return skip(format!(
                    "cannot hold the mutex of an epoll instance: userfaultfd: {errno}"
                ));
            }
        };
        let (anywhere, prot) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let page = unsafe { mmap_anonymous(anywhere, PAGE, prot, MapFlags::PRIVATE) }?;
        let mut held = Self {
            page,
            uffd,
            thread: None,
        };
        let start = page.expose_provenance() as u64;
        // struct uffdio_api: api, features, ioctls
        held.ioctl(UFFDIO_API, &mut [UFFD_API, 0, 0])?;
        // struct uffdio_register: start, length, mode, ioctls
        let mode = UFFDIO_REGISTER_MODE_MISSING;
        held.ioctl(UFFDIO_REGISTER, &mut [start, PAGE as u64, mode, 0])?;

        held.thread = Some(std::thread::spawn(move || {
            if let Some(cpu) = cpu {
                process::pin(cpu).map_err(|_| Errno::INVAL)?;
            }
            let events = std::ptr::with_exposed_provenance_mut(start as usize);
            // SAFETY: the page has room for one event, and stays mapped until this
            // thread has ended.
            sys::check(unsafe { libc::epoll_wait(efd, events, 1, -1) })
        }));
        // The message about the missing page need not be read: there is only one page,
        // and providing it does not depend on the message.
        if !sys::readable(held.uffd.as_raw_fd(), PATIENCE)? {
            bail!("the thread does not hold the mutex");
        }
        Ok(held)
    }

    /// Provides the page. When this returns, the mutex is free.
    pub fn release(mut self) -> Result<()> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        // struct uffdio_zeropage: start, length, mode, zeroed
        let start = self.page.addr() as u64;
        self.ioctl(UFFDIO_ZEROPAGE, &mut [start, PAGE as u64, 0, 0])?;
        let events = thread
            .join()
            .ok()
            .context("the thread that held the mutex panicked")??;
        ensure!(
            events == 1,
            "the thread that held the mutex got {events} events"
        );
        Ok(())
    }

    fn ioctl<const N: usize>(&self, request: libc::c_ulong, arg: &mut [u64; N]) -> Result<()> {
        // SAFETY: each of the requests above takes as many words as it is given.
        let ret = unsafe { libc::ioctl(self.uffd.as_raw_fd(), request, arg.as_mut_ptr()) };
        sys::check(ret).context("userfaultfd")?;
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
