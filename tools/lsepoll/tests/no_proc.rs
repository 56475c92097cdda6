// SPDX-License-Identifier: GPL-2.0

//! Without a procfs.

mod common;

use common::{LSEPOLL, say, text};
use std::process::Command;

#[test]
fn it_is_said_that_proc_is_missing() {
    let unshared = |arguments: &str| {
        let script = format!(r#"mount -t tmpfs none /proc || exit 77; "$0" {arguments}; exit $?"#);
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, LSEPOLL]);
        command.output().unwrap()
    };
    let mut all = vec!["init", "--resolver fdinfo", "--resolver kcmp"];
    if cfg!(feature = "bpf") {
        all.push("trace -p $$");
    }
    for arguments in all {
        let output = unshared(arguments);
        if matches!(output.status.code(), Some(77 | 1)) {
            return say("nothing can be mounted on /proc here");
        }
        let (status, table, errors) = text(output);
        assert_eq!((status, table.as_str()), (2, ""), "{arguments}: {errors}");
        assert!(
            errors.contains("no procfs is mounted at /proc"),
            "{arguments}: {errors}"
        );
    }
}
