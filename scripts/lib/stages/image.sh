# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Debian's own kernel, for KERNEL=distro-X.Y, and an initramfs that mounts the guest's
# root, for which it needs modules.

make_initramfs() {
	local abi dir=$T/initramfs.tmp
	abi=$(basename "$T"/mod/*)
	rm -rf "$dir"
	mkdir -p "$dir"/{bin,modules,proc,root}
	cp scripts/guest/initramfs "$dir/init"
	scripts/enter depmod "$abi"
	# What is built in, in this kernel or in another, is no file.
	# shellcheck disable=SC2016 # for the inner shell
	scripts/enter bash -euc '
		abi=$1 dir=$2 n=10
		cp /bin/busybox "$dir/bin"
		list=$(for module in virtio_pci virtio_console 9pnet_virtio 9p; do
			modprobe -S "$abi" --show-depends "$module"
		done)
		while read -r how file _; do
			[ "$how" = insmod ] || continue
			name=$(basename "$file" | cut -d. -f1)
			case $file in
			*.xz) xz -dc "$file" ;;
			*.zst) zstd -dc "$file" ;;
			*.gz) gzip -dc "$file" ;;
			*) cat "$file" ;;
			esac >"$dir/modules/$n-$name.ko"
			n=$((n + 1))
		done < <(awk "!said[\$0]++" <<<"$list")
		cd "$dir"
		find . | cpio -o -H newc --quiet >"$dir.cpio"
	' bash "$abi" "$dir"
	mv "$dir.cpio" "$TREE/initramfs"
	rm -rf "$dir"
}

stage_image() {
	local hash
	hash=$ROOT_NAME-$(hash_files scripts/lib/stages/image.sh scripts/lib/linux-image scripts/guest/initramfs)
	if ! stamped image "$hash" || [ ! -s "$T/source" ]; then
		# What was taken is not asked for again; make refresh forgets it.
		if [ ! -s "$T/source" ] || [ ! -e "$TREE/$IMAGE" ] || [ ! -d "$T/mod" ]; then
			progress "Linux $DISTRO of Debian" "$T/log/image.log" 0 \
				"What is wrong stands above; the next try starts anew." scripts/lib/linux-image
			sed -n 's/^# /  /p' "$T/log/image.log"
		fi
		progress "initramfs" "$T/log/initramfs.log" 0 "$log_fix" make_initramfs
		stamp image "$hash"
	fi
	echo "kernel: $(cat "$T/source")"
}
