// SPDX-License-Identifier: GPL-2.0

//! Standard output.

use anstream::adapter::StripBytes;
use anstream::{AutoStream, ColorChoice};
use std::fmt;
use std::io::{self, StdoutLock, Write};

/// How much is written at once.
const SIZE: usize = 1 << 16;

/// Standard output, buffered: [`stdout()`].
///
/// Escape sequences are removed from what the buffer has, not from each piece that is
/// written to it: what they divide is one line.
pub struct Stdout {
    buffer: Vec<u8>,
    strip: Option<StripBytes>,
    to: StdoutLock<'static>,
}

impl fmt::Debug for Stdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdout")
            .field("strip", &self.strip)
            .finish_non_exhaustive()
    }
}

/// Standard output, buffered. Colours reach it only if it is a terminal that shows
/// them and `NO_COLOR` is not set.
///
/// The caller flushes it: errors of a drop are lost.
pub fn stdout() -> Stdout {
    let to = io::stdout().lock();
    let is_plain = AutoStream::choice(&to) == ColorChoice::Never;
    Stdout {
        buffer: Vec::with_capacity(SIZE),
        strip: is_plain.then(StripBytes::default),
        to,
    }
}

impl Stdout {
    /// Writes what the buffer has. If that fails, it is lost: nobody can tell how much of it
    /// was written.
    fn write_out(&mut self) -> io::Result<()> {
        let mut all = std::mem::take(&mut self.buffer);
        if let Some(strip) = &mut self.strip {
            let pieces: Vec<&[u8]> = strip.strip_next(&all).collect();
            let stripped = pieces.concat();
            all = stripped;
        }
        let written = self.to.write_all(&all);
        all.clear();
        self.buffer = all;
        written
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > SIZE {
            self.write_out()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.to.flush()
    }
}

impl Drop for Stdout {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}
