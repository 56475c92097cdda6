// SPDX-License-Identifier: GPL-2.0

//! Guesses the owners of targets by the numbers of descriptors and inodes.

use super::{
    Descriptor, HINTS, Instance, Method, Owner, Report, Resolved, Resolver, Scope, Skipped,
    TfdState, visible,
};
use crate::fdinfo::{Inode, Target, Targets};
use crate::proc::{self, is_no_process};
use crate::reader::Reader;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::RawFd;

/// The descriptors of a process and their links.
type Links = BTreeMap<RawFd, OsString>;

fn list(pid: i32) -> io::Result<Links> {
    let mut links = Links::new();
    for fd in proc::fds(pid)? {
        // Others are closed meanwhile.
        if let Ok(link) = proc::link(pid, fd) {
            links.insert(fd, link);
        }
    }
    if links.is_empty() {
        if let Some(error) = visible::why_nothing(pid) {
            return Err(error);
        }
    }
    Ok(links)
}

/// The descriptors of a process, and those of its threads that have others, by the ids of
/// these, unless they change all the time.
fn tables(pid: i32) -> io::Result<Vec<(i32, Links)>> {
    let mut tables = vec![(pid, list(pid)?)];
    // A thread is named for its own table.
    if proc::tgid(pid).is_ok_and(|first| first != pid) {
        return Ok(tables);
    }
    let tasks = proc::tasks(pid).unwrap_or_default().into_iter();
    for tid in tasks.filter(|&tid| tid != pid) {
        let links = list(tid).unwrap_or_default();
        let is_known = |links: &Links, tables: &[(i32, Links)]| {
            links.is_empty() || tables.iter().any(|(_, known)| known == links)
        };
        if is_known(&links, &tables) {
            continue;
        }
        // One table at different times differs as well.
        tables[0].1 = list(pid)?;
        let again = list(tid).unwrap_or_default();
        if again == links && !is_known(&again, &tables) {
            tables.push((tid, links));
        }
    }
    // If the first thread has ended, the first of these is another one's.
    if tables.len() > 1 {
        tables[0].0 = proc::heir(pid).unwrap_or(pid);
    }
    Ok(tables)
}

/// The number of the inode of a descriptor; kernels before 5.14 do not show it.
fn ino(pid: i32, fd: RawFd) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    let mut lines = text.lines();
    let ino = lines.find_map(|line| line.strip_prefix("ino:"))?;
    ino.trim().parse().ok()
}

pub(super) fn resolve(resolver: &Resolver<'_>) -> io::Result<Report> {
    let mut skipped = Vec::new();
    let (pids, named) = match &resolver.scope {
        Scope::These(pids) => (pids.clone(), true),
        Scope::All => (proc::pids()?, false),
    };
    let mut processes: BTreeMap<i32, Links> = BTreeMap::new();
    for &pid in &pids {
        match tables(pid) {
            Ok(tables) => processes.extend(tables),
            Err(error) if !named && (is_no_process(&error) || !is_refused(&error)) => {}
            Err(error) => super::task::skip(&mut skipped, pid, error),
        }
    }
    let mut by_inode: HashMap<u64, Vec<Descriptor>> = HashMap::new();
    let pids: HashSet<i32> = pids.into_iter().collect();
    let others = proc::pids()?.into_iter().filter(|pid| !pids.contains(pid));
    let others = others.flat_map(|pid| tables(pid).unwrap_or_default());
    for (pid, links) in processes.clone().into_iter().chain(others) {
        for (fd, link) in links {
            // Both ends of a pipe have one inode.
            let is_socket = proc::is_socket(&link) && !proc::is_path_only(pid, fd);
            if let Some(inode) = proc::linked_inode(&link).filter(|_| is_socket) {
                let descriptors = by_inode.entry(inode).or_default();
                descriptors.push(Descriptor { pid, fd });
            }
        }
    }

    let mut reader = Reader::start()?;
    let mut instances = Vec::new();
    for (&pid, links) in &processes {
        let epoll = links
            .iter()
            .filter(|&(&fd, link)| link == proc::EPOLL_LINK && !proc::is_path_only(pid, fd));
        for (&efd, _) in epoll {
            let content = match reader.read(&format!("/proc/{pid}/fdinfo/{efd}")) {
                Ok(content) => content,
                Err(error) => {
                    let efd = Some(efd);
                    skipped.push(Skipped { pid, efd, error });
                    continue;
                }
            };
            let mut targets = Targets::new(&content[..]);
            let all: io::Result<Vec<Target>> = targets.by_ref().collect();
            let id = targets.id();
            let targets = all?.into_iter();
            let targets = targets.map(|target| guess(pid, links, target, &by_inode));
            instances.push(Instance {
                pid,
                efd,
                id,
                also: Vec::new(),
                targets: targets.collect(),
                unconfirmed: None,
            });
        }
    }
    Ok(Report {
        tables: processes.len(),
        descriptors: processes.values().map(BTreeMap::len).sum(),
        instances,
        skipped,
        method: Method::Fdinfo,
        partial: Some("owners are guessed by the numbers of descriptors and inodes".into()),
        ..Report::default()
    })
}

fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

fn guess(
    pid: i32,
    links: &Links,
    target: Target,
    by_inode: &HashMap<u64, Vec<Descriptor>>,
) -> Resolved {
    let fd = target.tfd;
    let at_tfd = Descriptor { pid, fd };
    let link = links.get(&fd).cloned();
    let same = match (&link, target.inode) {
        (None, _) => Some(false),
        (Some(_), None) => None,
        (Some(_), Some(Inode { ino: of_target, .. })) => ino(pid, fd).map(|ino| ino == of_target),
    };
    let (owner, tfd_state) = match (same, link) {
        (Some(true), _) => (Owner::Tfd(at_tfd), TfdState::Target),
        (None, _) => (Owner::Unknown, TfdState::Unknown),
        (Some(false), link) => {
            let of_inode = target.inode.and_then(|inode| by_inode.get(&inode.ino));
            let of_inode = of_inode.into_iter().flatten().take(HINTS).copied();
            let owners: Vec<Descriptor> = of_inode.collect();
            let owner = match owners.is_empty() {
                true => Owner::Unknown,
                false => Owner::Others(owners),
            };
            (owner, link.map_or(TfdState::Closed, TfdState::Other))
        }
    };
    let stale_at = match tfd_state {
        TfdState::Other(_) => vec![at_tfd],
        _ => Vec::new(),
    };
    Resolved {
        target,
        owner,
        tfd_state,
        owners_total: None,
        stale_total: stale_at.len(),
        stale_at,
        changed: false,
        on_ready_list: None,
        guessed: true,
        holders: Vec::new(),
    }
}
