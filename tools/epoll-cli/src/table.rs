// SPDX-License-Identifier: GPL-2.0

//! Tables for people.
//!
//! A table is printed row by row, so that a large one need not be in memory: first
//! [`measure`](Table::measure) each row, then print the [`head`](Table::head) and
//! each [`row`](Table::row). For a small one, [`print`](Table::print) does all that.
//! The last column is neither padded nor measured. If lines are to
//! [fit](Table::fit) a terminal, cells that do not are printed on lines of their own: nothing
//! is cut, so that two long names never look the same.
//!
//! Crates for tables keep all rows until they know the widths, and cut or wrap a cell
//! within its column. Here, rows are printed while the search goes on, a wide cell pushes
//! the others of its row aside, and a row is continued on the next line.

use anstyle::Style;
use std::io::{self, Write};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How far lines are indented that continue a row.
const INDENT: usize = 8;

/// The head of a column, and how its cells stand.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    head: &'static str,
    is_right: bool,
    widest: usize,
}

impl Column {
    /// A column of text.
    pub const fn left(head: &'static str) -> Self {
        Self {
            head,
            is_right: false,
            widest: usize::MAX,
        }
    }

    /// A column of numbers.
    pub const fn right(head: &'static str) -> Self {
        Self {
            is_right: true,
            ..Self::left(head)
        }
    }

    /// The same column, which cells that are wider than this do not widen: they push
    /// the others of their row aside.
    #[must_use]
    pub const fn at_most(self, widest: usize) -> Self {
        Self { widest, ..self }
    }
}

/// Text and how it looks.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    width: usize,
    style: Style,
}

impl Cell {
    /// The same text in this style.
    #[must_use]
    pub fn style(self, style: Style) -> Self {
        Self { style, ..self }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        let text = text.into();
        Self {
            width: text.width(),
            text,
            style: Style::new(),
        }
    }
}

/// Columns, and how wide they are.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    widths: Vec<usize>,
    gap: usize,
    fit: Option<usize>,
}

impl Table {
    /// A table of these columns.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        let columns: Vec<_> = columns.into_iter().collect();
        Self {
            widths: columns.iter().map(|column| column.head.width()).collect(),
            columns,
            gap: 1,
            fit: None,
        }
    }

    /// Puts so many blanks between columns, rather than one: heads of several words need
    /// more.
    #[must_use]
    pub fn gap(self, gap: usize) -> Self {
        Self { gap, ..self }
    }

    /// Breaks lines that have more than this many columns of a terminal.
    #[must_use]
    pub fn fit(self, fit: Option<usize>) -> Self {
        Self { fit, ..self }
    }

    /// Makes the columns wide enough for a row. Its last cell may be missing.
    pub fn measure(&mut self, row: &[Cell]) {
        for ((width, column), cell) in self.widths.iter_mut().zip(&self.columns).zip(row) {
            if cell.width <= column.widest {
                *width = (*width).max(cell.width);
            }
        }
    }

    /// Prints the heads of the columns.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn head(&self, out: &mut impl Write) -> io::Result<()> {
        let heads = self.columns.iter().map(|column| column.head.into());
        self.row(&heads.collect::<Vec<_>>(), out)
    }

    /// Prints a row.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn row(&self, row: &[Cell], out: &mut impl Write) -> io::Result<()> {
        self.row_with(row, &[], out)
    }

    /// Prints a row, and what there is to say beyond its last column.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn row_with(&self, row: &[Cell], notes: &[Cell], out: &mut impl Write) -> io::Result<()> {
        let mut line = Line::new(self.fit);
        let mut column_at = 0;
        for (number, cell) in row.iter().enumerate() {
            let (Some(column), Some(width)) = (self.columns.get(number), self.widths.get(number))
            else {
                line.put(0, cell, out)?;
                continue;
            };
            let is_last = number + 1 == row.len();
            let mut at = column_at;
            if column.is_right && !is_last {
                at += width.saturating_sub(cell.width);
            }
            line.put(at, cell, out)?;
            column_at += width + self.gap;
        }
        for note in notes {
            line.put(0, note, out)?;
        }
        out.write_all(b"\n")
    }

    /// Prints a heading, of parts that are not broken if they fit on a line.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn heading(&self, parts: &[Cell], out: &mut impl Write) -> io::Result<()> {
        let mut line = Line::new(self.fit);
        for part in parts {
            line.put(0, part, out)?;
        }
        writeln!(out)
    }

    /// Prints the heads and these rows.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn print(mut self, rows: &[Vec<Cell>], out: &mut impl Write) -> io::Result<()> {
        for row in rows {
            self.measure(row);
        }
        self.head(out)?;
        rows.iter().try_for_each(|row| self.row(row, out))
    }
}

/// A line that is being printed, and is continued on further ones.
struct Line {
    fit: usize,
    /// Where the next text can stand at the earliest.
    next: usize,
    /// How much has been printed of this line.
    used: usize,
}

impl Line {
    fn new(fit: Option<usize>) -> Self {
        Self {
            // So that there is some room.
            fit: fit.map_or(usize::MAX, |fit| fit.max(2 * INDENT)),
            next: 0,
            used: 0,
        }
    }

    fn skip_to(&mut self, at: usize, out: &mut impl Write) -> io::Result<()> {
        const BLANKS: [u8; 32] = [b' '; 32];
        let blanks = at - self.used;
        self.used = at;
        match BLANKS.get(..blanks) {
            Some(blanks) => out.write_all(blanks),
            None => write!(out, "{:blanks$}", ""),
        }
    }

    /// Prints a text from `at` on, or after the previous one, or on a line of its own.
    fn put(&mut self, at: usize, cell: &Cell, out: &mut impl Write) -> io::Result<()> {
        let Cell { text, width, style } = cell;
        let width = *width;
        let mut at = at.max(self.next);
        if width == 0 {
            self.next = at + 1;
            return Ok(());
        }
        if at.saturating_add(width) > self.fit && self.used > 0 {
            writeln!(out)?;
            self.used = 0;
            at = INDENT;
        }
        self.skip_to(at, out)?;
        if self.used.saturating_add(width) <= self.fit {
            match style.is_plain() {
                true => out.write_all(text.as_bytes())?,
                false => write!(out, "{style}{text}{style:#}")?,
            }
            self.used += width;
            self.next = self.used + 1;
            return Ok(());
        }
        let mut rest = text.as_str();
        loop {
            let (now, later) = split(rest, self.fit - self.used);
            write!(out, "{style}{now}{style:#}")?;
            self.used += now.width();
            if later.is_empty() {
                break;
            }
            rest = later;
            writeln!(out)?;
            self.used = 0;
            self.skip_to(INDENT, out)?;
        }
        self.next = self.used + 1;
        Ok(())
    }
}

/// As much of a text as `room` columns of a terminal can show, and the rest. It is at
/// least a character.
fn split(text: &str, room: usize) -> (&str, &str) {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > room && at > 0 {
            return text.split_at(at);
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anstyle::AnsiColor;

    fn printed(table: Table, rows: &[Vec<Cell>]) -> String {
        let mut out = Vec::new();
        table.print(rows, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_last_column_is_not_padded() {
        let table = Table::new([Column::right("A"), Column::left("B")]);
        let rows = [
            vec!["1".into(), "x".repeat(100).into()],
            vec!["23".into(), "y".into()],
        ];
        let expected = format!(" A B\n 1 {}\n23 y\n", "x".repeat(100));
        assert_eq!(printed(table, &rows), expected);
    }

    #[test]
    fn columns_can_be_further_apart() {
        let table = Table::new([Column::left("A A"), Column::right("B B"), Column::left("C")]);
        let rows = [vec!["x".into(), "1".into(), "y".into()]];
        let expected = "A A  B B  C\nx      1  y\n";
        assert_eq!(printed(table.gap(2), &rows), expected);
    }

    #[test]
    fn a_style_takes_no_room() {
        let table = Table::new(["A", "B", "C"].map(Column::left)).fit(Some(17));
        let red = Cell::from("red").style(AnsiColor::Red.on_default());
        let rows = [vec![red, "漢".into(), "0123456789".into()]];
        assert_eq!(
            printed(table, &rows),
            "A   B  C\n\x1b[31mred\x1b[0m 漢 0123456789\n"
        );
    }

    #[test]
    fn what_does_not_fit_is_on_lines_of_its_own() {
        let table = Table::new([Column::right("A"), Column::left("B")]).fit(Some(20));
        let name = "/a/long/path/that/is/wider";
        let mut out = Vec::new();
        let row = ["1".into(), name.into()];
        table.row_with(&row, &["(note)".into()], &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let expected = [
            "1",
            "        /a/long/path",
            "        /that/is/wid",
            "        er (note)",
            "",
        ];
        assert_eq!(out, expected.join("\n"));
        // All of it is there.
        assert!(out.replace("\n        ", "").contains(name));
    }

    #[test]
    fn a_wide_cell_does_not_widen_its_column() {
        let columns = [Column::left("A").at_most(3), Column::left("B")];
        let rows = [
            vec!["1".into(), "x".into()],
            vec!["12345".into(), "y".into()],
        ];
        assert_eq!(printed(Table::new(columns), &rows), "A B\n1 x\n12345 y\n");
    }

    #[test]
    fn no_terminal_is_too_narrow() {
        for fit in [0, 1, 17] {
            let table = Table::new(["A", "B"].map(Column::left)).fit(Some(fit));
            let text = printed(table, &[vec!["漢".repeat(20).into(), "x".into()]]);
            assert_eq!(text.matches('漢').count(), 20);
        }
    }

    #[test]
    fn a_heading_is_broken_between_its_parts() {
        let table = Table::new([]).fit(Some(20));
        let mut out = Vec::new();
        let parts = ["process 1 (init),", "epoll instance 3"].map(Cell::from);
        table.heading(&parts, &mut out).unwrap();
        // The second part has 16 columns, and 12 are left.
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "process 1 (init),\n        epoll instan\n        ce 3\n"
        );
    }
}
