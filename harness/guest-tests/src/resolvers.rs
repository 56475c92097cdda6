// SPDX-License-Identifier: GPL-2.0
//! Random programs: each way to find the owners of targets that works with this kernel
//! is asked about the state that they lead to, and its answers are compared with the
//! model.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use epoll_targets::Descriptor;
use epoll_targets::resolve::{Instance, Method, Owner, Resolved, Resolver, TfdState};
use proptest::strategy::{Strategy, ValueTree};

use crate::Options;
use crate::handler;
use crate::model::{self, FileId, Model, Step};
use crate::module::Module;
use crate::tap::{Case, note, skip};
use crate::world::{World, adopt_orphans};

/// How long kcmp(2) may need to find a time in which nothing else runs.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn cases() -> Vec<Case> {
    [Method::Walk, Method::Bpf, Method::Kcmp, Method::Fdinfo]
        .map(|method| {
            let name = format!("resolvers/{method:?}").to_lowercase();
            let deadline = Duration::from_secs(7200);
            Case::new(name, move |options| programs(options, method)).deadline(deadline)
        })
        .into()
}

/// Counts of the answers so far.
#[derive(Default)]
struct Tally {
    targets: usize,
    same: usize,
    moved: usize,
    orphaned: usize,
    unknown: usize,
}

/// A program that was run, and what is true.
struct Truth {
    model: Model,
    world: World,
    /// The file of each descriptor.
    files: BTreeMap<Descriptor, FileId>,
}

impl Truth {
    fn new(program: &[Step]) -> Result<Self> {
        let model = Model::of(program);
        let world = World::build(&model)?;
        let mut files = BTreeMap::new();
        for process in 0..model.processes() {
            let pid = world.pid(process);
            let table = model.table(process).iter();
            files.extend(table.map(|(&fd, &file)| (Descriptor { pid, fd }, file)));
        }
        Ok(Self {
            model,
            world,
            files,
        })
    }

    fn descriptors(&self, file: FileId) -> BTreeSet<Descriptor> {
        let all = self.files.iter().filter(|&(_, &other)| other == file);
        all.map(|(&descriptor, _)| descriptor).collect()
    }

    fn check(&self, method: Method, tally: &mut Tally) -> Result<()> {
        let begin = Instant::now();
        loop {
            let mut now = Tally::default();
            self.check_once(method, &mut now)?;
            // Others may run, so that it cannot tell.
            if now.unknown == 0 || method == Method::Fdinfo || begin.elapsed() > PATIENCE {
                tally.targets += now.targets;
                tally.same += now.same;
                tally.moved += now.moved;
                tally.orphaned += now.orphaned;
                tally.unknown += now.unknown;
                return Ok(());
            }
        }
    }

    fn check_once(&self, method: Method, tally: &mut Tally) -> Result<()> {
        let all = 0..self.model.processes();
        let pids: Vec<i32> = all.map(|process| self.world.pid(process)).collect();
        let report = Resolver::new(pids)
            .method(method)
            .search_all_processes()
            .resolve()?;
        let mut instances: BTreeMap<FileId, &Instance> = BTreeMap::new();
        for instance in &report.instances {
            let Instance { pid, efd, .. } = *instance;
            let first = Descriptor { pid, fd: efd };
            let all: BTreeSet<Descriptor> = instance.also.iter().copied().chain([first]).collect();
            let file = *self.files.get(&first).context("no such descriptor")?;
            let guessed = method == Method::Fdinfo;
            let whole = self.descriptors(file) == all;
            ensure!(whole || guessed, "{file}: {all:?} have it, it says");
            instances.insert(file, instance);
        }
        let open: BTreeSet<FileId> = self.files.values().copied().collect();
        for file in open {
            let Some(numbers) = self.model.numbers(file) else {
                continue;
            };
            let instance = instances.remove(&file);
            let instance = instance.with_context(|| format!("instance {file} is missing"))?;
            let mut targets = instance.targets.len();
            for tfd in numbers {
                let of_number = instance.targets.iter();
                let of_number = of_number.filter(|t| t.target.tfd == tfd);
                let of_number: Vec<&Resolved> = of_number.collect();
                targets -= of_number.len();
                let entries = self.model.entries(file, tfd).unwrap_or_default();
                self.check_number(method, file, tfd, entries, &of_number, tally)
                    .with_context(|| format!("{tfd} of instance {file}: {of_number:?}"))?;
            }
            ensure!(targets == 0, "{targets} targets that are not there");
        }
        ensure!(instances.is_empty(), "there are others: {instances:?}");
        Ok(())
    }

    /// Checks the targets that have one number.
    fn check_number(
        &self,
        method: Method,
        set: FileId,
        tfd: i32,
        entries: Vec<FileId>,
        targets: &[&Resolved],
        tally: &mut Tally,
    ) -> Result<()> {
        ensure!(entries.len() == targets.len(), "there are {entries:?}");
        let homes: BTreeSet<i32> = self.descriptors(set).iter().map(|d| d.pid).collect();
        let at_tfd = |pid: i32| self.files.get(&Descriptor { pid, fd: tfd }).copied();
        let mut left = entries;
        let mut unknown = 0;
        for resolved in targets {
            tally.targets += 1;
            ensure!(
                resolved.guessed == (method == Method::Fdinfo),
                "is it guessed?"
            );
            let named = match &resolved.owner {
                Owner::Tfd(owner) => vec![*owner],
                Owner::Others(owners) => owners.clone(),
                Owner::Orphaned => {
                    let orphan = |&file: &FileId| self.descriptors(file).is_empty();
                    let place = left.iter().position(orphan).context("nobody's?")?;
                    left.remove(place);
                    tally.orphaned += 1;
                    continue;
                }
                Owner::Unknown => {
                    unknown += 1;
                    continue;
                }
                other => bail!("{other:?}?"),
            };
            if method == Method::Fdinfo {
                unknown += 1;
                continue;
            }
            let file = *self.files.get(&named[0]).context("it is closed")?;
            let place = left.iter().position(|&other| other == file);
            left.remove(place.context("a wrong file")?);
            let all = self.descriptors(file);
            ensure!(named.iter().all(|d| all.contains(d)), "{all:?} have it");
            ensure!(
                resolved.owners_total.is_none_or(|total| total == all.len()),
                "{all:?} have it"
            );
            let is_same = homes.iter().any(|&pid| at_tfd(pid) == Some(file));
            ensure!(
                matches!(resolved.owner, Owner::Tfd(_)) == is_same,
                "does tfd mean it?"
            );
            let others = homes.iter().filter_map(|&pid| at_tfd(pid));
            let stale = others.filter(|&other| other != file).count();
            ensure!(resolved.stale_total == stale, "{stale} are stale");
            let state = matches!(
                (&resolved.tfd_state, is_same, stale),
                (TfdState::Target, true, _)
                    | (TfdState::Closed, false, 0)
                    | (TfdState::Other(_), false, 1..)
            );
            ensure!(state, "the state of tfd");
            *(if is_same {
                &mut tally.same
            } else {
                &mut tally.moved
            }) += 1;
        }
        ensure!(left.len() == unknown, "{left:?} are missing");
        tally.unknown += unknown;
        Ok(())
    }
}

fn check_one(program: &[Step], method: Method) -> Result<()> {
    Truth::new(program)?.check(method, &mut Tally::default())
}

fn programs(options: &Options, method: Method) -> Result<()> {
    const MODULE: Module = Module("epoll_iter");
    if method == Method::Bpf {
        handler::need_patched()?;
        MODULE.load()?;
    }
    let own = std::process::id() as i32;
    if let Err(why) = Resolver::new([own]).method(method).resolve() {
        return skip(format!("{method:?} does not work here: {why}"));
    }
    adopt_orphans()?;
    let mut runner = model::runner(options.seed());
    let strategy = model::program_with_mail();

    let mut tally = Tally::default();
    // Each takes some passes over all processes, of about a second under emulation.
    let programs = options.programs.div_ceil(25);
    for _ in 0..programs {
        let tree = match strategy.new_tree(&mut runner) {
            Ok(tree) => tree,
            Err(why) => bail!("no program: {why}"),
        };
        let checked = Truth::new(&tree.current()).and_then(|t| t.check(method, &mut tally));
        if let Err(err) = checked {
            return Err(model::shrink(tree, err, |program| {
                check_one(program, method)
            }));
        }
    }
    let Tally {
        targets,
        same,
        moved,
        orphaned,
        unknown,
    } = tally;
    note(format!(
        "{programs} programs, {targets} targets: {same} by their numbers, {moved} moved, \
         {orphaned} orphaned, {unknown} unknown"
    ));
    // A few programs need not lead to each answer.
    if programs >= 100 && method != Method::Fdinfo {
        ensure!(same > 0 && moved > 0, "some answers never came");
        let exact = method != Method::Kcmp;
        ensure!(!exact || orphaned > 0 && unknown == 0, "it could not tell");
    }
    if method == Method::Bpf {
        MODULE.unload()?;
    }
    Ok(())
}
