// SPDX-License-Identifier: GPL-2.0

//! Numbers that tell objects apart and say nothing else about them.

use super::{
    fd_table::FdTable,
    FileIdentity, //
};
use crate::bindings;

/// A key that makes numbers of objects of the kernel.
///
/// The number of an object is its address, put through a permutation of all numbers but zero that
/// the key selects. So two objects that exist at the same time have the same number under one key
/// exactly if they are the same, which a hash could only make likely, and nothing has to be kept
/// for that. Without the key nothing can be learned about the address, nor can a number that was
/// made with one key be recognised among those of another.
///
/// The permutation is a Feistel network with SipHash as the round function. Four rounds of a
/// pseudorandom function make a pseudorandom permutation, as long as it is used for much fewer
/// inputs than half of the bits can tell apart. Two more are for more inputs than that.
pub struct IdentityKey(bindings::siphash_key_t);

impl IdentityKey {
    const ROUNDS: u64 = 6;

    /// Makes a new key.
    pub fn random() -> Self {
        let mut key = bindings::siphash_key_t::default();

        // SAFETY: `key` can be written to, and any bytes are a key.
        unsafe { bindings::get_random_bytes((&raw mut key).cast(), size_of_val(&key)) };

        Self(key)
    }

    /// Returns the number of an open file, which is not 0.
    ///
    /// This is one file as long as `file` borrows, and the number can be that of another one later.
    #[inline]
    pub fn file(&self, file: FileIdentity<'_>) -> u64 {
        self.number(file.as_ptr().addr() as u64)
    }

    /// Returns the number of a descriptor table, which is not 0 and not that of a file.
    ///
    /// As with files, it can be that of another table later.
    #[inline]
    pub fn table(&self, table: &FdTable<'_>) -> u64 {
        self.number(table.as_ptr().addr() as u64)
    }

    /// Permutes the numbers but zero.
    fn number(&self, value: u64) -> u64 {
        match self.permute(value) {
            // Nothing has the address 0, so the place that it would take is free.
            0 => self.permute(0),
            number => number,
        }
    }

    fn permute(&self, value: u64) -> u64 {
        let mut left = value >> 32;
        let mut right = value & u64::from(u32::MAX);

        for round in 0..Self::ROUNDS {
            // SAFETY: The key can be read.
            let hash = unsafe { bindings::siphash_1u64(round << 32 | right, &self.0) };

            (left, right) = (right, left ^ (hash & u64::from(u32::MAX)));
        }

        left << 32 | right
    }
}

#[macros::kunit_tests(rust_fs_identity)]
mod tests {
    use super::*;

    const fn key(a: u64, b: u64) -> IdentityKey {
        IdentityKey(bindings::siphash_key_t { key: [a, b] })
    }

    /// The inverse of [`IdentityKey::permute`]. That there is one makes it a permutation.
    fn invert(key: &IdentityKey, number: u64) -> u64 {
        let mut left = number >> 32;
        let mut right = number & u64::from(u32::MAX);

        for round in (0..IdentityKey::ROUNDS).rev() {
            // SAFETY: The key can be read.
            let hash = unsafe { bindings::siphash_1u64(round << 32 | left, &key.0) };

            (left, right) = (right ^ (hash & u64::from(u32::MAX)), left);
        }

        left << 32 | right
    }

    /// Addresses of a slab, and what could go wrong.
    fn values() -> impl Iterator<Item = u64> {
        [
            0,
            1,
            u64::MAX,
            1 << 32,
            u64::from(u32::MAX),
            i64::MIN.cast_unsigned(),
        ]
        .into_iter()
        .chain((0..1000).map(|i| 0xffff_8881_0423_4000 + i * 192))
    }

    #[test]
    fn permutation() {
        for key in [key(0, 0), key(1, 2), IdentityKey::random()] {
            for value in values() {
                assert_eq!(invert(&key, key.permute(value)), value);
            }
        }
    }

    #[test]
    fn zero_is_no_number() {
        for key in [key(0, 0), key(3, 4), IdentityKey::random()] {
            let value = invert(&key, 0);

            assert_eq!(key.permute(value), 0);
            assert_ne!(key.number(value), 0);
            // That one was no number of anything else.
            assert_eq!(key.number(value), key.permute(0));
        }
    }

    #[test]
    fn each_bit_of_the_key_counts() {
        let number = key(0, 0).number(0xffff_8881_0423_4000);

        for bit in 0..64 {
            assert_ne!(key(1 << bit, 0).number(0xffff_8881_0423_4000), number);
            assert_ne!(key(0, 1 << bit).number(0xffff_8881_0423_4000), number);
        }
    }

    #[test]
    fn neighbours_look_unrelated() {
        let key = key(5, 6);
        let mut flips = [0u32; 64];

        // Each bit of the number flips in about half of the cases.
        for value in values() {
            let change = key.permute(value) ^ key.permute(value ^ 64);
            for (bit, flips) in flips.iter_mut().enumerate() {
                *flips += u32::from(change >> bit & 1 == 1);
            }
        }
        assert!(flips.iter().all(|flips| (400..=606).contains(flips)));
    }

    #[test]
    fn keys_are_random() {
        assert_ne!(
            IdentityKey::random().permute(1),
            IdentityKey::random().permute(1)
        );
    }
}
