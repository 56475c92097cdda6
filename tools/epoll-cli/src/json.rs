// SPDX-License-Identifier: GPL-2.0

//! JSON that can also be looked at on a terminal.

use crate::text::is_hidden;
use serde::Serialize;
use serde_json::ser::Formatter;
use std::io::{self, Write};

/// Prints one value on one line. [Hidden](is_hidden) characters are escaped, which
/// means the same to a parser.
///
/// # Errors
///
/// Those of writing, with their kind.
pub fn print(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    let mut to = serde_json::Serializer::with_formatter(&mut *out, Escaped);
    // serde_json hides what kind of error it is otherwise.
    value.serialize(&mut to).map_err(io::Error::from)?;
    writeln!(out)
}

struct Escaped;

impl Formatter for Escaped {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_hidden) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut chars = from.chars();
            let mut units = [0; 2];
            if let Some(hidden) = chars.next() {
                for unit in hidden.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_drives_a_terminal() {
        let name = "a\u{1b}[1m\u{9b}1m\u{7f}\u{202e}\u{e0041}b\"\u{e9}";
        let mut out = Vec::new();
        print(&name, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(!out.trim_end().contains(is_hidden), "{out}");
        assert!(out.contains("\\u009b") && out.contains('\u{e9}'), "{out}");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), name);
    }
}
