// SPDX-License-Identifier: GPL-2.0

//! Tables for people.
//!
//! A table is printed row by row, so that a large one need not be in memory: first
//! [`measure`](Table::measure) each row, then print the [`head`](Table::head) and
//! each [`row`](Table::row). For a small one, [`print`](Table::print) does all that.
//! The last column is neither padded nor measured; it can be made to
//! [fit](Table::fit) a terminal.

use anstyle::Style;
use std::io::{self, Write};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What the last column gets at least, though the line is longer than wanted then.
const LEAST: usize = 10;

/// The head of a column, and on which side its cells stand.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    head: &'static str,
    is_right: bool,
}

impl Column {
    /// A column of text.
    pub const fn left(head: &'static str) -> Self {
        let is_right = false;
        Self { head, is_right }
    }

    /// A column of numbers.
    pub const fn right(head: &'static str) -> Self {
        let is_right = true;
        Self { head, is_right }
    }
}

/// Text and how it looks.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
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
        Self {
            text: text.into(),
            style: Style::new(),
        }
    }
}

/// Columns, and how wide they are.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    widths: Vec<usize>,
    fit: Option<usize>,
}

impl Table {
    /// A table of these columns.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        let columns: Vec<_> = columns.into_iter().collect();
        Self {
            widths: columns.iter().map(|column| column.head.width()).collect(),
            columns,
            fit: None,
        }
    }

    /// Takes out of the middle of the last column what is beyond this many columns
    /// of a terminal.
    #[must_use]
    pub fn fit(self, fit: Option<usize>) -> Self {
        Self { fit, ..self }
    }

    /// Makes the columns wide enough for a row. Its last cell may be missing.
    pub fn measure(&mut self, row: &[Cell]) {
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.width());
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
        let Some((last, row)) = row.split_last() else {
            return writeln!(out);
        };
        let mut used = 0;
        for (cell, (column, &width)) in row.iter().zip(self.columns.iter().zip(&self.widths)) {
            let Cell { text, style } = cell;
            let blanks = width.saturating_sub(text.width());
            let (before, after) = match column.is_right {
                true => (blanks, 0),
                false => (0, blanks),
            };
            write!(out, "{:before$}{style}{text}{style:#}{:after$} ", "", "")?;
            used += width + 1;
        }
        let room = self.fit.map(|fit| fit.saturating_sub(used).max(LEAST));
        let Cell { text, style } = last;
        writeln!(out, "{style}{}{style:#}", shorten(text, room))
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

/// Takes out of the middle what is too much for `room` columns of a terminal.
fn shorten(text: &str, room: Option<usize>) -> String {
    let Some(room) = room.filter(|&room| text.width() > room) else {
        return text.to_owned();
    };
    let width = |c: &char| c.width().unwrap_or(0);
    let fitting = |room: usize, chars: &mut dyn Iterator<Item = char>| {
        let mut used = 0;
        chars
            .take_while(|c| {
                used += width(c);
                used <= room
            })
            .collect::<Vec<_>>()
    };
    let end = fitting(room / 2, &mut text.chars().rev());
    let begin = fitting(room - 1 - room / 2, &mut text.chars());
    begin
        .into_iter()
        .chain(['…'])
        .chain(end.into_iter().rev())
        .collect()
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
    fn a_style_takes_no_room() {
        let table = Table::new(["A", "B", "C"].map(Column::left)).fit(Some(17));
        let red = Cell::from("red").style(AnsiColor::Red.on_default());
        let rows = [vec![red, "漢".into(), "0123456789a".into()]];
        assert_eq!(
            printed(table, &rows),
            "A   B  C\n\x1b[31mred\x1b[0m 漢 0123…6789a\n"
        );
    }

    #[test]
    fn a_long_text_loses_its_middle() {
        assert_eq!(shorten("/a/long/path", None), "/a/long/path");
        assert_eq!(shorten("/a/long/path", Some(12)), "/a/long/path");
        assert_eq!(shorten("/a/long/path", Some(9)), "/a/l…path");
        assert_eq!(shorten("/a/long/path", Some(10)), "/a/l…/path");
        // Two columns each.
        let short = shorten("漢字漢字漢字", Some(7));
        assert_eq!(short, "漢…字");
        assert!(short.width() <= 7);
    }
}
