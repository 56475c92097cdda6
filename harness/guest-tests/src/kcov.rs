// SPDX-License-Identifier: GPL-2.0
//! Random programs, led by the code that they run in the kernel.
//!
//! Programs are changed at random; one that runs code that no other has run is kept, and
//! is changed in turn. Each runs in a process of its own. Some epoll instances and files
//! are shared by all of them, and by a process that uses them all the time. What is wrong
//! is found by the kernel: the runner of the guest reads its console.

mod area;
mod execute;
mod program;

use std::collections::HashSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use rustix::process::{WaitOptions, waitpid};

use crate::fault;
use crate::handler;
use crate::module::{EPOLL_CR, Module};
use crate::process;
use crate::sys;
use crate::tap::note;
use area::Area;
use execute::Machine;
use program::Program;

const MODULES: [Module; 3] = [handler::MODULE, Module("epoll_iter"), EPOLL_CR];
/// Processes that try programs.
const WORKERS: u64 = 2;
/// A program that takes longer has failed.
const SECONDS: u32 = 60;
/// How often to say how far it is.
const REPORT: Duration = Duration::from_secs(30);

/// What does not change from program to program.
#[derive(Clone, Copy, Debug)]
struct Setting {
    peer: i32,
    faults: bool,
}

/// Loads the modules, and makes what programs share. The child is the other process.
fn prepare(seed: u64) -> Result<(process::Child, Setting)> {
    let loaded: Vec<_> = MODULES.iter().filter(|m| m.load().is_ok()).collect();
    let names: Vec<_> = loaded.iter().map(|module| module.0).collect();
    note(format!("modules: {}", names.join(" ")));
    for module in loaded {
        sections(module.0)?;
    }
    if names.contains(&"epoll_iter") {
        pin_iterator()?;
    }
    let faults = fault::can_inject();
    if faults {
        fault::let_all_fail()?;
    }
    execute::prepare_shared()?;
    let other = process::fork(|| execute::disturb(seed))?;
    let peer = other.pid();
    execute::prepare_process(peer);
    Ok((other, Setting { peer, faults }))
}

/// Says where the code of a module is, for who reads the addresses.
fn sections(module: &str) -> Result<()> {
    let dir = PathBuf::from(format!("/sys/module/{module}/sections"));
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // `.text`, or `.ltext` of large objects.
        if name.ends_with("text") {
            let address = fs::read_to_string(entry.path())?;
            println!("section {module} {name} {}", address.trim());
        }
    }
    Ok(())
}

/// Puts a program for the iterator into the BPF file system, by the bpftool that `BPFTOOL`
/// names.
fn pin_iterator() -> Result<()> {
    let Some(bpftool) = std::env::var_os("BPFTOOL") else {
        note("BPFTOOL is not set: no iterators");
        return Ok(());
    };
    if !execute::has_iterator() {
        let mount = Command::new("mount")
            .args(["-t", "bpf", "bpf", "/sys/fs/bpf"])
            .status()?;
        ensure!(mount.success(), "cannot mount bpf");
        execute::pin_iterator(Path::new(&bpftool))?;
    }
    Ok(())
}

/// Runs a program in a process of its own; what it runs in the kernel is in the area then.
fn execute(program: &Program, setting: Setting, area: Option<&Area>) -> Result<()> {
    if let Some(area) = area {
        area.clear();
    }
    // SAFETY: this process has a single thread.
    let child = match unsafe { sys::fork() }.context("fork")? {
        Some(pid) => pid,
        None => {
            // SAFETY: takes a number.
            unsafe { libc::alarm(SECONDS) };
            let run = || -> Result<()> {
                let machine = Machine::new(setting.peer, setting.faults)?;
                machine.run(program, || area.map_or(Ok(()), Area::enable))?;
                Ok(())
            };
            process::exit_now(match run() {
                Ok(()) => 0,
                Err(error) => {
                    note(format!("{error:#}"));
                    1
                }
            });
        }
    };
    let Some((_, status)) = waitpid(Some(child), WaitOptions::empty())? else {
        bail!("a process is gone");
    };
    let status = ExitStatus::from_raw(status.as_raw());
    match (status.success(), status.signal()) {
        (true, _) => Ok(()),
        (_, Some(libc::SIGALRM)) => bail!("no end after {SECONDS} s: {program}"),
        _ => bail!("{status}: {program}"),
    }
}

/// The steps from one recorded address to the next.
fn steps(area: &Area) -> HashSet<(u64, u64)> {
    let mut last = 0;
    area.addresses()
        .map(|address| (std::mem::replace(&mut last, address), address))
        .collect()
}

/// What one process has found.
#[derive(Debug, Default)]
struct Found {
    programs: u64,
    kept: Vec<Program>,
    steps: HashSet<(u64, u64)>,
}

impl Found {
    fn addresses(&self) -> HashSet<u64> {
        self.steps.iter().map(|&(_, address)| address).collect()
    }

    /// Tries a program, and keeps it if it has run something new, without the calls that
    /// it does not take.
    fn consider(&mut self, program: Program, setting: Setting, area: &Area) -> Result<()> {
        let mut run = |program: &Program| -> Result<HashSet<(u64, u64)>> {
            self.programs += 1;
            execute(program, setting, Some(area))?;
            Ok(steps(area))
        };
        let mut new = run(&program)?;
        new.retain(|step| !self.steps.contains(step));
        if new.is_empty() {
            return Ok(());
        }
        let mut program = program;
        for n in (0..program.calls.len()).rev() {
            let shorter = program.without(n);
            if new.is_subset(&run(&shorter)?) {
                program = shorter;
            }
        }
        self.steps.extend(new);
        self.kept.push(program);
        Ok(())
    }
}

/// One of the processes that try programs.
fn work(worker: u64, time: Duration, seed: u64, setting: Setting, blind: bool) -> Result<()> {
    let mut rng = Rng::with_seed(seed.wrapping_add(worker));
    let area = match blind {
        true => None,
        false => Some(Area::new()?),
    };
    let mut found = Found::default();
    let start = Instant::now();
    let mut report = REPORT;
    while start.elapsed() < time {
        let program = match found.kept.len() {
            0 => Program::random(&mut rng),
            _ if rng.u8(..16) == 0 => Program::random(&mut rng),
            kept => {
                let [one, other] = [rng.usize(..kept), rng.usize(..kept)];
                found.kept[one].mutated(&mut rng, &found.kept[other])
            }
        };
        match &area {
            Some(area) => found.consider(program, setting, area)?,
            None => {
                found.programs += 1;
                execute(&program, setting, None)?;
            }
        }
        if start.elapsed() > report {
            report = start.elapsed() + REPORT;
            note(format!(
                "{worker}: {} s, {} programs, {} kept, {} addresses",
                start.elapsed().as_secs(),
                found.programs,
                found.kept.len(),
                found.addresses().len()
            ));
        }
    }
    for program in &found.kept {
        println!("program {program}");
    }
    for address in found.addresses() {
        println!("address {address:#x}");
    }
    note(format!(
        "{worker}: {} programs, {} kept",
        found.programs,
        found.kept.len()
    ));
    Ok(())
}

/// Tries programs for some time.
pub fn fuzz(time: Duration, seed: u64, blind: bool) -> Result<()> {
    ensure!(
        blind || Area::exists(),
        "this kernel records no coverage: KERNEL=fuzz does, or try --blind"
    );
    note(format!("--seed {seed}"));
    let (_other, setting) = prepare(seed)?;
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        workers.push(process::fork(|| {
            match work(worker, time, seed, setting, blind) {
                Ok(()) => 0,
                Err(error) => {
                    note(format!("{error:#}"));
                    1
                }
            }
        })?);
    }
    for worker in workers {
        worker.finish(time + Duration::from_secs(300))?;
    }
    Ok(())
}

/// Runs the programs in a file, one a line; other lines are ignored, so that it can be
/// the output of `fuzz`.
pub fn replay(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let programs = text
        .lines()
        .filter_map(|line| line.strip_prefix("program "));
    let programs: Vec<Program> = programs.map(str::parse).collect::<Result<_>>()?;
    ensure!(!programs.is_empty(), "{}: no programs", file.display());
    let (_other, setting) = prepare(0)?;
    let area = match Area::exists() {
        true => Some(Area::new()?),
        false => None,
    };
    let mut all = HashSet::new();
    for program in &programs {
        execute(program, setting, area.as_ref())?;
        all.extend(
            area.iter()
                .flat_map(|area| area.addresses().collect::<Vec<_>>()),
        );
    }
    for address in &all {
        println!("address {address:#x}");
    }
    note(format!("{} programs", programs.len()));
    Ok(())
}
