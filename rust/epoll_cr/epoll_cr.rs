// SPDX-License-Identifier: GPL-2.0

//! The device `/dev/epoll_cr`, for programs that checkpoint and restore processes.
//!
//! It shows all entries of an epoll set and all descriptors of a process with the same identities
//! of their files, opens descriptors for files that have none, and adds entries as they were. See
//! `Documentation/epoll_cr.rst` and `include/uapi/linux/epoll_cr.h` for the interface.
//!
//! - What a call needs of memory does not depend on how much there is to show or to restore: all of
//!   them work in batches.
//! - Permission to look at a process is asked for in each batch, and entries, descriptors and
//!   references to files are taken while it is granted. Nothing is copied to or from a program
//!   meanwhile.
//! - No reference to anything of the other process is kept when a call returns, nor from one batch
//!   to the next, nor while memory of a program is accessed.

use kernel::{
    fs::{
        identity::IdentityKey,
        File, //
    },
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    uaccess::UserPtr,
    uapi, //
};

mod defs;
mod describe;
mod files;
mod restore;
mod set;
mod user;

use user::{
    Args,
    Plain, //
};

module! {
    type: EpollCrModule,
    name: "epoll_cr",
    authors: ["The rust-epoll developers"],
    description: "Checkpoint and restore of descriptors and epoll sets",
    license: "GPL",
}

#[pin_data]
struct EpollCrModule {
    #[pin]
    _device: MiscDeviceRegistration<Opening>,
}

impl kernel::InPlaceModule for EpollCrModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _device <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"epoll_cr",
                // Who may do what is decided by call: there is nothing that pidfd_getfd(2) or
                // epoll_ctl(2) would deny.
                mode: 0o666,
            }),
        })
    }
}

/// An opening of the device.
struct Opening {
    /// What identities are made with.
    key: IdentityKey,
}

/// Reads the argument of a call, makes the call, and writes the argument back, also if it fails.
fn with_args<T: Plain>(ptr: UserPtr, call: impl FnOnce(&mut T) -> Result) -> Result<isize> {
    let (args, mut value) = Args::read(ptr)?;
    let result = call(&mut value);
    let written = args.write(&value);

    result.and(written).and(Ok(0))
}

#[vtable]
impl MiscDevice for Opening {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        let opening = Self {
            key: IdentityKey::random(),
        };

        Ok(KBox::new(opening, GFP_KERNEL)?)
    }

    fn ioctl(me: &Self, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        let ptr = UserPtr::from_addr(arg);

        match cmd {
            uapi::EPOLL_CR_SNAPSHOT => with_args(ptr, |args| set::snapshot(&me.key, args)),
            uapi::EPOLL_CR_FILES => with_args(ptr, |args| files::files(&me.key, args)),
            uapi::EPOLL_CR_DESCRIBE => with_args(ptr, |args| describe::describe(&me.key, args)),
            uapi::EPOLL_CR_FETCH => set::fetch(&me.key, &Args::read(ptr)?.1),
            uapi::EPOLL_CR_RESTORE => {
                let (args, value) = Args::read(ptr)?;

                restore::restore(&args, value)
            }
            _ => Err(ENOTTY),
        }
    }
}
