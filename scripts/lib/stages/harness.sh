# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What cargo builds, tools/ and harness/: what boots the guest first.

cargo_fix="If a crate cannot be downloaded: CARGO_HTTP_* and *_proxy are handed on to cargo."

# The runner alone: what make run needs.
stage_vm() {
	local hash
	hash=$ROOT_NAME-$(hash_files Cargo.toml Cargo.lock harness/guest-runner scripts/cargo scripts/lib/stages/harness.sh)
	[ "$(cat "$TARGET/stamp.vm" 2>/dev/null)" != "$hash" ] || [ ! -e "$BIN/guest-runner" ] || return 0
	with_lock "$TARGET/lock" make_vm "$hash"
}

make_vm() {
	mkdir -p "$TARGET"
	progress "vm runner" "$TARGET/vm.log" 0 "$cargo_fix" scripts/cargo build --release --locked -p guest-runner
	echo "$1" >"$TARGET/stamp.vm"
}

stage_harness() {
	local hash
	hash=$ROOT_NAME-$(hash_files Cargo.toml Cargo.lock tools harness scripts/cargo scripts/lib/stages/harness.sh)
	[ "$(cat "$TARGET/stamp" 2>/dev/null)" != "$hash" ] || return 0
	with_lock "$TARGET/lock" make_harness "$hash"
}

# The tests of the crates, as they run in the guest: each with the directory to
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
		    if name not in ("epoll-cli", "epoll-targets", "epollcr", "libepollcr", "lsepoll"):
		        continue
		    inner = "test" not in m["target"]["kind"]
		    d = f"{to}/tests.tmp/{name}-" + ("unit" if inner else m["target"]["name"])
		    os.makedirs(d)
		    os.symlink(m["executable"], d + "/run")
		    open(d + "/dir", "w").write(package)
	' "$TARGET"
}

build_harness() {
	scripts/cargo build --release --locked --features bpf
	scripts/cargo test --release --locked --features bpf --no-run --message-format=json-render-diagnostics \
		>"$TARGET/tests.json"
	rm -rf "$TARGET"/tests{,.tmp}
	mkdir "$TARGET/tests.tmp"
	list_tests
	mv "$TARGET"/tests{.tmp,}
}

make_harness() {
	progress "harness" "$TARGET/log" 0 "$cargo_fix" build_harness
	echo "$1" >"$TARGET/stamp"
}
