# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The roots that LAVA jobs run in and on. Sourced after common.sh.

# lava_root KIND: the root's directory, which is made if it is not there; KIND as for mkroot.
lava_root() {
	local kind=$1 root
	root=$OUT/lava/$kind-$DEBIAN${SNAPSHOT:+-$SNAPSHOT}-$(cd "$TOP" && hash_files scripts/lib/lava/mkroot "scripts/lib/lava/$kind")
	[ -d "$root" ] || with_lock "$OUT/lava/lock" make_lava_root "$kind" "$root" >&2
	echo "$root"
}

make_lava_root() {
	[ ! -d "$2" ] || return 0
	rm -rf --one-file-system "$2.tmp"
	progress "root of the $1" "$OUT/lava/log-$1" 0 \
		"What is wrong stands above; the next try starts anew." \
		unshare --mount --propagation private "$TOP/scripts/lib/lava/mkroot" "$1" "$2.tmp"
	mv "$2.tmp" "$2"
}

# in_lava ROOT WORK COMMAND...: run COMMAND in the root of the dispatcher, which cannot be
# written to, with WORK for what the dispatcher keeps, and the cache directory and the
# checkout at their own paths. It reaches a registry as this machine does. The mounts are
# gone when it ends.
in_lava() {
	local root=$1 work=$2 ca net
	shift 2
	mkdir -p "$work"
	ca=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}
	[ -e "$ca" ] || ca=$root/etc/ssl/certs/ca-certificates.crt
	mapfile -t net < <(env | grep -iE '^(https?_proxy|all_proxy|no_proxy|PIP_INDEX_URL|PIP_TRUSTED_HOST)=')
	# shellcheck disable=SC2016 # for the inner shell
	unshare --mount --propagation private sh -c '
		set -e
		root=$1 work=$2 ca=$3
		shift 3
		mkdir -p "$root/var/lib/lava/dispatcher"
		for dir in "$1" "$2"; do
			case $dir/ in
			/tmp/*) ;;
			*) mkdir -p "$root$dir" ;;
			esac
		done
		mount --bind "$root" "$root"
		mount -o remount,bind,ro "$root"
		mount --rbind /dev "$root/dev"
		mount --rbind /sys "$root/sys"
		mount -t proc proc "$root/proc"
		mount -t tmpfs -o mode=1777 tmp "$root/tmp"
		mount -t tmpfs run "$root/run"
		mkdir "$root/run/host"
		cp -L "$ca" "$root/run/host/ca"
		[ ! -e /etc/resolv.conf ] || mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
		mount --bind "$work" "$root/var/lib/lava/dispatcher"
		for dir in "$1" "$2"; do
			mkdir -p "$root$dir"
			mount --bind "$dir" "$root$dir"
		done
		shift 2
		exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 PIP_CERT=/run/host/ca "$@"
	' sh "$root" "$work" "$ca" "$TOP" "$OUT" "${net[@]}" "$@"
}
