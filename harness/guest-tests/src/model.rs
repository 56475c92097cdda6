// SPDX-License-Identifier: GPL-2.0
//! Random programs, and the state that they must lead to: the files that the descriptors
//! of each process refer to, and the targets of the epoll instances.

mod program;

use std::collections::{BTreeMap, VecDeque};

use anyhow::Result;
use proptest::strategy::ValueTree;
use rustix::io::Errno;

use crate::tap::note;
pub use program::{Kind, Step, program, program_with_mail, runner};

/// The first descriptor of the program; lower ones are the workers' own.
pub const BASE: i32 = 100;
/// How many descriptors are used: few, so that they are reused often.
const NUMBERS: i32 = 14;
/// How many of them are used by `AddAs`, to add several files by one number.
const SHARED: u8 = 3;

pub const MAX_PROCESSES: usize = 3;

/// How many messages wait at most.
const MAX_MAIL: usize = 4;

/// How many epoll instances there can be: the kernel limits how deep they are nested.
const MAX_SETS: usize = 4;

/// What one process does, with all choices made.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Create {
        kind: Kind,
        at: [i32; 2],
    },
    Dup {
        fd: i32,
    },
    Dup2 {
        fd: i32,
        to: i32,
    },
    Close {
        fd: i32,
    },
    /// The child has this index.
    Fork {
        child: usize,
    },
    Send {
        fd: i32,
    },
    Receive {
        at: i32,
    },
    Ctl {
        efd: i32,
        op: i32,
        fd: i32,
        events: u32,
    },
    Exit,
}

#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub process: usize,
    pub op: Op,
    pub expect: Result<i32, Errno>,
}

/// An open file, as long as a descriptor or a message refers to it.
pub type FileId = usize;

#[derive(Clone, Debug)]
struct File {
    /// The targets of an epoll instance, by number and file, with their events.
    set: Option<BTreeMap<(i32, FileId), u32>>,
}

#[derive(Clone, Debug, Default)]
struct Process {
    table: BTreeMap<i32, FileId>,
    exited: bool,
}

/// The state after the steps so far.
#[derive(Clone, Debug)]
pub struct Model {
    files: BTreeMap<FileId, File>,
    processes: Vec<Process>,
    /// The files of messages that nobody has received, the oldest first.
    mail: VecDeque<FileId>,
    created: usize,
    sets: usize,
    pub plan: Vec<Planned>,
}

impl Model {
    pub fn of(program: &[Step]) -> Self {
        let mut model = Self {
            files: BTreeMap::new(),
            processes: vec![Process::default()],
            mail: VecDeque::new(),
            created: 0,
            sets: 0,
            plan: Vec::new(),
        };
        for step in program {
            let _ = model.step(step);
        }
        model
    }

    pub fn processes(&self) -> usize {
        self.processes.len()
    }

    /// The descriptor table of a process.
    pub fn table(&self, process: usize) -> &BTreeMap<i32, FileId> {
        &self.processes[process].table
    }

    /// The files that were added to an epoll instance by one number; `None` if it is not
    /// an epoll instance.
    pub fn entries(&self, set: FileId, tfd: i32) -> Option<Vec<FileId>> {
        let entries = self.files[&set].set.as_ref()?;
        Some(
            entries
                .range((tfd, 0)..=(tfd, FileId::MAX))
                .map(|(&(_, file), _)| file)
                .collect(),
        )
    }

    /// The numbers of the targets of an epoll instance.
    pub fn numbers(&self, set: FileId) -> Option<Vec<i32>> {
        let entries = self.files[&set].set.as_ref()?;
        let mut numbers: Vec<_> = entries.keys().map(|&(tfd, _)| tfd).collect();
        numbers.dedup();
        Some(numbers)
    }

    /// For each number of each epoll instance, how many targets have it.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = BTreeMap::new();
        for (&set, file) in &self.files {
            for (tfd, _) in file.set.iter().flat_map(BTreeMap::keys) {
                *counts.entry((set, tfd)).or_default() += 1;
            }
        }
        counts.into_values().collect()
    }

    /// Returns `None` if the step needs something that does not exist.
    fn step(&mut self, step: &Step) -> Option<()> {
        match *step {
            Step::Create { process, kind, at } => {
                let process = self.pick_process(process);
                self.create(process, kind, at.map(number));
            }
            Step::Dup { process, fd } => {
                let process = self.pick_process(process);
                let fd = self.pick(process, fd)?;
                self.dup(process, fd);
            }
            Step::Dup2 { process, fd, to } => {
                let process = self.pick_process(process);
                let (fd, to) = (self.pick(process, fd)?, number(to));
                self.dup2(process, fd, to);
            }
            Step::Close { process, fd } => {
                let process = self.pick_process(process);
                let fd = self.pick(process, fd)?;
                let file = self.processes[process].table.remove(&fd);
                let expect = file.map(|_| 0).ok_or(Errno::BADF);
                self.run(process, Op::Close { fd }, expect);
                self.release(file);
            }
            Step::Fork { process } => {
                let process = self.pick_process(process);
                self.fork(process);
            }
            Step::Pass {
                process,
                fd,
                to,
                at,
            } => {
                let (process, to) = (self.pick_process(process), self.pick_process(to));
                let (fd, at) = (self.pick(process, fd)?, number(at));
                self.pass((process, fd), (to, at));
            }
            Step::Post { process, fd } => {
                let process = self.pick_process(process);
                let fd = self.pick(process, fd)?;
                self.post(process, fd);
            }
            Step::Exit { process } => {
                let process = self.pick_process(process);
                self.exit(process);
            }
            Step::AddAs {
                process,
                efd,
                fd,
                to,
            } => {
                let process = self.pick_process(process);
                let efd = self.pick_set(process, efd)?;
                let (fd, to) = (self.pick(process, fd)?, number(to % SHARED));
                self.dup2(process, fd, to);
                self.ctl(process, efd, libc::EPOLL_CTL_ADD, to, 0);
            }
            Step::Ctl {
                process,
                efd,
                fd,
                op,
                events,
            } => {
                let process = self.pick_process(process);
                let efd = self.pick_set(process, efd)?;
                let fd = self.pick(process, fd)?;
                self.ctl(process, efd, operation(op), fd, u32::from(events & 1));
            }
        }
        Some(())
    }

    fn create(&mut self, process: usize, kind: Kind, at: [i32; 2]) {
        // One more epoll instance could be nested too deep.
        let kind = match kind {
            Kind::Epoll if self.sets == MAX_SETS => Kind::Eventfd,
            kind => kind,
        };
        self.run(process, Op::Create { kind, at }, Ok(0));
        let ends = match kind {
            Kind::Pipe | Kind::Socketpair => 2,
            _ => 1,
        };
        let ids = [self.created, self.created + 1];
        self.created += ends;
        for &id in &ids[..ends] {
            let set = (kind == Kind::Epoll).then(BTreeMap::new);
            self.sets += usize::from(set.is_some());
            self.files.insert(id, File { set });
        }
        for (&id, at) in ids[..ends].iter().zip(at) {
            self.install(process, at, id);
        }
    }

    fn dup(&mut self, process: usize, fd: i32) {
        let table = &mut self.processes[process].table;
        let free = (BASE..).find(|n| !table.contains_key(n)).unwrap_or(BASE);
        let file = table.get(&fd).copied();
        if let Some(file) = file {
            table.insert(free, file);
        }
        let expect = file.map(|_| free).ok_or(Errno::BADF);
        self.run(process, Op::Dup { fd }, expect);
    }

    fn fork(&mut self, process: usize) {
        let child = self.processes.len();
        if child < MAX_PROCESSES {
            self.run(process, Op::Fork { child }, Ok(0));
            self.processes.push(self.processes[process].clone());
        }
    }

    fn send(&mut self, process: usize, fd: i32) -> bool {
        let file = self.file(process, fd);
        let expect = file.map(|_| 0).ok_or(Errno::BADF);
        self.run(process, Op::Send { fd }, expect);
        self.mail.extend(file);
        file.is_some()
    }

    /// Sends a descriptor that nobody receives, unless the sender would wait: more would
    /// not fit.
    fn post(&mut self, process: usize, fd: i32) {
        if self.mail.len() < MAX_MAIL {
            self.send(process, fd);
        }
    }

    /// Passes descriptor `fd` of a process to another one, which gets what was sent first
    /// as `at`.
    fn pass(&mut self, (process, fd): (usize, i32), (to, at): (usize, i32)) {
        if !self.send(process, fd) {
            return;
        }
        let file = self.mail.pop_front();
        self.run(to, Op::Receive { at }, Ok(0));
        if let Some(file) = file {
            self.install(to, at, file);
        }
    }

    fn exit(&mut self, process: usize) {
        // The queries need the first one.
        if process == 0 {
            return;
        }
        self.run(process, Op::Exit, Ok(0));
        let table = std::mem::take(&mut self.processes[process].table);
        self.processes[process].exited = true;
        for file in table.into_values() {
            self.release(Some(file));
        }
    }

    fn dup2(&mut self, process: usize, fd: i32, to: i32) {
        let file = self.file(process, fd);
        let expect = file.map(|_| to).ok_or(Errno::BADF);
        self.run(process, Op::Dup2 { fd, to }, expect);
        if let Some(file) = file {
            self.install(process, to, file);
        }
    }

    fn ctl(&mut self, process: usize, efd: i32, op: i32, fd: i32, events: u32) {
        let (set, file) = (self.file(process, efd), self.file(process, fd));
        // An instance can be added to an older one only, which rules out cycles.
        if let (Some(set), Some(file)) = (set, file) {
            let nested = self.files[&file].set.is_some();
            if op == libc::EPOLL_CTL_ADD && nested && file < set {
                return;
            }
        }
        let expect = self.ctl_result(set, op, fd, file, events);
        self.run(
            process,
            Op::Ctl {
                efd,
                op,
                fd,
                events,
            },
            expect,
        );
    }

    fn ctl_result(
        &mut self,
        set: Option<FileId>,
        op: i32,
        fd: i32,
        file: Option<FileId>,
        events: u32,
    ) -> Result<i32, Errno> {
        let set = set.ok_or(Errno::BADF)?;
        let file = file.ok_or(Errno::BADF)?;
        if set == file {
            return Err(Errno::INVAL);
        }
        let entries = self.files.get_mut(&set).and_then(|file| file.set.as_mut());
        let entries = entries.ok_or(Errno::INVAL)?;
        let key = (fd, file);
        match (op, entries.contains_key(&key)) {
            (libc::EPOLL_CTL_ADD, true) => return Err(Errno::EXIST),
            (libc::EPOLL_CTL_ADD, false) => {}
            (_, false) => return Err(Errno::NOENT),
            (_, true) => {}
        }
        if op == libc::EPOLL_CTL_DEL {
            entries.remove(&key);
        } else {
            entries.insert(key, events);
        }
        Ok(0)
    }

    fn run(&mut self, process: usize, op: Op, expect: Result<i32, Errno>) {
        self.plan.push(Planned {
            process,
            op,
            expect,
        });
    }

    fn file(&self, process: usize, fd: i32) -> Option<FileId> {
        self.processes[process].table.get(&fd).copied()
    }

    fn install(&mut self, process: usize, at: i32, file: FileId) {
        let old = self.processes[process].table.insert(at, file);
        self.release(old);
    }

    /// Removes a file that no descriptor refers to any more from all epoll instances:
    /// a target does not keep its file open.
    fn release(&mut self, file: Option<FileId>) {
        let Some(file) = file else { return };
        let open = self.processes.iter().flat_map(|p| p.table.values());
        let mut open = open.chain(&self.mail);
        if open.any(|&other| other == file) {
            return;
        }
        self.files.remove(&file);
        for other in self.files.values_mut() {
            if let Some(entries) = &mut other.set {
                entries.retain(|&(_, target), _| target != file);
            }
        }
    }

    fn pick_process(&self, n: u8) -> usize {
        let alive: Vec<_> = (0..self.processes.len())
            .filter(|&p| !self.processes[p].exited)
            .collect();
        alive[usize::from(n) % alive.len()]
    }

    /// Mostly a descriptor that is open.
    fn pick(&self, process: usize, n: u8) -> Option<i32> {
        let open: Vec<_> = self.processes[process].table.keys().copied().collect();
        choose(&open, n)
    }

    /// Mostly a descriptor of an epoll instance.
    fn pick_set(&self, process: usize, n: u8) -> Option<i32> {
        let table = &self.processes[process].table;
        let sets: Vec<_> = table
            .iter()
            .filter(|(_, file)| self.files[file].set.is_some())
            .map(|(&fd, _)| fd)
            .collect();
        choose(&sets, n)
    }
}

/// Mostly additions, so that there is something to query.
fn operation(n: u8) -> i32 {
    match n % 8 {
        0..=5 => libc::EPOLL_CTL_ADD,
        6 => libc::EPOLL_CTL_MOD,
        _ => libc::EPOLL_CTL_DEL,
    }
}

/// One of these; rarely another number, also if there are none.
fn choose(from: &[i32], n: u8) -> Option<i32> {
    match n {
        240.. => Some(number(n)),
        _ if from.is_empty() => None,
        _ => Some(from[usize::from(n) % from.len()]),
    }
}

fn number(n: u8) -> i32 {
    BASE + i32::from(n) % NUMBERS
}

/// Shrinks a program that failed, prints the smallest one, and returns its error.
pub fn shrink(
    mut tree: impl ValueTree<Value = Vec<Step>>,
    err: anyhow::Error,
    check: impl Fn(&[Step]) -> Result<()>,
) -> anyhow::Error {
    let mut smallest = (tree.current(), err);
    let mut tries = 0;
    let mut more = tree.simplify();
    while more && tries < 500 {
        tries += 1;
        more = match check(&tree.current()) {
            Err(err) => {
                smallest = (tree.current(), err);
                tree.simplify()
            }
            Ok(()) => tree.complicate(),
        };
    }
    let (program, err) = smallest;
    note(format!("the smallest program, after {tries} tries:"));
    for step in &program {
        note(format!("  {step:?}"));
    }
    note("which is:");
    for planned in Model::of(&program).plan {
        note(format!("  {planned:?}"));
    }
    err
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTFD: Kind = Kind::Eventfd;

    fn create(kind: Kind, at: u8) -> Step {
        let at = [at, at];
        Step::Create {
            process: 0,
            kind,
            at,
        }
    }

    fn counts(program: &[Step]) -> Vec<usize> {
        Model::of(program).counts()
    }

    /// An epoll instance, and a file that is its target.
    fn one_entry() -> Vec<Step> {
        let add = Step::Ctl {
            process: 0,
            efd: 0,
            fd: 1,
            op: 0,
            events: 0,
        };
        vec![create(Kind::Epoll, 0), create(EVENTFD, 1), add]
    }

    #[test]
    fn an_entry_stays_as_long_as_its_file() {
        let mut program = one_entry();
        assert_eq!(counts(&program), [1]);
        program.push(Step::Dup { process: 0, fd: 1 });
        program.push(Step::Close { process: 0, fd: 1 });
        assert_eq!(counts(&program), [1]);
        program.push(Step::Close { process: 0, fd: 1 });
        assert_eq!(counts(&program), []);
    }

    #[test]
    fn a_child_keeps_files_open() {
        let mut program = one_entry();
        program.push(Step::Fork { process: 0 });
        program.push(Step::Close { process: 0, fd: 1 });
        assert_eq!(counts(&program), [1]);
        program.push(Step::Exit { process: 1 });
        assert_eq!(counts(&program), []);
    }

    #[test]
    fn a_message_keeps_a_file_open() {
        let mut program = one_entry();
        program.push(Step::Post { process: 0, fd: 1 });
        program.push(Step::Close { process: 0, fd: 1 });
        assert_eq!(counts(&program), [1]);
        // This one is received, not what is sent.
        program.push(Step::Pass {
            process: 0,
            fd: 0,
            to: 0,
            at: 5,
        });
        program.push(Step::Close { process: 0, fd: 1 });
        assert_eq!(counts(&program), []);
    }

    #[test]
    fn files_of_one_number_are_different_entries() {
        let mut program = one_entry();
        let add = program[2];
        program.push(Step::Dup { process: 0, fd: 1 });
        program.push(create(EVENTFD, 1));
        program.push(add);
        let model = Model::of(&program);
        assert_eq!(model.counts(), [2]);
        assert!(model.plan.iter().all(|planned| planned.expect.is_ok()));
    }

    #[test]
    fn what_cannot_be_added_is_refused() {
        let mut program = one_entry();
        program.push(program[2]);
        let model = Model::of(&program);
        assert_eq!(model.plan[3].expect, Err(Errno::EXIST));
        assert_eq!(model.counts(), [1]);
    }
}
