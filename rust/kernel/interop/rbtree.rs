// SPDX-License-Identifier: GPL-2.0

//! Rust interface for C red-black trees.
//!
//! This module lets Rust code search and iterate over a tree of [`struct rb_node`] that C code owns
//! and modifies. The owner defines the order; the predicate passed to a search must agree with it.
//!
//! Note: This *must not* be used by Rust components that just need an ordered map. Use
//! [`kernel::rbtree::RBTree`] instead.
//!
//! C header: [`include/linux/rbtree.h`](srctree/include/linux/rbtree.h)
//!
//! [`struct rb_node`]: srctree/include/linux/rbtree_types.h
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     bindings,
//!     interop::rbtree::crbtree_create,
//!     types::Opaque,
//! };
//! # use core::ptr;
//! #
//! # /// C struct with embedded `rb_node` (typically will be allocated by C code).
//! # #[repr(C)]
//! # pub struct SampleItemC {
//! #     pub key: i32,
//! #     pub node: bindings::rb_node,
//! # }
//! #
//! # // Build a tree with the keys 0, 10, ..., 60, as C code would.
//! # let mut root: bindings::rb_root = pin_init::zeroed();
//! # let mut items: [SampleItemC; 7] = core::array::from_fn(|i| SampleItemC {
//! #     key: i as i32 * 10,
//! #     node: pin_init::zeroed(),
//! # });
//! # let first = items.as_mut_ptr();
//! # for i in [3, 0, 6, 1, 5, 2, 4] {
//! #     // SAFETY: `i` is an index into `items`.
//! #     let item = unsafe { first.add(i) };
//! #     let mut parent: *mut bindings::rb_node = ptr::null_mut();
//! #     let mut link: *mut *mut bindings::rb_node = &raw mut root.rb_node;
//! #     // SAFETY: All nodes that can be reached from `root` are in `items`.
//! #     unsafe {
//! #         while !(*link).is_null() {
//! #             parent = *link;
//! #             let other = kernel::container_of!(parent, SampleItemC, node);
//! #             link = if (*item).key < (*other).key {
//! #                 &raw mut (*parent).rb_left
//! #             } else {
//! #                 &raw mut (*parent).rb_right
//! #             };
//! #         }
//! #         bindings::rb_link_node(&raw mut (*item).node, parent, link);
//! #         bindings::rb_insert_color(&raw mut (*item).node, &raw mut root);
//! #     }
//! # }
//!
//! /// Rust wrapper for the C struct.
//! ///
//! /// The struct in this example is defined in C code as:
//! ///
//! /// ```c
//! /// struct SampleItemC {
//! ///     int key;
//! ///     struct rb_node node;
//! /// };
//! /// ```
//! #[repr(transparent)]
//! pub struct Item(Opaque<SampleItemC>);
//!
//! impl Item {
//!     fn key(&self) -> i32 {
//!         // SAFETY: `Item` has the same layout as `SampleItemC`, and `key` is never written.
//!         unsafe { (*self.0.get()).key }
//!     }
//! }
//!
//! // SAFETY: `root` is the root of a tree of `SampleItemC`, linked by their field `node`, which is
//! // not modified while `tree` is in use. `Item` is `#[repr(transparent)]` over `SampleItemC`.
//! let tree = unsafe { crbtree_create!(&raw const root, Item, SampleItemC, node) };
//!
//! // All items, in order.
//! assert!(tree.iter().map(Item::key).eq([0, 10, 20, 30, 40, 50, 60]));
//!
//! // The items from a key on, whether an item with this key exists or not.
//! assert!(tree.lower_bound(|item| item.key() < 50).map(Item::key).eq([50, 60]));
//! assert!(tree.lower_bound(|item| item.key() < 41).map(Item::key).eq([50, 60]));
//! assert!(tree.lower_bound(|item| item.key() < 0).count() == 7);
//! assert!(tree.lower_bound(|item| item.key() < 61).next().is_none());
//!
//! // The number of items that are inspected is bounded by the height of the tree.
//! let mut inspected = 0;
//! let mut rest = tree.lower_bound(|item| {
//!     inspected += 1;
//!     item.key() < 50
//! });
//! assert!(rest.next().is_some_and(|item| item.key() == 50));
//! assert!(inspected <= 3);
//!
//! // A single item.
//! assert!(tree.find(|item| item.key().cmp(&30)).is_some_and(|item| item.key() == 30));
//! assert!(tree.find(|item| item.key().cmp(&31)).is_none());
//! # Ok::<(), Error>(())
//! ```

use core::{
    cmp::Ordering,
    iter::FusedIterator,
    marker::PhantomData,
    ptr::NonNull, //
};

use crate::{
    bindings,
    types::Opaque, //
};

/// A typed, read-only view of a red-black tree that C code owns.
///
/// The const generic `OFFSET` specifies the byte offset of the `rb_node` field within the struct
/// that `T` wraps.
///
/// # Invariants
///
/// - The `rb_root` is the root of a well-formed tree, which is not modified while there is a
///   reference to this.
/// - Each node of the tree is at byte offset `OFFSET` of a struct that `T` wraps.
#[repr(transparent)]
pub struct CRbTree<T, const OFFSET: usize>(Opaque<bindings::rb_root>, PhantomData<T>);

impl<T, const OFFSET: usize> CRbTree<T, OFFSET> {
    /// Creates a typed [`CRbTree`] reference from a raw `rb_root` pointer.
    ///
    /// # Safety
    ///
    /// - `root` must point to an initialized `rb_root` that remains valid for the lifetime `'a`.
    /// - The tree must not be modified for the lifetime `'a`.
    /// - The nodes of the tree must be at byte offset `OFFSET` of items of the struct that `T`
    ///   wraps.
    /// - `T` must be `#[repr(transparent)]` over that struct, and references to items must be
    ///   allowed for the lifetime `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(root: *const bindings::rb_root) -> &'a Self {
        // INVARIANT: Guaranteed by the caller.
        //
        // SAFETY: `CRbTree` has the same layout as `rb_root`, which is valid for `'a` per the
        // safety requirements.
        unsafe { &*root.cast() }
    }

    /// Returns the item that a node is embedded in.
    ///
    /// # Safety
    ///
    /// `node` must be a node of this tree.
    #[inline]
    unsafe fn item(&self, node: NonNull<bindings::rb_node>) -> &T {
        // SAFETY: By the type invariants, a node of this tree is at `OFFSET` of a struct that `T`
        // wraps, and it stays there as long as `self` is borrowed.
        unsafe { node.byte_sub(OFFSET).cast::<T>().as_ref() }
    }

    #[inline]
    fn root(&self) -> Option<NonNull<bindings::rb_node>> {
        // SAFETY: By the type invariants, the root is initialized and not modified.
        NonNull::new(unsafe { (*self.0.get()).rb_node })
    }

    /// Iterates over all items, in the order of the tree.
    #[inline]
    pub fn iter(&self) -> CRbTreeIter<'_, T, OFFSET> {
        self.lower_bound(|_| false)
    }

    /// Iterates over the items from a position on.
    ///
    /// `is_before` returns whether an item is before that position. In the order of the tree, all
    /// items for which it returns true must precede all items for which it returns false; otherwise
    /// the iterator starts at an unspecified item.
    ///
    /// Finding the first item takes O(log n).
    #[inline]
    pub fn lower_bound(&self, mut is_before: impl FnMut(&T) -> bool) -> CRbTreeIter<'_, T, OFFSET> {
        let mut first = None;
        let mut cursor = self.root();

        while let Some(node) = cursor {
            // SAFETY: `node` is the root of this tree or the child of a node of it.
            let before = is_before(unsafe { self.item(node) });

            // SAFETY: As above, so the node is valid and not modified.
            cursor = NonNull::new(unsafe {
                if before {
                    (*node.as_ptr()).rb_right
                } else {
                    (*node.as_ptr()).rb_left
                }
            });
            if !before {
                first = Some(node);
            }
        }

        // INVARIANT: `first` is a node of this tree or `None`.
        CRbTreeIter {
            tree: self,
            node: first,
            is_past: false,
        }
    }

    /// Returns the item for which `order` is [`Ordering::Equal`].
    ///
    /// `order` returns how an item compares to the wanted one. It must agree with the order of the
    /// tree; otherwise it is unspecified whether the item is found.
    ///
    /// Takes O(log n).
    #[inline]
    pub fn find(&self, mut order: impl FnMut(&T) -> Ordering) -> Option<&T> {
        let mut cursor = self.root();

        while let Some(node) = cursor {
            // SAFETY: `node` is the root of this tree or the child of a node of it.
            let item = unsafe { self.item(node) };

            // SAFETY: As above, so the node is valid and not modified.
            cursor = NonNull::new(unsafe {
                match order(item) {
                    Ordering::Less => (*node.as_ptr()).rb_right,
                    Ordering::Equal => return Some(item),
                    Ordering::Greater => (*node.as_ptr()).rb_left,
                }
            });
        }

        None
    }
}

/// An iterator over the items of a [`CRbTree`].
///
/// # Invariants
///
/// `node` is a node of `tree`, or `None` at the end.
pub struct CRbTreeIter<'a, T, const OFFSET: usize> {
    tree: &'a CRbTree<T, OFFSET>,
    node: Option<NonNull<bindings::rb_node>>,
    /// Whether `node` has been returned already. Looking up its successor lazily saves callers that
    /// need only one item a cache miss.
    is_past: bool,
}

impl<'a, T, const OFFSET: usize> Iterator for CRbTreeIter<'a, T, OFFSET> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let mut node = self.node?;

        if self.is_past {
            // INVARIANT: The successor of a node is a node of the same tree or `NULL`.
            //
            // SAFETY: By the type invariants, `node` is a node of a well-formed tree, which is not
            // modified while `tree` is borrowed.
            self.node = NonNull::new(unsafe { bindings::rb_next(node.as_ptr()) });
            node = self.node?;
        }
        self.is_past = true;

        // SAFETY: By the type invariants, `node` is a node of `tree`.
        Some(unsafe { self.tree.item(node) })
    }
}

impl<T, const OFFSET: usize> FusedIterator for CRbTreeIter<'_, T, OFFSET> {}

/// Create a typed [`CRbTree`] from a raw `rb_root` pointer.
///
/// # Arguments
///
/// - `$root`: Raw pointer to the `rb_root` (`*const bindings::rb_root`).
/// - `$rust_type`: Each item's Rust wrapper type.
/// - `$c_type`: Each item's C struct type that contains the embedded `rb_node`.
/// - `$field`: The name of the `rb_node` field within the C struct.
///
/// # Safety
///
/// As for [`CRbTree::from_raw`], for the lifetime that is inferred for the result.
///
/// # Examples
///
/// Refer to the examples in the [`crate::interop::rbtree`] module documentation.
#[macro_export]
macro_rules! crbtree_create {
    ($root:expr, $rust_type:ty, $c_type:ty, $($field:tt).+) => {{
        // Compile-time check that the field is an `rb_node`.
        let _: fn(*const $c_type) -> *const $crate::bindings::rb_node =
            |p| &raw const (*p).$($field).+;

        const OFFSET: usize = ::core::mem::offset_of!($c_type, $($field).+);
        $crate::interop::rbtree::CRbTree::<$rust_type, OFFSET>::from_raw($root)
    }};
}
pub use crbtree_create;
