// SPDX-License-Identifier: GPL-2.0

//! The time to find the owner of every target of another process's instance, with
//! the library's resolver: by kcmp, answered by the handler in C or by the module,
//! and by BPF.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use epoll_targets::resolve::{Method, Owner, Resolver};

use super::process::{Place, Process};
use super::{Session, Subject};
use crate::handler::{Handler, Switch};
use crate::record::{Layout, Suite, Variant, What};

const SIZES: &[usize] = &[1_000, 10_000, 50_000];
const ROUNDS: u32 = 3;

/// How many rounds the handler in C gets: a query takes it as long as the instance
/// is large, and with descriptors moved there are many queries for each target.
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
                asked: None,
                handler: Some(&build_id),
            };
            session.progress(&subject);
            let owner = Process::new(place, targets)?;
            let rounds = session.rounds(ROUNDS);
            let (mut c, mut rust, mut bpf) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..rounds {
                for &handler in Handler::order(round) {
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
                // With either handler: there are only a few calls of kcmp.
                if bpf_works {
                    bpf.push(resolve(&owner, place, targets, Method::Bpf)?);
                }
            }
            session.write(&subject, what, Variant::Rust, &rust, rounds)?;
            if bpf_works {
                session.write(&subject, what, Variant::Bpf, &bpf, rounds)?;
            }
            if !c.is_empty() {
                let samples = u32::try_from(c.len())?;
                session.write(&subject, what, Variant::C, &c, samples)?;
            }
        }
    }
    Ok(())
}

/// How many nanoseconds it took; wrong owners are an error.
fn resolve(owner: &Process, place: Place, targets: usize, method: Method) -> Result<f64> {
    let pid = owner.pid()?;
    let start = Instant::now();
    let report = Resolver::new([pid])
        .method(method)
        .resolve()
        .context("cannot resolve the targets")?;
    let took = start.elapsed().as_nanos() as f64;

    ensure!(report.skipped.is_empty(), "left out: {:?}", report.skipped);
    let all: Vec<_> = report
        .instances
        .iter()
        .flat_map(|instance| &instance.targets)
        .collect();
    ensure!(
        all.len() == targets,
        "{} targets were found, not {targets}",
        all.len()
    );
    for resolved in all {
        let right = match place {
            Place::Here => matches!(resolved.owner, Owner::Tfd(_)),
            Place::Moved => matches!(resolved.owner, Owner::Others(_)),
        };
        if !right {
            bail!("a target has the wrong owner: {resolved:?}");
        }
    }
    Ok(took)
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
