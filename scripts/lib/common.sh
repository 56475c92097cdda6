# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the scripts share: where things stand, messages, locks, stamps and the
# progress line. Sourced by bash scripts that run on the host.
#
# The cache directory, OUT:
#   buildroot/NAME/          the build root; never changed once it has its name
#   source/NAME/             Linux as it was taken; likewise
#   cargo/                   crates
#   tree/ID/checkout         the checkout that this directory belongs to
#   tree/ID/target/          what cargo builds (and target-SUITE/)
#   tree/ID/LANE/linux/      a patched tree, built in place; LANE is KERNEL, and what
#                            else is not the default: KERNEL-LINUX-DEBIAN
#   tree/ID/LANE/stamp/      one file a stage: the hash of what it was made of
#   tree/ID/LANE/mo/         the modules' objects
#   tree/ID/LANE/mod/        modules as modprobe wants them
#   tree/ID/LANE/samples/    sample programs in C
#   tree/ID/LANE/bin/        bpftool, and samples that are BPF programs
#   tree/ID/LANE/bpftool/    what it is built in
#   tree/ID/LANE/kselftest/
#                            A lane of Debian's own kernel (KERNEL=distro-X.Y) has the
#                            kernel and its initramfs in linux/, and its modules in mod/
#   tree/ID/LANE/log/

set -euo pipefail
# Root by su may lack them.
PATH=$PATH:/usr/sbin:/sbin

die() {
	printf '%s: %s\n' "$(basename "$0")" "$1" >&2
	[ $# -lt 2 ] || printf '%s: %s\n' "$(basename "$0")" "$2" >&2
	exit 1
}

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
OUT=${OUT:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/rust-epoll}
# As for kbuild.
case $TOP$OUT in
*[[:space:]:]*)
	die "neither the path of the checkout, '$TOP', nor OUT, '$OUT', may have a space or a colon: make cannot handle them" \
	    "move the checkout, or give another OUT=DIR"
	;;
esac
mkdir -p "$OUT" || die "the cache directory $OUT cannot be made" "give another one: OUT=DIR"
OUT=$(cd "$OUT" && pwd -P)
KERNEL=${KERNEL:-base}
# The suite of the build root, and the line of Linux.
DEBIAN=${DEBIAN:-trixie}
LINUX=${LINUX:-7.3}
LINUX_SOURCE=${LINUX_SOURCE-}
SNAPSHOT=${SNAPSHOT-}
# A kernel that Debian built, of this line; or else one that we build.
DISTRO=
CONFIG=$TOP/configs/$KERNEL.config
case $KERNEL in
distro-*)
	DISTRO=${KERNEL#distro-}
	CONFIG=$TOP/configs/distro.config
	[[ $DISTRO =~ ^[0-9]+\.[0-9]+$ ]] ||
		die "KERNEL=$KERNEL does not name a line of Linux, as distro-6.12 does"
	;;
esac
[ -e "$CONFIG" ] ||
	die "KERNEL=$KERNEL: there is no configs/$KERNEL.config"
[[ $DEBIAN =~ ^[a-z]+$ ]] || die "DEBIAN=$DEBIAN is not the name of a suite of Debian, as trixie, forky or sid is"
[[ $LINUX =~ ^[0-9]+\.[0-9]+$ ]] || die "LINUX=$LINUX is not a line of Linux, as 7.3 is"
[[ -z $SNAPSHOT || $SNAPSHOT =~ ^[0-9]{8}T[0-9]{6}Z$ ]] ||
	die "SNAPSHOT=$SNAPSHOT is not a time as 20261128T000000Z is"
checkout_id() {
	printf '%s-%s\n' "$(basename "$1")" "$(printf '%s' "$1" | sha256sum | cut -c1-8)"
}

shopt -s nullglob
# The series for Linux, in the order in which they apply: each stands on those before it.
SERIES_NAMES=(fixes eventpoll rust-epoll bpf-iter-epoll epoll-cr)

# series_of LINE NAME: the patches of this series for this line of Linux, in order. One in
# patches/LINE/NAME/ takes the place of the patch of that name.
series_of() {
	local patch own
	for patch in "$TOP/patches/$2"/[0-9]*.patch; do
		own=$TOP/patches/$1/$2/${patch##*/}
		[ ! -e "$own" ] || patch=$own
		printf '%s\n' "$patch"
	done
}

# series LINE NAME...: the patches of these series for this line of Linux, in order: first
# those that bring it what later lines have, in patches/LINE/backports/.
series() {
	local line=$1 name
	shift
	for name in "$TOP/patches/$line/backports"/[0-9]*.patch; do
		printf '%s\n' "$name"
	done
	for name; do
		series_of "$line" "$name"
	done
}

# own_files: our own files that Linux gets, and where each stands in its tree.
own_files() {
	local f
	(cd "$TOP" && find rust/*/ rust/kcmp_epoll.rs include/uapi selftests -type f \
		! -name '*~' ! -name '.*.sw?') | while read -r f; do
		f=${f/\/\//\/}
		printf '%s\t%s\n' "$f" "$(place_of "$f")"
	done
}

# place_of FILE: where our own file stands in the tree of Linux.
place_of() {
	case $1 in
	rust/kernel/* | rust/helpers/* | include/*) echo "$1" ;;
	rust/*/*) echo "fs/${1#rust/}" ;;
	rust/*) echo "kernel/${1#rust/}" ;;
	selftests/*) echo "tools/testing/$1" ;;
	esac
}

# shellcheck disable=SC2034 # used by those who source this
{
	mapfile -t SERIES < <(series "$LINUX" "${SERIES_NAMES[@]}")
	# What of it this kernel has: all, what is C alone, or none.
	HAS=all
	suite=
	[ "$DEBIAN" = trixie ] || suite=-$DEBIAN
	lane=$KERNEL
	[ "$LINUX" = 7.3 ] || [ -n "$DISTRO" ] || lane=$lane-$LINUX
	TREE_HOME=$OUT/tree/$(checkout_id "$TOP")
	T=$TREE_HOME/$lane$suite
	TREE=$T/linux
	TARGET=$TREE_HOME/target$suite
	BIN=$TARGET/release
	# What make builds there, and its path there.
	ARCH=x86
	IMAGE=arch/x86/boot/bzImage
	case $KERNEL in
	stock) SERIES=() HAS=none ;;
	eventpoll)
		mapfile -t SERIES < <(series "$LINUX" fixes eventpoll)
		HAS=c
		;;
	um | um-fuzz) ARCH=um IMAGE=linux ;;
	distro-*) SERIES=() HAS=none IMAGE=vmlinuz ;;
	esac
}

# older A B: whether version A is before B.
older() {
	[ "$1" != "$2" ] && [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

# Whether linux/ is the directory that setup makes, or is yet to be made.
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

# The build root is whatever these files and the user's choice say it is.
root_dir() {
	echo "$OUT/buildroot/$DEBIAN${SNAPSHOT:+-$SNAPSHOT}-$(cd "$TOP" && hash_files scripts/lib/packages scripts/lib/mkroot)"
}

# with_lock [-s] FILE FUNCTION ARG...: one at a time, among all checkouts, or -s many that
# only read. A command that is called with the lock held need not wait for itself: HELD
# names what is.
with_lock() {
	local shared=()
	if [ "$1" = -s ]; then
		shared=(-s)
		shift
	fi
	local lock=$1
	shift
	case :${HELD-}: in
	*":$lock:"*)
		"$@"
		return
		;;
	esac
	mkdir -p "$(dirname "$lock")"
	# shellcheck disable=SC2094 # the lock's content is of no interest
	(
		if ! flock -n "${shared[@]}" 9; then
			echo "waiting for another run that works on $(dirname "$lock")"
			flock "${shared[@]}" 9
		fi
		export HELD=${HELD-}:$lock
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
	[ -z "${DURATIONS-}" ] || echo "$name $(elapsed $((SECONDS - start)))" >>"$DURATIONS"
}

# How long each step took that was not up to date, in a last line.
start_durations() {
	DURATIONS=$(mktemp)
	trap 'rm -f "$DURATIONS"' EXIT
}

print_durations() {
	[ ! -s "$DURATIONS" ] || echo "durations: $(paste -sd, "$DURATIONS" | sed 's/,/, /g'); all $(elapsed $SECONDS)"
}
