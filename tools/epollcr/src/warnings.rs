// SPDX-License-Identifier: GPL-2.0

//! What is said of targets before an image is written or restored: what could not be
//! seen without the device, and what cannot be restored without it.

use libepollcr::image::{Image, Item, Kind};
use libepollcr::restore::Restore;
use std::collections::BTreeMap;
use std::os::fd::RawFd;

/// Of an image that was made with the device, or without.
pub fn of_dump(image: &Image, with_device: bool) -> Vec<String> {
    let numbers = image.numbers();
    let is_missing = |item: &&Item| {
        let file = item.file as usize;
        matches!(image.files[file].kind, Kind::Other { .. }) && numbers[file].is_empty()
    };
    let mut warnings = Vec::new();
    let missing = items(image, |_| false).filter(is_missing).count();
    if missing > 0 {
        warnings.push(format!(
            "the image lacks the files of {}, and cannot be restored without them: epollcr \
             show tells which and why",
            targets(missing)
        ));
    }
    let guessed = guessed(image, |_| false);
    if guessed > 0 {
        warnings.push(format!(
            "it cannot be seen whether the edges of {} were reported: a restore reports them \
             (again)",
            targets(guessed)
        ));
    }
    let fired = Restore::new(image).only_by_device();
    if fired > 0 && !with_device {
        warnings.push(format!(
            "a restore without the kernel module epoll_cr will refuse {}, as nothing makes a \
             oneshot of its file fire again",
            targets(fired)
        ));
    }
    warnings
}

/// Of an image that is about to be restored, with these files of the caller.
pub fn of_restore(image: &Image, given: &BTreeMap<u32, RawFd>) -> Vec<String> {
    let mut warnings = Vec::new();
    if image.origin.running {
        let running = "the process was running when it was dumped: the image may be inconsistent";
        warnings.push(running.to_owned());
    }
    let guessed = guessed(image, |file| given.contains_key(&file));
    if guessed > 0 {
        warnings.push(format!(
            "the dump could not see whether the edges of {} were reported: they are reported \
             (again)",
            targets(guessed)
        ));
    }
    warnings
}

/// The targets of the epoll instances, without those that are given.
fn items(image: &Image, is_given: impl Fn(u32) -> bool) -> impl Iterator<Item = &Item> {
    let files = (0..).zip(&image.files);
    let made = files.filter(move |&(file, _)| !is_given(file));
    made.flat_map(|(_, file)| match &file.kind {
        Kind::Epoll { items } => &items[..],
        _ => &[],
    })
}

fn guessed(image: &Image, is_given: impl Fn(u32) -> bool) -> usize {
    let items = items(image, is_given);
    items.filter(|item| item.guessed == Some(true)).count()
}

fn targets(count: usize) -> String {
    match count {
        1 => "1 target".to_owned(),
        count => format!("{count} targets"),
    }
}
