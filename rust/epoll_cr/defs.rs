// SPDX-License-Identifier: GPL-2.0

//! The structs of `include/uapi/linux/epoll_cr.h`, as types without padding.
//!
//! Constants are used from `kernel::uapi` directly.

use crate::user::Plain;
use kernel::{
    prelude::*,
    uapi, //
};
use zerocopy_derive::Immutable;

macro_rules! mirror {
    (
        $(
            $(#[$attr:meta])*
            struct $name:ident = $uapi:ident, $first:ident { $($field:ident: $type:ty,)* }
        )*
    ) => {
        $(
            $(#[$attr])*
            #[repr(C)]
            #[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
            pub(crate) struct $name {
                $(pub(crate) $field: $type,)*
            }

            impl Plain for $name {
                const FIRST_SIZE: usize = uapi::$first as usize;
            }

            const _: () = {
                assert!(size_of::<$name>() == size_of::<uapi::$uapi>());
                $(
                    assert!(
                        core::mem::offset_of!($name, $field)
                            == core::mem::offset_of!(uapi::$uapi, $field)
                    );
                    // Does not compile unless the types are the same.
                    let _: fn(uapi::$uapi) -> $type = |value| value.$field;
                )*
            };
        )*
    };
}

mirror! {
    /// An epitem.
    struct Item = epoll_cr_item, EPOLL_CR_ITEM_SIZE_VER0 {
        tfd: i32,
        toff: u32,
        events: u32,
        flags: u32,
        data: u64,
        file: u64,
    }

    struct Snapshot = epoll_cr_snapshot, EPOLL_CR_SNAPSHOT_SIZE_VER0 {
        size: u32,
        flags: u32,
        pidfd: i32,
        efd: u32,
        items: u64,
        capacity: u64,
        count: u64,
        epoll_id: u64,
        item_size: u32,
        reserved: u32,
    }

    /// An open descriptor.
    struct Fd = epoll_cr_fd, EPOLL_CR_FD_SIZE_VER0 {
        fd: u32,
        flags: u32,
        file: u64,
    }

    struct Files = epoll_cr_files, EPOLL_CR_FILES_SIZE_VER0 {
        size: u32,
        flags: u32,
        pidfd: i32,
        fd_size: u32,
        fds: u64,
        capacity: u64,
        count: u64,
        table: u64,
    }

    /// An open file.
    struct File = epoll_cr_file, EPOLL_CR_FILE_SIZE_VER0 {
        fd: u32,
        mask: u32,
        file: u64,
        pos: u64,
        epoll_id: u64,
        mode: u32,
        f_flags: u32,
        uid: u32,
        gid: u32,
        euid: u32,
        egid: u32,
        fsuid: u32,
        fsgid: u32,
        owner_type: u32,
        owner_pid: u32,
        owner_uid: u32,
        owner_euid: u32,
        owner_signal: u32,
        nlink: u32,
        dev_major: u32,
        dev_minor: u32,
        rdev_major: u32,
        rdev_minor: u32,
        ino: u64,
        length: u64,
        path_offset: u64,
        path_len: u32,
        reserved: u32,
    }

    struct Describe = epoll_cr_describe, EPOLL_CR_DESCRIBE_SIZE_VER0 {
        size: u32,
        flags: u32,
        pidfd: i32,
        file_size: u32,
        fds: u64,
        files: u64,
        count: u64,
        paths: u64,
        paths_size: u64,
        paths_len: u64,
    }

    struct Fetch = epoll_cr_fetch, EPOLL_CR_FETCH_SIZE_VER0 {
        size: u32,
        flags: u32,
        pidfd: i32,
        efd: u32,
        tfd: i32,
        toff: u32,
        file: u64,
    }

    /// An epitem to add.
    struct Add = epoll_cr_add, EPOLL_CR_ADD_SIZE_VER0 {
        fd: i32,
        tfd: i32,
        events: u32,
        flags: u32,
        data: u64,
    }

    struct Restore = epoll_cr_restore, EPOLL_CR_RESTORE_SIZE_VER0 {
        size: u32,
        flags: u32,
        efd: i32,
        item_size: u32,
        items: u64,
        count: u64,
        bad: u64,
    }
}
