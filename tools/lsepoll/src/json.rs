// SPDX-License-Identifier: GPL-2.0

//! For programs. The manual page documents it: lsepoll.1, OUTPUT FOR PROGRAMS.

use crate::extra::{Extra, Ready};
use crate::names;
use epoll_cli::text::unicode;
use epoll_targets::resolve::{Descriptor, Owner, Resolved, TfdState};
use epoll_targets::{fdinfo, resolve};
use serde::Serialize;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;

#[derive(Serialize)]
struct Output<'a> {
    version: u32,
    complete: bool,
    /// Why not all processes could be seen.
    partial: Option<&'a str>,
    /// Epoll instances. The name is part of the interface; `instances` beside it would be
    /// the whole output twice.
    sets: Vec<Instance<'a>>,
    skipped: Vec<Skipped>,
    statistics: Statistics,
}

#[derive(Serialize)]
struct Instance<'a> {
    pid: i32,
    command: String,
    efd: RawFd,
    epoll_id: Option<u64>,
    also: Vec<Place>,
    /// Whether fdinfo agrees.
    confirmed: bool,
    targets: Vec<Target<'a>>,
}

#[derive(Serialize)]
struct Target<'a> {
    tfd: RawFd,
    toff: u32,
    events: Events,
    data: String,
    inode: Option<Inode>,
    orphaned: bool,
    /// What `orphaned` was called.
    zombie: bool,
    stale: bool,
    stuck: bool,
    changed: bool,
    guessed: bool,
    owner: &'static str,
    owners: Vec<Place>,
    /// How many there are, named or not.
    owners_total: Option<usize>,
    /// Where tfd means another file, among the processes that have the instance.
    stale_at: Vec<Place>,
    stale_total: usize,
    number: &'static str,
    number_file: Option<std::borrow::Cow<'a, str>>,
    /// Only if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<Option<Events>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_ready_list: Option<Option<bool>>,
    /// What else than descriptors holds the file of an orphaned target.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    holders: Vec<String>,
}

#[derive(Serialize)]
struct Events {
    bits: u32,
    names: Vec<&'static str>,
}

#[derive(Serialize)]
struct Inode {
    ino: u64,
    major: u32,
    minor: u32,
}

#[derive(Serialize)]
struct Place {
    pid: i32,
    fd: RawFd,
    file: Option<String>,
}

#[derive(Serialize)]
struct Skipped {
    pid: i32,
    efd: Option<RawFd>,
    reason: String,
}

#[derive(Serialize)]
struct Statistics {
    resolver: &'static str,
    /// Why no better one was used.
    fallback: Option<String>,
    tables: usize,
    descriptors: usize,
    kcmp_file: u64,
    kcmp_epoll_tfd: u64,
    kcmp_files: u64,
}

impl From<Descriptor> for Place {
    fn from(descriptor: Descriptor) -> Self {
        Self {
            pid: descriptor.pid,
            fd: descriptor.fd,
            file: names::link(descriptor).map(|link| unicode(link.as_bytes()).into_owned()),
        }
    }
}

impl From<fdinfo::Inode> for Inode {
    fn from(inode: fdinfo::Inode) -> Self {
        Self {
            ino: inode.ino,
            major: inode.major,
            minor: inode.minor,
        }
    }
}

impl From<fdinfo::Events> for Events {
    fn from(events: fdinfo::Events) -> Self {
        Self {
            bits: events.0,
            names: events.names().collect(),
        }
    }
}

impl<'a> From<&'a Resolved> for Target<'a> {
    fn from(resolved: &'a Resolved) -> Self {
        let target = resolved.target;
        let (owner, owners) = match &resolved.owner {
            Owner::Tfd(place) => ("same", vec![(*place).into()]),
            Owner::Others(places) => ("other", places.iter().map(|&p| p.into()).collect()),
            Owner::Orphaned => ("none", Vec::new()),
            _ => ("unknown", Vec::new()),
        };
        let (number, number_file) = match &resolved.tfd_state {
            TfdState::Target => ("target", None),
            TfdState::Closed => ("closed", None),
            TfdState::Other(link) => ("other", Some(unicode(link.as_bytes()))),
            _ => ("unknown", None),
        };
        Self {
            tfd: target.tfd,
            toff: target.toff,
            events: target.events.into(),
            data: format!("{:#x}", target.data),
            inode: target.inode.map(Inode::from),
            orphaned: resolved.is_orphaned(),
            zombie: resolved.is_orphaned(),
            stale: resolved.is_stale(),
            stuck: resolved.is_stuck(),
            changed: resolved.changed,
            guessed: resolved.guessed,
            owner,
            owners,
            owners_total: resolved.owners_total,
            stale_at: resolved.stale_at.iter().map(|&p| p.into()).collect(),
            stale_total: resolved.stale_total,
            number,
            number_file,
            ready: None,
            on_ready_list: None,
            holders: Vec::new(),
        }
    }
}

fn instance<'a>(instance: &'a resolve::Instance, extra: &mut Extra<'_>) -> Instance<'a> {
    let args = extra.args;
    let command = extra.command(instance.pid).to_owned();
    let shown = instance.targets.iter().filter(|target| args.shows(target));
    let targets = shown.map(|resolved| Target {
        ready: args.ready.then(|| match extra.ready(instance, resolved) {
            Ready::For(events) => Some(events.into()),
            Ready::Listed(_) => None,
        }),
        on_ready_list: args.ready.then_some(resolved.on_ready_list),
        holders: extra.holders(instance, resolved),
        ..resolved.into()
    });
    Instance {
        pid: instance.pid,
        command,
        efd: instance.efd,
        epoll_id: instance.id,
        also: instance.also.iter().map(|&place| place.into()).collect(),
        confirmed: instance.unconfirmed.is_none(),
        targets: targets.collect(),
    }
}

pub fn print(extra: &mut Extra<'_>, out: &mut impl Write) -> io::Result<()> {
    let (args, report) = (extra.args, extra.report);
    let skipped = report.skipped.iter();
    let calls = report.calls;
    let output = Output {
        version: 1,
        complete: report.is_complete(),
        partial: report.partial.as_deref(),
        sets: report
            .instances
            .iter()
            .map(|i| instance(i, extra))
            .filter(|i| !i.targets.is_empty() || !args.is_filtered())
            .collect(),
        skipped: skipped
            .map(|skipped| Skipped {
                pid: skipped.pid,
                efd: skipped.efd,
                reason: crate::reason(skipped),
            })
            .collect(),
        statistics: Statistics {
            resolver: crate::method_name(report.method),
            fallback: crate::fallback(report),
            tables: report.tables,
            descriptors: report.descriptors,
            kcmp_file: calls.file,
            kcmp_epoll_tfd: calls.epoll_tfd,
            kcmp_files: calls.tables,
        },
    };
    epoll_cli::json::print(&output, out)
}
