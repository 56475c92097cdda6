// SPDX-License-Identifier: GPL-2.0

//! The registration of a target, and the callbacks that C calls.

use super::{
    args::Context,
    Items,
    LinkConfig,
    Target, //
};
use crate::{
    bindings,
    error::{
        from_result,
        to_result, //
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

/// The alignment of the private data of an open iterator.
const PRIVATE_ALIGN: usize = 8;

/// The private data of an open iterator.
///
/// # Invariants
///
/// `visit` is set only between `seq_operations.start` and `seq_operations.stop`, which are called
/// by the same task.
struct Private<I: Items> {
    items: I,
    visit: Option<I::Visit>,
    is_past_end: bool,
    has_failed: bool,
}

impl<I: Items> Private<I> {
    /// Stores the result of a step, and returns the corresponding value for `seq_operations`.
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

    /// Runs the program on the visited item, or for the end.
    ///
    /// # Safety
    ///
    /// `m` must be the valid `seq_file` of an iterator that is being read, of a [`Target`] with
    /// these items.
    #[inline]
    unsafe fn run(&self, m: *mut bindings::seq_file, in_stop: bool) -> c_int {
        let mut meta = bindings::bpf_iter_meta {
            __bindgen_anon_1: bindings::bpf_iter_meta__bindgen_ty_1 { seq: m },
            session_id: 0,
            seq_num: 0,
        };

        // SAFETY: `meta` is valid, and so is the `seq_file` that it refers to.
        let prog = unsafe { bindings::bpf_iter_get_info(&raw mut meta, in_stop) };
        if prog.is_null() {
            return 0;
        }

        let mut ctx = Context::new(&raw const meta, self.items.args(self.visit.as_ref()));

        // SAFETY: `prog` is the program of the iterator, which the verifier has checked against the
        // C function. `ctx` contains the arguments of that function, as the implementor of `Target`
        // guarantees, which are valid as long as `self` is borrowed.
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

// SAFETY: There are no operations on a shared reference.
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
        // All callbacks may sleep, and so may programs.
        feature: bindings::bpf_iter_feature_BPF_ITER_RESCHED,
        seq_info: &Self::SEQ_INFO,
        // Arguments are trusted, and nullable if their names have the suffix.
        ..pin_init::zeroed()
    };

    /// Registers the target, and before it the kfuncs.
    ///
    /// # Safety
    ///
    /// - `T::OwnerModule` must be the calling module.
    /// - The registration must be dropped before that module is unloaded, and must not be leaked.
    pub unsafe fn new() -> Result<Self> {
        if let Some(register) = T::REGISTER_KFUNCS {
            // SAFETY: The implementor of `Target` guarantees that it can be called by this module,
            // which is being loaded.
            to_result(unsafe { register() })?;
        }

        let reg: &'static bindings::bpf_iter_reg = &Self::REG;

        // SAFETY: `reg` is valid while the module is loaded. Per the safety requirements, it is
        // unregistered before the module is unloaded. Programs hold a reference to the module, and
        // links and open iterators hold one to a program, so the callbacks exist as long as they
        // can be called.
        to_result(unsafe { bindings::bpf_iter_reg_target(reg) })?;

        // INVARIANT: `reg` has just been registered.
        Ok(Self {
            reg,
            _target: PhantomData,
        })
    }

    /// # Safety
    ///
    /// `config` and `aux` must be valid and belong to a link that is being created for this target.
    unsafe extern "C" fn attach(
        _prog: *mut bindings::bpf_prog,
        config: *mut bindings::bpf_iter_link_info,
        aux: *mut bindings::bpf_iter_aux_info,
    ) -> c_int {
        // SAFETY: The caller guarantees that `config` is valid, and has cleared it before copying
        // from userspace. The cast is okay because `LinkConfig` is `repr(transparent)`.
        let config = unsafe { &*config.cast::<LinkConfig>() };

        from_result(|| {
            let link = T::attach(config)?.into_foreign();

            // SAFETY: The caller guarantees that `aux` is valid; `private` is for the target to
            // use.
            unsafe { (*aux).private = link };

            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `aux` must be valid and belong to a link for this target that is no longer used.
    unsafe extern "C" fn detach(aux: *mut bindings::bpf_iter_aux_info) {
        // SAFETY: The caller guarantees that `attach` has set `private`, and that it is no longer
        // used.
        drop(unsafe { T::Link::from_foreign((*aux).private) });
    }

    /// # Safety
    ///
    /// `aux` must be valid, belong to a link for this target, and remain so during `'a`.
    unsafe fn link<'a>(
        aux: *const bindings::bpf_iter_aux_info,
    ) -> <T::Link as ForeignOwnable>::Borrowed<'a>
    where
        T::Link: 'a,
    {
        // SAFETY: The caller guarantees that `attach` has set `private`, and that `detach` is not
        // called before `'a` ends.
        unsafe { T::Link::borrow((*aux).private) }
    }

    /// # Safety
    ///
    /// `aux` and `m` must be valid, and `aux` must belong to a link for this target.
    unsafe extern "C" fn show_fdinfo(
        aux: *const bindings::bpf_iter_aux_info,
        m: *mut bindings::seq_file,
    ) {
        // SAFETY: The caller guarantees that both are valid, and has exclusive access to `m`.
        unsafe { T::show_fdinfo(Self::link(aux), SeqFile::from_raw(m)) };
    }

    /// # Safety
    ///
    /// `aux` and `info` must be valid, and `aux` must belong to a link for this target.
    unsafe extern "C" fn fill_link_info(
        aux: *const bindings::bpf_iter_aux_info,
        info: *mut bindings::bpf_link_info,
    ) -> c_int {
        // SAFETY: The caller guarantees that both are valid, and has exclusive access to `info`.
        // The cast is okay because `LinkInfo` is `repr(transparent)`.
        unsafe { T::fill_link_info(Self::link(aux), &mut *info.cast()) };

        0
    }

    /// # Safety
    ///
    /// `private` must be valid for writes of the size given in `SEQ_INFO` and aligned to 8 bytes.
    /// `aux` must be valid and belong to a link for this target.
    unsafe extern "C" fn init_private(
        private: *mut c_void,
        aux: *mut bindings::bpf_iter_aux_info,
    ) -> c_int {
        from_result(|| {
            // SAFETY: The caller guarantees that `aux` is valid.
            let items = T::open(unsafe { Self::link(aux) })?;

            // INVARIANT: Nothing is being visited.
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
    /// `private` must have been initialized by `init_private` and no longer be used.
    unsafe extern "C" fn fini_private(private: *mut c_void) {
        // SAFETY: The caller guarantees that it is initialized and no longer used. By the type
        // invariants there is no visit, which only the task that created it could drop.
        unsafe { ptr::drop_in_place(private.cast::<Private<T::Items>>()) };
    }

    /// # Safety
    ///
    /// `m` must be the valid `seq_file` of an iterator of this target. Its lock must be held during
    /// `'a`.
    #[inline]
    unsafe fn private<'a>(m: *mut bindings::seq_file) -> &'a mut Private<T::Items> {
        // SAFETY: The caller guarantees that `m` is valid and that nobody else uses it. `private`
        // has been initialized by `init_private`.
        unsafe { &mut *(*m).private.cast() }
    }

    /// # Safety
    ///
    /// As for [`Registration::private`].
    unsafe extern "C" fn start(
        m: *mut bindings::seq_file,
        _pos: *mut bindings::loff_t,
    ) -> *mut c_void {
        // SAFETY: Per the safety requirements.
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
        // SAFETY: Per the safety requirements.
        let private = unsafe { Self::private(m) };

        // SAFETY: The caller guarantees that `pos` is valid.
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
        // SAFETY: Per the safety requirements.
        let private = unsafe { Self::private(m) };

        // SAFETY: The caller guarantees that `m` is valid and being read.
        unsafe { private.run(m, false) }
    }

    /// # Safety
    ///
    /// As for [`Registration::private`].
    unsafe extern "C" fn stop(m: *mut bindings::seq_file, item: *mut c_void) {
        // SAFETY: Per the safety requirements.
        let private = unsafe { Self::private(m) };

        // `item` is `NULL` both at the end and after an error of `next`.
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

/// Declares a kernel module that provides a [`Target`] while it is loaded.
///
/// The module cannot be unloaded while there is a program for the target.
///
/// The `type` argument is a type that implements [`Target`]. The implementation, which is `unsafe`,
/// vouches for the C part of the module, which contains the functions that are described there. The
/// other arguments are those of [`module!`].
///
/// [`Target`]: crate::bpf::iter::Target
///
/// # Examples
///
/// ```ignore
/// kernel::module_bpf_iter! {
///     type: MyTarget,
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
    (type: $type:ty, $($f:tt)*) => {
        struct BpfIterModule {
            _registration: $crate::bpf::iter::Registration<$type>,
        }

        impl $crate::Module for BpfIterModule
        where
            $type: $crate::bpf::iter::Target<OwnerModule = BpfIterModule>,
        {
            fn init(_module: &'static $crate::ThisModule) -> $crate::error::Result<Self> {
                use $crate::sync::atomic::{Atomic, Relaxed};

                // The module's own code can call this, too, and could leak another registration.
                static IS_CALLED: Atomic<i32> = Atomic::new(0);

                if IS_CALLED.xchg(1, Relaxed) != 0 {
                    return Err($crate::error::code::EBUSY);
                }

                Ok(Self {
                    // SAFETY: The `where` clause requires `OwnerModule` to be this module. This is
                    // the first call, that of `module!`, before any other code of the module can
                    // run. So the module owns the registration and is dropped when it is unloaded.
                    // If init fails, the registration is dropped here.
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
