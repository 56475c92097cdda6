// SPDX-License-Identifier: GPL-2.0

//! Bytes to lines.

/// A line longer than this comes in pieces.
const LONGEST: usize = 64 * 1024;

/// Makes lines of what comes in, without their ends and carriage returns.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Hands each line that `data` completes to `line`.
    pub fn feed(&mut self, data: &[u8], mut line: impl FnMut(&[u8])) {
        for part in data.split_inclusive(|&b| b == b'\n') {
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            self.rest.extend(text.iter().filter(|&&b| b != b'\r'));
            while self.rest.len() > LONGEST {
                let more = self.rest.split_off(LONGEST);
                line(&self.rest);
                self.rest = more;
            }
            if ends {
                line(&self.rest);
                self.rest.clear();
            }
        }
    }

    /// Hands on the last line, if it has no end.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.rest.is_empty() {
            line(&std::mem::take(&mut self.rest));
        }
    }
}

/// A line for people: no control characters, which could do things to their
/// terminal.
pub fn readable(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .chars()
        .filter(|&c| c == '\t' || !c.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for piece in pieces {
            lines.feed(piece, |l| out.push(l.to_vec()));
        }
        lines.finish(|l| out.push(l.to_vec()));
        out
    }

    #[test]
    fn split_anywhere_they_are_the_same() {
        let text = b"one\r\n\ntw\xff\ro\nlast";
        let whole = lines(&[text]);
        assert_eq!(whole, [&b"one"[..], b"", b"tw\xffo", b"last"]);
        for at in 0..=text.len() {
            assert_eq!(lines(&[&text[..at], &text[at..]]), whole, "split at {at}");
        }
    }

    #[test]
    fn nothing_is_no_line() {
        assert!(lines(&[]).is_empty());
        assert!(lines(&[b""]).is_empty());
        assert_eq!(lines(&[b"\n"]), [b""]);
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let mut split = Lines::default();
        let mut total = 0;
        for _ in 0..100 {
            split.feed(&[b'x'; 10_000], |l| {
                assert_eq!(l.len(), LONGEST);
                total += l.len();
            });
            assert!(split.rest.len() <= LONGEST);
        }
        split.finish(|l| total += l.len());
        assert_eq!(total, 1_000_000);
    }

    #[test]
    fn readable_has_no_controls() {
        assert_eq!(readable(b"\x1b[31ma\tb\x07\xff"), "[31ma\tb\u{fffd}");
    }
}
