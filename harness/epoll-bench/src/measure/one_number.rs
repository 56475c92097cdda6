// SPDX-License-Identifier: GPL-2.0

//! The time of a query if all targets have the same descriptor: the handlers
//! have to count.

use anyhow::Result;

use super::{Session, Subject};
use crate::handler::{Handler, Switch};
use crate::record::{Layout, Suite, Variant, What};
use crate::timing::{Timed, in_turn, spread};
use crate::world::Instance;

const SIZES: &[usize] = &[10, 100, 1_000, 10_000, 100_000];
const ROUNDS: u32 = 15;

pub fn run(session: &mut Session<'_>, switch: &mut Switch) -> Result<()> {
    let build_id = switch.build_id().to_string();
    let mut instance = Instance::one_number()?;
    for targets in session.sizes(SIZES) {
        let subject = Subject {
            suite: Suite::OneNumber,
            layout: Layout::OneNumber,
            targets,
            asked: None,
            handler: switch.has_module().then_some(build_id.as_str()),
        };
        session.progress(&subject);
        instance.grow(targets)?;

        let ask = |i| instance.ask_offset(spread(i, targets));
        let mut c = Timed::new(ask);
        let mut rust = Timed::new(ask);
        let (mut c_runs, mut rust_runs) = (Vec::new(), Vec::new());
        for round in 0..session.rounds(ROUNDS) {
            for &handler in switch.order(round) {
                switch.to(handler)?;
                let (timed, runs) = match handler {
                    Handler::C => (&mut c, &mut c_runs),
                    Handler::Rust => (&mut rust, &mut rust_runs),
                };
                timed.warm_up()?;
                runs.extend(in_turn(9, &mut [&mut || timed.sample()])?);
            }
        }
        let what = What::Call;
        if !switch.has_module() {
            session.write(&subject, what, Variant::Mainline, &c_runs, c.samples())?;
            continue;
        }
        session.write(&subject, what, Variant::C, &c_runs, c.samples())?;
        session.write(&subject, what, Variant::Rust, &rust_runs, rust.samples())?;
    }
    Ok(())
}
