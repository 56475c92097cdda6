// SPDX-License-Identifier: GPL-2.0

//! The id of an epoll instance.

use super::Eventpoll;

impl Eventpoll {
    /// Returns the id of the instance, which is never reused while the system is running.
    ///
    /// It is shown as `epoll-id` in the fdinfo of each descriptor of the instance.
    #[inline]
    pub fn id(&self) -> u64 {
        // SAFETY: By the type invariants, this is a valid instance. `id` is not written after the
        // instance has been created.
        unsafe { (*self.0.get()).id }
    }
}
