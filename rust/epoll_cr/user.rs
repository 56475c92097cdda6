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
pub(crate) trait Plain: FromBytes + IntoBytes + Immutable + Copy + Default {}

impl<T: FromBytes + IntoBytes + Immutable + Copy + Default> Plain for T {}

/// Makes a pointer of what a program has given as one.
fn user_ptr(address: u64) -> Result<UserPtr> {
    usize::try_from(address)
        .map(UserPtr::from_addr)
        .map_err(|_| EFAULT)
}

/// Checks a size that a program has given for a `T`, which is as long as its first version was.
fn check_size<T>(size: usize) -> Result {
    if size < size_of::<T>() {
        return Err(EINVAL);
    }
    if size > PAGE_SIZE {
        return Err(E2BIG);
    }

    Ok(())
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

/// Reads a `T` that is `reader.len()` bytes long for the program.
fn read_one<T: Plain>(mut reader: UserSliceReader) -> Result<T> {
    let mut value = T::default();
    reader.read_slice(value.as_mut_bytes())?;
    check_rest(reader)?;

    Ok(value)
}

/// The argument of a call: a struct that begins with its size.
pub(crate) struct Args<T> {
    ptr: UserPtr,
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
        check_size::<T>(size)?;

        let value = read_one(UserSlice::new(ptr, size).reader())?;
        let args = Self {
            ptr,
            _type: PhantomData,
        };

        Ok((args, value))
    }

    /// Writes it back. What the program knows beyond it stays zero.
    pub(crate) fn write(&self, value: &T) -> Result {
        UserSlice::new(self.ptr, size_of::<T>())
            .writer()
            .write_slice(value.as_bytes())
    }
}

/// An array of `T` in the memory of a program.
pub(crate) struct Array<T> {
    ptr: UserPtr,
    /// How many bytes the program takes for an element.
    stride: usize,
    len: u64,
    _type: PhantomData<T>,
}

impl<T: Plain> Array<T> {
    pub(crate) fn new(address: u64, stride: u32, len: u64) -> Result<Self> {
        let stride = stride as usize;
        check_size::<T>(stride)?;

        Ok(Self {
            ptr: user_ptr(address)?,
            stride,
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
    pub(crate) fn read<'a>(&self, first: u64, buf: &'a mut [T]) -> Result<&'a [T]> {
        let left = usize::try_from(self.len.saturating_sub(first)).unwrap_or(usize::MAX);
        let count = buf.len().min(left);
        let buf = &mut buf[..count];

        if self.stride == size_of::<T>() {
            self.slice(first, count)?
                .reader()
                .read_slice(buf.as_mut_bytes())?;
        } else {
            for (value, index) in buf.iter_mut().zip(first..) {
                *value = read_one(self.slice(index, 1)?.reader())?;
            }
        }

        Ok(buf)
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
            writer.write_slice(value.as_bytes())?;

            let mut rest = self.stride - size_of::<T>();
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
