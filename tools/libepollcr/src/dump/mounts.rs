// SPDX-License-Identifier: GPL-2.0

//! The mounts of a mount namespace.

use crate::types::DeviceNumber;
use std::collections::HashSet;
use std::fs;
use std::io;

/// The ids of the mounts that a mountinfo shows: those of the mount namespace of its
/// process, from its root on.
pub fn ids(mountinfo: &str) -> HashSet<u64> {
    let text = fs::read(mountinfo).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let ids = text
        .lines()
        .filter_map(|line| line.split(' ').next()?.parse().ok());
    ids.collect()
}

/// A mount.
pub struct Mount {
    pub id: u64,
    /// The device of its file system.
    pub device: DeviceNumber,
    /// Where it is mounted.
    pub path: Vec<u8>,
}

/// The mounts of this process.
pub fn here() -> io::Result<Vec<Mount>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(text
        .split(|&byte| byte == b'\n')
        .filter_map(mount)
        .collect())
}

/// `ID PARENT MAJOR:MINOR ROOT PATH ...`
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = std::str::from_utf8(fields.nth(1)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    Some(Mount {
        id,
        device: DeviceNumber {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        },
        path: unescaped(fields.nth(1)?),
    })
}

/// Blanks and backslashes are shown as three octal digits.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        let escaped = after.get(..3).filter(|_| *first == b'\\');
        let code = escaped
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        let (byte, length) = match code {
            Some(code) => (code, 4),
            None => (*first, 1),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    bytes
}

/// The id of the mount that a fdinfo shows.
pub fn of(fdinfo: &str) -> Option<u64> {
    let mut lines = fdinfo.lines();
    let id = lines.find_map(|line| line.strip_prefix("mnt_id:"))?;
    id.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernel_shows_them() {
        let line = br"36 35 98:12 /mnt1 /mnt\0402\134 rw,noatime master:1 - ext3 /dev/root rw";
        let Some(Mount { id, device, path }) = mount(line) else {
            panic!();
        };
        assert_eq!((id, device.major, device.minor), (36, 98, 12));
        assert_eq!(path, br"/mnt 2\");
        assert_eq!(unescaped(br"\9\040"), br"\9 ");
        assert!(mount(b"").is_none() && mount(b"36 35 98 / /").is_none());
    }
}
