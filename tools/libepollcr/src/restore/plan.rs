// SPDX-License-Identifier: GPL-2.0

//! Finds everything that cannot be restored before anything is changed.

use super::{Error, make};
use crate::image::{Image, Item, Kind, OpenFile, Peer, Pipe, Timer};
use crate::sys;
use crate::types::{Owner, OwnerKind, PipeEnds};
use rustix::process::{Resource, getrlimit};
use std::cell::RefCell;
use std::fmt;
use std::os::fd::OwnedFd;

/// A reason why an image cannot be restored.
///
/// `link` and `why` may contain any character: escape them before they reach a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The index of the file in the image, if the problem is about one.
    pub file: Option<u32>,
    /// The descriptors of the file.
    pub numbers: Vec<u32>,
    /// What the link of the file in `/proc/PID/fd` showed, as far as it is UTF-8.
    pub link: String,
    /// The reason, as a clause of its own.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(file) = self.file else {
            return f.write_str(&self.why);
        };
        match self.numbers[..] {
            [] => write!(f, "file f{file}, which has no descriptor")?,
            [number] => write!(f, "descriptor {number}")?,
            [number, ..] => write!(
                f,
                "descriptor {number} (and {} more)",
                self.numbers.len() - 1
            )?,
        }
        if !self.link.is_empty() {
            write!(f, ", {}", self.link)?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Returns all problems, in the order of the image. `given` says which files need not be
/// made, `by_number` that targets are added with epoll_ctl(2).
pub fn problems(image: &Image, given: &[bool], by_number: bool) -> Vec<Problem> {
    let mut why = Vec::new();
    why.extend(check_descriptors(image, given, by_number));
    why.extend(check_count(image, given));
    if let Err(file) = image.innermost_first() {
        why.push(format!("epoll instance f{file} is its own target"));
    }
    if by_number {
        why.extend(cannot_fire(image, given).map(|(instance, item)| {
            format!(
                "the target for descriptor {} of epoll instance f{instance} is a oneshot that has \
                 fired, and cannot be made to fire again (load the kernel module epoll_cr)",
                item.tfd
            )
        }));
    }
    let general = why.into_iter().map(|why| Problem {
        file: None,
        numbers: Vec::new(),
        link: String::new(),
        why,
    });
    let mut problems: Vec<_> = general.collect();
    let numbers = image.numbers();
    let checks = Checks::new(image, given);
    for (index, file) in image.files.iter().enumerate() {
        if given[index] {
            continue;
        }
        for why in checks.of(file) {
            problems.push(Problem {
                file: Some(index as u32),
                numbers: numbers[index].clone(),
                link: String::from_utf8_lossy(&file.link).into_owned(),
                why,
            });
        }
    }
    problems
}

/// Returns why descriptors of the image, or those that targets were added by, cannot be
/// opened.
fn check_descriptors(image: &Image, given: &[bool], by_number: bool) -> Vec<String> {
    let mut found = Vec::new();
    let lent = match by_number {
        true => lent(image, given),
        false => Vec::new(),
    };
    let last = image.descriptors.last().map(|last| last.number);
    if let Some(last) = last.max(lent.last().copied()) {
        let limit = getrlimit(Resource::Nofile).current;
        if limit.is_some_and(|limit| u64::from(last) >= limit) {
            found.push(format!(
                "the limit of open files is too low for descriptor {last} (raise it with ulimit -n)"
            ));
        }
    }
    let numbers = image.descriptors.iter().map(|d| d.number).chain(lent);
    let taken: Vec<_> = numbers
        .filter(|&number| sys::is_open(number as i32))
        .collect();
    match &taken[..] {
        [] => {}
        [number] => found.push(format!("descriptor {number} is open in this process")),
        [first, rest @ ..] => found.push(format!(
            "{} descriptors are open in this process, the first is {first}",
            rest.len() + 1
        )),
    }
    found
}

/// Returns the descriptors that targets were added by, and that are none of the image,
/// ascending.
fn lent(image: &Image, given: &[bool]) -> Vec<u32> {
    let mut lent: Vec<u32> = all_items(image, given).map(|(_, item)| item.tfd).collect();
    lent.sort_unstable();
    lent.dedup();
    lent.retain(|tfd| {
        let found = image.descriptors.binary_search_by_key(tfd, |d| d.number);
        found.is_err()
    });
    lent
}

/// Returns why a user cannot have so many targets.
fn check_count(image: &Image, given: &[bool]) -> Option<String> {
    let items = items(image, given);
    let watches = watches().filter(|&watches| items as u64 > watches)?;
    Some(format!(
        "there are {items} targets, and a user can have {watches} (raise \
         /proc/sys/fs/epoll/max_user_watches)"
    ))
}

/// Returns the targets that cannot be added with epoll_ctl(2) as they were: oneshots that
/// have fired, and cannot be made to fire again.
pub fn cannot_fire<'a>(
    image: &'a Image,
    given: &'a [bool],
) -> impl Iterator<Item = (usize, &'a Item)> {
    all_items(image, given)
        .filter(move |(_, item)| item.has_fired() && !can_fire(image, given, item.file as usize))
}

/// Counts the targets to add.
pub fn items(image: &Image, given: &[bool]) -> usize {
    all_items(image, given).count()
}

/// Returns the targets to add, each with the index of its epoll instance.
fn all_items<'a>(image: &'a Image, given: &'a [bool]) -> impl Iterator<Item = (usize, &'a Item)> {
    let files = image.files.iter().zip(given).enumerate();
    let made = files.filter(|&(_, (_, &given))| !given);
    made.flat_map(|(instance, (file, _))| {
        let items: &[Item] = match &file.kind {
            Kind::Epoll { items } => items,
            _ => &[],
        };
        items.iter().map(move |item| (instance, item))
    })
}

/// Whether a oneshot target with this file can be made to fire: the file will have an
/// event, or can be given one for a moment.
fn can_fire(image: &Image, given: &[bool], file: usize) -> bool {
    if given[file] {
        // That shows.
        return true;
    }
    let open = &image.files[file];
    match &open.kind {
        Kind::Pipe { pipe } => {
            let pipe = &image.pipes[*pipe as usize];
            let end = PipeEnds::of(open.flags);
            let reads = end.contains(PipeEnds::READ)
                && (pipe.size() > 0
                    || writer(image, given, file).is_some()
                    // It has ended.
                    || pipe.place.is_none());
            let writes = end.contains(PipeEnds::WRITE) && !is_full(pipe);
            reads || writes
        }
        Kind::SignalFd { .. } | Kind::Listener(_) | Kind::PidFd | Kind::Inotify { .. } => false,
        // Others can be written, or are made to expire.
        _ => true,
    }
}

/// Whether a pipe has no room once it has its contents, which are in one piece or in packets.
fn is_full(pipe: &Pipe) -> bool {
    let page = rustix::param::page_size();
    let pages = match pipe.packets {
        Some(true) => pipe
            .data
            .iter()
            .map(|packet| packet.0.len().div_ceil(page))
            .sum(),
        _ => pipe.size().div_ceil(page),
    };
    pages >= pipe.capacity as usize / page
}

/// Returns a file that writes to the pipe that this one reads.
pub fn writer(image: &Image, given: &[bool], reader: usize) -> Option<usize> {
    let Kind::Pipe { pipe: wanted } = image.files[reader].kind else {
        return None;
    };
    if image.pipes[wanted as usize].place.is_some() {
        // Another process may read what is written to a FIFO.
        return None;
    }
    let mut files = image.files.iter().zip(given);
    files.position(|(file, &given)| {
        let same = matches!(file.kind, Kind::Pipe { pipe } if pipe == wanted);
        same && !given && PipeEnds::of(file.flags).contains(PipeEnds::WRITE)
    })
}

/// Returns how many targets a user can have.
fn watches() -> Option<u64> {
    let limit = std::fs::read_to_string("/proc/sys/fs/epoll/max_user_watches");
    limit.ok()?.trim().parse().ok()
}

/// Returns the ends of a pipe that these files are.
pub fn ends(image: &Image, files: &[usize]) -> PipeEnds {
    let ends = files
        .iter()
        .map(|&file| PipeEnds::of(image.files[file].flags));
    ends.collect()
}

/// Whether one of these files has seen that a pipe has no writers any more.
pub fn has_ended(image: &Image, files: &[usize]) -> bool {
    files.iter().any(|&file| {
        let file = &image.files[file];
        let ends = PipeEnds::of(file.flags);
        ends == PipeEnds::READ && file.events.is_some_and(|e| e & libc::POLLHUP as u32 != 0)
    })
}

/// Returns the ends of a pipe that have to be opened, if only for a moment.
pub fn needed(image: &Image, files: &[usize]) -> PipeEnds {
    match has_ended(image, files) {
        true => ends(image, files) | PipeEnds::WRITE,
        false => ends(image, files),
    }
}

/// Whether one of these files writes packets to a pipe.
pub fn writes_packets(image: &Image, files: &[usize]) -> bool {
    files.iter().any(|&file| {
        let flags = image.files[file].flags;
        flags & libc::O_DIRECT as u32 != 0 && PipeEnds::of(flags).contains(PipeEnds::WRITE)
    })
}

/// Returns why a pipe cannot be restored, which holds for all its files.
fn check_pipe(image: &Image, given: &[bool], pipe: &Pipe, files: &[usize]) -> Option<String> {
    if files.iter().all(|&file| given[file]) {
        return None;
    }
    if files.iter().any(|&file| given[file]) {
        return Some("another end of this pipe is given, and this one is not".into());
    }
    let (size, capacity) = (pipe.size(), make::capacity(pipe));
    if size > capacity as usize {
        return Some(format!(
            "it contains {size} bytes, and a pipe can have {capacity} (raise \
             /proc/sys/fs/pipe-max-size)"
        ));
    }
    if let Some(place) = &pipe.place {
        let needed = needed(image, files);
        return make::fifo(pipe, place, needed).err();
    }
    let what = match (
        pipe.elsewhere.contains(PipeEnds::READ),
        pipe.elsewhere.contains(PipeEnds::WRITE),
    ) {
        (false, false) => return None,
        (true, false) => "its read end is open elsewhere, and not in the image",
        (false, true) => "its write end is open elsewhere, and not in the image",
        (true, true) => "its ends are open elsewhere, and not in the image",
    };
    Some(what.into())
}

/// Returns the files of each pipe.
pub fn pipes(image: &Image) -> Vec<Vec<usize>> {
    let mut pipes = vec![Vec::new(); image.pipes.len()];
    for (index, file) in image.files.iter().enumerate() {
        if let Kind::Pipe { pipe } = file.kind {
            pipes[pipe as usize].push(index);
        }
    }
    pipes
}

/// Returns the files of each memory.
pub fn memories(image: &Image) -> Vec<Vec<usize>> {
    let mut memories = vec![Vec::new(); image.memories.len()];
    for (index, file) in image.files.iter().enumerate() {
        if let Kind::Memory { memory, .. } = file.kind {
            memories[memory as usize].push(index);
        }
    }
    memories
}

struct Checks<'a> {
    image: &'a Image,
    given: &'a [bool],
    /// Why each pipe cannot be restored.
    pipes: Vec<Option<String>>,
    ticks: bool,
    /// Inotify instances that can be made.
    inotify: RefCell<Vec<OwnedFd>>,
}

impl<'a> Checks<'a> {
    fn new(image: &'a Image, given: &'a [bool]) -> Self {
        let files = pipes(image);
        let pipes = image.pipes.iter().zip(&files);
        Self {
            image,
            given,
            pipes: pipes
                .map(|(pipe, files)| check_pipe(image, given, pipe, files))
                .collect(),
            ticks: sys::can_set_ticks(),
            inotify: RefCell::default(),
        }
    }
}

impl Checks<'_> {
    fn of(&self, file: &OpenFile) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(locks) = file.locks.filter(|&locks| locks > 0) {
            found.push(match locks {
                1 => "there is a lock on it, which would be lost".into(),
                locks => format!("there are {locks} locks on it, which would be lost"),
            });
        }
        found.extend(file.owner.and_then(|owner| self.owner(owner)));
        found.extend(match &file.kind {
            Kind::Path { place, .. } => make::path(file, place).err(),
            Kind::Pipe { pipe } => self.pipes[*pipe as usize].clone(),
            Kind::TimerFd(timer) => self.timer(timer),
            Kind::Socket(socket) => match socket.peer {
                Peer::Elsewhere => {
                    Some("its peer is not in the image, or cannot be restored".into())
                }
                Peer::File(peer) if self.given[peer as usize] => {
                    Some("its peer is given, and this socket is not".into())
                }
                _ => None,
            },
            Kind::Memory { memory, .. } => {
                let files = self.image.files.iter().zip(self.given);
                let of_it =
                    |kind: &Kind| matches!(kind, Kind::Memory { memory: m, .. } if m == memory);
                let mut given = files.filter(|(file, given)| **given && of_it(&file.kind));
                given.next().map(|_| {
                    "another open file of this memory is given, and this one is not".into()
                })
            }
            // Unless it listens, nobody notices.
            Kind::Listener(listener) => {
                let bound = make::bound(listener);
                bound
                    .err()
                    .map(|error| format!("it cannot listen at {} again: {error}", listener.address))
            }
            // All at once: a user can have so many.
            Kind::Inotify { watches } => match make::inotify(watches) {
                Ok(made) => {
                    self.inotify.borrow_mut().push(made);
                    None
                }
                Err(error) => Some(error.to_string()),
            },
            Kind::Other { why } => Some(why.clone()),
            Kind::EventFd { .. } | Kind::SignalFd { .. } | Kind::Epoll { .. } | Kind::PidFd => None,
        });
        found
    }

    fn owner(&self, owner: Owner) -> Option<String> {
        let what = match owner.kind {
            OwnerKind::Group => "process group",
            OwnerKind::Thread => "thread",
            OwnerKind::Process => "process",
        };
        let itself = owner.kind != OwnerKind::Group && owner.id == self.image.origin.pid;
        (owner.id != 0 && !itself).then(|| format!("its signals go to {what} {}", owner.id))
    }

    fn timer(&self, timer: &Timer) -> Option<String> {
        if timer.ticks > 0 && !self.ticks {
            return Some(
                "it has expired, and this kernel cannot set that (CONFIG_CHECKPOINT_RESTORE)"
                    .into(),
            );
        }
        let made = make::timer_of(timer.clock);
        made.err()
            .map(|error| format!("a timer of this clock cannot be made: {error}"))
    }
}

/// Returns the epoll instances in the order in which they can be given their targets.
pub fn order(image: &Image) -> Result<Vec<usize>, Error> {
    let order = image.innermost_first();
    order.map_err(|_| Error::Problems(problems(image, &vec![false; image.files.len()], false)))
}
