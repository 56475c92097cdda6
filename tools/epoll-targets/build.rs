// SPDX-License-Identifier: GPL-2.0

//! Compiles the BPF programs, if they are wanted.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_BPF").is_none() {
        return;
    }
    for name in ["targets", "trace"] {
        compile(name);
    }
}

fn compile(name: &str) {
    let source = format!("src/bpf/{name}.bpf.c");
    let object =
        Path::new(&env::var_os("OUT_DIR").expect("cargo sets it")).join(format!("{name}.bpf.o"));
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let status = Command::new(&clang)
        .args(["--target=bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Werror"])
        .args(["-c", &source, "-o"])
        .arg(&object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{}: {status}: are the headers of libbpf there?", clang),
        Err(error) => panic!("the feature bpf needs {}: {error}", clang),
    }
}
