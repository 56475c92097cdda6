// SPDX-License-Identifier: GPL-2.0

//! Text that other users chose: names of processes, paths, messages about them.
//!
//! The tools run as root and print to a terminal. Such text must not be able to
//! drive it, to forge a line, or to reorder what stands beside it.

use std::borrow::Cow;

/// Whether a terminal obeys a character rather than showing it: control characters,
/// line and paragraph separators, bidirectional controls (U+061C, U+200E, U+200F,
/// U+202A to U+202E, U+2066 to U+2069), and other invisible ones.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Replaces each [hidden](is_hidden) character by a question mark.
///
/// ```
/// use epoll_cli::text::printable;
///
/// assert_eq!(printable("a\x1b[2Jb\u{202e}c é"), "a?[2Jb?c é");
/// ```
pub fn printable(text: &str) -> String {
    text.replace(is_hidden, "?")
}

/// As [`printable`], for what need not be UTF-8; what is not becomes U+FFFD.
pub fn printable_bytes(text: &[u8]) -> String {
    printable(&String::from_utf8_lossy(text))
}

/// A name as it stands among other words: as it is, or in quotes if it has blanks, quotes,
/// parentheses or commas, is empty, or has what a terminal [hides](is_hidden) or what is
/// not UTF-8, which is escaped then. Different names look different.
///
/// The kernel's mark ` (deleted)` at the end stands outside of the quotes.
///
/// ```
/// use epoll_cli::text::quoted;
///
/// assert_eq!(quoted(b"/dev/null"), "/dev/null");
/// assert_eq!(quoted(b"/a (deleted)"), "/a (deleted)");
/// assert_eq!(quoted(b"/a b\x1b\xff"), r#""/a b\u{1b}\xff""#);
/// ```
pub fn quoted(name: &[u8]) -> String {
    let mark = b" (deleted)";
    if let Some(name) = name.strip_suffix(mark).filter(|name| !name.is_empty()) {
        return quoted(name) + " (deleted)";
    }
    let mut text = String::new();
    let mut is_plain = !name.is_empty();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            is_plain &= !(c.is_whitespace() || is_hidden(c) || "\"'\\(),;".contains(c));
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                c if is_hidden(c) => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            is_plain = false;
            text += &format!("\\x{byte:02x}");
        }
    }
    if is_plain {
        text
    } else {
        format!("\"{text}\"")
    }
}

/// A name as a string of JSON, which has to be UTF-8. A byte that is not, and each byte of a
/// U+FFFD, becomes U+FFFD and two hexadecimal digits: different names stay different, and a
/// program can have the name back.
///
/// ```
/// use epoll_cli::text::unicode;
///
/// assert_eq!(unicode("/a é".as_bytes()), "/a é");
/// assert_eq!(unicode(b"/a\xff"), "/a\u{fffd}ff");
/// ```
pub fn unicode(name: &[u8]) -> Cow<'_, str> {
    const MARK: char = char::REPLACEMENT_CHARACTER;
    match std::str::from_utf8(name) {
        Ok(name) if !name.contains(MARK) => return Cow::Borrowed(name),
        _ => {}
    }
    let escape = |bytes: &[u8]| -> String {
        let escaped = bytes.iter().map(|byte| format!("{MARK}{byte:02x}"));
        escaped.collect()
    };
    let mut mark = [0; 4];
    let mark = escape(MARK.encode_utf8(&mut mark).as_bytes());
    let chunks = name.utf8_chunks();
    let chunks = chunks.map(|chunk| chunk.valid().replace(MARK, &mark) + &escape(chunk.invalid()));
    Cow::Owned(chunks.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drives_a_terminal_is_replaced() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}d é"), "a?[2Jb?c?d é");
        assert_eq!(printable_bytes(b"a\xff\x07\xc3\xa9"), "a\u{fffd}?é");
    }

    #[test]
    fn what_reorders_or_breaks_a_line_is_replaced() {
        let bidi = ['\u{61c}', '\u{200e}', '\u{200f}']
            .into_iter()
            .chain('\u{202a}'..='\u{202e}')
            .chain('\u{2066}'..='\u{2069}');
        for c in bidi.chain(['\u{2028}', '\u{2029}', '\u{85}', '\u{feff}', '\u{e0041}']) {
            assert_eq!(printable(&format!("a{c}b")), "a?b", "{c:?}");
        }
    }

    #[test]
    fn scripts_of_all_directions_stay() {
        for text in ["plain", "ünïcödé", "漢字", "עברית", "العربية", "a b"] {
            assert_eq!(printable(text), text);
        }
    }

    const NAMES: [&[u8]; 14] = [
        b"",
        b"a",
        b"a b",
        b"\"a b\"",
        b"a\x01",
        b"a\x02",
        b"a\\u{1}",
        b"a\xff",
        b"a\xfe",
        b"a\\xff",
        b"aff",
        b"a\xef\xbf\xbd",
        b"a\xef\xbf\xbdff",
        b"a (now 6 is b)",
    ];

    #[test]
    fn names_in_json_are_not_merged() {
        let back = |text: &str| {
            let mut bytes = Vec::new();
            let mut parts = text.split('\u{fffd}');
            bytes.extend(parts.next().unwrap().as_bytes());
            for part in parts {
                let (byte, rest) = part.split_at(2);
                bytes.push(u8::from_str_radix(byte, 16).unwrap());
                bytes.extend(rest.as_bytes());
            }
            bytes
        };
        for name in NAMES {
            assert_eq!(back(&unicode(name)), name, "{:?}", unicode(name));
        }
    }

    #[test]
    fn different_names_look_different() {
        let names = NAMES;
        let shown: std::collections::BTreeSet<_> = names.iter().map(|name| quoted(name)).collect();
        assert_eq!(shown.len(), names.len(), "{shown:?}");
        assert!(!shown.iter().any(|name| name.contains(is_hidden)));
        assert_eq!(quoted(b" (deleted)"), "\" (deleted)\"");
        assert_eq!(quoted(b"/a b (deleted)"), "\"/a b\" (deleted)");
    }
}
