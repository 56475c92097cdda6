// SPDX-License-Identifier: GPL-2.0

//! Targets that iterator programs attach to.

use super::Args;
use crate::{
    bindings,
    prelude::*,
    seq_file::SeqFile,
    types::ForeignOwnable, //
};

/// The parameters that a link is created with.
///
/// Each target has its own member of the union, and an accessor for it next to its [`Struct`]s.
///
/// # Invariants
///
/// All bytes are initialized.
///
/// [`Struct`]: super::Struct
#[repr(transparent)]
pub struct LinkConfig(bindings::bpf_iter_link_info);

impl LinkConfig {
    /// Returns the C union, all bytes of which are initialized.
    #[inline]
    pub(crate) fn as_raw(&self) -> &bindings::bpf_iter_link_info {
        &self.0
    }
}

/// The information about a link that userspace can query.
#[repr(transparent)]
pub struct LinkInfo(bindings::bpf_link_info);

impl LinkInfo {
    /// Returns the C struct, for the accessors of the targets.
    #[inline]
    pub(crate) fn as_raw_mut(&mut self) -> &mut bindings::bpf_link_info {
        &mut self.0
    }
}

/// A target that programs in section `iter/NAME` attach to.
///
/// A program runs once for each item and once at the end, in the task that reads from the iterator,
/// which may be any task. Programs in section `iter.s/NAME` may sleep.
///
/// The arguments of programs are those of a C function that is never called. It is named
/// `bpf_iter_NAME`, returns `int`, and is declared with `DEFINE_BPF_ITER_FUNC` in the C part of the
/// module. Its first argument is `struct bpf_iter_meta *meta`. The others correspond to
/// [`Items::Args`]: to `&T` a pointer to the struct that `T` wraps, and to `Option<&T>` such a
/// pointer whose name has the suffix `__nullable`.
///
/// See [`module_bpf_iter!`] for how to register a target.
///
/// # Safety
///
/// No compiler compares the two languages, so the implementor has to:
///
/// - The module of which the implementation is part must have such a C function. BPF gets its
///   arguments as the verifier believes that they are: a missing `__nullable` is a `NULL` that
///   programs dereference.
/// - [`REGISTER_KFUNCS`](Self::REGISTER_KFUNCS) must be a function of the C part of the module that
///   can be called in its init function, and registers kfuncs for the BTF of this module.
///
/// [`module_bpf_iter!`]: crate::module_bpf_iter
#[vtable]
pub unsafe trait Target: Sized + 'static {
    /// The name of the target.
    const NAME: &'static CStr;

    /// A C function that registers kfuncs and returns 0 or a negative errno, if there are any.
    const REGISTER_KFUNCS: Option<unsafe extern "C" fn() -> c_int> = None;

    /// The object that a link refers to.
    type Link: ForeignOwnable + Send + Sync;

    /// An open iterator.
    type Items: Items;

    /// Creates a link.
    ///
    /// Context: may sleep, in the task that creates the link.
    fn attach(config: &LinkConfig) -> Result<Self::Link>;

    /// Adds lines of the form `name:\tvalue\n` to the fdinfo of a link.
    fn show_fdinfo(link: <Self::Link as ForeignOwnable>::Borrowed<'_>, m: &SeqFile);

    /// Fills in the information that `BPF_OBJ_GET_INFO_BY_FD` returns about a link.
    fn fill_link_info(link: <Self::Link as ForeignOwnable>::Borrowed<'_>, info: &mut LinkInfo);

    /// Opens an iterator, which may outlive the link.
    ///
    /// Context: may sleep.
    fn open(link: <Self::Link as ForeignOwnable>::Borrowed<'_>) -> Result<Self::Items>;
}

/// An open iterator.
///
/// A read consists of one call of `start`, any number of calls of `next`, and dropping the visit,
/// all by one task without a return to userspace. The following read calls `start` again. It must
/// then return the item that was visited last, or the next one if that item is gone, because the
/// program has not seen it yet. The program has seen the items that were passed to `next`.
///
/// `start` is not called again once the end has been reached.
pub trait Items: Send {
    /// A visit to an item, which keeps the item alive.
    type Visit;

    /// The arguments of the program.
    type Args<'a>: Args
    where
        Self: 'a;

    /// Visits the first item that the program has not seen yet.
    ///
    /// Context: may sleep.
    fn start(&mut self) -> Result<Option<Self::Visit>>;

    /// Advances from an item that the program has seen.
    ///
    /// Context: may sleep.
    fn next(&mut self, visit: Self::Visit) -> Result<Option<Self::Visit>>;

    /// Returns the arguments for a visit, or for the end.
    fn args<'a>(&'a self, visit: Option<&'a Self::Visit>) -> Self::Args<'a>;
}
