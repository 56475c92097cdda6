// SPDX-License-Identifier: GPL-2.0

//! How far it is, on a terminal.

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs::File;
use std::io::IsTerminal;
use std::sync::Arc;

/// Fewer are done before one could read how far it is.
const MANY: usize = 5000;

/// A bar that comes when there is much to do.
pub struct Progress {
    terminal: Option<Arc<File>>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// On this file, if it is a terminal.
    pub fn new(terminal: Arc<File>) -> Self {
        Self {
            terminal: Some(terminal).filter(|terminal| terminal.is_terminal()),
            bar: None,
        }
    }

    pub fn show(&mut self, what: &'static str, done: usize, total: usize) {
        if total < MANY {
            return;
        }
        let Some(bar) = self.bar() else {
            return;
        };
        bar.set_message(what);
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }

    fn bar(&mut self) -> Option<&ProgressBar> {
        if self.bar.is_none() {
            let terminal = self.terminal.as_ref()?;
            // Without further descriptors, which might be in the way.
            let terminal = Term::read_write_pair(terminal.clone(), terminal.clone());
            let target = ProgressDrawTarget::term(terminal, 10);
            let style = ProgressStyle::with_template("{msg:20} {wide_bar} {pos}/{len} {eta}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            self.bar = Some(ProgressBar::with_draw_target(None, target).with_style(style));
        }
        self.bar.as_ref()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
