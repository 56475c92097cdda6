// SPDX-License-Identifier: GPL-2.0

//! BPF iterators.
//!
//! There are two kinds of them. Both are used by programs, which run in the kernel and see its
//! structures, and provided by the kernel or a module.
//!
//! - A [`Target`] is what a program can be attached to: whoever reads from the iterator's file gets
//!   what the program writes, which is run on each item. See [`module_bpf_iter!`].
//! - An [`OpenCoded`] iterator is a loop within a program that itself was started by something
//!   else. See [`bpf_open_coded_iter!`].
//!
//! What BPF has to know about types it takes from the BTF of the module, which is made of what the
//! module has in C. Hence each has a part in C, with nothing but declarations and functions of one
//! line.
//!
//! [`module_bpf_iter!`]: crate::module_bpf_iter
//! [`bpf_open_coded_iter!`]: crate::bpf_open_coded_iter
//!
//! C header: [`include/linux/bpf.h`](srctree/include/linux/bpf.h)

mod open_coded;
mod target;

pub use self::{
    open_coded::{
        OpenCoded,
        State, //
    },
    target::{
        Arg,
        Args,
        Items,
        LinkConfig,
        LinkInfo,
        Registration,
        Struct,
        Target, //
    },
};
