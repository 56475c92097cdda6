// SPDX-License-Identifier: GPL-2.0

//! What the command line tools `lsepoll` and `epollcr` share.
//!
//! - [`text`] keeps names that other users chose from driving the terminal;
//! - [`table`] prints rows of cells for people, [`json`] one object for programs;
//! - [`progress`] shows how far a long run is;
//! - this module has what remains: [`parse()`], [`stdout()`], [`report()`], [`events()`].

#![deny(missing_docs)]

pub mod json;
pub mod progress;
pub mod table;
pub mod text;

mod out;

pub use out::{Stdout, stdout};

use anyhow::{Chain, Context as _};
use clap::Parser;
use epoll_targets::fdinfo::Events;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

/// An error and its causes on one line: `what: cause: cause`. No cause is repeated if
/// the message of each error says only its own part, which is the rule here.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let messages: Vec<_> = Chain::new(error).map(ToString::to_string).collect();
    messages.join(": ")
}

/// Prints an error and its causes on one line: `tool: what: cause: cause`.
///
/// An error of writing is ignored: nobody is left to be told.
pub fn report(to: &mut impl Write, tool: &str, error: &anyhow::Error) {
    let message = text::printable(&chain(error.as_ref()));
    let _ = writeln!(to, "{tool}: {message}");
}

/// Parses the arguments of a program. Help and the version are printed here, as are errors.
///
/// # Errors
///
/// The exit status, which is `failed` if something cannot be printed.
pub fn parse<T: Parser>(tool: &str, failed: u8) -> Result<T, ExitCode> {
    let error = match T::try_parse() {
        Ok(args) => return Ok(args),
        Err(error) => error,
    };
    let printed = error.print().and_then(|()| io::stdout().flush());
    Err(match printed.context("cannot print") {
        Err(cause) if !error.use_stderr() && !is_broken_pipe(&cause) => {
            report(&mut io::stderr(), tool, &cause);
            failed.into()
        }
        _ => u8::try_from(error.exit_code()).unwrap_or(failed).into(),
    })
}

/// Whether this is the error of writing to a pipe that nobody reads any more, as
/// that of `head`, which has seen enough.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The events of a target, as a table shows them: without `ERR` and `HUP`, which
/// the kernel always adds, and with `(off)` if the target is disarmed.
///
/// ```
/// use epoll_cli::events;
/// use epoll_targets::fdinfo::Events;
///
/// assert_eq!(events(Events(0x8000_0019)), "IN|ET");
/// ```
pub fn events(events: Events) -> String {
    if events.is_disarmed() {
        return format!("{events} (off)");
    }
    events.without(Events::ALWAYS).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn broken() -> io::Error {
        io::ErrorKind::BrokenPipe.into()
    }

    #[test]
    fn events_without_what_is_always_there() {
        assert_eq!(events(Events(0x8000_0019)), "IN|ET");
        assert_eq!(events(Events(0x18)), "0");
        assert_eq!(events(Events(0x4000_0000)), "ONESHOT (off)");
    }

    #[test]
    fn causes_are_printed_in_order_and_cannot_drive_the_terminal() {
        let error: anyhow::Result<()> = Err(io::Error::other("two\x1b[2J")).context("one\u{202e}");
        let mut out = Vec::new();
        report(&mut out, "tool", &error.unwrap_err());
        assert_eq!(out, b"tool: one?: two?[2J\n");
    }

    #[test]
    fn a_broken_pipe_is_known_below_a_context() {
        assert!(is_broken_pipe(&broken().into()));
        let context: anyhow::Result<()> = Err(broken()).context("cannot print");
        assert!(is_broken_pipe(&context.unwrap_err()));
        assert!(!is_broken_pipe(&io::Error::other("else").into()));
    }
}
