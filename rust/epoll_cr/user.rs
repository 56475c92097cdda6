// SPDX-License-Identifier: GPL-2.0

//! Extensible structs, and arrays of them, in user memory.
//!
//! The rules are those of `copy_struct_from_user()` and `copy_struct_to_user()`. The `kernel` crate
//! has no counterpart of these, and [`UserSlice`] can be used without `unsafe`. Arrays need more
//! anyway: their elements are copied in batches, and at once if both sides use the same size.

use core::marker::PhantomData;
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader, //
    }, //
};
use zerocopy::Immutable;

/// A type that can be copied from and to user memory.
pub(crate) trait Plain: FromBytes + IntoBytes + Immutable + Copy + Default {
    /// The size of the first version, and thus the smallest that a program can specify.
    const FIRST_SIZE: usize;
}

impl Plain for u8 {
    const FIRST_SIZE: usize = size_of::<Self>();
}

impl Plain for u32 {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Converts a user address from an argument to a pointer.
fn user_ptr(address: u64) -> Result<UserPtr> {
    usize::try_from(address)
        .map(UserPtr::from_addr)
        .map_err(|_| EFAULT)
}

/// Checks the size that a program has specified for a `T`.
///
/// Returns the size of the part that both sides know.
fn known_size<T: Plain>(size: usize) -> Result<usize> {
    if size < T::FIRST_SIZE {
        return Err(EINVAL);
    }
    if size > PAGE_SIZE {
        return Err(E2BIG);
    }

    Ok(size.min(size_of::<T>()))
}

/// Fails with [`E2BIG`] unless all remaining bytes of `reader` are zero.
fn check_rest(mut reader: UserSliceReader) -> Result {
    while !reader.is_empty() {
        let mut bytes = [0; 64];
        let len = reader.len().min(bytes.len());
        reader.read_slice(&mut bytes[..len])?;
        if bytes != [0; 64] {
            return Err(E2BIG);
        }
    }

    Ok(())
}

/// Reads a `T` that has the size `reader.len()` for the program, and zeroes the rest.
fn read_one<T: Plain>(mut reader: UserSliceReader) -> Result<T> {
    let mut value = T::default();
    let known = reader.len().min(size_of::<T>());
    reader.read_slice(&mut value.as_mut_bytes()[..known])?;
    check_rest(reader)?;

    Ok(value)
}

/// The argument of a call, a struct that begins with its size.
pub(crate) struct Args<T> {
    ptr: UserPtr,
    /// The size of the part that both sides know.
    known: usize,
    _type: PhantomData<T>,
}

impl<T: Plain> Args<T> {
    /// Reads the struct.
    pub(crate) fn read(ptr: UserPtr) -> Result<(Self, T)> {
        let mut size = 0u32;
        UserSlice::new(ptr, size_of_val(&size))
            .reader()
            .read_slice(size.as_mut_bytes())?;
        let size = size as usize;
        let known = known_size::<T>(size)?;

        let value = read_one(UserSlice::new(ptr, size).reader())?;
        let args = Self {
            ptr,
            known,
            _type: PhantomData,
        };

        Ok((args, value))
    }

    /// Writes the struct back. Bytes beyond those that the kernel knows stay zero.
    pub(crate) fn write(&self, value: &T) -> Result {
        UserSlice::new(self.ptr, self.known)
            .writer()
            .write_slice(&value.as_bytes()[..self.known])
    }
}

/// An array of `T` in user memory.
pub(crate) struct Array<T> {
    ptr: UserPtr,
    /// The size of an element for the program.
    stride: usize,
    /// The size of the part of an element that both sides know.
    known: usize,
    len: u64,
    _type: PhantomData<T>,
}

impl<T: Plain> Array<T> {
    pub(crate) fn new(address: u64, stride: u32, len: u64) -> Result<Self> {
        let stride = stride as usize;

        Ok(Self {
            ptr: user_ptr(address)?,
            stride,
            known: known_size::<T>(stride)?,
            len,
            _type: PhantomData,
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the memory of `count` elements from `first` on, which must be in the array.
    fn slice(&self, first: u64, count: usize) -> Result<UserSlice> {
        let bytes = |count| {
            usize::try_from(count)
                .ok()
                .and_then(|count| count.checked_mul(self.stride))
                .ok_or(EFAULT)
        };

        Ok(UserSlice::new(
            self.ptr.wrapping_byte_add(bytes(first)?),
            bytes(count as u64)?,
        ))
    }

    /// Reads elements from `first` on until the end of the array or of `buf`.
    ///
    /// Returns the elements that could be read, and the error for the next one, if any.
    pub(crate) fn read<'a>(&self, first: u64, buf: &'a mut [T]) -> (&'a [T], Result) {
        let left = usize::try_from(self.len.saturating_sub(first)).unwrap_or(usize::MAX);
        let count = buf.len().min(left);
        let buf = &mut buf[..count];

        if self.stride == size_of::<T>() {
            let read = self
                .slice(first, count)
                .and_then(|slice| slice.reader().read_slice(buf.as_mut_bytes()));
            if read.is_ok() {
                return (buf, Ok(()));
            }
        }

        // Read one by one, to find the element that cannot be read.
        let mut done = 0;
        while done < count {
            match self
                .slice(first + done as u64, 1)
                .and_then(|slice| read_one(slice.reader()))
            {
                Ok(value) => buf[done] = value,
                Err(error) => return (&buf[..done], Err(error)),
            }
            done += 1;
        }

        (buf, Ok(()))
    }

    /// Writes `values` from `first` on, as far as they fit into the array.
    pub(crate) fn write(&self, first: u64, values: &[T]) -> Result {
        let left = usize::try_from(self.len.saturating_sub(first)).unwrap_or(usize::MAX);
        let values = &values[..values.len().min(left)];
        if values.is_empty() {
            return Ok(());
        }
        let mut writer = self.slice(first, values.len())?.writer();

        if self.stride == size_of::<T>() {
            return writer.write_slice(values.as_bytes());
        }
        for value in values {
            writer.write_slice(&value.as_bytes()[..self.known])?;

            let mut rest = self.stride - self.known;
            while rest != 0 {
                let zeroes = [0; 64];
                let len = rest.min(zeroes.len());
                writer.write_slice(&zeroes[..len])?;
                rest -= len;
            }
        }

        Ok(())
    }
}

#[kernel::macros::kunit_tests(epoll_cr_user)]
mod tests {
    use super::*;

    /// A struct that has been extended.
    #[repr(C)]
    #[derive(Clone, Copy, Default, FromBytes, IntoBytes, zerocopy_derive::Immutable)]
    struct Grown {
        first: [u64; 3],
        since: u64,
    }

    impl Plain for Grown {
        const FIRST_SIZE: usize = 24;
    }

    #[test]
    fn sizes() {
        for size in [0, 8, 23] {
            assert_eq!(known_size::<Grown>(size), Err(EINVAL));
        }
        // Programs that use the first version, one in between, this one, and later ones.
        assert_eq!(known_size::<Grown>(24), Ok(24));
        assert_eq!(known_size::<Grown>(28), Ok(28));
        assert_eq!(known_size::<Grown>(32), Ok(32));
        assert_eq!(known_size::<Grown>(33), Ok(32));
        assert_eq!(known_size::<Grown>(PAGE_SIZE), Ok(32));
        assert_eq!(known_size::<Grown>(PAGE_SIZE + 1), Err(E2BIG));
    }
}
