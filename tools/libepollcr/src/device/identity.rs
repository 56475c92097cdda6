// SPDX-License-Identifier: GPL-2.0

//! Maps by identity.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by the identities that one [`Device`](super::Device) gives to open file
/// descriptions.
///
/// Identities are not hashed again: they depend on a key of the device, so that
/// nobody can choose them to collide. Use another map for identities that were read
/// from a file.
pub type ByIdentity<V> = HashMap<u64, V, BuildHasherDefault<IdentityHasher>>;

/// The hasher of [`ByIdentity`]: an identity is its own hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write_u64(&mut self, identity: u64) {
        self.0 = identity;
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
