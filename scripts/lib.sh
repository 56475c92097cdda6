# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the scripts share: where things stand, messages, locks, stamps and the
# progress line. Sourced by bash scripts that run on the host.
#
# The cache folder, OUT:
#   buildroot/HASH/          the build root; never changed once it has its name
#   source/VERSION/          Linux as Debian ships it; likewise
#   cargo/                   crates
#   tree/ID/checkout         the checkout that this folder belongs to
#   tree/ID/harness/         what cargo builds of harness/
#   tree/ID/KERNEL/linux/    its patched tree, built in place
#   tree/ID/KERNEL/stamp/    one file a stage: the hash of what it was made of
#   tree/ID/KERNEL/mo/       the modules' objects
#   tree/ID/KERNEL/mod/      modules as modprobe wants them
#   tree/ID/KERNEL/bin/      sample programs, and bpftool
#   tree/ID/KERNEL/bpftool/  what it is built in
#   tree/ID/KERNEL/kselftest/
#   tree/ID/KERNEL/log/

set -euo pipefail
# Root by su may lack them.
PATH=$PATH:/usr/sbin:/sbin

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
OUT=${OUT:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/rust-epoll}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd -P)
KERNEL=${KERNEL:-base}
checkout_id() {
	printf '%s-%s\n' "$(basename "$1")" "$(printf '%s' "$1" | sha256sum | cut -c1-8)"
}

shopt -s nullglob
# shellcheck disable=SC2034 # used by those who source this
{
	# The series is for any 7.3.y.
	LINUX=7.3
	SERIES=("$TOP"/patches/[0-9]*.patch)
	TREE_HOME=$OUT/tree/$(checkout_id "$TOP")
	T=$TREE_HOME/$KERNEL
	TREE=$T/linux
	BIN=$TREE_HOME/harness/release
	# What make builds there, and its path there.
	ARCH=x86
	IMAGE=arch/x86/boot/bzImage
	case $KERNEL in
	stock) SERIES=() ;;
	um) ARCH=um IMAGE=linux ;;
	esac
}

die() {
	printf '%s: %s\n' "$(basename "$0")" "$1" >&2
	[ $# -lt 2 ] || printf '%s: %s\n' "$(basename "$0")" "$2" >&2
	exit 1
}

# As for kbuild.
case $TOP$OUT in
*[[:space:]:]*) die "the paths of the checkout and of OUT must not have spaces or colons" ;;
esac
[ -e "$TOP/configs/$KERNEL.config" ] ||
	die "KERNEL=$KERNEL: there is no configs/$KERNEL.config"

# Whether linux/ is the folder that setup makes, or is yet to be made.
our_linux() {
	[ ! -L "$TOP/linux" ] || return 1
	[ ! -e "$TOP/linux" ] || grep -qs '^# linux/Makefile, put there by' "$TOP/linux/Makefile" ||
		rmdir "$TOP/linux" 2>/dev/null
}

need_root() {
	[ "$(id -u)" = 0 ] ||
		die "must run as root: the build root is entered with chroot and mount" \
		    "run the command again with sudo, or in a container as root"
}

# hash_files PATH...: one hash of the names and contents of all files below.
hash_files() {
	local p
	for p; do
		[ ! -e "$p" ] || find "$p" -type f ! -name '*~' ! -name '.*.sw?' -print0
	done | LC_ALL=C sort -zu | xargs -0 -r sha256sum | sha256sum | cut -c1-16
}

# The build root is whatever these two files say it is.
root_hash() {
	(cd "$TOP" && hash_files scripts/packages scripts/mkroot)
}

# with_lock FILE FUNCTION ARG...: one at a time, among all checkouts.
with_lock() {
	local lock=$1
	shift
	mkdir -p "$(dirname "$lock")"
	# shellcheck disable=SC2094 # the lock's content is of no interest
	(
		if ! flock -n 9; then
			echo "waiting for another run that works on $(dirname "$lock")"
			flock 9
		fi
		"$@"
	) 9>"$lock"
}

stamped() {
	[ "$(cat "$T/stamp/$1" 2>/dev/null)" = "$2" ]
}

stamp() {
	mkdir -p "$T/stamp"
	echo "$2" >"$T/stamp/$1.new"
	mv "$T/stamp/$1.new" "$T/stamp/$1"
}

elapsed() {
	printf '%d:%02d' $((($1) / 60)) $((($1) % 60))
}

# progress NAME LOG LINES FIX COMMAND...: run COMMAND with its output in LOG
# and tell on one line how far it is, in percent of LINES lines if that is not
# 0. When it fails, show the end of the log and FIX, a sentence.
progress() {
	local name=$1 log=$2 lines=$3 fix=$4
	shift 4
	local start=$SECONDS next=$((SECONDS + 30)) pid how rc=0 tty=
	[ ! -t 1 ] || [ -n "${CI-}" ] || tty=1

	mkdir -p "$(dirname "$log")"
	# In a process group of its own, so that all of it can be stopped. It has
	# the lock's descriptor: if we are killed, others wait until it has ended.
	set -m
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	set +m
	trap 'kill -- -$pid 2>/dev/null || :; exit 130' INT TERM HUP
	[ -n "$tty" ] || echo "$name ..."
	while kill -0 $pid 2>/dev/null; do
		sleep 0.2
		[ -n "$tty" ] || [ $SECONDS -ge $next ] || continue
		if [ "$lines" -gt 0 ]; then
			how=$(($(wc -l <"$log") * 100 / lines))
			how=$((how < 99 ? how : 99))%
		else
			how=$(tail -n 1 "$log" | tr -cd '[:print:]' | cut -c1-44)
		fi
		if [ -n "$tty" ]; then
			printf '\r\033[K%s  %s  %s' "$name" "$(elapsed $((SECONDS - start)))" "$how"
		else
			echo "$name: $(elapsed $((SECONDS - start))) $how"
			next=$((SECONDS + 30))
		fi
	done
	wait $pid || rc=$?
	trap - INT TERM HUP
	[ -z "$tty" ] || printf '\r\033[K'
	if [ $rc -ne 0 ]; then
		printf '%s: failed after %s; the end of %s:\n' \
			"$name" "$(elapsed $((SECONDS - start)))" "$log" >&2
		tail -n 20 "$log" | sed 's/^/    /' >&2
		printf '%s\n' "$fix" >&2
		return 1
	fi
	echo "$name: done in $(elapsed $((SECONDS - start)))"
}
