// SPDX-License-Identifier: GPL-2.0

//! The time to find the owner of every target of another process's set, with
//! the library's resolver: by kcmp, answered by the handler in C or by the module,
//! and by BPF.

use std::env::current_exe;
use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use epoll_targets::resolve::{Method, Owner, Resolver};
use rustix::io::fcntl_dupfd_cloexec;

use super::{Session, Subject};
use crate::handler::{Handler, Switch};
use crate::record::{Layout, Suite, Unit, Variant, What};
use crate::timing::spread;
use crate::world::{add, allow_descriptors, new_set, target};

const SIZES: &[usize] = &[1_000, 10_000, 50_000];
const ROUNDS: u32 = 3;

/// Where the descriptors of the targets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Place {
    /// At the numbers that they were added by.
    Here,
    /// At others; those numbers are closed.
    Moved,
}

/// How many rounds the handler in C gets: a question takes it as long as the set
/// is large, and with descriptors moved there are many questions for each target.
fn rounds_of_c(place: Place, targets: usize, rounds: u32) -> u32 {
    let most = match (place, targets) {
        (_, ..10_000) | (Place::Here, ..50_000) => rounds,
        (Place::Here, _) => 2,
        (Place::Moved, ..50_000) => 1,
        (Place::Moved, _) => 0,
    };
    rounds.min(most)
}

pub fn run(session: &mut Session<'_>, switch: &mut Switch) -> Result<()> {
    let build_id = switch.build_id().to_string();
    let bpf_works = match switch.iterator() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("# without BPF: {error:#}");
            false
        }
    };
    for (what, place) in [
        (What::ResolveInPlace, Place::Here),
        (What::ResolveMoved, Place::Moved),
    ] {
        for targets in session.sizes(SIZES) {
            let subject = Subject {
                suite: Suite::Resolve,
                layout: Layout::Distinct,
                targets,
                handler: Some(&build_id),
            };
            session.progress(&subject);
            let owner = Process::new(place, targets)?;
            let rounds = session.rounds(ROUNDS);
            let (mut c, mut rust, mut bpf) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..rounds {
                for handler in Handler::order(round) {
                    if handler == Handler::C && round >= rounds_of_c(place, targets, rounds) {
                        continue;
                    }
                    switch.to(handler)?;
                    let ns = resolve(&owner, place, targets, Method::Kcmp)?;
                    match handler {
                        Handler::C => c.push(ns),
                        Handler::Rust => rust.push(ns),
                    }
                }
                // Whoever answers kcmp: it is asked a few times only.
                if bpf_works {
                    bpf.push(resolve(&owner, place, targets, Method::Bpf)?);
                }
            }
            session.write(&subject, what, Variant::Rust, Unit::Ns, &rust, rounds)?;
            if bpf_works {
                session.write(&subject, what, Variant::Bpf, Unit::Ns, &bpf, rounds)?;
                session.write_compared(
                    &subject,
                    what,
                    Variant::BpfByRust,
                    Unit::Ratio,
                    (&bpf, &rust),
                )?;
            }
            if !c.is_empty() {
                let samples = u32::try_from(c.len())?;
                session.write(&subject, what, Variant::C, Unit::Ns, &c, samples)?;
                session.write_compared(
                    &subject,
                    what,
                    Variant::RustByC,
                    Unit::Ratio,
                    (&rust, &c),
                )?;
            }
        }
    }
    Ok(())
}

/// How many nanoseconds it took; wrong owners are an error.
fn resolve(owner: &Process, place: Place, targets: usize, method: Method) -> Result<f64> {
    let pid = i32::try_from(owner.0.id())?;
    let start = Instant::now();
    let report = Resolver::new([pid])
        .method(method)
        .resolve()
        .context("cannot resolve the targets")?;
    let took = start.elapsed().as_nanos() as f64;

    ensure!(report.skipped.is_empty(), "left out: {:?}", report.skipped);
    let all: Vec<_> = report.sets.iter().flat_map(|set| &set.targets).collect();
    ensure!(
        all.len() == targets,
        "{} targets were found, not {targets}",
        all.len()
    );
    for resolved in all {
        let right = match place {
            Place::Here => matches!(resolved.owner, Owner::SameNumber(_)),
            Place::Moved => matches!(resolved.owner, Owner::Others(_)),
        };
        if !right {
            bail!("a target has the wrong owner: {resolved:?}");
        }
    }
    Ok(took)
}

/// The process that has the set. It ends when this is dropped.
struct Process(Child);

impl Process {
    fn new(place: Place, targets: usize) -> Result<Self> {
        let us = current_exe().context("cannot tell where this program is")?;
        let place = match place {
            Place::Here => "here",
            Place::Moved => "moved",
        };
        let child = Command::new(us)
            .args(["have-set", place, &targets.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the process that has the set")?;
        let mut this = Self(child);
        let output = this.0.stdout.take().context("the process has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "ready\n", "the process that has the set failed");
        Ok(this)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            let _ = self.0.wait();
        }
    }
}

/// In that process: make the set, say so, and keep it until the input ends.
pub fn have_set(place: Place, targets: usize) -> Result<()> {
    // A target's number and the one that its descriptor moves to.
    allow_descriptors(2 * targets)?;
    let set = new_set()?;
    let mut files = Vec::with_capacity(targets);
    for _ in 0..targets {
        let file = target()?;
        add(&set, &file)?;
        files.push(file);
    }
    if place == Place::Moved {
        let above = files.last().map_or(0, AsRawFd::as_raw_fd) + 1;
        // Not in the order in which they were made.
        let mut order: Vec<usize> = (0..targets).collect();
        order.sort_by_key(|&i| spread(i as u64, 1 << 30));
        files = order
            .into_iter()
            .map(|i| fcntl_dupfd_cloexec(&files[i], above))
            .collect::<Result<_, _>>()
            .context("cannot move the descriptors")?;
    }
    println!("ready");
    stdout().flush()?;
    stdin().read_to_end(&mut Vec::new())?;
    // As long as that, the files are open.
    drop(files);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_gets_fewer_rounds_where_it_is_slow() {
        let of = |place| SIZES.iter().map(move |&n| rounds_of_c(place, n, 3));
        assert!(of(Place::Here).eq([3, 3, 2]));
        assert!(of(Place::Moved).eq([3, 1, 0]));
        assert_eq!(rounds_of_c(Place::Here, 50_000, 1), 1);
    }
}
