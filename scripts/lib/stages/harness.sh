# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What runs in userspace, harness/: what boots the guest first.

cargo_fix="If a crate cannot be downloaded: CARGO_HTTP_* and *_proxy are handed on to cargo."

# The runner alone: what make run needs.
stage_vm() {
	local hash
	hash=$ROOT_NAME-$(hash_files harness/Cargo.* harness/vm scripts/cargo scripts/lib/stages/harness.sh)
	[ "$(cat "$HARNESS/stamp.vm" 2>/dev/null)" != "$hash" ] || [ ! -e "$BIN/vm" ] || return 0
	with_lock "$HARNESS/lock" make_vm "$hash"
}

make_vm() {
	mkdir -p "$HARNESS"
	progress "vm runner" "$HARNESS/vm.log" 0 "$cargo_fix" scripts/cargo build --release --locked -p vm
	echo "$1" >"$HARNESS/stamp.vm"
}

stage_harness() {
	local hash
	hash=$ROOT_NAME-$(hash_files harness scripts/cargo scripts/lib/stages/harness.sh)
	[ "$(cat "$HARNESS/stamp" 2>/dev/null)" != "$hash" ] || return 0
	with_lock "$HARNESS/lock" make_harness "$hash"
}

# The tests of the crates, as they run in the guest: each with the folder to
# run it in.
list_tests() {
	scripts/enter python3 -c 'if True:
		import json, os, sys
		to = sys.argv[1]
		for line in open(to + "/tests.json", encoding="utf-8"):
		    if not line.startswith("{"):
		        continue
		    m = json.loads(line)
		    if not m.get("executable") or not m["profile"]["test"]:
		        continue
		    package = os.path.dirname(m["manifest_path"])
		    name = os.path.basename(package)
		    if name not in ("epoll-targets", "lsepoll"):
		        continue
		    inner = "test" not in m["target"]["kind"]
		    d = f"{to}/tests.tmp/{name}-" + ("unit" if inner else m["target"]["name"])
		    os.makedirs(d)
		    os.symlink(m["executable"], d + "/run")
		    open(d + "/dir", "w").write(package)
	' "$HARNESS"
}

build_harness() {
	scripts/cargo build --release --locked --features bpf
	scripts/cargo test --release --locked --features bpf --no-run --message-format=json-render-diagnostics \
		>"$HARNESS/tests.json"
	rm -rf "$HARNESS"/tests{,.tmp}
	mkdir "$HARNESS/tests.tmp"
	list_tests
	mv "$HARNESS"/tests{.tmp,}
}

make_harness() {
	progress "harness" "$HARNESS/log" 0 "$cargo_fix" build_harness
	echo "$1" >"$HARNESS/stamp"
}
