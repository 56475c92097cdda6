// SPDX-License-Identifier: GPL-2.0

//! Epoll sets made of plain memory, for KUnit tests.
//!
//! What epoll itself does to a set takes descriptors, which a KUnit test does not have. These sets
//! are built as `fs/eventpoll.c` builds them, and are good for all that [`Eventpoll`] can be asked.

use super::Eventpoll;
use crate::{
    alloc::AllocError,
    bindings,
    container_of,
    fs::FileIdentity,
    prelude::*,
    sync::static_lock_class,
    types::Opaque, //
};
use core::ptr::{
    self,
    NonNull, //
};

/// An epoll set for tests, together with the files that it watches.
///
/// Files are called by their index. Within a number they are in the order of the indices.
///
/// # Invariants
///
/// - `ep` is an initialized `struct eventpoll`.
/// - All entries of its tree are in `items`, and watch a file in `files`.
pub struct TestSet {
    ep: KBox<Opaque<bindings::eventpoll>>,
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

        // INVARIANT: The mutex and the list are initialized, and all zeroes is an empty tree.
        let mut set = Self {
            ep,
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
        // SAFETY: By the type invariants, `ep` is initialized. The cast is okay because `Eventpoll`
        // is `repr(transparent)`.
        unsafe { &*self.ep.get().cast() }
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

        // As in `ep_rbtree_insert`.
        //
        // SAFETY: By the type invariants, all nodes that can be reached from the root are in
        // `items`, which is not shrunk, and nobody else uses them since we have the only reference
        // to `self`. The new item is initialized before it is linked. The packed fields are copied.
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
        let Some(item) = self.item(fd, file) else {
            return false;
        };

        // SAFETY: `item` is in the tree, which nobody else uses since we have the only reference to
        // `self`. It stays in memory, in `items`.
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
        let Some(item) = self.item(fd, file) else {
            return false;
        };

        // SAFETY: `item` is valid, and nobody else uses it since we have the only reference to
        // `self`.
        unsafe { (*item.as_ptr()).event = bindings::epoll_event { events, data } };

        true
    }

    /// Puts an entry on the list of those that are ready. Returns whether it was not there yet.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn set_ready(&mut self, fd: i32, file: usize) -> bool {
        let Some(item) = self.item(fd, file) else {
            return false;
        };

        // SAFETY: `item` and `ep` are valid with initialized lists, and nobody else uses them since
        // we have the only reference to `self`.
        unsafe {
            let rdllink = &raw mut (*item.as_ptr()).rdllink;
            if (*rdllink).next != rdllink {
                return false;
            }
            bindings::list_add_tail(rdllink, &raw mut (*self.ep.get()).rdllist);
        }

        true
    }

    /// Lets go of the last reference to a file, as if it was about to be closed.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn release_file(&mut self, file: usize) {
        // SAFETY: The file is valid memory, which nobody else uses since we have the only reference
        // to `self`.
        unsafe { (*self.files[file].get()).f_ref.refcnt.counter = bindings::FILE_REF_DEAD };
    }

    fn item(&self, fd: i32, file: usize) -> Option<NonNull<bindings::epitem>> {
        let guard = self.eventpoll().lock_killable().ok()?;

        guard
            .find(fd, self.file(file))
            .map(|epi| NonNull::from(epi).cast())
    }
}
