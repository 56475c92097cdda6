// SPDX-License-Identifier: GPL-2.0

//! What is printed, and what is found out for that beside the owners of targets: the
//! commands of processes, whether targets are ready, what holds the orphaned ones, the
//! addresses of sockets, and the state of other files without a path.

use crate::anonymous;
use crate::args::Args;
use crate::holders::Holders;
use crate::names::{self, Commands, Directories};
use crate::sockets::Sockets;
use epoll_targets::Descriptor;
use epoll_targets::fdinfo::Events;
use epoll_targets::ready::Poller;
use epoll_targets::resolve::{Instance, Owner, Report, Resolved};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;

/// Of how many targets the details are looked up. Of more, nobody reads them.
const DETAILED: usize = 10_000;

/// By what both BPF and fdinfo show of a target: pid and efd of the instance, tfd, data and
/// inode. Of files without a path, which have one inode, several can have the same.
type Place = (i32, RawFd, RawFd, u64, u64);

fn place(instance: &Instance, resolved: &Resolved) -> Option<Place> {
    let Instance { pid, efd, .. } = *instance;
    let target = &resolved.target;
    Some((pid, efd, target.tfd, target.data, target.inode?.ino))
}

/// Whether a target is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// For these events; none if it is not.
    For(Events),
    /// Its file cannot be asked. Whether it is on the ready list, if that was seen.
    Listed(Option<bool>),
}

pub struct Extra<'a> {
    pub args: &'a Args,
    pub report: &'a Report,
    commands: Commands,
    directories: Directories,
    poller: Poller,
    /// What was answered, since each row is made twice.
    ready: HashMap<(i32, RawFd, RawFd, u32), Option<Events>>,
    hidden: Hidden,
    sockets: Sockets,
    is_detailed: bool,
}

/// What holds orphaned targets, beside what their report says.
#[derive(Default)]
struct Hidden {
    /// As BPF sees it.
    known: HashMap<Place, Vec<String>>,
    /// As `/proc` shows it: for the others, if BPF does not see all.
    guessed: Option<Holders>,
}

impl<'a> Extra<'a> {
    pub fn new(args: &'a Args, report: &'a Report) -> Self {
        let targets = || report.instances.iter().flat_map(|i| &i.targets);
        let has_orphans = targets().any(Resolved::is_orphaned);
        let is_list = args.is_list();
        let mut commands = Commands::default();
        Self {
            args,
            report,
            poller: Poller::default(),
            ready: HashMap::new(),
            hidden: match report.holders {
                _ if !has_orphans || !is_list => Hidden::default(),
                Some(is_complete) => Hidden {
                    guessed: (!is_complete).then(Holders::all),
                    ..Hidden::default()
                },
                None => hidden(report, &mut commands),
            },
            commands,
            directories: Directories::default(),
            sockets: Sockets::default(),
            is_detailed: is_list && !args.json && targets().count() <= DETAILED,
        }
    }

    /// For rows that are printed while others are searched for: there is no report yet.
    pub fn early(args: &'a Args, nothing: &'a Report) -> Self {
        Self {
            args,
            report: nothing,
            commands: Commands::default(),
            directories: Directories::default(),
            poller: Poller::default(),
            ready: HashMap::new(),
            hidden: Hidden::default(),
            sockets: Sockets::default(),
            is_detailed: false,
        }
    }

    /// The command name of a process; `?` if it is gone.
    pub fn command(&mut self, pid: i32) -> &str {
        self.commands.of(pid)
    }

    /// Whether a target is ready.
    pub fn ready(&mut self, instance: &Instance, resolved: &Resolved) -> Ready {
        let listed = Ready::Listed(resolved.on_ready_list);
        self.events(instance, resolved).map_or(listed, Ready::For)
    }

    /// The events for which a target is ready; `None` if it cannot be asked.
    fn events(&mut self, instance: &Instance, resolved: &Resolved) -> Option<Events> {
        let Instance { pid, efd, .. } = *instance;
        let owner = match &resolved.owner {
            Owner::Tfd(owner) => *owner,
            Owner::Others(owners) => *owners.first()?,
            _ => return None,
        };
        let target = &resolved.target;
        let known = self.ready.entry((pid, efd, target.tfd, target.toff));
        *known.or_insert_with(|| {
            let at = Descriptor { pid, fd: efd };
            self.poller.ready(at, owner, target).ok()
        })
    }

    /// What else than descriptors holds the file of an orphaned target.
    pub fn holders(&mut self, instance: &Instance, resolved: &Resolved) -> Vec<String> {
        if !resolved.holders.is_empty() {
            let holders = resolved.holders.iter();
            let names = holders.map(|holder| names::holder(holder, &mut self.commands));
            return names.collect();
        }
        let Some(place) = place(instance, resolved).filter(|_| resolved.is_orphaned()) else {
            return Vec::new();
        };
        if let Some(known) = self.hidden.known.get(&place) {
            return known.clone();
        }
        let guessed = self.hidden.guessed.as_ref();
        guessed.map_or_else(Vec::new, |holders| holders.of(resolved))
    }

    /// The link of a descriptor; `None` if it is closed by now.
    pub fn link(&mut self, descriptor: Descriptor) -> Option<OsString> {
        self.directories.link(descriptor)
    }

    /// The addresses of a descriptor that is a socket, or what state it is in if it is a
    /// file that has no path, by its link.
    pub fn details(&mut self, descriptor: Descriptor, link: &OsStr) -> Option<String> {
        if !self.is_detailed {
            return None;
        }
        let link = link.to_str()?;
        let sockets = self.sockets.addresses(descriptor.pid, link);
        sockets.or_else(|| anonymous::details(descriptor, link, &mut self.directories))
    }
}

#[cfg(feature = "bpf")]
fn hidden(report: &Report, commands: &mut Commands) -> Hidden {
    let all = epoll_targets::trace::hidden_holders().unwrap_or_default();
    let mut known: HashMap<Place, Vec<String>> = HashMap::new();
    for hidden in &all.found {
        let name = names::holder(&hidden.holder, commands);
        for at in &hidden.instance {
            let place = (at.pid, at.fd, hidden.tfd, hidden.data, hidden.ino);
            let named = known.entry(place).or_default();
            if !named.contains(&name) {
                named.push(name.clone());
            }
        }
    }
    // Of several that look the same, each may be the one that is held.
    let mut seen = std::collections::HashSet::new();
    for instance in &report.instances {
        for place in instance.targets.iter().filter_map(|t| place(instance, t)) {
            let Some(names) = known.get_mut(&place) else {
                continue;
            };
            if !seen.insert(place) {
                let certain = names.iter_mut().filter(|name| !name.starts_with("perhaps"));
                certain.for_each(|name| name.insert_str(0, "perhaps "));
            }
        }
    }
    Hidden {
        known,
        guessed: (!all.is_complete).then(Holders::all),
    }
}

#[cfg(not(feature = "bpf"))]
fn hidden(_: &Report, _: &mut Commands) -> Hidden {
    Hidden {
        known: HashMap::new(),
        guessed: Some(Holders::all()),
    }
}
