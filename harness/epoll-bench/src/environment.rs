// SPDX-License-Identifier: GPL-2.0

//! The machine and kernel of a measurement.

use std::fs;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use rustix::system::uname;

use crate::record::{Accelerator, Environment, Machine};

impl Environment {
    /// `machine` is what the guest cannot see: the processor that emulates it.
    pub fn look(boot: u32, machine: Option<&str>) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let uname = uname();
        let cpus = available_parallelism().context("cannot tell how many processors there are")?;
        Ok(Self {
            kernel: format!(
                "{} {}",
                uname.release().to_string_lossy(),
                uname.version().to_string_lossy()
            ),
            boot,
            accelerator: accelerator(&cpuinfo),
            machine: Machine {
                cpu: machine
                    .or_else(|| field(&cpuinfo, "model name"))
                    .unwrap_or("unknown")
                    .to_string(),
                cpus: u32::try_from(cpus.get())?,
            },
        })
    }
}

/// The first field of this name in the kernel's description of its processors.
fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn accelerator(cpuinfo: &str) -> Accelerator {
    let is = |name, word: &str| field(cpuinfo, name).is_some_and(|value| value.contains(word));
    if is("vendor_id", "User Mode Linux") {
        Accelerator::Um
    } else if is("model name", "QEMU TCG") {
        Accelerator::Tcg
    } else if is("flags", "hypervisor") {
        Accelerator::Kvm
    } else {
        Accelerator::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accelerators_are_told_apart() {
        let tcg =
            "processor\t: 0\nmodel name\t: QEMU TCG CPU version 2.5+\nflags\t\t: fpu hypervisor\n";
        let kvm = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu hypervisor lahf_lm\n";
        let um = "processor\t: 0\nvendor_id\t: User Mode Linux\nmodel name\t: UML\n";
        let metal = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu\n";
        assert_eq!(accelerator(tcg), Accelerator::Tcg);
        assert_eq!(accelerator(kvm), Accelerator::Kvm);
        assert_eq!(accelerator(um), Accelerator::Um);
        assert_eq!(accelerator(metal), Accelerator::None);
        assert_eq!(field(um, "model name"), Some("UML"));
        assert_eq!(field(um, "flags"), None);
    }

    #[test]
    fn here_is_somewhere() {
        let here = Environment::look(3, Some("an abacus")).unwrap();
        assert_eq!(here.machine.cpu, "an abacus");
        assert_eq!(here.boot, 3);
        assert!(here.kernel.contains('#'), "{}", here.kernel);
        assert!(!Environment::look(0, None).unwrap().machine.cpu.is_empty());
    }
}
