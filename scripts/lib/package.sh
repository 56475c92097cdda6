# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Where programs are built for other machines, and of what. Sourced after common.sh.

# shellcheck disable=SC2034,SC2154 # used by those who source this; set in common.sh
{
	package_lock=$TREE_HOME/deb$suite.lock
	package_source=$TREE_HOME/deb$suite/rust-epoll
	package_target=$TREE_HOME/target-deb$suite
	# For scripts/enter: without --net, nothing can be fetched.
	package_env=(env CARGO_HOME="$OUT/cargo" CARGO_TARGET_DIR="$package_target"
		CARGO_NET_OFFLINE=true)
}

# A copy of the sources as they stand here, since what builds packages writes beside them;
# and all crates that they need.
package_sources() {
	rm -rf "$package_source"
	mkdir -p "$package_source"
	(cd "$TOP" && cp -a Cargo.toml Cargo.lock CHANGELOG.md debian tools harness "$package_source")
	"$TOP/scripts/cargo" fetch --locked --target x86_64-unknown-linux-gnu
}

# package WHAT DIR FUNCTION FILE...: have what FUNCTION puts into DIR, and make it anew if
# the sources or one of the files has changed.
package() {
	local what=$1 dir=$2 build=$3 hash
	shift 3
	hash=$(basename "$(root_dir)")-$(cd "$TOP" &&
		hash_files Cargo.toml Cargo.lock CHANGELOG.md debian tools harness scripts/lib/package.sh scripts/enter "$@")
	[ "$(cat "$dir/stamp" 2>/dev/null)" != "$hash" ] || return 0
	rm -rf "$dir"
	mkdir -p "$dir"
	progress "$what" "$dir.log" 0 \
		"If a crate cannot be fetched: CARGO_HTTP_* and *_proxy are handed on to cargo." "$build"
	echo "$hash" >"$dir/stamp"
}
