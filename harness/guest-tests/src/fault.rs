// SPDX-License-Identifier: GPL-2.0
//! Each allocation fails in turn: an operation succeeds, or has no effect.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::system::{delete_module, finit_module};

use crate::Options;
use crate::handler;
use crate::module::Module;
use crate::sys::{self, Slot};
use crate::tap::{Case, note, skip};

const FAIL_NTH: &str = "/proc/thread-self/fail-nth";
const DEBUG: &str = "/sys/kernel/debug";
/// Which suites of KUnit run when a module with some is loaded.
const SUITES: &str = "/sys/module/kunit/parameters/filter_glob";

/// The selftests cover what their calls do when allocations fail.
const ITERATOR: Module = Module("epoll_iter");
const DEVICE: Module = Module("epoll_cr");

/// No operation here makes as many allocations and accesses.
const LIMIT: u32 = 20_000;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("fault/injection", injection),
        Case::new("fault/iterator", |_| module(ITERATOR)),
        Case::new("fault/device", |_| module(DEVICE)),
    ]
}

fn injection(_: &Options) -> Result<()> {
    prepare()?;
    add()?;
    query("C")?;
    without_suites(|| {
        load(handler::MODULE, answers)?;
        query("Rust")?;
        unload(handler::MODULE, answers)
    })
}

/// Loads and unloads a module that does not register a handler.
fn module(module: Module) -> Result<()> {
    prepare()?;
    without_suites(|| {
        load(module, || Ok(()))?;
        unload(module, || Ok(()))
    })
}

/// Lets allocations that may sleep fail, too, and accesses to user memory, without a
/// message in the log.
fn prepare() -> Result<()> {
    handler::need_patched()?;
    if !can_inject() {
        return skip("this kernel cannot let allocations fail: no CONFIG_FAULT_INJECTION");
    }
    let_all_fail()
}

/// Whether this kernel can let allocations fail.
pub fn can_inject() -> bool {
    Path::new(FAIL_NTH).exists()
}

/// The same, on any kernel that can inject failures.
pub fn let_all_fail() -> Result<()> {
    for kind in ["failslab", "fail_page_alloc", "fail_usercopy"] {
        let dir = format!("{DEBUG}/{kind}");
        ensure!(Path::new(&dir).exists(), "there is no {dir}");
        for (name, value) in [
            ("verbose", "0"),
            ("ignore-gfp-wait", "N"),
            ("cache-filter", "N"),
            ("ignore-gfp-highmem", "N"),
            ("min-order", "0"),
        ] {
            let path = format!("{dir}/{name}");
            if Path::new(&path).exists() {
                fs::write(&path, value).with_context(|| format!("{path}: {value}"))?;
            }
        }
    }
    Ok(())
}

/// Selects the allocation or access of this thread that fails. The file stays open,
/// because opening it allocates memory, too.
pub struct FailNth(File);

impl FailNth {
    pub fn new() -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(FAIL_NTH);
        Ok(Self(file.context(FAIL_NTH)?))
    }

    pub fn set(&self, n: u32) -> Result<()> {
        let text = n.to_string();
        let write = || self.0.write_all_at(text.as_bytes(), 0);
        match write() {
            // The access of this call failed, and no other will.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => write(),
            result => result,
        }
        .context("cannot set fail-nth")
    }

    /// Whether an allocation or access has failed.
    fn has_failed(&self) -> Result<bool> {
        let mut text = [0; 16];
        match self.0.read_at(&mut text, 0) {
            Ok(len) => Ok(std::str::from_utf8(&text[..len])?.trim() == "0"),
            // The access of this call may be the one that fails.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(false),
            Err(error) => Err(error).context("cannot read fail-nth"),
        }
    }
}

/// Lets each allocation and access of `what` fail in turn, until it has no more of them.
/// `verify` checks the result each time, and undoes the operation.
fn each(
    what: &str,
    mut act: impl FnMut() -> rustix::io::Result<i32>,
    mut verify: impl FnMut(rustix::io::Result<i32>) -> Result<()>,
) -> Result<()> {
    // This maps the pages that the calls need.
    verify(act())?;
    let nth = FailNth::new()?;
    let (mut failed, mut survived) = (0, 0);
    for n in 1..=LIMIT {
        nth.set(n)?;
        let result = act();
        let injected = nth.has_failed()?;
        nth.set(0)?;
        if let Err(errno) = result {
            ensure!(injected, "{what}: {errno} though nothing failed");
            ensure!(
                matches!(errno, Errno::NOMEM | Errno::FAULT),
                "{what}: {errno} when {n} failed"
            );
        }
        verify(result).with_context(|| format!("{what}: after {n} failed"))?;
        if !injected {
            note(format!(
                "{what}: {} can fail: {failed} make it fail, {survived} do not",
                n - 1
            ));
            return Ok(());
        }
        match result {
            Ok(_) => survived += 1,
            Err(_) => failed += 1,
        }
    }
    bail!("{what}: more than {LIMIT} can fail")
}

fn add() -> Result<()> {
    let (efd, fd, me) = (sys::epoll_create()?, sys::eventfd(0)?, sys::getpid());
    let ask = || sys::epoll_tfd(me, fd, me, Slot::new(efd, fd, 0));
    each(
        "EPOLL_CTL_ADD",
        || sys::epoll_add(efd, fd),
        |result| {
            match result {
                Ok(_) => {
                    ensure!(
                        ask() == Ok(sys::EQUAL),
                        "the target was not added: {:?}",
                        ask()
                    );
                    sys::epoll_del(efd, fd)?;
                }
                Err(_) => ensure!(
                    sys::epoll_del(efd, fd) == Err(Errno::NOENT),
                    "half of a target was added"
                ),
            }
            ensure!(ask() == Err(Errno::NOENT), "a target is left: {:?}", ask());
            Ok(())
        },
    )?;
    sys::close(efd)?;
    sys::close(fd)?;
    Ok(())
}

fn query(handler: &str) -> Result<()> {
    let (efd, fd, me) = (sys::epoll_create()?, sys::eventfd(0)?, sys::getpid());
    sys::epoll_add(efd, fd)?;
    let ask = || sys::epoll_tfd(me, fd, me, Slot::new(efd, fd, 0));
    each(&format!("a query to {handler}"), ask, |_| {
        ensure!(ask() == Ok(sys::EQUAL), "a wrong answer: {:?}", ask());
        Ok(())
    })?;
    sys::close(efd)?;
    sys::close(fd)?;
    Ok(())
}

/// Calls `act` with KUnit suites disabled: it loads modules hundreds of times, and an
/// allocation that fails in a suite would not be the module's.
fn without_suites(act: impl FnOnce() -> Result<()>) -> Result<()> {
    if !Path::new(SUITES).exists() {
        return act();
    }
    fs::write(SUITES, "none").context(SUITES)?;
    let result = act();
    fs::write(SUITES, "*").context(SUITES)?;
    result
}

fn load(module: Module, verify: fn() -> Result<()>) -> Result<()> {
    module.unload()?;
    // The allocations of the root file system are not under test.
    let copy = format!("/tmp/{}.ko", module.0);
    let path = module.file()?;
    fs::copy(&path, &copy).with_context(|| path.display().to_string())?;
    let file = File::open(&copy)?;
    each(
        &format!("loading {}", module.0),
        || finit_module(&file, c"", 0).map(|()| 0),
        |result| {
            ensure!(
                module.is_loaded() == result.is_ok(),
                "the module is half loaded"
            );
            verify()?;
            module.unload()
        },
    )?;
    fs::remove_file(&copy)?;
    module.load()
}

fn unload(module: Module, verify: fn() -> Result<()>) -> Result<()> {
    let name = CString::new(module.0)?;
    each(
        &format!("unloading {}", module.0),
        || delete_module(&name, libc::O_NONBLOCK).map(|()| 0),
        |result| {
            ensure!(
                module.is_loaded() == result.is_err(),
                "the module is half unloaded"
            );
            verify()?;
            module.load()
        },
    )?;
    module.unload()
}

/// Checks that the active handler answers correctly.
fn answers() -> Result<()> {
    let (efd, fd, me) = (sys::epoll_create()?, sys::eventfd(0)?, sys::getpid());
    sys::epoll_add(efd, fd)?;
    let answer = sys::epoll_tfd(me, fd, me, Slot::new(efd, fd, 0));
    sys::close(efd)?;
    sys::close(fd)?;
    ensure!(answer == Ok(sys::EQUAL), "a wrong answer: {answer:?}");
    Ok(())
}
