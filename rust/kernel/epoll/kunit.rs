// SPDX-License-Identifier: GPL-2.0

//! Epoll instances for KUnit tests.
//!
//! A [`TestInstance`] is a real epoll instance that watches real files, so whatever safe code may
//! do with an instance or a file, a test may do with these. Only the end of a file is feigned, see
//! [`TestInstance::release_file`].

use super::{
    EpollFile,
    Eventpoll, //
};
use crate::{
    alloc::AllocError,
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::FileIdentity,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            atomic_load,
            atomic_store,
            cmpxchg,
            Full,
            Relaxed, //
        }, //
    }, //
};
use core::ptr::{
    self,
    NonNull, //
};

/// A file that belongs to a test.
///
/// # Invariants
///
/// The file is valid, and this owns a reference to it. If the file has been
/// [released](TestInstance::release_file), its count says that there is none.
struct TestFile(NonNull<bindings::file>);

impl TestFile {
    const FOPS: &bindings::file_operations = &bindings::file_operations {
        poll: Some(Self::poll),
        ..pin_init::zeroed()
    };

    fn new() -> Result<Self, AllocError> {
        // SAFETY: The name and the operations are static.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_getfile(
                c"[test]".as_char_ptr(),
                Self::FOPS,
                ptr::null_mut(),
                bindings::O_RDWR as c_int,
            )
        });

        // INVARIANT: The file is new, and its first reference is ours.
        file.ok().and_then(NonNull::new).map(Self).ok_or(AllocError)
    }

    /// Reports `EPOLLERR`, which every epitem waits for, while the private data is set.
    ///
    /// # Safety
    ///
    /// `file` must be a file with these operations.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        _table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: Per the safety requirements. The private data is written by `set_ready` only.
        if unsafe { atomic_load(&raw mut (*file).private_data, Relaxed) }.is_null() {
            0
        } else {
            bindings::EPOLLERR
        }
    }

    /// Sets whether the file is ready.
    fn set_ready(&self, is_ready: bool) {
        let file = self.0.as_ptr();
        let private = if is_ready {
            file.cast()
        } else {
            ptr::null_mut()
        };

        // SAFETY: By the type invariants, the file is valid. Only `poll` uses its private data.
        unsafe { atomic_store(&raw mut (*file).private_data, private, Relaxed) };
    }

    /// Returns the count of references, which excludes the first one and is negative if there is
    /// none.
    fn count(&self) -> *mut isize {
        // SAFETY: By the type invariants, the file is valid.
        unsafe { (&raw mut (*self.0.as_ptr()).f_ref.refcnt.counter).cast() }
    }

    fn is_released(&self) -> bool {
        // SAFETY: The count is valid as long as the file is, and always accessed atomically.
        unsafe { atomic_load(self.count(), Relaxed) < 0 }
    }

    /// Makes the count say that there is no reference, if ours is the only one. Returns false, and
    /// does nothing, if it is not.
    fn release(&self) -> bool {
        // INVARIANT: The count is that of a released file.
        //
        // SAFETY: As in `is_released`. Others take references by this count only. They cannot from
        // now on.
        unsafe {
            cmpxchg(
                self.count(),
                bindings::FILE_REF_ONEREF as isize,
                bindings::FILE_REF_DEAD as isize,
                Full,
            )
        }
        .is_ok()
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        if self.is_released() {
            // SAFETY: By the type invariants, the file is valid and its count says that there are
            // no references, so that no epitem can be added or removed by others. This is what
            // `__fput` calls then. References are taken from epitems with the mutex of their
            // instance held, which this takes, and there are none afterwards: nobody uses the count
            // any more.
            unsafe {
                bindings::eventpoll_release_file(self.0.as_ptr());
                atomic_store(self.count(), bindings::FILE_REF_ONEREF as isize, Relaxed);
            }
        }

        // SAFETY: By the type invariants, we own a reference, which is not used afterwards.
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}

/// An epoll instance for tests, together with the files that it watches.
///
/// Files are referred to by index. Epitems of one descriptor are in the order of the indices.
///
/// # Invariants
///
/// `files` are in the order of their addresses.
pub struct TestInstance {
    epoll_file: ARef<EpollFile>,
    files: KVec<TestFile>,
}

impl TestInstance {
    /// Creates an instance with the epitems `(fd, file)`.
    ///
    /// Context: may sleep. The current task must be able to have descriptors, as kernel threads
    /// are, which KUnit runs tests in.
    pub fn new(epitems: &[(i32, usize)]) -> Result<Self> {
        let count = epitems.iter().map(|&(_, file)| file + 1).max().unwrap_or(0);
        let mut files = KVec::with_capacity(count, GFP_KERNEL)?;
        for i in 0..count {
            files.push(TestFile::new()?, GFP_KERNEL)?;

            // objtool does not understand the sorting functions of `core`.
            let mut at = i;
            while at > 0 && files[at - 1].0 > files[at].0 {
                files.swap(at - 1, at);
                at -= 1;
            }
        }

        let mut instance = Self {
            epoll_file: Self::new_epoll_file()?,
            files,
        };
        for &(fd, file) in epitems {
            instance.insert(fd, file)?;
        }

        Ok(instance)
    }

    fn new_epoll_file() -> Result<ARef<EpollFile>> {
        // SAFETY: Any flags may be passed.
        let fd = unsafe { bindings::do_epoll_create(0) };
        to_result(fd)?;

        // SAFETY: There are no requirements on the descriptor. We have just opened it, so we may
        // close it.
        let file = unsafe {
            let file = bindings::fget(fd as u32);
            bindings::close_fd(fd as u32);

            NonNull::new(file).ok_or(EBADF)?
        };

        // SAFETY: `fget` took a reference, and we pass ownership of it to the `ARef`. The cast is
        // okay because `RemoteFile` is `repr(transparent)`.
        Ok(EpollFile::new(unsafe { ARef::from_raw(file.cast()) })?)
    }

    /// Creates an instance with `count` epitems of one descriptor, for as many files.
    pub fn with_duplicates(fd: i32, count: usize) -> Result<Self> {
        let mut instance = Self::new(&[(fd, count - 1)])?;
        for file in 0..count - 1 {
            instance.insert(fd, file)?;
        }

        Ok(instance)
    }

    /// Returns the epoll instance itself.
    pub fn eventpoll(&self) -> &Eventpoll {
        self.epoll_file.eventpoll()
    }

    /// Returns the epoll file.
    pub fn epoll_file(&self) -> &EpollFile {
        &self.epoll_file
    }

    /// Returns the identity of a watched file.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn file(&self, file: usize) -> FileIdentity<'_> {
        // SAFETY: `self` has a reference to the file.
        unsafe { FileIdentity::from_raw(self.files[file].0) }
    }

    fn ctl(&self, op: u32, fd: i32, file: usize, events: u32, data: u64) -> Result {
        let mut key = bindings::epoll_key {
            file: self.files[file].0.as_ptr(),
            fd,
        };
        let mut event = bindings::epoll_event { events, data };

        // SAFETY: Both files are valid as long as `self` has references to them. A released file is
        // not freed either, and its epitems are removed before it is.
        to_result(unsafe {
            bindings::do_epoll_ctl_file(
                self.epoll_file.as_ptr(),
                op as c_int,
                &mut key,
                &mut event,
                false,
            )
        })
    }

    /// Adds an epitem, which waits for nothing but `EPOLLERR` and `EPOLLHUP`.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn insert(&mut self, fd: i32, file: usize) -> Result {
        if self.files[file].is_released() {
            return Err(EBADF);
        }

        self.ctl(bindings::EPOLL_CTL_ADD, fd, file, 0, 0)
    }

    /// Removes an epitem. Returns whether it existed, and was not of a released file: those stay.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn remove(&mut self, fd: i32, file: usize) -> bool {
        !self.files[file].is_released() && self.ctl(bindings::EPOLL_CTL_DEL, fd, file, 0, 0).is_ok()
    }

    /// Sets the events and the data of an epitem, as `EPOLL_CTL_MOD` does: `EPOLLERR` and
    /// `EPOLLHUP` are always included. Returns whether it exists.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn set_event(&mut self, fd: i32, file: usize, events: u32, data: u64) -> bool {
        self.ctl(bindings::EPOLL_CTL_MOD, fd, file, events, data)
            .is_ok()
    }

    /// Puts an epitem on the ready list. Returns false if it does not exist or is already there.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn set_ready(&mut self, fd: i32, file: usize) -> bool {
        let Ok((events, data)) = self.eventpoll().lock_killable().and_then(|guard| {
            guard
                .find(fd, self.file(file))
                .filter(|epi| !epi.is_ready())
                .map(|epi| (epi.events(), epi.data()))
                .ok_or(ENOENT)
        }) else {
            return false;
        };

        // Epoll polls the file when an epitem is modified.
        self.files[file].set_ready(true);
        let is_ready = self.set_event(fd, file, events, data);
        self.files[file].set_ready(false);

        is_ready
    }

    /// Makes a file look as if its last reference had been dropped and it was about to be closed.
    /// Returns false, and does nothing, if there are other references.
    ///
    /// Its epitems stay until the instance is dropped, which therefore takes their mutexes.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn release_file(&mut self, file: usize) -> bool {
        self.files[file].release()
    }
}

#[macros::kunit_tests(rust_epoll)]
mod tests {
    use super::*;
    use crate::epoll::{
        Cursor,
        Wait,
        WALK_BATCH, //
    };
    use core::ops::ControlFlow;

    #[test]
    fn exact_entry() -> Result {
        let instance = TestInstance::new(&[(3, 0), (3, 2), (4, 1)])?;
        let guard = instance.eventpoll().lock_killable()?;

        assert!(guard.find(3, instance.file(0)).is_some());
        assert!(guard.find(3, instance.file(1)).is_none());
        assert!(guard
            .find(3, instance.file(2))
            .is_some_and(|epi| epi.file() == instance.file(2)));
        assert!(guard.find(4, instance.file(1)).is_some());
        assert!(guard.find(4, instance.file(2)).is_none());

        Ok(())
    }

    #[test]
    fn resume_at_a_key_that_is_gone() -> Result {
        let mut instance = TestInstance::new(&[(1, 0), (2, 0), (2, 1), (2, 2), (9, 0)])?;
        let cursor = instance
            .eventpoll()
            .lock_killable()?
            .find(2, instance.file(1))
            .ok_or(ENOENT)?
            .cursor();
        let next = |instance: &TestInstance, fd, file| -> Result<bool> {
            let guard = instance.eventpoll().lock_killable()?;
            let epi = guard.items_after(cursor).next().ok_or(ENOENT)?;

            Ok(epi.fd() == fd && epi.file() == instance.file(file))
        };

        // Remove the epitem itself, the one after it, and those before it.
        assert!(next(&instance, 2, 2)?);
        assert!(instance.remove(2, 1));
        assert!(next(&instance, 2, 2)?);
        assert!(instance.remove(2, 2));
        assert!(next(&instance, 9, 0)?);
        assert!(instance.remove(2, 0));
        assert!(instance.remove(1, 0));
        assert!(next(&instance, 9, 0)?);

        // Add it again, with one on either side.
        instance.insert(2, 0)?;
        instance.insert(2, 1)?;
        instance.insert(2, 2)?;
        assert!(next(&instance, 2, 2)?);

        // Leave nothing after it.
        assert!(instance.remove(2, 2));
        assert!(instance.remove(9, 0));
        let guard = instance.eventpoll().lock_killable()?;
        assert!(guard.items_after(cursor).next().is_none());

        Ok(())
    }

    #[test]
    fn walk_visits_each_entry_once() -> Result {
        for count in [
            1,
            WALK_BATCH - 1,
            WALK_BATCH,
            WALK_BATCH + 1,
            2 * WALK_BATCH,
        ] {
            let instance = TestInstance::with_duplicates(3, count)?;
            let mut visited = 0;
            let stopped = instance
                .eventpoll()
                .walk(Wait::Never, Cursor::START, |epi| {
                    if epi.file() != instance.file(visited) {
                        return ControlFlow::Break(());
                    }
                    visited += 1;

                    ControlFlow::Continue(())
                })?;

            assert!(stopped.is_none());
            assert!(visited == count);
        }

        Ok(())
    }

    #[test]
    fn contents_of_an_entry() -> Result {
        let mut instance = TestInstance::new(&[(3, 0), (4, 0)])?;
        assert!(instance.set_event(4, 0, 0x8000_0019, u64::MAX - 1));
        assert!(instance.set_ready(4, 0));
        let guard = instance.eventpoll().lock_killable()?;
        let epitem = |fd| guard.find(fd, instance.file(0)).ok_or(ENOENT);

        assert!(epitem(3)?.events() == 0x18);
        assert!(epitem(3)?.data() == 0);
        assert!(!epitem(3)?.is_ready());
        assert!(epitem(4)?.events() == 0x8000_0019);
        assert!(epitem(4)?.data() == u64::MAX - 1);
        assert!(epitem(4)?.is_ready());

        Ok(())
    }
}
