// SPDX-License-Identifier: GPL-2.0

//! Epoll sets made of plain memory, for KUnit tests.
//!
//! What epoll itself does to a set takes descriptors, which a KUnit test does not have. These sets
//! have what [`Eventpoll`] looks at, and nothing else: a mutex, a tree, entries, and files that
//! cannot be opened, read or closed.

use super::{
    EpollFile,
    Eventpoll,
    Guard, //
};
use crate::{
    alloc::AllocError,
    bindings,
    container_of,
    fs::FileIdentity,
    prelude::*,
    sync::static_lock_class,
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

/// An epoll set for tests, together with the files that it watches.
///
/// Files are called by their index. Within a number they are in the order of the indices.
///
/// # Invariants
///
/// - The mutex, the tree and the list of ready entries of `ep` are initialized.
/// - All entries of the tree are in `items`, and watch a file in `files`.
/// - Each file has one reference that is never put, or has none and never gets one again.
/// - `epoll_file` is an epoll file, of `ep`, with one reference that is never put.
pub struct TestSet {
    ep: ManuallyDrop<KBox<Opaque<bindings::eventpoll>>>,
    epoll_file: ManuallyDrop<KBox<Opaque<bindings::file>>>,
    items: KVec<KBox<Opaque<bindings::epitem>>>,
    files: KVec<Opaque<bindings::file>>,
}

impl TestSet {
    /// Creates a set with the entries `(fd, file)`.
    pub fn new(entries: &[(i32, usize)]) -> Result<Self, AllocError> {
        let count = entries.iter().map(|&(_, file)| file + 1).max().unwrap_or(0);
        let mut files = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            // All zeroes is a file with one reference, which is the one that `files` holds.
            files.push(Opaque::zeroed(), GFP_KERNEL)?;
        }

        let ep = KBox::new(Opaque::<bindings::eventpoll>::zeroed(), GFP_KERNEL)?;
        // SAFETY: `ep` is memory for a `struct eventpoll`, where it stays until it is freed. The
        // class is static.
        unsafe {
            bindings::__mutex_init(
                &raw mut (*ep.get()).mtx,
                c"TestSet::ep".as_char_ptr(),
                static_lock_class!().as_ptr(),
            );
            bindings::INIT_LIST_HEAD(&raw mut (*ep.get()).rdllist);
        };

        let epoll_file = KBox::new(Opaque::<bindings::file>::zeroed(), GFP_KERNEL)?;
        // SAFETY: `epoll_file` is memory for a `struct file`, which nobody else uses yet.
        unsafe {
            (*epoll_file.get()).f_op = &raw const bindings::eventpoll_fops;
            (*epoll_file.get()).private_data = ep.get().cast();
        };

        // INVARIANT: The mutex and the list are initialized, and all zeroes is an empty tree. The
        // file has the operations of an epoll file and its set, which is freed together with it.
        let mut set = Self {
            ep: ManuallyDrop::new(ep),
            epoll_file: ManuallyDrop::new(epoll_file),
            items: KVec::new(),
            files,
        };
        for &(fd, file) in entries {
            set.insert(fd, file)?;
        }

        Ok(set)
    }

    /// Returns the set itself.
    pub fn eventpoll(&self) -> &Eventpoll {
        // SAFETY: By the type invariants, the mutex and the tree are initialized. The cast is okay
        // because `Eventpoll` is `repr(transparent)`.
        unsafe { &*self.ep.get().cast() }
    }

    /// Returns the file of the set.
    ///
    /// The set is not freed if there are references to it in the end.
    pub fn epoll_file(&self) -> &EpollFile {
        // SAFETY: By the type invariants, it is an epoll file with a reference. The cast is okay
        // because `EpollFile` is `repr(transparent)`.
        unsafe { &*self.epoll_file.get().cast() }
    }

    /// Returns the identity of a file.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn file(&self, file: usize) -> FileIdentity<'_> {
        // SAFETY: The file is freed together with `self`.
        unsafe { FileIdentity::from_raw(NonNull::from(&self.files[file]).cast()) }
    }

    /// Adds an entry.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn insert(&mut self, fd: i32, file: usize) -> Result<(), AllocError> {
        let file = self.files[file].get();
        let epi = KBox::new(Opaque::<bindings::epitem>::zeroed(), GFP_KERNEL)?;
        let item = epi.get();
        self.items.push(epi, GFP_KERNEL)?;
        let _guard = self.lock();

        // As in `ep_rbtree_insert`.
        //
        // SAFETY: By the type invariants, all nodes that can be reached from the root are in
        // `items`, which is not shrunk, and nobody else uses them since we hold the mutex. The new
        // item is initialized before it is linked. The packed fields are copied.
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

    /// Removes an entry. Returns whether there was one.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn remove(&mut self, fd: i32, file: usize) -> bool {
        let guard = self.lock();
        let Some(item) = self.item(&guard, fd, file) else {
            return false;
        };

        // SAFETY: `item` is in the tree, which nobody else uses since we hold the mutex. It stays in
        // memory, in `items`.
        unsafe {
            bindings::rb_erase(
                &raw mut (*item.as_ptr()).__bindgen_anon_1.rbn,
                &raw mut (*self.ep.get()).rbr.rb_root,
            )
        };

        true
    }

    /// Sets the event of an entry. Returns whether there is one.
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

    /// Puts an entry on the list of those that are ready. Returns whether it was not there yet.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn set_ready(&mut self, fd: i32, file: usize) -> bool {
        let guard = self.lock();
        let Some(item) = self.item(&guard, fd, file) else {
            return false;
        };

        // SAFETY: `item` and `ep` are valid with initialized lists, and nobody else writes to them
        // since we hold the mutex. Who looks whether an entry is ready holds it, too.
        unsafe {
            let rdllink = &raw mut (*item.as_ptr()).rdllink;
            if (*rdllink).next != rdllink {
                return false;
            }
            bindings::list_add_tail(rdllink, &raw mut (*self.ep.get()).rdllist);
        }

        true
    }

    /// Lets go of the last reference to a file, as if it was about to be closed. Returns whether it
    /// was the last.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn release_file(&mut self, file: usize) -> bool {
        let _guard = self.lock();
        if self.is_pinned(file) {
            return false;
        }

        // 32-bit architectures have other types there.
        #[expect(clippy::as_underscore)]
        let dead = bindings::FILE_REF_DEAD as _;

        // INVARIANT: There is no reference but ours, and `file_ref_get` gives out no more.
        //
        // SAFETY: The file is valid memory, which nobody else uses: there are no references, and
        // new ones cannot be taken without the mutex.
        unsafe { (*self.files[file].get()).f_ref.refcnt.counter = dead };

        true
    }

    /// Whether there is a reference to a file besides the one that is never put.
    fn is_pinned(&self, file: usize) -> bool {
        Self::has_more_references(&self.files[file])
    }

    fn has_more_references(file: &Opaque<bindings::file>) -> bool {
        // The count is that of the other references, or negative if there are none at all.
        //
        // SAFETY: The file is valid memory. Others may put their references meanwhile, which is
        // atomic, as this `read_volatile` is, which is intended to correspond to an atomic_read.
        unsafe { (&raw const (*file.get()).f_ref.refcnt.counter).read_volatile() > 0 }
    }

    /// Locks the mutex, which a reference to the set's file lets others do as well.
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

impl Drop for TestSet {
    fn drop(&mut self) {
        // What a test has pinned may be used for as long as the test likes.
        if Self::has_more_references(&self.epoll_file) {
            forget(take(&mut self.items));
            forget(take(&mut self.files));
            return;
        }
        if (0..self.files.len()).any(|file| self.is_pinned(file)) {
            forget(take(&mut self.files));
        }

        // SAFETY: They are dropped here only, and not used any more.
        unsafe {
            ManuallyDrop::drop(&mut self.epoll_file);
            ManuallyDrop::drop(&mut self.ep);
        }
    }
}
