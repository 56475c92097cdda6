# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The kernel, and what modules are built against.

# Lines that a build of everything prints, to tell how far it is.
kernel_lines() {
	if lean; then echo 1600; else echo 2200; fi
}

stage_kernel() {
	local own=(rust/kernel rust/helpers include/uapi)
	[ "$KERNEL" != intree ] || own=(rust include/uapi)
	# shellcheck disable=SC2046 # one name a word
	KERNEL_HASH=$ROOT_NAME-$VERSION-$(hash_files scripts/lib/stages/kernel.sh "${SERIES[@]}" "${own[@]}" $(fragments))
	! stamped kernel "$KERNEL_HASH" || return 0
	rm -f "$T/stamp/kernel"
	progress "kernel" "$T/log/kernel.log" "$(kernel_lines)" "$log_fix" \
		"${kernel_make[@]}" "$(basename "$IMAGE")" modules
	stamp kernel "$KERNEL_HASH"
}
