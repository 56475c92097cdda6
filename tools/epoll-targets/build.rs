// SPDX-License-Identifier: GPL-2.0

//! Compiles the BPF programs, if they are wanted.
//!
//! libbpf-cargo could call clang as well, and would generate a skeleton. It would
//! replace one command by fifty more crates to build, while the programs here are
//! run by iterators that are attached at each use, so that there is little for a
//! skeleton to hold.

use std::env;
use std::path::Path;
use std::process::Command;

/// The end of an error.
const HELP: &str = "
The feature bpf takes clang, and libbpf, libelf and zlib with their headers (on Debian:
apt-get install clang libbpf-dev). lsepoll and epollcr can be built without it, and are
slower and know less then: cargo ... --no-default-features";

fn main() {
    println!("cargo::rerun-if-changed=src/bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_BPF").is_none() {
        return;
    }
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    for name in ["holders", "targets", "trace", "walk"] {
        let status = Command::new(&clang)
            .args(["--target=bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Werror"])
            .arg("-c")
            .arg(format!("src/bpf/{name}.bpf.c"))
            .arg("-o")
            .arg(Path::new(&out).join(format!("{name}.bpf.o")))
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{clang}: {status}: are the headers of libbpf there?{HELP}"),
            Err(error) => panic!("BPF programs are compiled by {clang}: {error}{HELP}"),
        }
    }
}
