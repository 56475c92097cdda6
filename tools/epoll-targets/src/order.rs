// SPDX-License-Identifier: GPL-2.0

//! Sorts and searches open files while their descriptors are opened and closed.
//!
//! Files are compared through closures, so that tests can take the place of kcmp(2).

use crate::descriptor::Descriptor;
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashSet};
use std::io;

/// An open file by its descriptors. A file without any is left out.
pub(crate) type File = Vec<Descriptor>;

/// Whether an error says that a descriptor is closed, or its process has ended or
/// become inaccessible.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADF | libc::ESRCH | libc::EPERM)
    )
}

/// Compares the open files of two descriptors.
pub(crate) trait Compare: Fn(Descriptor, Descriptor) -> io::Result<Ordering> {}

impl<F: Fn(Descriptor, Descriptor) -> io::Result<Ordering>> Compare for F {}

fn is_open(descriptor: Descriptor, compare: &impl Compare) -> io::Result<bool> {
    match compare(descriptor, descriptor) {
        Ok(_) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How often a comparison may find a descriptor closed, and a check find it open,
/// before it is left out.
const PATIENCE: u32 = 16;

/// Compares two files by a descriptor of each that is still open. If a file has none,
/// it is left empty, and the result is `None`.
fn compare_files(
    x: &mut File,
    y: &mut File,
    compare: &impl Compare,
) -> io::Result<Option<Ordering>> {
    let mut tries = 0;
    while let (Some(&a), Some(&b)) = (x.first(), y.first()) {
        match compare(a, b) {
            // Either may be closed.
            Err(error) if is_gone(&error) => {
                tries += 1;
                let (x_is_open, y_is_open) = (is_open(a, compare)?, is_open(b, compare)?);
                let enough = tries == PATIENCE;
                if !x_is_open || enough {
                    x.remove(0);
                }
                if !y_is_open || enough {
                    y.remove(0);
                }
            }
            other => return other.map(Some),
        }
    }
    Ok(None)
}

/// Merges two sorted lists.
fn merge(left: Vec<File>, right: Vec<File>, compare: &impl Compare) -> io::Result<Vec<File>> {
    let mut files = Vec::with_capacity(left.len() + right.len());
    let mut left = left.into_iter().peekable();
    let mut right = right.into_iter().peekable();
    while let (Some(x), Some(y)) = (left.peek_mut(), right.peek_mut()) {
        match compare_files(x, y, compare)? {
            Some(Ordering::Less) => files.extend(left.next()),
            Some(Ordering::Greater) => files.extend(right.next()),
            Some(Ordering::Equal) => {
                let mut file = left.next().unwrap_or_default();
                file.extend(right.next().unwrap_or_default());
                files.push(file);
            }
            None => {
                left.next_if(Vec::is_empty);
                right.next_if(Vec::is_empty);
            }
        }
    }
    files.extend(left);
    files.extend(right);
    Ok(files)
}

/// Merges sorted lists into one, the shortest first. This takes n log n comparisons for
/// n descriptors, including those for sorting the lists.
pub(crate) fn merge_all(
    lists: impl IntoIterator<Item = Vec<File>>,
    compare: &impl Compare,
) -> io::Result<Vec<File>> {
    let mut heap: BinaryHeap<_> = lists
        .into_iter()
        .enumerate()
        .map(|(number, list)| Reverse((list.len(), number, list)))
        .collect();
    let mut number = heap.len();
    while let Some(Reverse((_, _, left))) = heap.pop() {
        let Some(Reverse((_, _, right))) = heap.pop() else {
            return Ok(left);
        };
        let list = merge(left, right, compare)?;
        heap.push(Reverse((list.len(), number, list)));
        number += 1;
    }
    Ok(Vec::new())
}

/// Sorts descriptors by their files.
pub(crate) fn sort(
    descriptors: impl IntoIterator<Item = Descriptor>,
    compare: &impl Compare,
) -> io::Result<Vec<File>> {
    merge_all(descriptors.into_iter().map(|d| vec![vec![d]]), compare)
}

/// How many neighbours are compared where a search found nothing.
const MARGIN: usize = 3;

/// The result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The file at this index.
    At(usize),
    /// No file is equal.
    Nothing,
    /// The order is broken.
    Astray,
}

/// Finds the file for which `probe` returns *equal*. `probe` compares the file of a
/// descriptor, if it is still open, with the one that is searched.
///
/// A descriptor that means another file by now can mislead the search. The search then
/// ends next to it, so that comparing the neighbours shows it.
pub(crate) fn search(
    files: &mut Vec<File>,
    mut probe: impl FnMut(Descriptor) -> io::Result<Option<Ordering>>,
) -> io::Result<Found> {
    let (mut low, mut high) = (0, files.len());
    while low < high {
        let middle = low.midpoint(high);
        match probe(files[middle][0])? {
            Some(Ordering::Equal) => return Ok(Found::At(middle)),
            Some(Ordering::Less) => low = middle + 1,
            Some(Ordering::Greater) => high = middle,
            None => {
                files[middle].remove(0);
                if files[middle].is_empty() {
                    files.remove(middle);
                    high -= 1;
                }
            }
        }
    }
    let around = low.saturating_sub(MARGIN)..files.len().min(low + MARGIN);
    for index in around {
        let expected = index.cmp(&low).then(Ordering::Greater);
        match probe(files[index][0])? {
            Some(Ordering::Equal) => return Ok(Found::At(index)),
            Some(order) if order != expected => return Ok(Found::Astray),
            Some(_) | None => {}
        }
    }
    Ok(Found::Nothing)
}

/// What [`check`] found.
#[derive(Debug)]
pub(crate) struct Checked {
    /// Files, each of which was just found greater than the one before.
    pub(crate) files: Vec<File>,
    /// All other descriptors that are open.
    pub(crate) rest: Vec<Descriptor>,
    /// Whether the order was broken, so that a search may have been misled.
    pub(crate) broken: bool,
}

/// Checks the order of sorted files; `now` has all descriptors that are open.
///
/// This takes one comparison for each descriptor. Where the order is broken, both
/// neighbours are taken out, as either may mean another file now.
pub(crate) fn check(
    files: Vec<File>,
    mut now: HashSet<Descriptor>,
    compare: &impl Compare,
) -> io::Result<Checked> {
    let mut kept: Vec<File> = Vec::with_capacity(files.len());
    let mut broken = false;
    for file in files {
        let mut same = File::new();
        for descriptor in file {
            if !now.contains(&descriptor) {
                continue;
            }
            let mut this = vec![descriptor];
            while !this.is_empty() {
                let (with, expected) = match kept.last_mut() {
                    _ if !same.is_empty() => (&mut same, Ordering::Equal),
                    Some(last) => (last, Ordering::Less),
                    None => {
                        same.push(descriptor);
                        break;
                    }
                };
                match compare_files(with, &mut this, compare)? {
                    Some(order) if order == expected => {
                        same.push(descriptor);
                        break;
                    }
                    Some(_) => {
                        broken = true;
                        if same.is_empty() {
                            kept.pop();
                        }
                        break;
                    }
                    // What it was compared with has gone: the one before will do.
                    None => {
                        if kept.last().is_some_and(Vec::is_empty) {
                            kept.pop();
                        }
                    }
                }
            }
        }
        if !same.is_empty() {
            kept.push(same);
        }
    }
    for descriptor in kept.iter().flatten() {
        now.remove(descriptor);
    }
    let mut rest: Vec<_> = now.into_iter().collect();
    rest.sort_unstable();
    Ok(Checked {
        files: kept,
        rest,
        broken,
    })
}

#[cfg(test)]
mod tests;
