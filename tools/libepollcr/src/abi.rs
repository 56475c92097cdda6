// SPDX-License-Identifier: GPL-2.0

//! The interface of `/dev/epoll_cr`, as `include/uapi/linux/epoll_cr.h` defines and
//! documents it. A test compares all of it with the header, which `abi/epoll_cr.h`
//! is a link to.

use rustix::ioctl::{Opcode, opcode};

/// Defines constants, and lists them for the test.
macro_rules! constants {
    ($($name:ident: $type:ty = $value:expr, $c:literal;)*) => {
        $(pub const $name: $type = $value;)*

        #[cfg(test)]
        const CONSTANTS: &[(&str, u64)] = &[$(($c, $name as u64),)*];
    };
}

constants! {
    IOC_TYPE: u8 = 0xec, "EPOLL_CR_IOC_TYPE";
    SNAPSHOT: Opcode = opcode::none(IOC_TYPE, 0x40), "EPOLL_CR_SNAPSHOT";
    FILES: Opcode = opcode::none(IOC_TYPE, 0x41), "EPOLL_CR_FILES";
    DESCRIBE: Opcode = opcode::none(IOC_TYPE, 0x42), "EPOLL_CR_DESCRIBE";
    FETCH: Opcode = opcode::none(IOC_TYPE, 0x43), "EPOLL_CR_FETCH";
    RESTORE: Opcode = opcode::none(IOC_TYPE, 0x44), "EPOLL_CR_RESTORE";
    ITEM_READY: u32 = 0x01, "EPOLL_CR_ITEM_READY";
    FD_CLOEXEC: u32 = 0x01, "EPOLL_CR_FD_CLOEXEC";
    FD_EPOLL: u32 = 0x02, "EPOLL_CR_FD_EPOLL";
    FILE_STAT: u32 = 0x01, "EPOLL_CR_FILE_STAT";
    FILE_PATH: u32 = 0x02, "EPOLL_CR_FILE_PATH";
    FILE_NAME: u32 = 0x04, "EPOLL_CR_FILE_NAME";
    FILE_UNLINKED: u32 = 0x08, "EPOLL_CR_FILE_UNLINKED";
    FILE_UNREACHABLE: u32 = 0x10, "EPOLL_CR_FILE_UNREACHABLE";
}

/// `PIDFD_SELF`, of `linux/pidfd.h`: the calling thread.
pub const PIDFD_SELF: i32 = -10_000;

/// Defines structs, and lists their layouts for the test.
macro_rules! structs {
    ($($c:literal $name:ident { $($member:ident: $type:ty,)* })*) => {
        $(
            #[doc = concat!("`struct ", $c, "`")]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            #[repr(C)]
            pub struct $name {
                $(pub $member: $type,)*
            }
        )*

        #[cfg(test)]
        fn structs() -> Vec<tests::Struct> {
            vec![$(tests::Struct {
                name: $c.into(),
                size: size_of::<$name>(),
                members: vec![$(tests::Member {
                    name: stringify!($member).into(),
                    kind: stringify!($type).into(),
                    offset: std::mem::offset_of!($name, $member),
                },)*],
            },)*]
        }
    };
}

structs! {
    "epoll_cr_item" Item {
        tfd: i32,
        toff: u32,
        events: u32,
        flags: u32,
        data: u64,
        file: u64,
    }

    "epoll_cr_snapshot" Snapshot {
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

    "epoll_cr_fd" Fd {
        fd: u32,
        flags: u32,
        file: u64,
    }

    "epoll_cr_files" Files {
        size: u32,
        flags: u32,
        pidfd: i32,
        fd_size: u32,
        fds: u64,
        capacity: u64,
        count: u64,
        table: u64,
    }

    "epoll_cr_file" File {
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

    "epoll_cr_describe" Describe {
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

    "epoll_cr_fetch" Fetch {
        size: u32,
        flags: u32,
        pidfd: i32,
        efd: u32,
        tfd: i32,
        toff: u32,
        file: u64,
    }

    "epoll_cr_add" Add {
        fd: i32,
        tfd: i32,
        events: u32,
        flags: u32,
        data: u64,
    }

    "epoll_cr_restore" Restore {
        size: u32,
        flags: u32,
        efd: i32,
        item_size: u32,
        items: u64,
        count: u64,
        bad: u64,
    }
}

#[cfg(test)]
mod tests;
