// SPDX-License-Identifier: GPL-2.0

//! The time of a query, by the number of targets.

use anyhow::Result;

use super::{Session, Subject};
use crate::handler::{Handler, Switch};
use crate::record::{Layout, Suite, Variant, What};
use crate::timing::{Timed, in_turn, spread};
use crate::world::Instance;

const SIZES: &[usize] = &[1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];
const ROUNDS: u32 = 11;

/// One value a round. The floor, and epoll's own lookup, are measured with
/// either handler: what they are compared with is taken in the same phase.
#[derive(Debug, Default)]
struct Runs {
    asked: Vec<f64>,
    files: Vec<f64>,
    modify: Vec<f64>,
}

pub fn run(session: &mut Session<'_>, switch: &mut Switch) -> Result<()> {
    let handler = switch.build_id().to_string();
    let handler = handler.as_str();
    let mut instance = Instance::distinct()?;
    for targets in session.sizes(SIZES) {
        let subject = Subject {
            suite: Suite::Query,
            layout: Layout::Distinct,
            targets,
            asked: None,
            handler: switch.has_module().then_some(handler),
        };
        session.progress(&subject);
        instance.grow(targets)?;
        measure(session, switch, &subject, &instance)?;
    }
    Ok(())
}

fn measure(
    session: &mut Session<'_>,
    switch: &mut Switch,
    subject: &Subject<'_>,
    instance: &Instance,
) -> Result<()> {
    let n = subject.targets;
    let ask = |i| instance.ask(spread(i, n));
    let mut c = Timed::new(ask);
    let mut rust = Timed::new(ask);
    let mut files = Timed::new(|i| instance.ask_files(spread(i, n)));
    let mut modify = Timed::new(|i| instance.modify(spread(i, n)));
    let (mut with_c, mut with_rust) = (Runs::default(), Runs::default());

    for round in 0..session.rounds(ROUNDS) {
        for &handler in switch.order(round) {
            switch.to(handler)?;
            let (asked, runs) = match handler {
                Handler::C => (&mut c, &mut with_c),
                Handler::Rust => (&mut rust, &mut with_rust),
            };
            asked.warm_up()?;
            files.warm_up()?;
            modify.warm_up()?;
            // The handler in C may take as long as all the others together.
            let count = match handler {
                Handler::C if n >= 100_000 => 3,
                _ => 9,
            };
            let medians = in_turn(
                count,
                &mut [&mut || asked.sample(), &mut || files.sample(), &mut || {
                    modify.sample()
                }],
            )?;
            runs.asked.push(medians[0]);
            runs.files.push(medians[1]);
            runs.modify.push(medians[2]);
        }
    }

    let what = What::Call;
    if !switch.has_module() {
        let (asked, floor) = (&with_c.asked, &with_c.files);
        session.write(subject, what, Variant::Mainline, asked, c.samples())?;
        return session.write(subject, what, Variant::MainlineFile, floor, files.samples());
    }
    let both = |a: &[f64], b: &[f64]| [a, b].concat();
    for (variant, runs, samples) in [
        (Variant::C, with_c.asked.clone(), c.samples()),
        (Variant::Rust, with_rust.asked.clone(), rust.samples()),
        (
            Variant::KcmpFile,
            both(&with_c.files, &with_rust.files),
            files.samples(),
        ),
        (
            Variant::CtlMod,
            both(&with_c.modify, &with_rust.modify),
            modify.samples(),
        ),
    ] {
        session.write(subject, what, variant, &runs, samples)?;
    }
    Ok(())
}
