// SPDX-License-Identifier: GPL-2.0

//! Images that somebody has edited, checksum included: each is refused, or is
//! restored, and nothing is left of it.

mod common;

use common::{bytes, image};
use image_mutator::mutated;
use libepollcr::device::Device;
use libepollcr::image::{Image, Kind};
use libepollcr::restore::Restore;
use std::fs;

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect(name))
}

/// `EPOLLCR_MUTATIONS` says how many, `EPOLLCR_SEED` which.
#[test]
fn edits_are_refused_or_harmless() {
    let mutations = number("EPOLLCR_MUTATIONS", 50_000);
    let seed = number("EPOLLCR_SEED", 1);
    let device = Device::open().ok();
    let mut image = image();
    for file in &mut image.files {
        match &mut file.kind {
            // Or nothing would be restored at all.
            Kind::Epoll { items } if device.is_none() => items.clear(),
            _ => {}
        }
    }
    let good = bytes(&image);
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
