// SPDX-License-Identifier: GPL-2.0

//! What is said to root that lacks a capability, as in a container.

mod common;

use common::{LSEPOLL, say, start, text};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

const CAP_SYS_PTRACE: libc::c_ulong = 19;

#[test]
fn the_capability_that_is_missing_is_named() {
    let Some(_alone) = start() else { return };
    let sets = rustix::thread::capabilities(None).unwrap();
    let has = |capability| sets.effective.contains(capability);
    use rustix::thread::CapabilitySet;
    if !rustix::process::geteuid().is_root()
        || !has(CapabilitySet::SYS_PTRACE)
        || !has(CapabilitySet::SETPCAP)
    {
        return say("only root can give up what it has");
    }
    // It has more capabilities than the one that looks at it.
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = other.id().to_string();
    let mut command = Command::new(LSEPOLL);
    command.args(["--owners", "given", "-p", &pid]);
    // SAFETY: What runs in the child is one system call.
    unsafe {
        command.pre_exec(
            || match libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            },
        );
    }
    let output = command.output();
    other.kill().unwrap();
    other.wait().unwrap();
    let (status, table, errors) = text(output.unwrap());
    assert_eq!((status, table.as_str()), (2, ""), "{errors}");
    let why = "): no ptrace access; root needs CAP_SYS_PTRACE, and does not have it here\n";
    assert!(errors.ends_with(why), "{errors}");
}
