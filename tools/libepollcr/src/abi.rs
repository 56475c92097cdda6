// SPDX-License-Identifier: GPL-2.0

//! `include/uapi/linux/epoll_cr.h`, which documents it all.

/// `_IO(EPOLL_CR_IOC_TYPE, nr)`
const fn request(nr: libc::Ioctl) -> libc::Ioctl {
    0xec << 8 | nr
}

pub const SNAPSHOT: libc::Ioctl = request(0x40);
pub const FILES: libc::Ioctl = request(0x41);
pub const DESCRIBE: libc::Ioctl = request(0x42);
pub const FETCH: libc::Ioctl = request(0x43);
pub const RESTORE: libc::Ioctl = request(0x44);

pub const ITEM_READY: u32 = 1 << 0;

pub const FD_CLOEXEC: u32 = 1 << 0;
pub const FD_EPOLL: u32 = 1 << 1;

pub const FILE_STAT: u32 = 1 << 0;
pub const FILE_PATH: u32 = 1 << 1;
pub const FILE_NAME: u32 = 1 << 2;
pub const FILE_UNLINKED: u32 = 1 << 3;
pub const FILE_UNREACHABLE: u32 = 1 << 4;

/// `PIDFD_SELF`, of `linux/pidfd.h`: the calling thread.
pub const PIDFD_SELF: i32 = -10_000;

/// `struct epoll_cr_item`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Item {
    pub tfd: i32,
    pub toff: u32,
    pub events: u32,
    pub flags: u32,
    pub data: u64,
    pub file: u64,
}

/// `struct epoll_cr_fd`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Fd {
    pub fd: u32,
    pub flags: u32,
    pub file: u64,
}

/// `struct epoll_cr_file`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct File {
    pub fd: u32,
    pub mask: u32,
    pub file: u64,
    pub pos: u64,
    pub epoll_id: u64,
    pub mode: u32,
    pub f_flags: u32,
    pub uid: u32,
    pub gid: u32,
    pub euid: u32,
    pub egid: u32,
    pub fsuid: u32,
    pub fsgid: u32,
    pub owner_type: u32,
    pub owner_pid: u32,
    pub owner_uid: u32,
    pub owner_euid: u32,
    pub owner_signal: u32,
    pub nlink: u32,
    pub dev_major: u32,
    pub dev_minor: u32,
    pub rdev_major: u32,
    pub rdev_minor: u32,
    pub ino: u64,
    pub length: u64,
    pub path_offset: u64,
    pub path_len: u32,
    pub reserved: u32,
}

/// `struct epoll_cr_add`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Add {
    pub fd: i32,
    pub tfd: i32,
    pub events: u32,
    pub flags: u32,
    pub data: u64,
}

/// `struct epoll_cr_snapshot`
#[derive(Debug, Default)]
#[repr(C)]
pub struct Snapshot {
    pub size: u32,
    pub flags: u32,
    pub pidfd: i32,
    pub efd: u32,
    pub items: u64,
    pub capacity: u64,
    pub count: u64,
    pub epoll_id: u64,
    pub item_size: u32,
    pub reserved: u32,
}

/// `struct epoll_cr_files`
#[derive(Debug, Default)]
#[repr(C)]
pub struct Files {
    pub size: u32,
    pub flags: u32,
    pub pidfd: i32,
    pub fd_size: u32,
    pub fds: u64,
    pub capacity: u64,
    pub count: u64,
    pub table: u64,
}

/// `struct epoll_cr_describe`
#[derive(Debug, Default)]
#[repr(C)]
pub struct Describe {
    pub size: u32,
    pub flags: u32,
    pub pidfd: i32,
    pub file_size: u32,
    pub fds: u64,
    pub files: u64,
    pub count: u64,
    pub paths: u64,
    pub paths_size: u64,
    pub paths_len: u64,
}

/// `struct epoll_cr_fetch`
#[derive(Debug, Default)]
#[repr(C)]
pub struct Fetch {
    pub size: u32,
    pub flags: u32,
    pub pidfd: i32,
    pub efd: u32,
    pub tfd: i32,
    pub toff: u32,
    pub file: u64,
}

/// `struct epoll_cr_restore`
#[derive(Debug, Default)]
#[repr(C)]
pub struct Restore {
    pub size: u32,
    pub flags: u32,
    pub efd: i32,
    pub item_size: u32,
    pub items: u64,
    pub count: u64,
    pub bad: u64,
}

// No padding: no more than the members take.
const _: () = {
    assert!(size_of::<Item>() == 32);
    assert!(size_of::<Fd>() == 16);
    assert!(size_of::<File>() == 136);
    assert!(size_of::<Add>() == 24);
    assert!(size_of::<Snapshot>() == 56);
    assert!(size_of::<Files>() == 48);
    assert!(size_of::<Describe>() == 64);
    assert!(size_of::<Fetch>() == 32);
    assert!(size_of::<Restore>() == 40);
};
