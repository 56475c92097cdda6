// SPDX-License-Identifier: GPL-2.0

//! Arguments of iterator programs.

use crate::{
    bindings,
    prelude::*, //
};
use core::ptr;

/// The maximum number of arguments besides `meta`.
const ARG_MAX: usize = bindings::BPF_ITER_CTX_ARG_MAX as usize;

/// A structure that can be passed to programs.
///
/// # Safety
///
/// The type must be `#[repr(transparent)]` over a C struct that is defined in the BTF of the
/// kernel. While there is a reference to it, programs must be allowed to read any of its fields,
/// and to pass it to any function that programs may call with a trusted pointer to that struct.
pub unsafe trait Struct {}

/// An argument of a program.
///
/// # Safety
///
/// `for_program` must return a pointer to a [`Struct`] that is valid as long as `self` is, or
/// `NULL` if programs have to check for that.
pub unsafe trait Arg: Copy {
    /// Returns the pointer that is passed to the program.
    fn for_program(self) -> ContextPtr;
}

// SAFETY: This is a pointer to a `Struct`.
unsafe impl<T: Struct> Arg for &T {
    #[inline]
    fn for_program(self) -> ContextPtr {
        ContextPtr::new(ptr::from_ref(self).cast())
    }
}

// SAFETY: This is a pointer to a `Struct`, or `NULL`. The name of the argument has the suffix
// `__nullable` in C, see `Target`.
unsafe impl<T: Struct> Arg for Option<&T> {
    #[inline]
    fn for_program(self) -> ContextPtr {
        self.map_or(ContextPtr::NULL, Arg::for_program)
    }
}

/// The arguments of a program besides `meta`: a tuple of up to as many as BPF allows.
pub trait Args: Copy {
    /// Returns the pointers that are passed to the program.
    fn for_program(self) -> [ContextPtr; ARG_MAX];
}

impl<A: Arg> Args for (A,) {
    #[inline]
    fn for_program(self) -> [ContextPtr; ARG_MAX] {
        [self.0.for_program(), ContextPtr::NULL]
    }
}

impl<A: Arg, B: Arg> Args for (A, B) {
    #[inline]
    fn for_program(self) -> [ContextPtr; ARG_MAX] {
        [self.0.for_program(), self.1.for_program()]
    }
}

/// The context of a program, `struct bpf_iter__NAME` in C.
#[repr(C)]
pub(super) struct Context {
    meta: ContextPtr,
    args: [ContextPtr; ARG_MAX],
}

impl Context {
    #[inline]
    pub(super) fn new(meta: *const bindings::bpf_iter_meta, args: impl Args) -> Self {
        Self {
            meta: ContextPtr::new(meta.cast()),
            args: args.for_program(),
        }
    }
}

/// A pointer as programs load it: 64 bits wide on all architectures. Modules do not learn it.
#[repr(transparent)]
pub struct ContextPtr(u64);

impl ContextPtr {
    const NULL: Self = Self(0);

    #[inline]
    fn new(ptr: *const c_void) -> Self {
        Self(ptr.expose_provenance() as u64)
    }
}
