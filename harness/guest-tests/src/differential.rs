// SPDX-License-Identifier: GPL-2.0
//! Random programs: every query about the resulting state is put to both handlers, and
//! the answers are compared with those of a model.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rustix::io::Errno;

use crate::Options;
use crate::handler::{self, Handler};
use crate::model::{self, BASE, FileId, Model, Step};
use crate::sys::{self, Slot};
use crate::tap::{Case, note};
use crate::world::{World, adopt_orphans};

/// How many programs are run between two changes of the handler, which cost more than
/// the programs do.
const BATCH: u32 = 100;

pub fn cases() -> Vec<Case> {
    let deadline = std::time::Duration::from_secs(7200);
    vec![Case::new("differential/programs", programs).deadline(deadline)]
}

/// A process of the program, or one that does not exist.
type Who = Option<usize>;

/// Does descriptor `fd` of `who1` have the file of target `slot` of an epoll instance of
/// `who2`?
#[derive(Clone, Copy, Debug)]
struct Query {
    who1: Who,
    fd: i32,
    who2: Who,
    slot: Slot,
}

/// A program that was run, with the queries about it and their answers.
struct Asked {
    model: Model,
    world: World,
    queries: Vec<Query>,
    answers: [Vec<i32>; 2],
}

impl Asked {
    fn prepare(program: &[Step]) -> Result<Self> {
        let model = Model::of(program);
        let world = World::build(&model)?;
        let queries = queries(&model);
        Ok(Self {
            model,
            world,
            queries,
            answers: [Vec::new(), Vec::new()],
        })
    }

    fn ask(&mut self, handler: Handler) {
        let pid = |who: Who| who.map_or(-1, |process| self.world.pid(process));
        self.answers[handler as usize] = self
            .queries
            .iter()
            .map(|q| sys::code(sys::epoll_tfd(pid(q.who1), q.fd, pid(q.who2), q.slot)))
            .collect();
    }

    fn verify(&self) -> Result<()> {
        let [c, rust] = &self.answers;
        for ((query, &c), &rust) in self.queries.iter().zip(c).zip(rust) {
            ensure!(
                c == rust,
                "{query:?}: C says {}, Rust says {}",
                sys::describe(c),
                sys::describe(rust)
            );
        }
        let ranks = self.ranks()?;
        self.verify_answers(c, &ranks)
    }

    /// Returns the rank of each file in the order of KCMP_FILE. Fails if that is not an
    /// order, or does not tell files apart as the model does.
    fn ranks(&self) -> Result<BTreeMap<FileId, usize>> {
        let mut owners: BTreeMap<FileId, Vec<(i32, i32)>> = BTreeMap::new();
        for process in 0..self.model.processes() {
            for (&fd, &file) in self.model.table(process) {
                let owner = (self.world.pid(process), fd);
                owners.entry(file).or_default().push(owner);
            }
        }
        let compare = |(pid1, fd1), (pid2, fd2)| sys::files(pid1, fd1, pid2, fd2);
        for owners in owners.values() {
            for &owner in owners {
                let answer = compare(owners[0], owner)?;
                ensure!(answer == sys::EQUAL, "{owners:?}: KCMP_FILE says {answer}");
            }
        }
        let mut failed = None;
        let mut files: Vec<_> = owners.iter().map(|(&file, all)| (file, all[0])).collect();
        files.sort_by(|&(_, a), &(_, b)| match compare(a, b) {
            Ok(sys::LESS) => Ordering::Less,
            Ok(sys::GREATER) => Ordering::Greater,
            other => {
                if a != b {
                    failed = Some((a, b, other));
                }
                Ordering::Equal
            }
        });
        if let Some((a, b, other)) = failed {
            bail!("KCMP_FILE of {a:?} and {b:?}, which are two: {other:?}");
        }
        for pair in files.windows(2) {
            let (a, b) = (pair[0].1, pair[1].1);
            ensure!(
                compare(a, b)? == sys::LESS && compare(b, a)? == sys::GREATER,
                "KCMP_FILE orders {a:?} and {b:?} in two ways"
            );
        }
        Ok(files
            .iter()
            .enumerate()
            .map(|(n, &(file, _))| (file, n))
            .collect())
    }

    fn verify_answers(&self, answers: &[i32], ranks: &BTreeMap<FileId, usize>) -> Result<()> {
        // The model knows the file of each target, except for the order of targets with
        // one number. The answers `equal` tell that.
        let mut targets: BTreeMap<(FileId, u32, u32), FileId> = BTreeMap::new();
        for (query, &answer) in self.queries.iter().zip(answers) {
            if answer != sys::EQUAL {
                continue;
            }
            let (file, set) = self
                .subject(query)
                .map_err(|errno| anyhow::anyhow!("{query:?}: equal, but must be {errno:?}"))?;
            let entry = (set, query.slot.tfd, query.slot.toff);
            let before = targets.insert(entry, file);
            ensure!(
                before.is_none_or(|before| before == file),
                "{query:?}: equal to two files"
            );
        }

        for (query, &answer) in self.queries.iter().zip(answers) {
            let expect = match self.subject(query) {
                Err(errno) => sys::code(Err(errno)),
                Ok((file, set)) => {
                    let Slot { tfd, toff, .. } = query.slot;
                    let target = targets.get(&(set, tfd, toff));
                    let target = target
                        .with_context(|| format!("{query:?}: the target is equal to no file"))?;
                    let files = self.model.entries(set, tfd as i32).unwrap_or_default();
                    ensure!(files.contains(target), "{query:?}: equal to a wrong file");
                    match ranks[&file].cmp(&ranks[target]) {
                        Ordering::Less => sys::LESS,
                        Ordering::Equal => sys::EQUAL,
                        Ordering::Greater => sys::GREATER,
                    }
                }
            };
            ensure!(
                answer == expect,
                "{query:?}: {} is right, the answer is {}",
                sys::describe(expect),
                sys::describe(answer)
            );
        }

        // Each file that was added by a number is one of the targets of that number.
        for &(set, tfd, _) in targets.keys() {
            let mut expect = self.model.entries(set, tfd as i32).unwrap_or_default();
            let mut found: Vec<_> = targets
                .range((set, tfd, 0)..=(set, tfd, u32::MAX))
                .map(|(_, &file)| file)
                .collect();
            expect.sort_unstable();
            found.sort_unstable();
            ensure!(found == expect, "two targets of {tfd} have the same file");
        }
        Ok(())
    }

    /// Returns the file and the epoll instance that a query is about, or the right error.
    fn subject(&self, query: &Query) -> Result<(FileId, FileId), Errno> {
        let who1 = query.who1.ok_or(Errno::SRCH)?;
        let who2 = query.who2.ok_or(Errno::SRCH)?;
        let find = |process, fd| self.model.table(process).get(&fd).copied();
        let file = find(who1, query.fd).ok_or(Errno::BADF)?;
        let set = find(who2, query.slot.efd as i32).ok_or(Errno::BADF)?;
        let entries = self.model.entries(set, query.slot.tfd as i32);
        let entries = entries.ok_or(Errno::INVAL)?;
        if query.slot.toff as usize >= entries.len() {
            return Err(Errno::NOENT);
        }
        Ok((file, set))
    }
}

/// All queries about the state, and some about what does not exist.
fn queries(model: &Model) -> Vec<Query> {
    let closed = |process: usize| {
        let table = model.table(process);
        (BASE..).find(|n| !table.contains_key(n)).unwrap_or(BASE)
    };
    let mut firsts = Vec::new();
    let mut slots = Vec::new();
    for process in 0..model.processes() {
        let who = Some(process);
        let table = model.table(process);
        firsts.extend(table.keys().map(|&fd| (who, fd)));
        firsts.push((who, closed(process)));
        slots.push((who, Slot::new(closed(process), BASE, 0)));
        for (&efd, &file) in table {
            let Some(numbers) = model.numbers(file) else {
                slots.push((who, Slot::new(efd, BASE, 0)));
                continue;
            };
            for &tfd in &numbers {
                let count = model.entries(file, tfd).map_or(0, |files| files.len());
                slots.extend((0..=count as u32).map(|toff| (who, Slot::new(efd, tfd, toff))));
            }
            // A number that no target has.
            let tfd = (BASE..).find(|n| !numbers.contains(n)).unwrap_or(BASE);
            slots.push((who, Slot::new(efd, tfd, 0)));
        }
    }
    firsts.push((None, BASE));
    slots.push((None, Slot::new(BASE, BASE, 0)));

    let mut queries = Vec::with_capacity(firsts.len() * slots.len());
    for &(who1, fd) in &firsts {
        queries.extend(slots.iter().map(|&(who2, slot)| Query {
            who1,
            fd,
            who2,
            slot,
        }));
    }
    queries
}

/// Runs one program alone, and checks the answers about it.
fn check_one(program: &[Step]) -> Result<()> {
    let mut asked = Asked::prepare(program)?;
    for handler in Handler::BOTH {
        let _answering = handler.answers()?;
        asked.ask(handler);
    }
    asked.verify()
}

/// Counts of the programs and answers so far.
#[derive(Default)]
struct Tally {
    programs: u32,
    processes: usize,
    /// For each descriptor of each epoll instance, how many targets it has.
    counts: Vec<usize>,
    /// How often each answer came.
    answers: BTreeMap<i32, u64>,
}

impl Tally {
    fn add(&mut self, asked: &Asked) {
        self.programs += 1;
        self.processes += asked.model.processes();
        self.counts.extend(asked.model.counts());
        for &answer in &asked.answers[0] {
            *self.answers.entry(answer).or_default() += 1;
        }
    }

    fn tell(&self) {
        let answers: Vec<_> = self
            .answers
            .iter()
            .map(|(&answer, n)| format!("{} {n}", sys::describe(answer)))
            .collect();
        note(format!(
            "{} programs, {} processes, {} targets, up to {} of one descriptor; {} queries to \
             each handler: {}",
            self.programs,
            self.processes,
            self.counts.iter().sum::<usize>(),
            self.counts.iter().max().unwrap_or(&0),
            self.answers.values().sum::<u64>(),
            answers.join(", ")
        ));
    }

    /// Random programs that reach only half of the code would show nothing.
    fn check(&self) -> Result<()> {
        let several = self.counts.iter().filter(|&&count| count > 1).count();
        ensure!(several > 0, "no descriptor ever had two targets");
        let errnos = [Errno::SRCH, Errno::BADF, Errno::INVAL, Errno::NOENT];
        let needed = [sys::EQUAL, sys::LESS, sys::GREATER];
        let errnos = errnos.map(|errno| sys::code(Err(errno)));
        for answer in needed.into_iter().chain(errnos) {
            ensure!(
                self.answers.contains_key(&answer),
                "no query was answered by {}",
                sys::describe(answer)
            );
        }
        Ok(())
    }
}

/// Runs this many programs, asks the handlers in this order, and compares.
fn batch(runner: &mut TestRunner, size: u32, order: [Handler; 2], tally: &mut Tally) -> Result<()> {
    let strategy = model::program();
    let mut batch = Vec::new();
    for _ in 0..size {
        let tree = match strategy.new_tree(runner) {
            Ok(tree) => tree,
            Err(why) => bail!("no program: {why}"),
        };
        match Asked::prepare(&tree.current()) {
            Ok(asked) => batch.push((tree, asked)),
            Err(err) => return Err(model::shrink(tree, err, check_one)),
        }
    }
    for handler in order {
        match handler {
            Handler::C => handler::unload()?,
            Handler::Rust => handler::load()?,
        }
        for (_, asked) in &mut batch {
            asked.ask(handler);
        }
    }
    for (tree, asked) in batch {
        if let Err(err) = asked.verify() {
            drop(asked);
            return Err(model::shrink(tree, err, check_one));
        }
        tally.add(&asked);
    }
    Ok(())
}

fn programs(options: &Options) -> Result<()> {
    handler::need_patched()?;
    adopt_orphans()?;
    let mut runner = model::runner(options.seed());

    let mut tally = Tally::default();
    let mut order = Handler::BOTH;
    let mut told = Instant::now();
    while tally.programs < options.programs {
        let size = BATCH.min(options.programs - tally.programs);
        batch(&mut runner, size, order, &mut tally)?;
        // Starting with the handler that is active saves a change.
        order.reverse();
        if told.elapsed().as_secs() >= 10 {
            told = Instant::now();
            note(format!(
                "{} of {} programs",
                tally.programs, options.programs
            ));
        }
    }
    handler::unload()?;

    tally.tell();
    // A few programs need not lead to every answer.
    if tally.programs >= 100 {
        tally.check()?;
    }
    Ok(())
}
