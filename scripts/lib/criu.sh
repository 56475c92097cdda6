# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The series for CRIU, and a git tree of CRIU with it. Sourced after common.sh.

# criu_series VERSION: the patches for this version of CRIU, in order: what a directory of
# its line has comes beside the others, or takes their place.
criu_series() {
	local line patch
	local -A patches=()
	line=$(cut -d. -f1,2 <<<"$1")
	for patch in "$TOP"/patches/criu/[0-9]*.patch "$TOP/patches/criu/$line"/[0-9]*.patch; do
		patches[$(basename "$patch" | cut -c1-4)]=$patch
	done
	printf '%s\n' "${!patches[@]}" | sort | while read -r number; do
		printf '%s\n' "${patches[$number]}"
	done
}

# criu_tree DIR NAME VERSION PATCH...: make DIR a git tree of the CRIU that criu-source has
# unpacked under NAME, with the patches on the tag 'release'.
criu_tree() {
	local dir=$1 name=$2 version=$3
	shift 3
	local git=(git -c user.name=rust-epoll -c user.email=rust-epoll@localhost -c commit.gpgsign=false
		-c core.fsmonitor=false -C "$dir")
	command -v git >/dev/null || die "git is not installed" "apt-get install git"
	rm -rf "$dir"
	mkdir -p "${dir%/*}"
	cp -a "$OUT/criu/source/$name" "$dir"
	"${git[@]}" init -q
	"${git[@]}" add -A
	"${git[@]}" commit -q -m "CRIU $version"
	"${git[@]}" tag release
	"${git[@]}" am -q "$@" ||
		die "the series does not apply to CRIU $version of $name" \
		    "give a release: make criu CRIU_SOURCE=PATH@v4.1.1"
}
