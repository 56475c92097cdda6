// SPDX-License-Identifier: GPL-2.0

//! Targets that iterator programs are attached to.

use crate::{
    bindings,
    error::{
        from_result,
        to_result,
        Result, //
    },
    module::this_module,
    prelude::*,
    seq_file::SeqFile,
    str::as_char_ptr_in_const_context,
    types::ForeignOwnable, //
};
use core::{
    marker::PhantomData,
    mem::take,
    ptr, //
};

/// The most arguments that a program has besides `meta`.
const ARG_MAX: usize = bindings::BPF_ITER_CTX_ARG_MAX as usize;

/// The alignment of what BPF lets a target keep for an open iterator.
const PRIVATE_ALIGN: usize = 8;

/// A structure that programs can be given.
///
/// # Safety
///
/// The type must be `#[repr(transparent)]` over the C struct of which the BTF of the kernel has the
/// definition. As long as there is a reference to it, a program must be allowed to read any field of
/// it, and to pass it to whatever programs may call with a trusted pointer to such a struct.
pub unsafe trait Struct {}

/// An argument of a program.
///
/// # Safety
///
/// The result of `as_ptr` must be a pointer to a [`Struct`], valid as long as `self` is, or `NULL` if
/// programs have to expect that.
pub unsafe trait Arg: Copy {
    /// Returns the pointer that the program gets.
    fn as_ptr(self) -> *const c_void;
}

// SAFETY: It is a pointer to a `Struct`.
unsafe impl<T: Struct> Arg for &T {
    #[inline]
    fn as_ptr(self) -> *const c_void {
        ptr::from_ref(self).cast()
    }
}

// SAFETY: It is a pointer to a `Struct`, or `NULL`. The argument is named with the suffix
// `__nullable` in C, see `Target`.
unsafe impl<T: Struct> Arg for Option<&T> {
    #[inline]
    fn as_ptr(self) -> *const c_void {
        self.map_or(ptr::null(), |arg| arg.as_ptr())
    }
}

/// The arguments of a program besides `meta`: a tuple of as many as BPF allows.
pub trait Args: Copy {
    /// Returns the pointers that the program gets.
    fn as_ptrs(self) -> [*const c_void; ARG_MAX];
}

impl<A: Arg> Args for (A,) {
    #[inline]
    fn as_ptrs(self) -> [*const c_void; ARG_MAX] {
        [self.0.as_ptr(), ptr::null()]
    }
}

impl<A: Arg, B: Arg> Args for (A, B) {
    #[inline]
    fn as_ptrs(self) -> [*const c_void; ARG_MAX] {
        [self.0.as_ptr(), self.1.as_ptr()]
    }
}

/// What a program's `struct bpf_iter__NAME` is.
#[repr(C)]
struct Context {
    meta: ContextPtr,
    args: [ContextPtr; ARG_MAX],
}

/// A pointer as programs load it, of 64 bits wherever that is.
#[repr(transparent)]
struct ContextPtr(u64);

impl ContextPtr {
    #[inline]
    fn new(ptr: *const c_void) -> Self {
        Self(ptr.expose_provenance() as u64)
    }
}

/// What whoever creates a link says about it.
///
/// # Invariants
///
/// Each byte of it is initialized.
#[repr(transparent)]
pub struct LinkConfig(bindings::bpf_iter_link_info);

impl LinkConfig {
    /// Returns the descriptor of an epoll set, which is the caller's.
    #[inline]
    pub fn epoll_fd(&self) -> u32 {
        // SAFETY: By the type invariants, it is initialized. It may be any number.
        unsafe { self.0.epoll.epoll_fd }
    }
}

/// What userspace gets to know about a link.
#[repr(transparent)]
pub struct LinkInfo(bindings::bpf_link_info);

impl LinkInfo {
    /// Sets the number of the epoll set that the link is for.
    #[inline]
    pub fn set_epoll_id(&mut self, id: u64) {
        self.0.__bindgen_anon_1.iter.__bindgen_anon_2.epoll.epoll_id = id;
    }
}

/// What programs of the section `iter/NAME` can be attached to.
///
/// A program runs once for each item, and once at the end. It runs in the task that reads from the
/// iterator, which may be any, and may sleep if it is of the section `iter.s/NAME`.
///
/// The arguments of programs are those of a function in C that is never called. It is named
/// `bpf_iter_NAME`, returns `int`, and is declared by `DEFINE_BPF_ITER_FUNC` in the C part of the
/// module. Its first argument is `struct bpf_iter_meta *meta`, those that follow are as
/// [`Items::Args`]: for `&T` a pointer to the struct that `T` is a wrapper of, and for `Option<&T>`
/// one whose name ends with `__nullable`.
///
/// See [`module_bpf_iter!`] for how to register one.
///
/// [`module_bpf_iter!`]: crate::module_bpf_iter
#[vtable]
pub trait Target: Sized + 'static {
    /// The name.
    const NAME: &'static CStr;

    /// What a link is for.
    type Link: ForeignOwnable + Send + Sync;

    /// An open iterator.
    type Items: Items;

    /// Creates a link.
    ///
    /// Context: may sleep, in the task that asks for the link.
    fn attach(config: &LinkConfig) -> Result<Self::Link>;

    /// Adds what there is to say to the fdinfo of a link, in lines of `name:\tvalue\n`.
    fn show_fdinfo(link: <Self::Link as ForeignOwnable>::Borrowed<'_>, m: &SeqFile);

    /// Adds what there is to say to what `BPF_OBJ_GET_INFO_BY_FD` returns.
    fn fill_link_info(link: <Self::Link as ForeignOwnable>::Borrowed<'_>, info: &mut LinkInfo);

    /// Opens an iterator.
    ///
    /// It may be used longer than the link is.
    ///
    /// Context: may sleep.
    fn open(link: <Self::Link as ForeignOwnable>::Borrowed<'_>) -> Result<Self::Items>;
}

/// An open iterator.
///
/// It is read in steps: from `start`, over several `next`, to the visit being dropped. All of that
/// is done by one task, without return to userspace in between. The next time, `start` has to return
/// the item that was visited last, or what is behind it if it is gone: the program has yet to see
/// it. What `next` has gone on from, the program has seen.
///
/// `start` is not called any more when the end was reached once.
pub trait Items: Send {
    /// A visit to an item, which keeps it there.
    type Visit;

    /// What the program gets.
    type Args<'a>: Args
    where
        Self: 'a;

    /// Visits the first item that the program has not yet seen.
    ///
    /// Context: may sleep.
    fn start(&mut self) -> Result<Option<Self::Visit>>;

    /// Goes on from an item that the program has seen.
    ///
    /// Context: may sleep.
    fn next(&mut self, visit: Self::Visit) -> Result<Option<Self::Visit>>;

    /// Returns the arguments for a visit, or for the end.
    fn args<'a>(&'a self, visit: Option<&'a Self::Visit>) -> Self::Args<'a>;
}

/// What is kept for an open iterator.
///
/// # Invariants
///
/// `visit` is there only from `seq_operations.start` to `seq_operations.stop`, which are called by
/// one task.
struct Private<I: Items> {
    items: I,
    visit: Option<I::Visit>,
    is_past_end: bool,
    has_failed: bool,
}

impl<I: Items> Private<I> {
    /// Stores the result of a step, and returns what `seq_operations` return for it.
    #[inline]
    fn arrive(&mut self, visit: Result<Option<I::Visit>>) -> *mut c_void {
        match visit {
            // INVARIANT: This is called for `start` and `next`.
            Ok(Some(visit)) => ptr::from_mut(self.visit.insert(visit)).cast(),
            Ok(None) => {
                self.is_past_end = true;
                ptr::null_mut()
            }
            Err(e) => {
                self.has_failed = true;
                e.to_ptr()
            }
        }
    }

    /// Runs the program on the item that is visited, or for the end.
    ///
    /// # Safety
    ///
    /// `m` must be the valid `seq_file` of an iterator that is being read, of a target whose
    /// function in C is as described at [`Target`].
    #[inline]
    unsafe fn run(&self, m: *mut bindings::seq_file, in_stop: bool) -> c_int {
        let mut meta = bindings::bpf_iter_meta {
            __bindgen_anon_1: bindings::bpf_iter_meta__bindgen_ty_1 { seq: m },
            session_id: 0,
            seq_num: 0,
        };

        // SAFETY: `meta` is valid, and so is the `seq_file` in it.
        let prog = unsafe { bindings::bpf_iter_get_info(&raw mut meta, in_stop) };
        if prog.is_null() {
            return 0;
        }

        let mut ctx = Context {
            meta: ContextPtr::new((&raw const meta).cast()),
            args: self
                .items
                .args(self.visit.as_ref())
                .as_ptrs()
                .map(ContextPtr::new),
        };

        // SAFETY: `prog` is the program of the iterator. The verifier has checked it against the
        // function in C. `ctx` has the arguments of that function, which are valid as long as `self`
        // is borrowed.
        unsafe { bindings::bpf_iter_run_prog(prog, (&raw mut ctx).cast()) }
    }
}

/// The registration of a [`Target`], see [`module_bpf_iter!`].
///
/// [`module_bpf_iter!`]: crate::module_bpf_iter
///
/// # Invariants
///
/// `reg` is registered.
pub struct Registration<T: Target> {
    reg: &'static bindings::bpf_iter_reg,
    _target: PhantomData<T>,
}

// SAFETY: `bpf_iter_unreg_target` may be called by any task.
unsafe impl<T: Target> Send for Registration<T> {}

// SAFETY: There is nothing that can be done with a shared reference.
unsafe impl<T: Target> Sync for Registration<T> {}

impl<T: Target> Registration<T> {
    const SEQ_OPS: bindings::seq_operations = bindings::seq_operations {
        start: Some(Self::start),
        stop: Some(Self::stop),
        next: Some(Self::next),
        show: Some(Self::show),
    };

    const SEQ_INFO: bindings::bpf_iter_seq_info = bindings::bpf_iter_seq_info {
        seq_ops: &Self::SEQ_OPS,
        init_seq_private: Some(Self::init_private),
        fini_seq_private: Some(Self::fini_private),
        seq_priv_size: {
            assert!(align_of::<Private<T::Items>>() <= PRIVATE_ALIGN);
            size_of::<Private<T::Items>>() as u32
        },
    };

    const REG: bindings::bpf_iter_reg = bindings::bpf_iter_reg {
        target: as_char_ptr_in_const_context(T::NAME),
        owner: this_module::<T::OwnerModule>().as_ptr(),
        attach_target: Some(Self::attach),
        detach_target: Some(Self::detach),
        show_fdinfo: Some(Self::show_fdinfo),
        fill_link_info: Some(Self::fill_link_info),
        // All that is called may sleep, and so may programs.
        feature: bindings::bpf_iter_feature_BPF_ITER_RESCHED,
        seq_info: &Self::SEQ_INFO,
        // The arguments are trusted, and nullable if their names say so.
        ..pin_init::zeroed()
    };

    /// Registers the target.
    ///
    /// # Safety
    ///
    /// - `T::OwnerModule` must be the module that calls this. Its function `bpf_iter_NAME` must be as
    ///   described at [`Target`].
    /// - The registration must be dropped before that module is unloaded, and must not be leaked.
    pub unsafe fn new() -> Result<Self> {
        let reg: &'static bindings::bpf_iter_reg = &Self::REG;

        // SAFETY: `reg` is valid as long as the module is loaded, which is longer than it is
        // registered per the safety requirements. Programs keep the module, and links and open
        // iterators keep programs, so that the functions are there as long as they are called.
        to_result(unsafe { bindings::bpf_iter_reg_target(reg) })?;

        // INVARIANT: It has just been registered.
        Ok(Self {
            reg,
            _target: PhantomData,
        })
    }

    /// # Safety
    ///
    /// `config` and `aux` must be valid, those of a link that is being created for this target.
    unsafe extern "C" fn attach(
        _prog: *mut bindings::bpf_prog,
        config: *mut bindings::bpf_iter_link_info,
        aux: *mut bindings::bpf_iter_aux_info,
    ) -> c_int {
        // SAFETY: The caller guarantees that it is valid. It clears it before it copies anything
        // there. The cast is okay because `LinkConfig` is `repr(transparent)`.
        let config = unsafe { &*config.cast::<LinkConfig>() };

        from_result(|| {
            let link = T::attach(config)?.into_foreign();

            // SAFETY: The caller guarantees that it is valid, and `private` is ours.
            unsafe { (*aux).private = link };

            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `aux` must be valid, that of a link for this target that nobody uses any more.
    unsafe extern "C" fn detach(aux: *mut bindings::bpf_iter_aux_info) {
        // SAFETY: The caller guarantees that this is what `attach` stored there, and that it is not
        // used any more.
        drop(unsafe { T::Link::from_foreign((*aux).private) });
    }

    /// # Safety
    ///
    /// `aux` must be valid, that of a link for this target, and remain so during `'a`.
    unsafe fn link<'a>(
        aux: *const bindings::bpf_iter_aux_info,
    ) -> <T::Link as ForeignOwnable>::Borrowed<'a>
    where
        T::Link: 'a,
    {
        // SAFETY: The caller guarantees that this is what `attach` stored there, and that `detach` is
        // not called before `'a` ends.
        unsafe { T::Link::borrow((*aux).private) }
    }

    /// # Safety
    ///
    /// `aux` and `m` must be valid, `aux` that of a link for this target.
    unsafe extern "C" fn show_fdinfo(
        aux: *const bindings::bpf_iter_aux_info,
        m: *mut bindings::seq_file,
    ) {
        // SAFETY: The caller guarantees that `aux` is valid, and that `m` is valid and its own.
        unsafe { T::show_fdinfo(Self::link(aux), SeqFile::from_raw(m)) };
    }

    /// # Safety
    ///
    /// `aux` and `info` must be valid, `aux` that of a link for this target.
    unsafe extern "C" fn fill_link_info(
        aux: *const bindings::bpf_iter_aux_info,
        info: *mut bindings::bpf_link_info,
    ) -> c_int {
        // SAFETY: The caller guarantees that both are valid, and that `info` is its own. The cast is
        // okay because `LinkInfo` is `repr(transparent)`.
        unsafe { T::fill_link_info(Self::link(aux), &mut *info.cast()) };

        0
    }

    /// # Safety
    ///
    /// `private` must be valid for writes of as many bytes as `SEQ_INFO` says, aligned to 8. `aux`
    /// must be that of a link for this target.
    unsafe extern "C" fn init_private(
        private: *mut c_void,
        aux: *mut bindings::bpf_iter_aux_info,
    ) -> c_int {
        from_result(|| {
            // SAFETY: The caller guarantees that `aux` is valid.
            let items = T::open(unsafe { Self::link(aux) })?;

            // INVARIANT: Nothing is visited.
            //
            // SAFETY: The caller guarantees that there is memory for it.
            unsafe {
                private.cast::<Private<T::Items>>().write(Private {
                    items,
                    visit: None,
                    is_past_end: false,
                    has_failed: false,
                })
            };

            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `private` must be what `init_private` initialized, not used any more.
    unsafe extern "C" fn fini_private(private: *mut c_void) {
        // SAFETY: The caller guarantees that it is initialized and not used any more. No visit is
        // dropped by another task than that which made it, since there is none.
        unsafe { ptr::drop_in_place(private.cast::<Private<T::Items>>()) };
    }

    /// # Safety
    ///
    /// `m` must be the valid `seq_file` of an iterator of this target. Its lock must be held during
    /// `'a`.
    #[inline]
    unsafe fn private<'a>(m: *mut bindings::seq_file) -> &'a mut Private<T::Items> {
        // SAFETY: The caller guarantees that `m` is valid and nobody else uses it. Its `private` is
        // what `init_private` initialized.
        unsafe { &mut *(*m).private.cast() }
    }

    /// # Safety
    ///
    /// As for [`Registration::private`].
    unsafe extern "C" fn start(
        m: *mut bindings::seq_file,
        _pos: *mut bindings::loff_t,
    ) -> *mut c_void {
        // SAFETY: The caller guarantees it.
        let private = unsafe { Self::private(m) };

        if private.is_past_end {
            return ptr::null_mut();
        }

        let visit = private.items.start();
        private.arrive(visit)
    }

    /// # Safety
    ///
    /// As for [`Registration::private`], and `pos` must be valid.
    unsafe extern "C" fn next(
        m: *mut bindings::seq_file,
        _item: *mut c_void,
        pos: *mut bindings::loff_t,
    ) -> *mut c_void {
        // SAFETY: The caller guarantees it.
        let private = unsafe { Self::private(m) };

        // SAFETY: The caller guarantees that it is valid.
        unsafe { *pos += 1 };

        match private.visit.take() {
            Some(visit) => {
                let visit = private.items.next(visit);
                private.arrive(visit)
            }
            None => ptr::null_mut(),
        }
    }

    /// # Safety
    ///
    /// As for [`Registration::private`].
    unsafe extern "C" fn show(m: *mut bindings::seq_file, _item: *mut c_void) -> c_int {
        // SAFETY: The caller guarantees it.
        let private = unsafe { Self::private(m) };

        // SAFETY: The caller guarantees that `m` is valid, and is reading. The function in C is as
        // described, or the target could not be registered.
        unsafe { private.run(m, false) }
    }

    /// # Safety
    ///
    /// As for [`Registration::private`].
    unsafe extern "C" fn stop(m: *mut bindings::seq_file, item: *mut c_void) {
        // SAFETY: The caller guarantees it.
        let private = unsafe { Self::private(m) };

        // What `next` failed with does not get here, but is not the end either.
        let has_failed = take(&mut private.has_failed);
        if item.is_null() && !has_failed {
            // SAFETY: As in `show`.
            unsafe { private.run(m, true) };
        }

        private.visit = None;
    }
}

impl<T: Target> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, `reg` is registered.
        unsafe { bindings::bpf_iter_unreg_target(self.reg) };
    }
}

/// Declares a kernel module that provides a [`Target`] as long as it is loaded.
///
/// It cannot be unloaded while there is a program for the target.
///
/// The `type` argument is a type that implements [`Target`], of which the C part of the module has
/// the function that is described there. `kfuncs` is the name of another function of the C part,
/// without arguments, which registers kfuncs and returns 0 or an errno. The other arguments are
/// those of [`module!`].
///
/// [`Target`]: crate::bpf::iter::Target
///
/// # Examples
///
/// ```ignore
/// kernel::module_bpf_iter! {
///     type: MyTarget,
///     kfuncs: my_register_kfuncs,
///     name: "my_iter",
///     authors: ["Author name"],
///     description: "Description",
///     license: "GPL v2",
/// }
/// ```
///
/// ```c
/// DEFINE_BPF_ITER_FUNC(my, struct bpf_iter_meta *meta, struct thing *thing__nullable)
///
/// int my_register_kfuncs(void)
/// {
///         return register_btf_kfunc_id_set(BPF_PROG_TYPE_SYSCALL, &my_kfunc_set);
/// }
/// ```
#[macro_export]
macro_rules! module_bpf_iter {
    (type: $type:ty, kfuncs: $kfuncs:ident, $($f:tt)*) => {
        struct BpfIterModule {
            _registration: $crate::bpf::iter::Registration<$type>,
        }

        impl $crate::Module for BpfIterModule
        where
            $type: $crate::bpf::iter::Target<OwnerModule = BpfIterModule>,
        {
            fn init(_module: &'static $crate::ThisModule) -> $crate::error::Result<Self> {
                extern "C" {
                    fn $kfuncs() -> $crate::ffi::c_int;
                }

                // SAFETY: It has no arguments. What it registers goes with the BTF of this module.
                $crate::error::to_result(unsafe { $kfuncs() })?;

                Ok(Self {
                    // SAFETY: The target is this module's, see above, and so is its part in C. The
                    // module owns the registration, and is dropped when it is unloaded. Should it
                    // not get that far, the registration is dropped here.
                    _registration: unsafe { $crate::bpf::iter::Registration::new() }?,
                })
            }
        }

        $crate::prelude::module! {
            type: BpfIterModule,
            $($f)*
        }
    }
}
