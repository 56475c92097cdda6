// SPDX-License-Identifier: GPL-2.0

//! BPF iterators over epoll instances.

use super::{
    Epitem,
    Eventpoll, //
};
use crate::bpf::iter::{
    LinkConfig,
    LinkInfo,
    Struct, //
};

// SAFETY: The type is `#[repr(transparent)]` over `struct eventpoll`. Programs can only read it, as
// no kfunc or helper takes a pointer to one.
unsafe impl Struct for Eventpoll {}

// SAFETY: As for `Eventpoll`; the type is `#[repr(transparent)]` over `struct epitem`.
unsafe impl Struct for Epitem {}

impl LinkConfig {
    /// Returns the caller's descriptor of the epoll instance to iterate over.
    ///
    /// Returns `None` if it is 0, as it is if the caller has not passed any. As with the
    /// descriptors of other targets, this one must not be 0.
    #[inline]
    pub fn epoll_fd(&self) -> Option<u32> {
        // SAFETY: All bytes are initialized, and any value is a valid `u32`.
        let fd = unsafe { self.as_raw().epoll.epoll_fd };

        Some(fd).filter(|&fd| fd != 0)
    }
}

impl LinkInfo {
    /// Sets the id of the epoll instance that the link iterates over.
    #[inline]
    pub fn set_epoll_id(&mut self, id: u64) {
        self.as_raw_mut()
            .__bindgen_anon_1
            .iter
            .__bindgen_anon_2
            .epoll
            .epoll_id = id;
    }
}
