// SPDX-License-Identifier: GPL-2.0

//! Open-coded iterators, for loops within programs.

use crate::{
    error::Result,
    prelude::*, //
};
use core::ptr;

/// An iterator for a loop within a program.
///
/// [`bpf_open_coded_iter!`] defines the functions that its kfuncs call.
///
/// The body of the loop is not restricted in what it calls, and a program may use several iterators
/// at once. Hence no lock can be held between two items.
///
/// [`bpf_open_coded_iter!`]: crate::bpf_open_coded_iter
pub trait OpenCoded: Sized {
    /// The type of the items.
    type Item;

    /// Returns the next item, or `None` at the end.
    ///
    /// If it is called again after the end, it has to return `None` again.
    fn next(&mut self) -> Option<&Self::Item>;

    /// Returns the error that has ended the iteration early, if any.
    fn status(&self) -> Result;
}

/// The state of an iterator, which is on the stack of the program.
///
/// In C, this is a struct of two opaque `u64`.
///
/// # Examples
///
/// The calls that a program makes by way of the functions that [`bpf_open_coded_iter!`] defines:
///
/// ```
/// use core::mem::MaybeUninit;
/// use kernel::bpf::iter::{OpenCoded, State};
///
/// struct Countdown(u32);
///
/// impl OpenCoded for Countdown {
///     type Item = u32;
///
///     fn next(&mut self) -> Option<&u32> {
///         self.0 = self.0.checked_sub(1)?;
///         Some(&self.0)
///     }
///
///     fn status(&self) -> Result {
///         Ok(())
///     }
/// }
///
/// let mut it = MaybeUninit::<State<Countdown>>::uninit();
///
/// // SAFETY: `it` is initialized before it is used, then destroyed, and not moved meanwhile.
/// unsafe {
///     assert_eq!(State::init(it.as_mut_ptr(), || Ok(Countdown(2))), 0);
///     assert_eq!(*State::next(it.as_mut_ptr()), 1);
///     assert_eq!(*State::next(it.as_mut_ptr()), 0);
///     assert!(State::next(it.as_mut_ptr()).is_null());
///     assert!(State::next(it.as_mut_ptr()).is_null());
///     assert_eq!(State::status(it.as_ptr()), 0);
///     State::destroy(it.as_mut_ptr());
/// }
///
/// // If `init` fails, there are no items, but the state has to be destroyed as well.
/// //
/// // SAFETY: As above.
/// unsafe {
///     assert_eq!(State::init(it.as_mut_ptr(), || Err(EBADF)), EBADF.to_errno());
///     assert!(State::next(it.as_mut_ptr()).is_null());
///     assert_eq!(State::status(it.as_ptr()), EBADF.to_errno());
///     State::destroy(it.as_mut_ptr());
/// }
/// ```
///
/// [`bpf_open_coded_iter!`]: crate::bpf_open_coded_iter
#[repr(C, align(8))]
pub struct State<T> {
    iter: Option<KBox<T>>,
    /// The negative errno that `init` has failed with, or 0.
    error: c_int,
}

impl<T: OpenCoded> State<T> {
    const LAYOUT: () = assert!(size_of::<Self>() <= 16 && align_of::<Self>() == 8);

    /// Initializes the state with the iterator that `init` returns.
    ///
    /// Returns 0 or a negative errno. The state is initialized in either case.
    ///
    /// # Safety
    ///
    /// `it` must be valid for writes.
    #[inline]
    pub unsafe fn init(it: *mut Self, init: impl FnOnce() -> Result<T>) -> c_int {
        const { Self::LAYOUT };

        let (iter, error) = match init().and_then(|iter| Ok(KBox::new(iter, GFP_KERNEL)?)) {
            Ok(iter) => (Some(iter), 0),
            Err(e) => (None, e.to_errno()),
        };

        // SAFETY: Per the safety requirements.
        unsafe { it.write(Self { iter, error }) };

        error
    }

    /// Returns the next item, or `NULL`.
    ///
    /// # Safety
    ///
    /// `it` must be an initialized state that nobody else uses until this returns. The item must
    /// not be used after the state has been destroyed, and may be overwritten when this is called
    /// again.
    #[inline]
    pub unsafe fn next(it: *mut Self) -> *const T::Item {
        // SAFETY: Per the safety requirements.
        let state = unsafe { &mut *it };

        match state.iter.as_mut().and_then(|iter| iter.next()) {
            Some(item) => item,
            None => ptr::null(),
        }
    }

    /// Returns the negative errno that `init` has failed with or that has ended the iteration
    /// early, or 0.
    ///
    /// # Safety
    ///
    /// `it` must be an initialized state that nobody else uses until this returns.
    #[inline]
    pub unsafe fn status(it: *const Self) -> c_int {
        // SAFETY: Per the safety requirements.
        let state = unsafe { &*it };

        match state.iter.as_ref().map(|iter| iter.status()) {
            Some(Err(e)) => e.to_errno(),
            Some(Ok(())) => 0,
            None => state.error,
        }
    }

    /// Destroys the state.
    ///
    /// # Safety
    ///
    /// `it` must be an initialized state. It must not be used afterwards.
    #[inline]
    pub unsafe fn destroy(it: *mut Self) {
        // SAFETY: Per the safety requirements.
        unsafe { ptr::drop_in_place(it) };
    }
}

/// Defines the functions that initialize, advance, query and destroy an [`OpenCoded`] iterator.
///
/// They are for a type that implements [`OpenCoded`]. It must have a function `new` that takes the
/// arguments listed after the name of the first function.
///
/// The functions are called by kfuncs in the C part of the module. If the item type is not a
/// struct, the verifier does not let programs use an item after they have destroyed the iterator.
///
/// # Safety
///
/// What C and the verifier do cannot be checked here, so whoever uses this has to write `unsafe`,
/// and to guarantee that
///
/// - no other symbol of the kernel has one of the names;
/// - C declares the functions with the same arguments, and with an item type of the same layout;
/// - only kfuncs with the flags of open-coded iterators call them, for the state that the verifier
///   has checked; and
/// - the arguments of the first function are valid whenever that is called: for a reference, the
///   kfunc takes a trusted pointer.
///
/// # Examples
///
/// ```ignore
/// kernel::bpf_open_coded_iter! {
///     // SAFETY: ...
///     unsafe extern "C" for Numbers {
///         new: numbers_new(start: c_int, end: c_int),
///         next: numbers_next,
///         status: numbers_status,
///         destroy: numbers_destroy,
///     }
/// }
/// ```
///
/// ```c
/// struct bpf_iter_numbers {
///         __u64 __opaque[2];
/// } __aligned(8);
///
/// int numbers_new(struct bpf_iter_numbers *it, int start, int end);
/// int *numbers_next(struct bpf_iter_numbers *it);
/// int numbers_status(struct bpf_iter_numbers *it);
/// void numbers_destroy(struct bpf_iter_numbers *it);
///
/// __bpf_kfunc int bpf_iter_numbers_new(struct bpf_iter_numbers *it, int start, int end)
/// {
///         return numbers_new(it, start, end);
/// }
/// ```
#[macro_export]
macro_rules! bpf_open_coded_iter {
    (
        unsafe extern "C" for $type:ty {
            new: $new:ident($($arg:ident: $arg_type:ty),* $(,)?),
            next: $next:ident,
            status: $status:ident,
            destroy: $destroy:ident $(,)?
        }
    ) => {
        /// # Safety
        ///
        /// `it` must be valid for writes, and the other arguments must be valid until this returns.
        #[no_mangle]
        unsafe extern "C" fn $new(
            it: *mut $crate::bpf::iter::State<$type>,
            $($arg: $arg_type),*
        ) -> $crate::ffi::c_int {
            // SAFETY: Per the safety requirements. The kfunc that calls this passes a pointer to
            // memory for a state on the stack of the program.
            unsafe { $crate::bpf::iter::State::init(it, || <$type>::new($($arg),*)) }
        }

        /// # Safety
        ///
        /// As for [`State::next`].
        ///
        /// [`State::next`]: $crate::bpf::iter::State::next
        #[no_mangle]
        unsafe extern "C" fn $next(
            it: *mut $crate::bpf::iter::State<$type>,
        ) -> *const <$type as $crate::bpf::iter::OpenCoded>::Item {
            // SAFETY: Per the safety requirements. The verifier ensures that programs initialize an
            // iterator before they call the kfunc, and do not use it elsewhere meanwhile.
            unsafe { $crate::bpf::iter::State::next(it) }
        }

        /// # Safety
        ///
        /// As for [`State::status`].
        ///
        /// [`State::status`]: $crate::bpf::iter::State::status
        #[no_mangle]
        unsafe extern "C" fn $status(
            it: *const $crate::bpf::iter::State<$type>,
        ) -> $crate::ffi::c_int {
            // SAFETY: Per the safety requirements, which the verifier ensures as for `next`.
            unsafe { $crate::bpf::iter::State::status(it) }
        }

        /// # Safety
        ///
        /// As for [`State::destroy`].
        ///
        /// [`State::destroy`]: $crate::bpf::iter::State::destroy
        #[no_mangle]
        unsafe extern "C" fn $destroy(it: *mut $crate::bpf::iter::State<$type>) {
            // SAFETY: Per the safety requirements. The verifier ensures that programs destroy each
            // iterator that they initialize, exactly once.
            unsafe { $crate::bpf::iter::State::destroy(it) }
        }
    };
}
