// SPDX-License-Identifier: GPL-2.0

//! What two walks and fdinfo say together.

use super::super::programs::File;
use super::*;
use crate::fdinfo::Targets;

fn walk(targets: &[(RawFd, u64, u64)]) -> Walk {
    let targets = targets.iter();
    Walk {
        targets: targets
            .map(|&(tfd, file, epitem)| Seen::new(tfd, File::new(file), epitem, 1, 0))
            .collect(),
        whole: true,
    }
}

fn shown(tfds: &[RawFd]) -> Vec<Target> {
    let lines = tfds
        .iter()
        .map(|tfd| format!("tfd: {tfd} events: 1 data: 0\n"));
    let text = lines.collect::<Vec<_>>().concat();
    Targets::new(text.as_bytes()).map(Result::unwrap).collect()
}

/// The files of the targets; 0 for what changed.
fn files(before: &Walk, after: &Walk, tfds: &[RawFd]) -> Vec<u64> {
    let targets = agree(before, after, Some(shown(tfds)), false).into_iter();
    targets
        .map(|t| t.seen.map_or(0, |seen| seen.address()))
        .collect()
}

#[test]
fn nothing_changes() {
    let walk = walk(&[(5, 1, 10), (3, 2, 20), (5, 3, 30)]);
    assert_eq!(files(&walk, &walk, &[5, 3, 5]), [1, 2, 3]);
    assert_eq!(files(&walk, &walk, &[]), []);
}

#[test]
fn one_that_was_there_once_is_not_told() {
    let less = walk(&[(3, 2, 20), (5, 3, 30)]);
    let more = walk(&[(3, 2, 20), (5, 3, 30), (7, 4, 40)]);
    for (before, after) in [(&less, &more), (&more, &less)] {
        assert_eq!(files(before, after, &[3, 5, 7]), [2, 3, 0]);
        assert_eq!(files(before, after, &[3, 5]), [2, 3]);
    }
    // Another target by the same number: either may be the one that is shown.
    let two = walk(&[(3, 2, 20), (5, 3, 30), (5, 4, 40)]);
    assert_eq!(files(&two, &two, &[3, 5]), [2, 0]);
    assert_eq!(files(&less, &two, &[3, 5, 5]), [2, 0, 0]);
}

#[test]
fn one_that_took_the_place_of_another_is_not_told() {
    let before = walk(&[(5, 3, 30)]);
    for after in [walk(&[(5, 3, 31)]), walk(&[(5, 4, 30)])] {
        assert_eq!(files(&before, &after, &[5]), [0]);
    }
}

#[test]
fn without_fdinfo_two_walks_are_believed_only_if_the_mutex_is_held() {
    let walk = walk(&[(5, 3, 30)]);
    for (held, expected) in [(true, 1), (false, 0)] {
        let targets = agree(&walk, &walk, None, held);
        assert_eq!(
            targets.iter().filter(|t| t.seen.is_some()).count(),
            expected
        );
        assert_eq!(targets.len(), 1);
    }
}
