// SPDX-License-Identifier: GPL-2.0

//! Compiles the BPF program. What of the kernel it depends on is found out when
//! it is loaded.

use std::env;
use std::path::Path;
use std::process::Command;

/// The types of the kernel.
const HEADERS: &str = "../../tools/epoll-targets/src/bpf";

fn main() {
    println!("cargo::rerun-if-changed=src/bpf");
    println!("cargo::rerun-if-changed={HEADERS}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let object = Path::new(&env::var_os("OUT_DIR").expect("cargo sets it")).join("pass.bpf.o");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let status = Command::new(&clang)
        .args([
            "--target=bpf",
            "-mcpu=v3",
            "-g",
            "-O2",
            "-Wall",
            "-Werror",
            "-I",
            HEADERS,
            "-c",
            "src/bpf/pass.bpf.c",
            "-o",
        ])
        .arg(&object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang}: {status}: are the headers of libbpf there?"),
        Err(error) => panic!("cannot run {clang}: {error}"),
    }
}
