// SPDX-License-Identifier: GPL-2.0

//! What the guest says on its channel: the command's output, and how it ended.

/// As much of a line as is kept to show how far the command is.
const LAST: usize = 200;
/// A status is no longer than this.
const STATUS: usize = 64;

/// Takes the lines that say how the command ended out of its output.
///
/// The mark begins such a line, and the line before it is empty if the command
/// ended its last line: that empty line is the guest's, not the command's.
#[derive(Debug)]
pub struct Channel {
    /// What a line that says the status begins with.
    mark: Vec<u8>,
    place: Place,
    /// Empty lines that are held back until it is clear whose they are.
    blank: usize,
    /// What the lines with the mark say; none if it is no status.
    statuses: Vec<Option<u8>>,
    /// The beginning of the current and of the last line that had any text.
    current: Vec<u8>,
    last: Vec<u8>,
}

/// Where in a line we are.
#[derive(Debug)]
enum Place {
    /// So far it is this many bytes of the mark.
    Start(usize),
    /// After the mark, with what came since.
    Mark(Vec<u8>),
    /// In the command's output.
    Text,
}

impl Channel {
    pub fn new(mark: &str) -> Self {
        Self {
            mark: format!("{mark} ").into_bytes(),
            place: Place::Start(0),
            blank: 0,
            statuses: Vec::new(),
            current: Vec::new(),
            last: Vec::new(),
        }
    }

    /// Adds the command's part of `data` to `out`.
    pub fn feed(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let mut data = data;
        while let Some((&byte, rest)) = data.split_first() {
            match &mut self.place {
                // Most of the output passes here.
                Place::Text => {
                    let end = data
                        .iter()
                        .position(|&b| b == b'\r' || b == b'\n')
                        .unwrap_or(data.len());
                    if end > 0 {
                        self.text(&data[..end], out);
                        data = &data[end..];
                        continue;
                    }
                    if byte == b'\n' {
                        out.push(b'\n');
                        self.last = std::mem::take(&mut self.current);
                        self.place = Place::Start(0);
                    }
                }
                _ if byte == b'\r' => (),
                Place::Start(0) if byte == b'\n' => self.blank += 1,
                Place::Start(n) if byte == self.mark[*n] => {
                    *n += 1;
                    if *n == self.mark.len() {
                        self.place = Place::Mark(Vec::new());
                    }
                }
                Place::Start(n) => {
                    // What looked like the mark is not.
                    let n = *n;
                    self.begin_text(n, out);
                    continue;
                }
                Place::Mark(status) if byte == b'\n' => {
                    let status = std::str::from_utf8(status).ok();
                    self.statuses.push(status.and_then(|s| s.parse().ok()));
                    self.blank = self.blank.saturating_sub(1);
                    self.place = Place::Start(0);
                }
                Place::Mark(status) => {
                    if status.len() < STATUS {
                        status.push(byte);
                    }
                }
            }
            data = rest;
        }
    }

    /// Ends a last line that has no end. A mark without one does not count.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if let Place::Start(n @ 1..) = self.place {
            self.begin_text(n, out);
        }
        if let Place::Text = self.place {
            out.push(b'\n');
            self.place = Place::Start(0);
        }
    }

    /// What the lines with the mark have said so far.
    pub fn statuses(&self) -> &[Option<u8>] {
        &self.statuses
    }

    /// The beginning of the last line of the output.
    pub fn last(&self) -> &[u8] {
        if self.current.is_empty() {
            &self.last
        } else {
            &self.current
        }
    }

    /// The line that has begun with `n` bytes of the mark is the command's.
    fn begin_text(&mut self, n: usize, out: &mut Vec<u8>) {
        out.extend(std::iter::repeat_n(b'\n', self.blank));
        self.blank = 0;
        self.place = Place::Text;
        let held = self.mark[..n].to_vec();
        self.text(&held, out);
    }

    fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(text);
        let room = LAST - self.current.len();
        self.current
            .extend_from_slice(&text[..text.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output, and the statuses, of what came in these pieces.
    fn feed(pieces: &[&[u8]]) -> (String, Vec<Option<u8>>) {
        let mut channel = Channel::new("mark");
        let mut out = Vec::new();
        for piece in pieces {
            channel.feed(piece, &mut out);
        }
        channel.finish(&mut out);
        (String::from_utf8(out).unwrap(), channel.statuses)
    }

    #[track_caller]
    fn check(text: &str, output: &str, statuses: &[Option<u8>]) {
        let text = text.as_bytes();
        for at in 0..=text.len() {
            let (o, s) = feed(&[&text[..at], &text[at..]]);
            assert_eq!((&*o, &*s), (output, statuses), "split at {at}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(feed(&bytes), (output.to_owned(), statuses.to_vec()));
    }

    #[test]
    fn the_empty_line_before_the_mark_is_not_the_commands() {
        check("one\ntwo\n\nmark 0\n", "one\ntwo\n", &[Some(0)]);
        check("one\n\n\n\nmark 7\n", "one\n", &[Some(7)]);
        check("no end\nmark 255\n", "no end\n", &[Some(255)]);
        check("\nmark 0\n", "", &[Some(0)]);
        check("a\r\n\r\nmark 0\r\n", "a\n", &[Some(0)]);
    }

    #[test]
    fn empty_lines_inside_are_kept() {
        check("\n\na\n\nb\n\nmark 0\n", "\n\na\n\nb\n", &[Some(0)]);
    }

    #[test]
    fn marks_are_counted() {
        check("a\n", "a\n", &[]);
        check("\nmark 0\nb\n\nmark 1\nc\n", "b\nc\n", &[Some(0), Some(1)]);
    }

    #[test]
    fn what_is_not_the_mark_is_output() {
        check(
            "mar\nmarkk 0\nmark\n mark 0\n",
            "mar\nmarkk 0\nmark\n mark 0\n",
            &[],
        );
        check("a mark 0\n", "a mark 0\n", &[]);
        check("ma", "ma\n", &[]);
        check("VM_MARK=mark 0\n", "VM_MARK=mark 0\n", &[]);
    }

    #[test]
    fn a_mark_that_was_cut_off_does_not_count() {
        check("\nmark 1", "", &[]);
        check("\nmark ", "", &[]);
    }

    #[test]
    fn a_mark_without_a_status_counts_but_says_nothing() {
        check("\nmark x\n", "", &[None]);
        check("\nmark 256\n", "", &[None]);
        check("\nmark \n", "", &[None]);
        check("\nmark 0 0\n", "", &[None]);
    }

    #[test]
    fn part_of_a_line_comes_out_at_once() {
        let mut channel = Channel::new("mark");
        let mut out = Vec::new();
        channel.feed(b"...", &mut out);
        assert_eq!(out, b"...");
        assert_eq!(channel.last(), b"...");
        channel.feed(b"\nma", &mut out);
        assert_eq!(out, b"...\n");
        assert_eq!(channel.last(), b"...");
        channel.feed(b"p\n", &mut out);
        assert_eq!(out, b"...\nmap\n");
        assert_eq!(channel.last(), b"map");
    }

    #[test]
    fn a_long_line_is_not_kept() {
        let mut channel = Channel::new("mark");
        let mut out = Vec::new();
        for _ in 0..1000 {
            channel.feed(&[b'x'; 1000], &mut out);
        }
        assert_eq!(out.len(), 1_000_000);
        assert_eq!(channel.last().len(), LAST);
    }
}
