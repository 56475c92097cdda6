# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Our modules.

make_modules() {
	# Nobody looks at debug information there, and it is nine tenths of what is read
	# when a module is loaded.
	local install=(INSTALL_MOD_PATH="$T/mod.tmp" INSTALL_MOD_STRIP=1 modules_install)
	mkdir -p "$T/mo" "$T/mod.tmp/lib/modules"
	"${kernel_make[@]}" "${install[@]}"
	[ "$HAS" = all ] && [ "$KERNEL" != intree ] || return 0
	"${kernel_make[@]}" M="$TOP" MO="$T/mo" modules
	"${kernel_make[@]}" M="$TOP" MO="$T/mo" "${install[@]}"
}

stage_modules() {
	local hash
	hash=$KERNEL_HASH-$(hash_files scripts/lib/stages/modules.sh Kbuild rust samples include)
	! stamped modules "$hash" || return 0
	rm -rf "$T/mod.tmp"
	progress "modules" "$T/log/modules.log" 0 "$log_fix" make_modules
	rm -rf "$T/mod"
	mv "$T/mod.tmp/lib/modules" "$T/mod"
	rm -rf "$T/mod.tmp"
	stamp modules "$hash"
}
