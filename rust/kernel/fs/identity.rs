// SPDX-License-Identifier: GPL-2.0

//! Opaque identities of kernel objects.

use super::{
    fd_table::FdTable,
    FileIdentity, //
};
use crate::bindings;

/// A key for mapping kernel objects to opaque identities.
///
/// The identity of an object is its address under a keyed permutation of all nonzero 64-bit values.
/// Two objects that exist at the same time thus have the same identity under one key exactly if
/// they are the same object, which a hash could not guarantee, and no state is needed. Each kind of
/// object has its own permutation, so identities of different kinds are unrelated.
///
/// Without the key, an identity reveals neither the address nor whether it corresponds to one under
/// another key. Equality is preserved, however: an identity that reappears for an object that was
/// created later reveals that the memory of the old object has been reused.
///
/// The permutation is a Feistel network with SipHash as its round function. Four rounds of a
/// pseudorandom function yield a pseudorandom permutation for far fewer than 2^16 inputs. Six
/// rounds raise this bound to 2^32.
pub struct IdentityKey(bindings::siphash_key_t);

impl IdentityKey {
    const ROUNDS: u64 = 6;

    const FILE: u64 = 0;
    const TABLE: u64 = 1;

    /// Creates a random key.
    pub fn random() -> Self {
        let mut key = bindings::siphash_key_t::default();

        // SAFETY: `key` is valid for writes, and any bytes are a valid key.
        unsafe { bindings::get_random_bytes((&raw mut key).cast(), size_of_val(&key)) };

        Self(key)
    }

    /// Returns the identity of an open file, which is not 0.
    ///
    /// It is unique as long as `file` is valid. Afterwards it may become that of another file.
    #[inline]
    pub fn file(&self, file: FileIdentity<'_>) -> u64 {
        self.identity(Self::FILE, file.as_ptr().addr() as u64)
    }

    /// Returns the identity of a descriptor table, which is not 0.
    ///
    /// As with files, it may become that of another table later. It cannot be compared with the
    /// identity of a file.
    #[inline]
    pub fn table(&self, table: &FdTable<'_>) -> u64 {
        self.identity(Self::TABLE, table.as_ptr().addr() as u64)
    }

    /// Permutes the nonzero values.
    fn identity(&self, kind: u64, value: u64) -> u64 {
        match self.permute(kind, value) {
            // No object has address 0, so the value that 0 is mapped to is unused.
            0 => self.permute(kind, 0),
            identity => identity,
        }
    }

    /// Applies the permutation of a `kind` of objects, which is below 2^16.
    fn permute(&self, kind: u64, value: u64) -> u64 {
        let mut left = value >> 32;
        let mut right = value & u64::from(u32::MAX);

        for round in 0..Self::ROUNDS {
            // SAFETY: The key is valid for reads.
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

    /// The inverse of [`IdentityKey::permute`], which proves that it is a permutation.
    fn invert(key: &IdentityKey, kind: u64, value: u64) -> u64 {
        let mut left = value >> 32;
        let mut right = value & u64::from(u32::MAX);

        for round in (0..IdentityKey::ROUNDS).rev() {
            // SAFETY: The key is valid for reads.
            let hash = unsafe { bindings::siphash_1u64(kind << 48 | round << 32 | left, &key.0) };

            (left, right) = (right ^ (hash & u64::from(u32::MAX)), left);
        }

        left << 32 | right
    }

    /// Addresses in a slab, and corner cases.
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
                assert_ne!(key.identity(kind, value), 0);
                // No other value has this identity.
                assert_eq!(key.identity(kind, value), key.permute(kind, 0));
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
        let identity = |key: IdentityKey| key.identity(IdentityKey::FILE, 0xffff_8881_0423_4000);

        for bit in 0..64 {
            assert_ne!(identity(key(1 << bit, 0)), identity(key(0, 0)));
            assert_ne!(identity(key(0, 1 << bit)), identity(key(0, 0)));
        }
    }

    #[test]
    fn neighbours_look_unrelated() {
        let key = key(5, 6);
        let mut flips = [0u32; 64];

        // Each bit of the result flips in about half of the cases.
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
