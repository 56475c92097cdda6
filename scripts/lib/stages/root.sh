# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Debian with everything that is needed.

make_root() {
	[ ! -d "$ROOT" ] || return 0
	# What an interrupted run left: nobody's, since we hold the lock.
	rm -rf --one-file-system "$OUT"/buildroot/*.tmp
	progress "build root" "$OUT/buildroot/log" 0 \
		"What is wrong stands above; the next try starts anew." \
		unshare --mount --propagation private scripts/lib/mkroot "$ROOT.tmp"
	mv "$ROOT.tmp" "$ROOT"
}

stage_root() {
	ROOT=$(root_dir)
	[ -d "$ROOT" ] || with_lock "$OUT/buildroot/lock" make_root
	ROOT_NAME=$(basename "$ROOT")
}
