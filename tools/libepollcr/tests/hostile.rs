// SPDX-License-Identifier: GPL-2.0

//! Images that somebody has edited, checksum included: each is refused, or is
//! restored, and nothing is left of it.

mod common;

use common::{bytes, file, image, place};
use image_mutator::mutated;
use libepollcr::device::Device;
use libepollcr::image::{Descriptor, Image, Kind, Watch};
use libepollcr::restore::Restore;
use std::fs;
use std::sync::{Mutex, PoisonError};

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// How many edits are tried.
fn mutations() -> u64 {
    number("EPOLLCR_MUTATIONS", 50_000)
}

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect(name))
}

/// Restores an image with edits: `EPOLLCR_SEED` says which.
fn edit(image: &Image, mutations: u64) {
    /// Both count descriptors.
    static ALONE: Mutex<()> = Mutex::new(());

    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = number("EPOLLCR_SEED", 1);
    let device = Device::open().ok();
    let good = bytes(image);
    let before = open_files();
    let (mut read, mut restored) = (0, 0);
    for n in 0..mutations {
        let bytes = mutated(&good, seed.wrapping_mul(1_000_003).wrapping_add(n));
        let image = match Image::read(&bytes[..]) {
            Ok(image) => image,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        read += 1;
        match Restore::new(&image).run(device.as_ref()) {
            Ok(_) => restored += 1,
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        assert_eq!(
            open_files(),
            before,
            "mutation {n} of seed {seed} leaves files open"
        );
    }
    println!("{mutations} mutations: {read} could be read, {restored} restored");
    assert!(restored > 0, "no mutation was so small that it did no harm");
}

/// `EPOLLCR_MUTATIONS` says how many.
#[test]
fn edits_are_refused_or_harmless() {
    let mut image = image();
    for file in &mut image.files {
        match &mut file.kind {
            // Or nothing would be restored at all.
            Kind::Epoll { items } if Device::open().is_err() => items.clear(),
            _ => {}
        }
    }
    edit(&image, mutations());
}

/// Fewer: the kernel takes its time to close an inotify instance.
#[test]
fn edits_of_watches() {
    let mut image = Image::default();
    let watch = |wd, path| Watch::new(wd, libc::IN_MODIFY, place(path));
    let watches = vec![watch(1, "/etc/passwd"), watch(2, "/etc")];
    let kind = Kind::Inotify { watches };
    image.files = vec![file(kind, libc::O_RDONLY | libc::O_NONBLOCK)];
    let (number, file, cloexec) = (600, 0, true);
    image.descriptors = vec![Descriptor {
        number,
        file,
        cloexec,
    }];
    edit(&image, (mutations() / 50).max(200));
}
