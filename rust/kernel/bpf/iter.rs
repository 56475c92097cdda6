// SPDX-License-Identifier: GPL-2.0

//! BPF iterators.
//!
//! There are two kinds of them. Both are provided by the kernel or a module, and used by BPF
//! programs, which run in the kernel and can access its structures.
//!
//! - A [`Target`] is what an iterator program attaches to. Reading from the file of the iterator
//!   runs the program on each item and returns what the program writes. See [`module_bpf_iter!`].
//! - An [`OpenCoded`] iterator is a loop within a program of any kind. See
//!   [`bpf_open_coded_iter!`].
//!
//! BPF takes type information from the BTF of the module, which describes the C code of the module.
//! Hence each iterator has a C part, which contains only declarations and one-line functions.
//!
//! [`module_bpf_iter!`]: crate::module_bpf_iter
//! [`bpf_open_coded_iter!`]: crate::bpf_open_coded_iter
//!
//! C header: [`include/linux/bpf.h`](srctree/include/linux/bpf.h)

mod args;
mod open_coded;
mod registration;
mod target;

pub use self::{
    args::{
        Arg,
        Args,
        Struct, //
    },
    open_coded::{
        OpenCoded,
        State, //
    },
    registration::Registration,
    target::{
        Items,
        LinkConfig,
        LinkInfo,
        Target, //
    }, //
};
