# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Samples and selftests.

# A bpftool that knows what the series adds, and the samples that are made of BPF
# programs, which are compiled against the types of this kernel.
make_bpf() {
	local src name bpf=$T/bpf.tmp bpftool=$T/bin.tmp/bpftool
	local clang=(scripts/enter clang -O2 -Wall -Wextra -Werror "-I$bpf" "-I$TOP/samples/bpf"
		"-I$TOP/tools/epoll-targets/src/bpf")
	# As the kernel's own are; vmlinux.h has structures without a name.
	local target=(--target=bpf -mcpu=v3 -g -fms-extensions -Wno-microsoft-anon-tag)
	rm -rf "$bpf"
	mkdir -p "$bpf" "$T/bpftool"
	scripts/enter make -C /usr/src/linux/tools/bpf/bpftool "-j$JOBS" CC=clang \
		OUTPUT="$T/bpftool/"
	cp "$T/bpftool/bpftool" "$bpftool"
	scripts/enter "$bpftool" btf dump file /usr/src/linux/vmlinux format c >"$bpf/vmlinux.h"
	for src in samples/bpf/*.bpf.c; do
		name=$(basename "$src" .bpf.c)
		"${clang[@]}" "${target[@]}" -c "$TOP/$src" -o "$bpf/$name.bpf.o"
		scripts/enter llvm-strip -g "$bpf/$name.bpf.o"
		if [ ! -e "samples/bpf/$name.c" ]; then
			cp "$bpf/$name.bpf.o" "$T/bin.tmp"
			continue
		fi
		scripts/enter "$bpftool" gen skeleton "$bpf/$name.bpf.o" name "${name}_bpf" \
			>"$bpf/$name.skel.h"
		"${clang[@]}" -isystem /usr/src/linux/usr/include "$TOP/samples/bpf/$name.c" \
			-o "$T/bin.tmp/$name" -lbpf
	done
	rm -rf "$bpf"
}

# Some test what the series adds, and cannot be built without it.
kselftests() {
	local d
	echo kcmp
	for d in selftests/*/; do
		d=$(basename "$d")
		case $HAS-$d in
		none-epoll_iter | none-epoll_cr | c-epoll_iter | c-epoll_cr) ;;
		*) echo "$d" ;;
		esac
	done
}

make_userspace() {
	if [ "$ARCH" = um ] || [ "$KERNEL" = lean ]; then
		# kselftest does not know the one; the other is for the demo.
		mkdir "$T/kselftest.tmp"
	else
		"${kernel_make[@]}" kselftest-install INSTALL_PATH="$T/kselftest.tmp" \
			TARGETS="$(kselftests | tr '\n' ' ')" FORCE_TARGETS=1
	fi
	if [ "$HAS" = all ] && grep -qx CONFIG_DEBUG_INFO_BTF=y "$TREE/.config"; then
		make_bpf
	fi
}

make_demo() {
	local src
	for src in samples/*.c; do
		scripts/enter clang -O2 -Wall -Wextra -Werror -static -isystem /usr/src/linux/usr/include \
			"$TOP/$src" -o "$T/samples.tmp/$(basename "$src" .c)"
	done
}

stage_demo() {
	local hash
	hash=$KERNEL_HASH-$(hash_files samples scripts/lib/stages/userspace.sh)
	! stamped demo "$hash" || return 0
	rm -rf "$T/samples.tmp"
	mkdir -p "$T/samples.tmp"
	progress "demo" "$T/log/demo.log" 0 "$log_fix" make_demo
	rm -rf "$T/samples"
	mv "$T/samples.tmp" "$T/samples"
	stamp demo "$hash"
}

stage_userspace() {
	local hash d
	# There are modules among the selftests.
	hash=$KERNEL_HASH-$(hash_files selftests samples scripts/lib/stages/userspace.sh)
	! stamped userspace "$hash" || return 0
	rm -rf "$T/kselftest.tmp" "$T/bin.tmp"
	mkdir -p "$T/bin.tmp"
	progress "userspace" "$T/log/userspace.log" 0 "$log_fix" make_userspace
	for d in kselftest bin; do
		rm -rf "${T:?}/$d"
		mv "$T/$d.tmp" "$T/$d"
	done
	stamp userspace "$hash"
}
