// SPDX-License-Identifier: GPL-2.0

//! Tests of sorting and searching, with a kernel of their own.

use super::*;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

/// Takes the place of the kernel: the file of each descriptor.
#[derive(Default)]
struct Kernel {
    open: RefCell<HashMap<Descriptor, u32>>,
    calls: Cell<u32>,
    /// Descriptors to be closed, by the number of calls after which they are.
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

    /// Whether `files` has all that is open, sorted.
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
