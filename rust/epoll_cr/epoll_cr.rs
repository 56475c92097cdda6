// SPDX-License-Identifier: GPL-2.0

//! The device `/dev/epoll_cr`, for programs that checkpoint and restore processes.
//!
//! It returns the targets of an epoll instance and the descriptors of a process, with comparable
//! identities of their files, opens descriptors for files that have none, and adds targets in a
//! given state. See `include/uapi/linux/epoll_cr.h` for the interface.
//!
//! - All calls work in batches, so the memory that a call needs does not depend on the number of
//!   targets or descriptors.
//! - Access to the process is checked for each batch. Descriptors and references to files are taken
//!   while it is granted. Neither is user memory accessed meanwhile, nor an epoll instance waited
//!   for.
//! - No reference to an object of another process is kept when a call returns, between two batches,
//!   or while user memory is accessed.

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
mod instance;
mod restore;
mod user;

use user::{
    Args,
    Plain, //
};

module! {
    type: EpollCrModule,
    name: "epoll_cr",
    authors: ["The rust-epoll developers"],
    description: "Checkpoint and restore of descriptors and epoll instances",
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
            }),
        })
    }
}

/// An open file description of the device.
struct Opening {
    /// The key of the identities that this open file description returns.
    key: IdentityKey,
}

/// Reads the argument of a call, makes the call, and writes the argument back even if it fails.
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
            uapi::EPOLL_CR_SNAPSHOT => with_args(ptr, |args| instance::snapshot(&me.key, args)),
            uapi::EPOLL_CR_FILES => with_args(ptr, |args| files::files(&me.key, args)),
            uapi::EPOLL_CR_DESCRIBE => with_args(ptr, |args| describe::describe(&me.key, args)),
            uapi::EPOLL_CR_FETCH => instance::fetch(&me.key, &Args::read(ptr)?.1),
            uapi::EPOLL_CR_RESTORE => {
                let (args, value) = Args::read(ptr)?;

                restore::restore(&args, value)
            }
            _ => Err(ENOTTY),
        }
    }
}
