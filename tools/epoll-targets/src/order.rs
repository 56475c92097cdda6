// SPDX-License-Identifier: GPL-2.0

//! Open files in the order of the kernel's, while their descriptors come and go.
//!
//! The kernel is asked through closures, so that tests can be the kernel.

use crate::descriptor::Descriptor;
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashSet};
use std::io;

/// An open file: its descriptors. It has one at least, or is left out.
pub(crate) type File = Vec<Descriptor>;

/// Whether this is an error of a descriptor, or of its process, that has gone,
/// or has come to be another user's.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADF | libc::ESRCH | libc::EPERM)
    )
}

/// Says how the open files of two descriptors compare.
pub(crate) trait Compare: Fn(Descriptor, Descriptor) -> io::Result<Ordering> {}

impl<F: Fn(Descriptor, Descriptor) -> io::Result<Ordering>> Compare for F {}

fn is_open(descriptor: Descriptor, compare: &impl Compare) -> io::Result<bool> {
    match compare(descriptor, descriptor) {
        Ok(_) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How often a descriptor may be closed when it is compared, and open when it is
/// looked at, before it is left out.
const PATIENCE: u32 = 16;

/// Compares two files by a descriptor of each that is still open; leaves a file
/// empty, and says nothing, if there is none.
fn compare_files(
    x: &mut File,
    y: &mut File,
    compare: &impl Compare,
) -> io::Result<Option<Ordering>> {
    let mut tries = 0;
    while let (Some(&a), Some(&b)) = (x.first(), y.first()) {
        match compare(a, b) {
            // Which of them?
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

/// Merges sorted lists into one, the shortest first: that is n log n in all, for
/// n descriptors, also with what it took to sort the lists.
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

/// How many neighbours of the place where nothing was found are asked about.
const MARGIN: usize = 3;

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// This file.
    At(usize),
    /// None.
    Nothing,
    /// The order does not hold.
    Astray,
}

/// Finds the file that `probe` says is equal. `probe` compares the file of a
/// descriptor with what is looked for, if it is still open.
///
/// One that has come to mean another file can lead the search astray. Then it ends
/// right beside that one, and the neighbours tell.
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
    /// Files, each found greater than the one before it just now.
    pub(crate) files: Vec<File>,
    /// All other descriptors that there are.
    pub(crate) rest: Vec<Descriptor>,
    /// Whether the order was another, so that a search may have been led astray.
    pub(crate) broken: bool,
}

/// Checks the order of sorted files: `now` is all descriptors that there are.
///
/// That takes one comparison a descriptor. Where the order is not what it was,
/// both neighbours are taken out: either may mean another file now.
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::{Cell, RefCell};
    use std::collections::{BTreeMap, HashMap};

    /// A kernel: which file each descriptor means.
    #[derive(Default)]
    struct Kernel {
        open: RefCell<HashMap<Descriptor, u32>>,
        calls: Cell<u32>,
        /// Closed when so many questions have been asked.
        closes: RefCell<BTreeMap<u32, Descriptor>>,
    }

    fn descriptor(fd: i32) -> Descriptor {
        Descriptor { pid: 1, fd }
    }

    impl Kernel {
        fn new(files: &[u32]) -> Self {
            let kernel = Self::default();
            for (fd, &file) in files.iter().enumerate() {
                kernel.set(fd as i32, file);
            }
            kernel
        }

        fn set(&self, fd: i32, file: u32) {
            self.open.borrow_mut().insert(descriptor(fd), file);
        }

        fn file(&self, descriptor: Descriptor) -> io::Result<u32> {
            let file = self.open.borrow().get(&descriptor).copied();
            file.ok_or(io::Error::from_raw_os_error(libc::EBADF))
        }

        fn tick(&self) {
            self.calls.set(self.calls.get() + 1);
            let closed = self.closes.borrow_mut().remove(&self.calls.get());
            closed.map(|d| self.open.borrow_mut().remove(&d));
        }

        fn compare(&self, a: Descriptor, b: Descriptor) -> io::Result<Ordering> {
            self.tick();
            Ok(self.file(a)?.cmp(&self.file(b)?))
        }

        fn probe(&self, descriptor: Descriptor, what: u32) -> Option<Ordering> {
            self.tick();
            Some(self.file(descriptor).ok()?.cmp(&what))
        }

        fn descriptors(&self) -> Vec<Descriptor> {
            let mut all: Vec<_> = self.open.borrow().keys().copied().collect();
            all.sort_unstable();
            all
        }

        /// Whether `files` is what is open, sorted.
        fn is_sorted(&self, files: &[File]) -> bool {
            let mut by_file: BTreeMap<u32, Vec<Descriptor>> = BTreeMap::new();
            for d in self.descriptors() {
                by_file.entry(self.file(d).unwrap()).or_default().push(d);
            }
            let mut files = files.to_vec();
            files.iter_mut().for_each(|file| file.sort_unstable());
            files.into_iter().eq(by_file.into_values())
        }
    }

    fn bound(n: usize) -> u32 {
        n as u32 * n.next_power_of_two().trailing_zeros()
    }

    proptest! {
        #[test]
        fn sorts_within_the_bound(files in proptest::collection::vec(0..50u32, 0..100)) {
            let kernel = Kernel::new(&files);
            let ask = |a, b| kernel.compare(a, b);
            let sorted = sort(kernel.descriptors(), &ask).unwrap();
            prop_assert!(kernel.is_sorted(&sorted));
            prop_assert!(kernel.calls.get() <= bound(files.len()));
        }

        #[test]
        fn finds_what_there_is(files in proptest::collection::vec(0..50u32, 0..100), what in 0..50u32) {
            let kernel = Kernel::new(&files);
            let ask = |a, b| kernel.compare(a, b);
            let mut sorted = sort(kernel.descriptors(), &ask).unwrap();
            let mut probes = 0;
            let found = search(&mut sorted, |d| {
                probes += 1;
                Ok(kernel.probe(d, what))
            })
            .unwrap();
            match found {
                Found::At(index) => prop_assert_eq!(sorted[index].len(), files.iter().filter(|&&f| f == what).count()),
                Found::Nothing => prop_assert!(!files.contains(&what)),
                Found::Astray => panic!("nothing has changed"),
            }
            let steps = (files.len() + 1).next_power_of_two().trailing_zeros() as usize;
            prop_assert!(probes <= steps + 2 * MARGIN);
        }

        #[test]
        fn one_that_has_changed_is_noticed(what in 0..40u32, changed in 0..40i32, to in 0..100u32) {
            let kernel = Kernel::new(&(0..40).map(|file| 2 * file + 10).collect::<Vec<_>>());
            let ask = |a, b| kernel.compare(a, b);
            let mut sorted = sort(kernel.descriptors(), &ask).unwrap();
            kernel.set(changed, to);
            let what = 2 * what + 10;
            let there = kernel.descriptors().iter().any(|&d| kernel.file(d).unwrap() == what);
            match search(&mut sorted, |d| Ok(kernel.probe(d, what))).unwrap() {
                Found::At(index) => prop_assert_eq!(kernel.file(sorted[index][0]).unwrap(), what),
                Found::Nothing => prop_assert!(!there || to == what),
                Found::Astray => {}
            }
        }

        #[test]
        fn what_is_closed_meanwhile_is_left_out(
            files in proptest::collection::vec(0..20u32, 1..40),
            closes in proptest::collection::btree_map(1..200u32, 0..40i32, 0..20),
            what in 0..20u32,
        ) {
            let kernel = Kernel::new(&files);
            kernel.closes.replace(closes.into_iter().map(|(at, fd)| (at, descriptor(fd))).collect());
            let ask = |a, b| kernel.compare(a, b);
            let mut sorted = sort(kernel.descriptors(), &ask).unwrap();
            // Those left are in order, whatever was closed.
            let order: Vec<_> = sorted
                .iter()
                .map(|file| file.iter().find_map(|&d| kernel.file(d).ok()))
                .collect();
            prop_assert!(order.iter().flatten().is_sorted_by(|a, b| a < b));
            let found = search(&mut sorted, |d| Ok(kernel.probe(d, what))).unwrap();
            let there = kernel.descriptors().iter().any(|&d| kernel.file(d).unwrap() == what);
            // What is open at the end has been all the time.
            prop_assert!(!there || matches!(found, Found::At(_)));
            prop_assert!(sorted.iter().all(|file| !file.is_empty()));
        }

        #[test]
        fn a_check_keeps_what_is_in_order(
            before in proptest::collection::vec(0..50u32, 0..50),
            changes in proptest::collection::vec((0..60i32, proptest::option::of(0..50u32)), 0..20),
        ) {
            let kernel = Kernel::new(&before);
            let ask = |a, b| kernel.compare(a, b);
            let sorted = sort(kernel.descriptors(), &ask).unwrap();
            for (fd, file) in changes {
                match file {
                    Some(file) => kernel.set(fd, file),
                    None => drop(kernel.open.borrow_mut().remove(&descriptor(fd))),
                }
            }
            let now: HashSet<_> = kernel.descriptors().into_iter().collect();
            let is_unchanged = kernel.is_sorted(&sorted);
            let checked = check(sorted, now, &ask).unwrap();
            prop_assert!(!(checked.broken && is_unchanged));
            // Whatever is kept is in order, and nothing is lost.
            let order: Vec<_> = checked.files.iter().map(|file| kernel.file(file[0]).unwrap()).collect();
            prop_assert!(order.is_sorted_by(|a, b| a < b));
            let rest = sort(checked.rest, &ask).unwrap();
            let all = merge_all([checked.files, rest], &ask).unwrap();
            prop_assert!(kernel.is_sorted(&all));
        }
    }

    #[test]
    fn nothing_changed_costs_one_question_each() {
        let kernel = Kernel::new(&[3, 1, 2, 1, 3, 9]);
        let ask = |a, b| kernel.compare(a, b);
        let sorted = sort(kernel.descriptors(), &ask).unwrap();
        kernel.calls.set(0);
        let now = kernel.descriptors().into_iter().collect();
        let checked = check(sorted.clone(), now, &ask).unwrap();
        assert!(checked.files == sorted && checked.rest.is_empty() && !checked.broken);
        assert_eq!(kernel.calls.get(), 5);
    }

    #[test]
    fn one_that_has_changed_costs_one_neighbour() {
        let kernel = Kernel::new(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let ask = |a, b| kernel.compare(a, b);
        let sorted = sort(kernel.descriptors(), &ask).unwrap();
        kernel.set(3, 9);
        let now = kernel.descriptors().into_iter().collect();
        let checked = check(sorted, now, &ask).unwrap();
        assert!(checked.broken);
        assert_eq!(checked.rest, [3, 4].map(descriptor));
        assert_eq!(
            checked.files,
            [0, 1, 2, 5, 6, 7].map(|fd| vec![descriptor(fd)])
        );
    }

    #[test]
    fn an_error_of_another_kind_is_handed_on() {
        let ask = |_, _| Err(io::Error::from_raw_os_error(libc::ENOSYS));
        let descriptors = || [descriptor(1), descriptor(2)];
        let errno = |error: io::Error| error.raw_os_error();
        assert_eq!(
            errno(sort(descriptors(), &ask).unwrap_err()),
            Some(libc::ENOSYS)
        );
        let files = descriptors().map(|d| vec![d]).to_vec();
        let error = check(files.clone(), descriptors().into(), &ask).unwrap_err();
        assert_eq!(errno(error), Some(libc::ENOSYS));
        let error = search(&mut files.clone(), |d| ask(d, d).map(Some));
        assert_eq!(errno(error.unwrap_err()), Some(libc::ENOSYS));
    }

    #[test]
    fn one_that_comes_and_goes_is_left_out() {
        // 1 is closed whenever it is compared with another.
        let ask = |a: Descriptor, b: Descriptor| match (a.fd, b.fd) {
            (1, 1) => Ok(Ordering::Equal),
            (1, _) | (_, 1) => Err(io::Error::from_raw_os_error(libc::EBADF)),
            (a, b) => Ok(a.cmp(&b)),
        };
        let descriptors = [3, 4, 2].map(descriptor);
        let mut sorted = sort(descriptors, &ask).unwrap();
        assert_eq!(sorted, [2, 3, 4].map(|fd| vec![descriptor(fd)]));
        sorted.push(vec![descriptor(1), descriptor(5)]);
        let other = vec![vec![descriptor(4)], vec![descriptor(5)]];
        let merged = merge(other, sorted.split_off(3), &ask).unwrap();
        assert_eq!(merged, [vec![descriptor(5), descriptor(5)]]);
    }
}
