# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# This checkout's copy of Linux, with the series and our files in it.

# The newest built tree of another checkout that ours can start from: the tree
# is always built at the same path, so make rebuilds only what differs.
find_seed() {
	local built own=${T##*/} all
	all=("$OUT"/tree/*/"$own"/stamp/kernel)
	case $KERNEL in
	stock | eventpoll | intree) all+=("$OUT"/tree/*/"base${own#"$KERNEL"}"/stamp/kernel) ;;
	esac
	[ ${#all[@]} -gt 0 ] || return 0
	# shellcheck disable=SC2012 # by time; the names are ours
	ls -t "${all[@]}" | while read -r built; do
		built=${built%/stamp/kernel}
		[ "$(cat "$built/source" 2>/dev/null)" = "$VERSION" ] || continue
		echo "$built"
		break
	done
}

copy_seed() {
	cp -a "$1/linux" "$TREE.tmp"
	cp "$1/touched" "$T/touched"
}

make_tree() {
	local seed
	rm -rf "$TREE.tmp" "$TREE" "$T/stamp"
	echo "$TOP" >"$TREE_HOME/checkout"
	: >"$T/touched"
	seed=$(find_seed)
	if [ -n "$seed" ]; then
		with_lock "$seed/lock" progress "tree, from that of $(cat "$seed/../checkout")" \
			"$T/log/tree.log" 0 "Is the disk full? A built tree needs 4 GB: df $OUT" \
			copy_seed "$seed"
	else
		progress "tree" "$T/log/tree.log" 0 \
			"Is the disk full? A built tree needs 4 GB: df $OUT" \
			cp -a "$SOURCE" "$TREE.tmp"
	fi
	echo "$VERSION" >"$T/source"
	# Over the empty directory that scripts/enter may have made meanwhile.
	mv -T "$TREE.tmp" "$TREE"
	# What was built with everything on is not built again with less.
	[ -z "$seed" ] || [ ! -e "$seed/stamp/full" ] || stamp full yes
}

# Trees of checkouts that are gone, unless somebody is at work in one.
prune_trees() {
	local checkout home lock
	for checkout in "$OUT"/tree/*/checkout; do
		[ ! -d "$(cat "$checkout")" ] || continue
		home=${checkout%/checkout}
		for lock in "$home"/*/lock; do
			flock -n "$lock" rm -rf "${lock%/lock}" || continue 2
		done
		rm -rf "$home"
	done
}

# In DIR, all files that the series and we touch, as they are to be.
wanted_files() {
	local dir=$1 patch from to
	for patch in "${SERIES[@]}"; do
		git apply --numstat "$patch" | cut -f3
	done | sort -u | while read -r to; do
		[ ! -e "$SOURCE/$to" ] || (cd "$SOURCE" && cp -p --parents "$to" "$dir")
		echo "$to"
	done >"$T/touched.series"
	for patch in "${SERIES[@]}"; do
		# Not as a part of any repository that the cache may stand in.
		(cd "$dir" && GIT_CEILING_DIRECTORIES=$(dirname "$dir") \
			git apply --whitespace=nowarn "$patch") ||
			die "$(basename "$patch") does not apply to Linux $VERSION"
	done
	own_files | while IFS=$'\t' read -r from to; do
		[ "$HAS" = all ] || [[ $from = selftests/* ]] || continue
		[ ! -e "$SOURCE/$to" ] || die "$from is a file of Linux: change it in patches/"
		mkdir -p "$dir/$(dirname "$to")"
		cp -p "$from" "$dir/$to"
		echo "$to"
	done >"$T/touched.own"
}

# Bring the tree to the wanted state. A file whose content stays keeps its
# time, or everything would be built again.
sync_tree() {
	local dir=$T/wanted f
	rm -rf "$dir"
	mkdir -p "$dir"
	wanted_files "$dir"
	sort -u "$T/touched" "$T/touched.series" "$T/touched.own" >"$T/touched.new"
	cp "$T/touched.new" "$T/touched"
	while read -r f; do
		if [ ! -e "$dir/$f" ] && [ -e "$SOURCE/$f" ] && ! grep -qxF "$f" "$T/touched.series"; then
			(cd "$SOURCE" && cp -p --parents "$f" "$dir")
		fi
		if [ ! -e "$dir/$f" ]; then
			rm -f "$TREE/$f"
		elif ! cmp -s "$dir/$f" "$TREE/$f"; then
			mkdir -p "$TREE/$(dirname "$f")"
			cp --preserve=mode "$dir/$f" "$TREE/$f.new"
			mv "$TREE/$f.new" "$TREE/$f"
		fi
	done <"$T/touched"
	sort -u "$T/touched.series" "$T/touched.own" >"$T/touched.new"
	mv "$T/touched.new" "$T/touched"
	rm -rf "$dir" "$T/touched.series" "$T/touched.own"
}

# forward.mk, for the tree that was set up last.
forward() {
	sed -n '1,/^$/p' scripts/lib/forward.mk
	printf '%s ?= %s\n' OUT "$OUT" KERNEL "$KERNEL" LINUX "$LINUX" DEBIAN "$DEBIAN"
	printf 'export OUT KERNEL LINUX DEBIAN\n\n'
	sed '1,/^$/d' scripts/lib/forward.mk
}

stage_tree() {
	local hash
	if [ ! -d "$TREE" ] || [ "$(cat "$T/source" 2>/dev/null)" != "$VERSION" ]; then
		make_tree
	fi
	prune_trees
	# What `make -C linux` enters.
	our_linux || die "linux/ is not ours: what make -C linux enters has to stand there" \
			 "move it away; to build against it: make KDIR=DIR"
	mkdir -p linux
	forward | cmp -s - linux/Makefile || forward >linux/Makefile
	hash=$VERSION-$(hash_files scripts/lib/stages/tree.sh scripts/lib/common.sh "${SERIES[@]}" rust include/uapi selftests)
	! stamped tree "$hash" || return 0
	sync_tree
	stamp tree "$hash"
}
