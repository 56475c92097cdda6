// SPDX-License-Identifier: GPL-2.0

//! A table of each suite.

mod calls;
mod checkpoint;
mod query;
mod stock;

pub use calls::OPS;

use super::Results;
use super::goals::Count;
use super::text::duration;
use crate::record::{Accelerator, Layout, Measurement, Suite, What};
use crate::stats::Summary;
use calls::{iterate, ops};
use checkpoint::{checkpoint, criu, resolve, restore};
use epoll_cli::table::{self, Cell, Column};
use query::{hold, inside, one_number, query};
use std::io::{self, Write};
use stock::{lists, watched};

/// A table with a title. The first column and the last are words, the others numbers.
struct Table {
    title: &'static str,
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    const fn new(title: &'static str, headings: &'static [&'static str]) -> Self {
        Self {
            title,
            headings,
            rows: Vec::new(),
        }
    }

    fn print(&self, caption: &str, out: &mut impl Write) -> io::Result<()> {
        let last = self.headings.len() - 1;
        let headings = self.headings.iter().enumerate();
        let columns = headings.map(|(at, &head)| match at {
            at if at == 0 || at == last => Column::left(head),
            _ => Column::right(head),
        });
        let rows = self.rows.iter();
        let rows = rows.map(|row| row.iter().map(|cell| Cell::from(cell.as_str())).collect());
        let rows: Vec<Vec<Cell>> = rows.collect();
        writeln!(out, "{}\n{caption}\n", self.title)?;
        table::Table::new(columns).gap(2).print(&rows, out)?;
        writeln!(out)
    }

    fn text(&self, caption: &str) -> String {
        let mut text = Vec::new();
        // A vector takes all that is written to it.
        let _ = self.print(caption, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// A cell, or a dash if there is no measurement.
fn cell(m: Option<&Measurement>, show: impl FnOnce(&Measurement) -> String) -> String {
    m.map_or_else(|| "-".into(), show)
}

fn time(m: Option<&Measurement>) -> String {
    cell(m, |m| duration(m.median))
}

/// What compares two, if both are there.
fn compared(s: Option<Summary>, show: impl FnOnce(&Summary) -> String) -> String {
    s.map_or_else(|| "-".into(), |s| show(&s))
}

pub fn of(results: &Results, verdicts: &mut Count) -> String {
    let tables = match results.suite {
        Suite::Query if results.accelerator == Accelerator::Um => vec![inside(results)],
        Suite::Query => vec![query(results, verdicts)],
        Suite::OneNumber => vec![one_number(results, verdicts)],
        Suite::Hold => vec![hold(results, verdicts)],
        Suite::Ops => vec![ops(results, verdicts)],
        Suite::Resolve => vec![resolve(results)],
        Suite::Criu => [What::Dump, What::CriuRestore]
            .into_iter()
            .filter(|&what| !results.sizes(what, Layout::Distinct).is_empty())
            .map(|what| criu(results, what, verdicts))
            .collect(),
        Suite::Iterate => vec![iterate(results, verdicts)],
        Suite::Checkpoint => vec![checkpoint(results, verdicts), restore(results, verdicts)],
        Suite::Stock => vec![lists(results, verdicts), watched(results, verdicts)],
    };
    let caption = results.caption();
    tables.iter().map(|table| table.text(&caption)).collect()
}

/// Of two medians, which need not be of the same rounds.
fn times(m: Option<&Measurement>, other: Option<&Measurement>) -> Option<Summary> {
    Summary::of(&[m?.median / other?.median])
}
