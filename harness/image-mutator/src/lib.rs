// SPDX-License-Identifier: GPL-2.0

//! Edits of a checkpoint image that nobody would make in good faith. It knows the
//! head of an image only, so that libepollcr can use it in its own tests.

/// Magic number, version, checksum and length.
pub const HEAD: usize = 24;

/// A generator whose numbers depend on the seed alone (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// An image with one to three edits, and with the right checksum and length.
pub fn mutated(good: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = good.to_vec();
    for _ in 0..=random.below(3) {
        mutate(&mut bytes, &mut random);
    }
    seal(&mut bytes);
    bytes
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = HEAD + random.below(bytes.len() - HEAD);
    let rest = bytes.len() - at;
    match random.below(8) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 | 3 => bytes[at] = random.next() as u8,
        4 => bytes.truncate(at.max(HEAD + 1)),
        // A length that CBOR data does not have.
        5 => {
            bytes[at] = [0x1b, 0x3b, 0x5b, 0x7b, 0x9b, 0xbb, 0x9f, 0xbf, 0xff][random.below(9)];
        }
        6 => {
            let len = random.below(rest.min(64)) + 1;
            let from = HEAD + random.below(bytes.len() - HEAD - len + 1);
            let piece = bytes[from..from + len].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => {
            let len = random.below(rest.min(16)) + 1;
            bytes.drain(at..at + len);
            if bytes.len() == HEAD {
                bytes.push(0);
            }
        }
    }
}

/// Sets checksum and length to those of the body.
pub fn seal(bytes: &mut [u8]) {
    let sum = crc32fast::hash(&bytes[HEAD..]);
    let len = (bytes.len() - HEAD) as u64;
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    bytes[16..24].copy_from_slice(&len.to_le_bytes());
}
