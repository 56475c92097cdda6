// SPDX-License-Identifier: GPL-2.0

//! The time to see all targets of another process's instance, and which of its
//! descriptors are for them; and the time to restore an instance.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use epoll_targets::Descriptor;
use epoll_targets::fdinfo::{self, Target};
use epoll_targets::kcmp::{self, Slot};
use epoll_targets::pidfd::PidFd;
use libepollcr::device::{self, Add, ByIdentity, Device};
use rustix::event::epoll::{self, EventData, EventFlags};

use super::process::{Place, Process};
use super::{Session, Subject};
use crate::bpf::{BUFFER, read_to_end};
use crate::handler::{Handler, Switch};
use crate::record::{Layout, Suite, Variant, What};
use crate::timing::{SAMPLE, in_turn};
use crate::world::{allow_descriptors, new_instance, number, targets};

const SIZES: &[usize] = &[1_000, 10_000, 100_000, 1_000_000];
const RESTORED: &[usize] = &[1_000, 10_000, 100_000];
const ROUNDS: u32 = 5;

/// How many entries the handler in C may walk past in a pass, if each query took
/// it to the end of the instance: it is asked about fewer targets where there are more.
const MOST_STEPS: usize = 100_000_000;

/// How many files are described in one call, as the library does.
const AT_ONCE: usize = 256;

/// EPOLLIN, and what epoll adds.
const EVENTS: u32 = 0x19;

pub fn run(session: &mut Session<'_>, switch: &mut Switch) -> Result<()> {
    let (build_id, device) = match prepare(switch) {
        Ok(both) => both,
        Err(error) => {
            eprintln!("# checkpoint is skipped: {error:#}");
            return Ok(());
        }
    };
    for targets in session.sizes(SIZES) {
        let subject = subject(targets, &build_id);
        session.progress(&subject);
        let owner = Owner::new(&device, targets)?;
        checkpoints(session, switch, &subject, &owner)?;
    }
    for targets in session.sizes(RESTORED) {
        let subject = subject(targets, &build_id);
        session.progress(&subject);
        restores(session, &subject, &device)?;
    }
    Ok(())
}

/// The module's build id, and its device.
fn prepare(switch: &mut Switch) -> Result<(String, Device)> {
    let build_id = switch.checkpoint()?;
    let device = Device::open().with_context(|| format!("cannot open {}", device::PATH))?;
    Ok((build_id, device))
}

fn subject(targets: usize, build_id: &str) -> Subject<'_> {
    Subject {
        suite: Suite::Checkpoint,
        layout: Layout::Distinct,
        targets,
        asked: None,
        handler: Some(build_id),
    }
}

/// How many of the targets the handler in C is asked about: all, as long as that
/// ends.
fn asked_of_c(targets: usize) -> usize {
    targets.min(MOST_STEPS / targets)
}

fn checkpoints(
    session: &mut Session<'_>,
    switch: &mut Switch,
    subject: &Subject<'_>,
    owner: &Owner<'_>,
) -> Result<()> {
    let n = subject.targets;
    let of_c = asked_of_c(n);
    let mut buffer = vec![0; BUFFER];
    let mut device = || timed(|| owner.checkpoint().map(drop));
    let mut described = || timed(|| owner.describe(&owner.checkpoint()?));
    let mut fdinfo = || timed(|| owner.read_fdinfo(&mut buffer));

    let (mut devices, mut alls, mut fdinfos) = (Vec::new(), Vec::new(), Vec::new());
    let (mut c, mut rust) = (Vec::new(), Vec::new());
    let (mut samples, mut all_samples, mut fdinfo_samples) = (0, 0, 0);
    for round in 0..session.rounds(ROUNDS) {
        let mut ways: [&mut dyn FnMut() -> Result<f64>; 3] = [
            &mut || sample(n, &mut samples, &mut device),
            &mut || sample(n, &mut all_samples, &mut described),
            &mut || sample(n, &mut fdinfo_samples, &mut fdinfo),
        ];
        // None always follows the same one.
        if round % 2 == 1 {
            ways.reverse();
        }
        let mut medians = in_turn(3, &mut ways)?;
        if round % 2 == 1 {
            medians.reverse();
        }
        devices.push(medians[0]);
        alls.push(medians[1]);
        fdinfos.push(medians[2]);
        for &handler in Handler::order(round) {
            switch.to(handler)?;
            match handler {
                Handler::C => c.push(owner.ask(of_c)?),
                Handler::Rust => rust.push(owner.ask(n)?),
            }
        }
    }

    let what = What::Checkpoint;
    let rounds = u32::try_from(c.len())?;
    let of_c = Subject {
        asked: (of_c < n).then_some(of_c),
        ..*subject
    };
    for (subject, variant, runs, samples) in [
        (subject, Variant::EpollCr, &devices, samples),
        (subject, Variant::EpollCrDescribe, &alls, all_samples),
        (subject, Variant::Fdinfo, &fdinfos, fdinfo_samples),
        (&of_c, Variant::C, &c, rounds),
        (subject, Variant::Rust, &rust, rounds),
    ] {
        session.write(subject, what, variant, runs, samples)?;
    }
    Ok(())
}

/// The process that has the instance, and the ways to look at it. It waits for its
/// input all the time, and changes nothing.
struct Owner<'a> {
    device: &'a Device,
    // Ends with this.
    _process: Process,
    pid: i32,
    pidfd: PidFd,
    efd: RawFd,
    targets: usize,
}

impl<'a> Owner<'a> {
    fn new(device: &'a Device, targets: usize) -> Result<Self> {
        let process = Process::new(Place::Here, targets)?;
        let pid = process.pid()?;
        let pidfd = PidFd::open(pid).context("cannot open the process that has the instance")?;
        let table = device.files(device::Process::Other(pidfd.as_fd()))?;
        let mut instances = table.descriptors.iter().filter(|d| d.epoll);
        let (Some(instance), None) = (instances.next(), instances.next()) else {
            bail!("the process should have one instance");
        };
        Ok(Self {
            device,
            _process: process,
            pid,
            pidfd,
            efd: instance.fd as RawFd,
            targets,
        })
    }

    fn process(&self) -> device::Process<'_> {
        device::Process::Other(self.pidfd.as_fd())
    }

    /// Each open file of the process behind its first descriptor, in their order,
    /// having looked which one each target of its instance has: the one that it was
    /// added by.
    fn checkpoint(&self) -> Result<Vec<(u32, u64)>> {
        let table = self.device.files(self.process())?;
        let mut first = ByIdentity::default();
        first.reserve(table.descriptors.len());
        let mut files = Vec::with_capacity(table.descriptors.len());
        for descriptor in &table.descriptors {
            first.entry(descriptor.file).or_insert_with(|| {
                files.push((descriptor.fd, descriptor.file));
                descriptor.fd
            });
        }
        let mut seen = 0;
        for instance in table.descriptors.iter().filter(|d| d.epoll) {
            for item in self.device.snapshot(self.process(), instance.fd)?.items {
                ensure!(
                    first.get(&item.file) == Some(&item.tfd) && item.events == EVENTS,
                    "the device tells {item:?}, which is wrong"
                );
                seen += 1;
            }
        }
        ensure!(
            seen == self.targets,
            "{seen} targets were seen, not {}",
            self.targets
        );
        Ok(files)
    }

    /// What those files are, by one descriptor for each.
    fn describe(&self, files: &[(u32, u64)]) -> Result<()> {
        for chunk in files.chunks(AT_ONCE) {
            let fds: Vec<_> = chunk.iter().map(|&(fd, _)| fd).collect();
            let descriptions = self.device.describe(self.process(), &fds)?;
            for ((_, file), description) in chunk.iter().zip(descriptions) {
                ensure!(
                    description.is_some_and(|description| description.file == *file),
                    "the device describes another file"
                );
            }
        }
        Ok(())
    }

    fn read_fdinfo(&self, buffer: &mut [u8]) -> Result<()> {
        let path = format!("/proc/{}/fdinfo/{}", self.pid, self.efd);
        read_to_end(&mut File::open(path)?, buffer)?;
        Ok(())
    }

    /// As CRIU does: parse fdinfo and ask one query a target. Nanoseconds a
    /// target; where there are fewer queries, they are spread over the instance in
    /// its order, that of a walk.
    fn ask(&self, queries: usize) -> Result<f64> {
        let start = Instant::now();
        let targets: Vec<Target> = fdinfo::read(self.pid, self.efd)?.collect::<io::Result<_>>()?;
        let parsing = start.elapsed();
        let n = targets.len();
        ensure!(
            n == self.targets,
            "{n} targets are in fdinfo, not {}",
            self.targets
        );

        let start = Instant::now();
        for i in 0..queries {
            let Target { tfd, toff, .. } = targets[middle(i, queries, n)];
            let slot = Slot {
                efd: self.efd,
                tfd,
                toff,
            };
            let (pid, fd) = (self.pid, tfd);
            match kcmp::epoll_tfd(Descriptor { pid, fd }, pid, slot)? {
                Ordering::Equal => {}
                other => bail!("the answer should be 'equal', but is {other:?}"),
            }
        }
        let asking = start.elapsed();
        Ok(nanoseconds(parsing) / n as f64 + nanoseconds(asking) / queries as f64)
    }
}

/// What is in the middle of the `i`th of so many parts of `n`.
fn middle(i: usize, parts: usize, n: usize) -> usize {
    (2 * i + 1) * n / (2 * parts)
}

/// The device and as many calls of `epoll_ctl()`, each on instances of its own, in turn.
fn restores(session: &mut Session<'_>, subject: &Subject<'_>, device: &Device) -> Result<()> {
    let n = subject.targets;
    allow_descriptors(n)?;
    let files = targets(n)?;
    let items: Vec<Add<'_>> = files
        .iter()
        .map(|file| Add {
            fd: file.as_fd(),
            tfd: number(file),
            events: EVENTS,
            ready: false,
            data: u64::from(number(file)),
        })
        .collect();
    check(device, &items)?;

    // To make and to close an instance is not counted.
    let mut by_device = || {
        let instance = new_instance()?;
        timed(|| restore(device, &instance, &items))
    };
    let mut by_calls = || {
        let instance = new_instance()?;
        timed(|| add_each(&instance, &items))
    };
    let (mut devices, mut calls) = (Vec::new(), Vec::new());
    let (mut samples, mut call_samples) = (0, 0);
    for round in 0..session.rounds(ROUNDS) {
        let mut device = || sample(n, &mut samples, &mut by_device);
        let mut call = || sample(n, &mut call_samples, &mut by_calls);
        // Neither is always the one that comes first.
        if round % 2 == 0 {
            let medians = in_turn(3, &mut [&mut device, &mut call])?;
            devices.push(medians[0]);
            calls.push(medians[1]);
        } else {
            let medians = in_turn(3, &mut [&mut call, &mut device])?;
            devices.push(medians[1]);
            calls.push(medians[0]);
        }
    }

    let what = What::Restore;
    for (variant, runs, samples) in [
        (Variant::EpollCr, &devices, samples),
        (Variant::CtlAdd, &calls, call_samples),
    ] {
        session.write(subject, what, variant, runs, samples)?;
    }
    Ok(())
}

fn restore(device: &Device, instance: &OwnedFd, items: &[Add<'_>]) -> Result<()> {
    Ok(device.restore(instance.as_fd(), items)?)
}

fn add_each(instance: &OwnedFd, items: &[Add<'_>]) -> Result<()> {
    for item in items {
        let events = EventFlags::from_bits_retain(item.events);
        epoll::add(instance, item.fd, EventData::new_u64(item.data), events)?;
    }
    Ok(())
}

/// Both ways have to come to the same instance, before anything is timed.
fn check(device: &Device, items: &[Add<'_>]) -> Result<()> {
    let see = |instance: &OwnedFd| device.snapshot(device::Process::Own, number(instance));
    let (restored, added) = (new_instance()?, new_instance()?);
    restore(device, &restored, items)?;
    add_each(&added, items)?;
    let (restored, added) = (see(&restored)?.items, see(&added)?.items);
    ensure!(
        restored.len() == items.len() && restored == added,
        "what was restored is not what is added by EPOLL_CTL_ADD"
    );
    let right = |(seen, item): (&device::Item, &Add<'_>)| {
        (seen.tfd, seen.events, seen.data) == (item.fd.as_raw_fd() as u32, item.events, item.data)
    };
    // Both are in the order of the numbers.
    ensure!(
        restored.iter().zip(items).all(right),
        "targets were restored with wrong numbers, events or data"
    );
    Ok(())
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_nanos() as f64
}

fn timed(act: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    act()?;
    Ok(start.elapsed())
}

/// Nanoseconds a target, from as many passes as make a sample long enough; each
/// says how long it took.
fn sample(
    targets: usize,
    samples: &mut u32,
    pass: &mut dyn FnMut() -> Result<Duration>,
) -> Result<f64> {
    let mut passes = 0u32;
    let mut took = Duration::ZERO;
    while took < SAMPLE {
        took += pass()?;
        passes += 1;
    }
    *samples += 1;
    Ok(nanoseconds(took) / f64::from(passes) / targets as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_is_asked_about_fewer_where_it_is_slow() {
        let of = |n: &usize| asked_of_c(*n);
        assert!(SIZES.iter().map(of).eq([1_000, 10_000, 1_000, 100]));
    }

    #[test]
    fn a_sample_is_spread_over_the_set() {
        let all: Vec<usize> = (0..10).map(|i| middle(i, 10, 10)).collect();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        let some: Vec<usize> = (0..4).map(|i| middle(i, 4, 100)).collect();
        assert_eq!(some, [12, 37, 62, 87]);
    }

    #[test]
    fn a_sample_has_as_many_passes_as_it_takes() {
        let (mut samples, mut passes) = (0, 0);
        let mut pass = || {
            passes += 1;
            Ok(SAMPLE / 4)
        };
        let ns = sample(100, &mut samples, &mut pass).unwrap();
        assert_eq!((samples, passes), (1, 4));
        assert_eq!(ns, nanoseconds(SAMPLE) / 400.0);
    }
}
