// SPDX-License-Identifier: GPL-2.0

//! Structs and arrays of structs in the memory of a program, of which it says how long they are.

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

/// What can be copied from and to programs.
pub(crate) trait Plain: FromBytes + IntoBytes + Immutable + Copy + Default {
    /// How long the first version was. No program knows a shorter one.
    const FIRST_SIZE: usize;
}

impl Plain for u8 {
    const FIRST_SIZE: usize = size_of::<Self>();
}

impl Plain for u32 {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Makes a pointer of what a program has given as one.
fn user_ptr(address: u64) -> Result<UserPtr> {
    usize::try_from(address)
        .map(UserPtr::from_addr)
        .map_err(|_| EFAULT)
}

/// Checks a size that a program has given for a `T`.
///
/// Returns how much of it both sides know.
fn known_size<T: Plain>(size: usize) -> Result<usize> {
    if size < T::FIRST_SIZE {
        return Err(EINVAL);
    }
    if size > PAGE_SIZE {
        return Err(E2BIG);
    }

    Ok(size.min(size_of::<T>()))
}

/// Fails with [`E2BIG`] unless all the rest of what `reader` reads is zero.
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

/// Reads a `T` that is `reader.len()` bytes long for the program. What it does not know is zero.
fn read_one<T: Plain>(mut reader: UserSliceReader) -> Result<T> {
    let mut value = T::default();
    let known = reader.len().min(size_of::<T>());
    reader.read_slice(&mut value.as_mut_bytes()[..known])?;
    check_rest(reader)?;

    Ok(value)
}

/// The argument of a call: a struct that begins with its size.
pub(crate) struct Args<T> {
    ptr: UserPtr,
    /// How many bytes of it both sides know.
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

    /// Writes it back. What the program knows beyond it stays zero.
    pub(crate) fn write(&self, value: &T) -> Result {
        UserSlice::new(self.ptr, self.known)
            .writer()
            .write_slice(&value.as_bytes()[..self.known])
    }
}

/// An array of `T` in the memory of a program.
pub(crate) struct Array<T> {
    ptr: UserPtr,
    /// How many bytes the program takes for an element.
    stride: usize,
    /// How many of them both sides know.
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

    /// Returns `count` elements from `first` on, which must be in the array.
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

    /// Reads elements from `first` on, as many as there are and fit into `buf`.
    ///
    /// Returns those that could be read, and why the next one could not, if that is so.
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

        // One by one, which tells where it fails.
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

    /// Writes those of `values` that fit in from `first` on.
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

    /// A struct that was shorter once.
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
        // Programs that know the first version, something between, this one, and later ones.
        assert_eq!(known_size::<Grown>(24), Ok(24));
        assert_eq!(known_size::<Grown>(28), Ok(28));
        assert_eq!(known_size::<Grown>(32), Ok(32));
        assert_eq!(known_size::<Grown>(33), Ok(32));
        assert_eq!(known_size::<Grown>(PAGE_SIZE), Ok(32));
        assert_eq!(known_size::<Grown>(PAGE_SIZE + 1), Err(E2BIG));
    }
}
