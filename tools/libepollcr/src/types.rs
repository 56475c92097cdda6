// SPDX-License-Identifier: GPL-2.0

//! Values that the kernel, the device and an image have in common, and [`Progress`].
//!
//! Each value has the kernel's number, which is also what an image stores: see
//! `from_raw` and `raw` of the enums, and `from_bits` and `bits` of the flags.

use minicbor::encode::{self, Write};
use minicbor::{Decode, Decoder, Encode, Encoder, decode};
use std::fmt;

/// The bits of an interest that are flags, not events: `EP_PRIVATE_BITS` of the kernel.
pub(crate) const PRIVATE_BITS: u32 =
    (libc::EPOLLEXCLUSIVE | libc::EPOLLWAKEUP | libc::EPOLLONESHOT | libc::EPOLLET) as u32;

/// An integer on disk that only some values are valid for.
macro_rules! codec {
    ($name:ident, $to:ident, $from:ident, $what:literal) => {
        impl<C> Encode<C> for $name {
            fn encode<W: Write>(
                &self,
                encoder: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                encoder.u32(self.$to())?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                let at = decoder.position();
                let raw = decoder.u32()?;
                Self::$from(raw).ok_or_else(|| {
                    decode::Error::message(format!(concat!("{} is not ", $what), raw)).at(at)
                })
            }
        }
    };
}

macro_rules! values {
    (
        $what:literal
        $(#[$meta:meta])*
        $name:ident { $($(#[$doc:meta])* $value:ident = $raw:expr,)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u32)]
        pub enum $name {
            $($(#[$doc])* $value = $raw as u32,)*
        }

        impl $name {
            /// The kernel's value.
            pub const fn raw(self) -> u32 {
                self as u32
            }

            /// The value that the kernel calls `raw`; `None` if there is none.
            pub const fn from_raw(raw: u32) -> Option<Self> {
                match raw {
                    $(raw if raw == Self::$value.raw() => Some(Self::$value),)*
                    _ => None,
                }
            }
        }

        codec!($name, raw, from_raw, $what);
    };
}

values! {
    "a kind of owner"
    /// What [`Owner::id`] is the id of: `F_OWNER_*` of fcntl(2).
    OwnerKind {
        /// A thread: `F_OWNER_TID`.
        Thread = 0,
        /// A process: `F_OWNER_PID`.
        Process = 1,
        /// A process group: `F_OWNER_PGRP`.
        Group = 2,
    }
}

values! {
    "a type of unix socket"
    /// The type of a unix socket: `SOCK_*` of socket(2).
    SocketKind {
        /// A stream of bytes: `SOCK_STREAM`.
        Stream = libc::SOCK_STREAM,
        /// Messages: `SOCK_DGRAM`.
        Datagram = libc::SOCK_DGRAM,
        /// Messages over a connection: `SOCK_SEQPACKET`.
        SeqPacket = libc::SOCK_SEQPACKET,
    }
}

values! {
    "a clock of a timer"
    /// The clock of a timer: `CLOCK_*` of timerfd_create(2).
    Clock {
        /// The time of day: `CLOCK_REALTIME`.
        Realtime = libc::CLOCK_REALTIME,
        /// Time since boot, without suspend: `CLOCK_MONOTONIC`.
        Monotonic = libc::CLOCK_MONOTONIC,
        /// Time since boot: `CLOCK_BOOTTIME`.
        Boottime = libc::CLOCK_BOOTTIME,
        /// The time of day; wakes the system: `CLOCK_REALTIME_ALARM`.
        RealtimeAlarm = libc::CLOCK_REALTIME_ALARM,
        /// Time since boot; wakes the system: `CLOCK_BOOTTIME_ALARM`.
        BoottimeAlarm = libc::CLOCK_BOOTTIME_ALARM,
    }
}

bitflags::bitflags! {
    /// Ends of a pipe or FIFO.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PipeEnds: u32 {
        /// The end that is read.
        const READ = 1;
        /// The end that is written.
        const WRITE = 2;
    }

    /// Directions in which a socket was shut down, see shutdown(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Directions: u32 {
        /// Nothing is received any more: `SHUT_RD`.
        const RECEIVE = 1;
        /// Nothing is sent any more: `SHUT_WR`.
        const SEND = 2;
    }

    /// How a timer was set: `TFD_TIMER_*` of timerfd_settime(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct TimerFlags: u32 {
        /// It was set to a time of its clock: `TFD_TIMER_ABSTIME`.
        const ABSTIME = libc::TFD_TIMER_ABSTIME as u32;
        /// read(2) fails if the clock is set: `TFD_TIMER_CANCEL_ON_SET`.
        const CANCEL_ON_SET = libc::TFD_TIMER_CANCEL_ON_SET as u32;
    }
}

codec!(PipeEnds, bits, from_bits, "a set of pipe ends");
codec!(Directions, bits, from_bits, "a set of directions");
codec!(TimerFlags, bits, from_bits, "a set of timer flags");

impl PipeEnds {
    /// The ends that an open file with these status flags (`O_*`) is.
    pub const fn of(flags: u32) -> Self {
        match flags as i32 & libc::O_ACCMODE {
            libc::O_RDONLY => Self::READ,
            libc::O_WRONLY => Self::WRITE,
            _ => Self::all(),
        }
    }
}

/// A device: `st_dev` or `st_rdev` of stat(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct DeviceNumber {
    /// The driver.
    #[n(0)]
    pub major: u32,
    /// The device of the driver.
    #[n(1)]
    pub minor: u32,
}

impl DeviceNumber {
    /// That of a `st_dev` or `st_rdev` of stat(2).
    pub(crate) fn of(device: u64) -> Self {
        Self {
            major: rustix::fs::major(device),
            minor: rustix::fs::minor(device),
        }
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The receiver of an open file's signals: `F_SETOWN_EX` and `F_SETSIG` of fcntl(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Owner {
    /// What `id` is the id of.
    #[n(0)]
    pub kind: OwnerKind,
    /// The thread, process or process group; 0 for none, and never negative.
    #[n(1)]
    pub id: i32,
    /// The signal; 0 for SIGIO.
    #[n(2)]
    pub signal: u32,
}

/// The user and group that a file was opened as, those that count for permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Opener {
    /// The user.
    #[n(0)]
    pub uid: u32,
    /// The group.
    #[n(1)]
    pub gid: u32,
}

/// The progress of a dump or a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Open files are inspected, or made.
    Files {
        /// How many are done.
        done: usize,
        /// How many there are.
        total: usize,
    },
    /// Targets of epoll instances are looked up, or added.
    Items {
        /// How many are done.
        done: usize,
        /// How many there are.
        total: usize,
    },
}

/// A duration on disk: seconds and nanoseconds.
pub(crate) mod duration {
    use minicbor::encode::Write;
    use minicbor::{Decoder, Encode, Encoder};
    use std::time::Duration;

    const SECOND: u32 = 1_000_000_000;

    pub fn encode<C, W: Write>(
        value: &Duration,
        encoder: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        (value.as_secs(), value.subsec_nanos()).encode(encoder, context)
    }

    pub fn decode<C>(
        decoder: &mut Decoder<'_>,
        context: &mut C,
    ) -> Result<Duration, minicbor::decode::Error> {
        let at = decoder.position();
        let (seconds, nanoseconds): (u64, u32) = decoder.decode_with(context)?;
        if nanoseconds >= SECOND {
            let message = format!("{nanoseconds} ns are a second or more");
            return Err(minicbor::decode::Error::message(message).at(at));
        }
        Ok(Duration::new(seconds, nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_kernels() {
        for raw in 0..100 {
            for found in [
                OwnerKind::from_raw(raw).map(OwnerKind::raw),
                SocketKind::from_raw(raw).map(SocketKind::raw),
                Clock::from_raw(raw).map(Clock::raw),
            ] {
                assert!(found.is_none_or(|found| found == raw));
            }
        }
        assert_eq!(Clock::from_raw(7), Some(Clock::Boottime));
        assert_eq!(SocketKind::from_raw(5), Some(SocketKind::SeqPacket));
        assert_eq!(OwnerKind::from_raw(3), None);
        assert_eq!(PipeEnds::of(libc::O_RDWR as u32), PipeEnds::all());
    }
}
