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
/// for that. Each kind of object has a permutation of its own, so that numbers of different kinds
/// say nothing of each other.
///
/// Without the key a number does not tell the address, nor can it be recognised among those of
/// another key. But what is equal stays so: who sees that a number is used again, for an object
/// that was made later, knows that it got the memory of the former one.
///
/// The permutation is a Feistel network with SipHash as the round function. Four rounds of a
/// pseudorandom function make a pseudorandom permutation, as long as it is used for much fewer
/// inputs than half of the bits can tell apart. Two more are for more inputs than that.
pub struct IdentityKey(bindings::siphash_key_t);

impl IdentityKey {
    const ROUNDS: u64 = 6;

    const FILE: u64 = 0;
    const TABLE: u64 = 1;

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
        self.number(Self::FILE, file.as_ptr().addr() as u64)
    }

    /// Returns the number of a descriptor table, which is not 0.
    ///
    /// As with files, it can be that of another table later. It is not comparable with that of a
    /// file.
    #[inline]
    pub fn table(&self, table: &FdTable<'_>) -> u64 {
        self.number(Self::TABLE, table.as_ptr().addr() as u64)
    }

    /// Permutes the numbers but zero.
    fn number(&self, kind: u64, value: u64) -> u64 {
        match self.permute(kind, value) {
            // Nothing has the address 0, so the place that it would take is free.
            0 => self.permute(kind, 0),
            number => number,
        }
    }

    /// Puts `value` through the permutation of a `kind`, which is below 2^16.
    fn permute(&self, kind: u64, value: u64) -> u64 {
        let mut left = value >> 32;
        let mut right = value & u64::from(u32::MAX);

        for round in 0..Self::ROUNDS {
            // SAFETY: The key can be read.
            let hash = unsafe { bindings::siphash_1u64(kind << 48 | round << 32 | right, &self.0) };

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
    fn invert(key: &IdentityKey, kind: u64, number: u64) -> u64 {
        let mut left = number >> 32;
        let mut right = number & u64::from(u32::MAX);

        for round in (0..IdentityKey::ROUNDS).rev() {
            // SAFETY: The key can be read.
            let hash = unsafe { bindings::siphash_1u64(kind << 48 | round << 32 | left, &key.0) };

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
            i64::MIN as u64,
        ]
        .into_iter()
        .chain((0..1000).map(|i| 0xffff_8881_0423_4000 + i * 192))
    }

    #[test]
    fn permutation() {
        for key in [key(0, 0), key(1, 2), IdentityKey::random()] {
            for kind in [IdentityKey::FILE, IdentityKey::TABLE] {
                for value in values() {
                    assert_eq!(invert(&key, kind, key.permute(kind, value)), value);
                }
            }
        }
    }

    #[test]
    fn zero_is_no_number() {
        for key in [key(0, 0), key(3, 4), IdentityKey::random()] {
            for kind in [IdentityKey::FILE, IdentityKey::TABLE] {
                let value = invert(&key, kind, 0);

                assert_eq!(key.permute(kind, value), 0);
                assert_ne!(key.number(kind, value), 0);
                // That one was no number of anything else.
                assert_eq!(key.number(kind, value), key.permute(kind, 0));
            }
        }
    }

    #[test]
    fn kinds_are_apart() {
        let key = key(7, 8);

        for value in values() {
            assert_ne!(
                key.permute(IdentityKey::FILE, value),
                key.permute(IdentityKey::TABLE, value)
            );
        }
    }

    #[test]
    fn each_bit_of_the_key_counts() {
        let number = |key: IdentityKey| key.number(IdentityKey::FILE, 0xffff_8881_0423_4000);

        for bit in 0..64 {
            assert_ne!(number(key(1 << bit, 0)), number(key(0, 0)));
            assert_ne!(number(key(0, 1 << bit)), number(key(0, 0)));
        }
    }

    #[test]
    fn neighbours_look_unrelated() {
        let key = key(5, 6);
        let mut flips = [0u32; 64];

        // Each bit of the number flips in about half of the cases.
        for value in values() {
            let permute = |value| key.permute(IdentityKey::FILE, value);
            let change = permute(value) ^ permute(value ^ 64);
            for (bit, flips) in flips.iter_mut().enumerate() {
                *flips += u32::from(change >> bit & 1 == 1);
            }
        }
        assert!(flips.iter().all(|flips| (400..=606).contains(flips)));
    }

    #[test]
    fn keys_are_random() {
        assert_ne!(
            IdentityKey::random().permute(IdentityKey::FILE, 1),
            IdentityKey::random().permute(IdentityKey::FILE, 1)
        );
    }
}
