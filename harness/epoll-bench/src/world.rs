// SPDX-License-Identifier: GPL-2.0

//! Sets with many targets.

use std::cmp::Ordering;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use epoll_targets::Descriptor;
use epoll_targets::kcmp::{self, Slot};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{dup, dup2};
use rustix::process::{Resource, Rlimit, getpid, getrlimit, setrlimit};

/// A file that can be watched.
pub fn target() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("cannot make an eventfd")
}

pub fn targets(count: usize) -> Result<Vec<OwnedFd>> {
    (0..count).map(|_| target()).collect()
}

pub fn new_instance() -> Result<OwnedFd> {
    epoll::create(CreateFlags::CLOEXEC).context("cannot make an epoll instance")
}

pub fn add(instance: &OwnedFd, file: &OwnedFd) -> Result<()> {
    let data = EventData::new_u64(u64::from(number(file)));
    epoll::add(instance, file, data, EventFlags::IN).context("EPOLL_CTL_ADD failed")
}

pub fn modify(instance: &OwnedFd, file: &OwnedFd) -> Result<()> {
    let data = EventData::new_u64(u64::from(number(file)));
    epoll::modify(instance, file, data, EventFlags::IN).context("EPOLL_CTL_MOD failed")
}

/// A descriptor's number. It is not negative.
pub fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd() as u32
}

/// An instance with targets that one asks about, from the process that has it, as
/// checkpoint/restore does: by descriptors that are open there.
#[derive(Debug)]
pub struct Instance {
    pub epoll: OwnedFd,
    pub files: Vec<OwnedFd>,
    /// What all were added as, if it is not their own number.
    number: Option<OwnedFd>,
    pid: i32,
}

impl Instance {
    /// No targets yet, each of which will have its own number.
    pub fn distinct() -> Result<Self> {
        Ok(Self {
            epoll: new_instance()?,
            files: Vec::new(),
            number: None,
            pid: getpid().as_raw_pid(),
        })
    }

    /// No targets yet, all of which will have the same number.
    pub fn one_number() -> Result<Self> {
        Ok(Self {
            number: Some(dup(&target()?)?),
            ..Self::distinct()?
        })
    }

    pub fn grow(&mut self, count: usize) -> Result<()> {
        allow_descriptors(count)?;
        while self.files.len() < count {
            let file = target()?;
            match &mut self.number {
                None => add(&self.epoll, &file)?,
                Some(number) => {
                    dup2(&file, number)?;
                    add(&self.epoll, number)?;
                }
            }
            self.files.push(file);
        }
        Ok(())
    }

    fn descriptor(&self, fd: &impl AsRawFd) -> Descriptor {
        Descriptor {
            pid: self.pid,
            fd: fd.as_raw_fd(),
        }
    }

    /// Is that what it is? It is, or something is wrong. Targets have their own
    /// numbers.
    pub fn ask(&self, index: usize) -> Result<()> {
        let fd = &self.files[index];
        let slot = Slot {
            efd: self.epoll.as_raw_fd(),
            tfd: fd.as_raw_fd(),
            toff: 0,
        };
        match kcmp::epoll_tfd(self.descriptor(fd), self.pid, slot)? {
            Ordering::Equal => Ok(()),
            other => bail!("the answer should be 'equal', but is {other:?}"),
        }
    }

    /// Compare some file with the one in this place among those of one number.
    /// Which of them that is is not known.
    pub fn ask_offset(&self, toff: usize) -> Result<()> {
        let slot = Slot {
            efd: self.epoll.as_raw_fd(),
            tfd: self.number.as_ref().map_or(0, AsRawFd::as_raw_fd),
            toff: u32::try_from(toff)?,
        };
        kcmp::epoll_tfd(self.descriptor(&self.files[0]), self.pid, slot)?;
        Ok(())
    }

    /// The query that looks up the same two descriptors, and no target.
    pub fn ask_files(&self, index: usize) -> Result<()> {
        kcmp::files(
            self.descriptor(&self.files[index]),
            self.descriptor(&self.epoll),
        )?;
        Ok(())
    }

    /// Epoll's own lookup of a target, if these have their own descriptors.
    pub fn modify(&self, index: usize) -> Result<()> {
        modify(&self.epoll, &self.files[index])
    }
}

/// So many descriptors for instances and targets, and some for us.
pub fn allow_descriptors(count: usize) -> Result<()> {
    let wanted = count as u64 + 4096;
    raise("/proc/sys/fs/nr_open", wanted)?;
    allow_watches(count)?;
    let now = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= wanted);
    if !enough(now.current) {
        let maximum = if enough(now.maximum) {
            now.maximum
        } else {
            Some(wanted)
        };
        let limit = Rlimit {
            current: Some(wanted),
            maximum,
        };
        setrlimit(Resource::Nofile, limit)
            .with_context(|| format!("may not have {wanted} descriptors open: run this as root"))?;
    }
    Ok(())
}

/// So many targets in all.
pub fn allow_watches(count: usize) -> Result<()> {
    raise("/proc/sys/fs/epoll/max_user_watches", count as u64 + 4096)
}

fn raise(file: &str, wanted: u64) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let now: u64 = text
        .trim()
        .parse()
        .with_context(|| format!("there is no number in {file}"))?;
    if now < wanted {
        fs::write(file, format!("{wanted}\n")).with_context(|| {
            format!("cannot raise {file} from {now} to {wanted}: run this as root")
        })?;
    }
    Ok(())
}

/// Before anything is measured.
pub fn check_support() -> Result<()> {
    let support = kcmp::support();
    ensure!(support == kcmp::Support::Epoll, "{support}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_by_their_numbers() {
        if kcmp::support() != kcmp::Support::Epoll {
            eprintln!("skipped: {}", kcmp::support());
            return;
        }
        let mut instance = Instance::distinct().unwrap();
        instance.grow(3).unwrap();
        instance.grow(7).unwrap();
        for index in 0..7 {
            instance.ask(index).unwrap();
            instance.ask_files(index).unwrap();
            instance.modify(index).unwrap();
        }
        // Another file at the number of a target is not the target.
        let _kept = dup(&instance.files[3]).unwrap();
        let other = target().unwrap();
        dup2(&other, &mut instance.files[3]).unwrap();
        assert_eq!(
            instance
                .ask(3)
                .unwrap_err()
                .to_string()
                .split(", but")
                .next(),
            Some("the answer should be 'equal'")
        );
    }

    #[test]
    fn one_number_has_as_many_offsets_as_targets() {
        if kcmp::support() != kcmp::Support::Epoll {
            eprintln!("skipped: {}", kcmp::support());
            return;
        }
        let mut instance = Instance::one_number().unwrap();
        instance.grow(5).unwrap();
        for toff in 0..5 {
            instance.ask_offset(toff).unwrap();
        }
        assert!(instance.ask_offset(5).is_err());
    }
}
