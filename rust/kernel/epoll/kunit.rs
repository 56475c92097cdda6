// SPDX-License-Identifier: GPL-2.0

//! Epoll instances in plain memory, for KUnit tests.
//!
//! Epoll's own operations take descriptors, which a KUnit test does not have. A [`TestInstance`]
//! has only what [`Eventpoll`] looks at: a mutex, a tree and epitems. The files are real ones, with
//! everything that a [`RemoteFile`](crate::fs::RemoteFile) may be asked for, but do not support any
//! operation.

use super::{
    EpollFile,
    Eventpoll,
    Guard, //
};
use crate::{
    alloc::AllocError,
    bindings,
    container_of,
    error::from_err_ptr,
    fs::FileIdentity,
    prelude::*,
    sync::{
        atomic::{
            atomic_load,
            Relaxed, //
        },
        static_lock_class, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    mem::{
        forget,
        take,
        ManuallyDrop, //
    },
    ptr::{
        self,
        NonNull, //
    },
};

/// A file that belongs to a test.
///
/// # Invariants
///
/// The file is valid, and this owns a reference to it. If the file has been
/// [released](TestInstance::release_file), its count says that there is none.
struct TestFile(NonNull<bindings::file>);

impl TestFile {
    const FOPS: &bindings::file_operations = &pin_init::zeroed();

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

    /// Returns whether there are other references.
    fn is_shared(&self) -> bool {
        // The count excludes the first reference and is negative if there is none.
        //
        // SAFETY: By the type invariants, the file is valid. Others may drop their references
        // meanwhile, which is atomic.
        unsafe { atomic_load(&raw mut (*self.0.as_ptr()).f_ref.refcnt.counter, Relaxed) > 0 }
    }

    /// Sets the count of references. Returns false, and does nothing, if there are others than ours.
    ///
    /// New ones can only be taken from epitems, which needs the mutex of their instance: the caller
    /// has to hold it, or to be the only user of the instance.
    fn set_count(&self, count: c_ulong) -> bool {
        if self.is_shared() {
            return false;
        }

        // 32-bit architectures have other types there.
        #[expect(clippy::as_underscore)]
        let count = count as _;

        // INVARIANT: The count is that of a file with our reference, or of a released one.
        //
        // SAFETY: By the type invariants, the file is valid. Nobody else has a reference, so nobody
        // else uses the count.
        unsafe { (*self.0.as_ptr()).f_ref.refcnt.counter = count };

        true
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        self.set_count(bindings::FILE_REF_ONEREF as c_ulong);

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
/// - The mutex, the tree and the ready list of `ep` are initialized.
/// - All epitems in the tree are in `items` and watch a file in `files`.
/// - `files` are in the order of their addresses.
/// - `epoll_file` is an epoll file of `ep`.
pub struct TestInstance {
    ep: ManuallyDrop<KBox<Opaque<bindings::eventpoll>>>,
    epoll_file: ManuallyDrop<TestFile>,
    items: KVec<KBox<Opaque<bindings::epitem>>>,
    files: KVec<TestFile>,
}

impl TestInstance {
    /// Creates an instance with the epitems `(fd, file)`.
    pub fn new(epitems: &[(i32, usize)]) -> Result<Self, AllocError> {
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

        let ep = KBox::new(Opaque::<bindings::eventpoll>::zeroed(), GFP_KERNEL)?;
        // SAFETY: `ep` is memory for a `struct eventpoll`, which stays in place until it is freed.
        // The class is static.
        unsafe {
            bindings::__mutex_init(
                &raw mut (*ep.get()).mtx,
                c"TestInstance::ep".as_char_ptr(),
                static_lock_class!().as_ptr(),
            );
            bindings::INIT_LIST_HEAD(&raw mut (*ep.get()).rdllist);
        };

        let epoll_file = TestFile::new()?;
        // SAFETY: The file is valid, and nobody else uses it yet.
        unsafe {
            (*epoll_file.0.as_ptr()).f_op = &raw const bindings::eventpoll_fops;
            (*epoll_file.0.as_ptr()).private_data = ep.get().cast();
        };

        // INVARIANT: The mutex and the list are initialized, and all zeroes is an empty tree. The
        // file has the operations of an epoll file and refers to `ep`, which is freed with it.
        let mut instance = Self {
            ep: ManuallyDrop::new(ep),
            epoll_file: ManuallyDrop::new(epoll_file),
            items: KVec::new(),
            files,
        };
        for &(fd, file) in epitems {
            instance.insert(fd, file)?;
        }

        Ok(instance)
    }

    /// Creates an instance with `count` epitems of one descriptor, for as many files.
    pub fn with_duplicates(fd: i32, count: usize) -> Result<Self, AllocError> {
        let mut instance = Self::new(&[(fd, count - 1)])?;
        for file in 0..count - 1 {
            instance.insert(fd, file)?;
        }

        Ok(instance)
    }

    /// Returns the epoll instance itself.
    pub fn eventpoll(&self) -> &Eventpoll {
        // SAFETY: By the type invariants, the mutex and the tree are initialized. The cast is okay
        // because `Eventpoll` is `repr(transparent)`.
        unsafe { &*self.ep.get().cast() }
    }

    /// Returns the epoll file.
    ///
    /// The instance is leaked if there are still references to this file when it is dropped.
    pub fn epoll_file(&self) -> &EpollFile {
        // SAFETY: By the type invariants, this is an epoll file with a reference. The cast is okay
        // because `EpollFile` is `repr(transparent)`.
        unsafe { self.epoll_file.0.cast().as_ref() }
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

    /// Adds an epitem.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn insert(&mut self, fd: i32, file: usize) -> Result<(), AllocError> {
        let file = self.files[file].0.as_ptr();
        let epi = KBox::new(Opaque::<bindings::epitem>::zeroed(), GFP_KERNEL)?;
        let item = epi.get();
        self.items.push(epi, GFP_KERNEL)?;
        let _guard = self.lock();

        // As in `ep_rbtree_insert`.
        //
        // SAFETY: By the type invariants, all nodes that can be reached from the root are in
        // `items`, which never shrinks, and nobody else uses them since we hold the mutex. The new
        // epitem is initialized before it is linked. The packed fields are copied.
        unsafe {
            (*item).ffd = bindings::epoll_key { file, fd };
            bindings::INIT_LIST_HEAD(&raw mut (*item).rdllink);

            let root = &raw mut (*self.ep.get()).rbr.rb_root;
            let mut parent: *mut bindings::rb_node = ptr::null_mut();
            let mut link = &raw mut (*root).rb_node;
            while !(*link).is_null() {
                parent = *link;
                let other = container_of!(parent, bindings::epitem, __bindgen_anon_1.rbn);
                let key = (*other).ffd;
                link = if (fd, file) > ({ key.fd }, { key.file }) {
                    &raw mut (*parent).rb_right
                } else {
                    &raw mut (*parent).rb_left
                };
            }
            let node = &raw mut (*item).__bindgen_anon_1.rbn;
            bindings::rb_link_node(node, parent, link);
            bindings::rb_insert_color(node, root);
        }

        Ok(())
    }

    /// Removes an epitem. Returns whether it existed.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn remove(&mut self, fd: i32, file: usize) -> bool {
        let guard = self.lock();
        let Some(item) = self.item(&guard, fd, file) else {
            return false;
        };

        // SAFETY: `item` is in the tree, which nobody else uses since we hold the mutex. Its memory
        // stays in `items`.
        unsafe {
            bindings::rb_erase(
                &raw mut (*item.as_ptr()).__bindgen_anon_1.rbn,
                &raw mut (*self.ep.get()).rbr.rb_root,
            )
        };

        true
    }

    /// Sets the events and the data of an epitem. Returns whether it exists.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn set_event(&mut self, fd: i32, file: usize, events: u32, data: u64) -> bool {
        let guard = self.lock();
        let Some(item) = self.item(&guard, fd, file) else {
            return false;
        };

        // SAFETY: `item` is valid, and nobody else uses it since we hold the mutex.
        unsafe { (*item.as_ptr()).event = bindings::epoll_event { events, data } };

        true
    }

    /// Puts an epitem on the ready list. Returns false if it does not exist or is already there.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn set_ready(&mut self, fd: i32, file: usize) -> bool {
        let guard = self.lock();
        let Some(item) = self.item(&guard, fd, file) else {
            return false;
        };

        // SAFETY: `item` and `ep` are valid with initialized lists. Nobody else accesses the lists
        // since we hold the mutex, which `Epitem::is_ready` needs as well.
        unsafe {
            let rdllink = &raw mut (*item.as_ptr()).rdllink;
            if (*rdllink).next != rdllink {
                return false;
            }
            bindings::list_add_tail(rdllink, &raw mut (*self.ep.get()).rdllist);
        }

        true
    }

    /// Makes a file look as if its last reference had been dropped and it was about to be closed.
    /// Returns false, and does nothing, if there are other references.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn release_file(&mut self, file: usize) -> bool {
        let _guard = self.lock();

        self.files[file].set_count(bindings::FILE_REF_DEAD as c_ulong)
    }

    /// Locks the mutex, which others may contend for if they have a reference to the epoll file.
    fn lock(&self) -> Guard<'_> {
        // SAFETY: By the type invariants, the mutex is initialized.
        unsafe { bindings::mutex_lock(&raw mut (*self.ep.get()).mtx) };

        // INVARIANT: We have just locked the mutex, and leave it to the guard to unlock it.
        Guard {
            ep: self.eventpoll(),
            _not_send: NotThreadSafe,
        }
    }

    fn item(&self, guard: &Guard<'_>, fd: i32, file: usize) -> Option<NonNull<bindings::epitem>> {
        guard
            .find(fd, self.file(file))
            .map(|epi| NonNull::from(epi).cast())
    }
}

impl Drop for TestInstance {
    fn drop(&mut self) {
        // What a test still has a reference to may be used at any time: leak it.
        if self.epoll_file.is_shared() {
            forget(take(&mut self.items));
            forget(take(&mut self.files));
            return;
        }

        // SAFETY: The file is valid, and nobody else uses it. Closing it must not release the
        // instance as epoll does. The fields are dropped here only, and not used afterwards.
        unsafe {
            (*self.epoll_file.0.as_ptr()).f_op = TestFile::FOPS;
            ManuallyDrop::drop(&mut self.epoll_file);
            ManuallyDrop::drop(&mut self.ep);
        }
    }
}

#[macros::kunit_tests(rust_epoll)]
mod tests {
    use super::*;
    use crate::epoll::{
        Cursor,
        Epitem,
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

    /// Whatever a module may ask a file for, it can ask these for.
    #[test]
    fn files_are_complete() -> Result {
        let instance = TestInstance::new(&[(3, 0)])?;
        let guard = instance.eventpoll().lock_killable()?;
        let file = guard.items().next().and_then(Epitem::pin).ok_or(ENOENT)?;
        drop(guard);
        let mut buf = [0; 64];

        for file in [&*file, &**instance.epoll_file()] {
            assert!(file.owner().is_none());
            assert!(file.has_credentials_of(file));
            assert!(file.opened_by().uid == 0);
            assert!(file.mode() == file.stat()?.mode);
            assert!(file.path(&mut buf)?.path == Some(&b"anon_inode:[test]"[..]));
            assert!(file.position() == 0);
            assert!(file.flags() & bindings::O_RDWR != 0);
        }
        assert!(!file.can_poll());

        Ok(())
    }

    #[test]
    fn contents_of_an_entry() -> Result {
        let mut instance = TestInstance::new(&[(3, 0), (4, 0)])?;
        assert!(instance.set_event(4, 0, 0x8000_0001, u64::MAX - 1));
        assert!(instance.set_ready(4, 0));
        let guard = instance.eventpoll().lock_killable()?;
        let epitem = |fd| guard.find(fd, instance.file(0)).ok_or(ENOENT);

        assert!(epitem(3)?.events() == 0);
        assert!(epitem(3)?.data() == 0);
        assert!(!epitem(3)?.is_ready());
        assert!(epitem(4)?.events() == 0x8000_0001);
        assert!(epitem(4)?.data() == u64::MAX - 1);
        assert!(epitem(4)?.is_ready());

        Ok(())
    }
}
