// SPDX-License-Identifier: GPL-2.0

//! A progress bar on a terminal.

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Less than this is done before anybody could read how far it is.
const MANY: u64 = 5000;

/// How often the bar is drawn, per second.
const RATE: u8 = 10;

/// A bar that appears once there is much to do, and is cleared when dropped.
#[derive(Debug)]
pub struct Progress {
    terminal: Option<Arc<File>>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar on this file; none if it is not a terminal. The file is not duplicated.
    pub fn new(terminal: Arc<File>) -> Self {
        Self {
            terminal: Some(terminal).filter(|terminal| terminal.is_terminal()),
            bar: None,
        }
    }

    /// A bar on a duplicate of standard error; none if that is not a terminal.
    pub fn stderr() -> Self {
        let terminal = io::stderr().as_fd().try_clone_to_owned();
        match terminal {
            Ok(terminal) => Self::new(Arc::new(terminal.into())),
            Err(_) => Self {
                terminal: None,
                bar: None,
            },
        }
    }

    /// Shows that `done` of `total` are done, of what `what` names.
    pub fn show(&mut self, what: &'static str, done: u64, total: u64) {
        if total < MANY {
            return;
        }
        let Some(terminal) = &self.terminal else {
            return;
        };
        let bar = self.bar.get_or_insert_with(|| {
            let terminal = Term::read_write_pair(terminal.clone(), terminal.clone());
            let target = ProgressDrawTarget::term(terminal, RATE);
            let style = ProgressStyle::with_template("{msg:20} {wide_bar} {pos}/{len} {eta}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(None, target).with_style(style)
        });
        bar.set_message(what);
        bar.set_length(total);
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
