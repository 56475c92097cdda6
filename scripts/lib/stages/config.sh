# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The configuration, from configs/.

# The demo does with less, as long as nothing else was wanted of this tree.
fragments() {
	[ "$ARCH" != x86 ] || echo configs/lean.config
	[ "$ARCH" != x86 ] || lean || echo configs/base.config
	case $KERNEL in
	fuzz) echo configs/debug.config ;;
	um-fuzz) echo configs/um.config ;;
	esac
	[ "$KERNEL" = base ] || [ "$KERNEL" = lean ] || echo "configs/$KERNEL.config"
	[ ! -e "configs/linux-$LINUX.config" ] || echo "configs/linux-$LINUX.config"
}

lean() {
	[ "$KERNEL" = lean ] || { [ "$goal $KERNEL" = "run base" ] && [ ! -e "$T/stamp/full" ]; }
}

# The last word on each option counts.
merged() {
	sed -n '/^CONFIG_/p' "$@" | tac | awk -F= '!said[$1]++' | tac
}

# refused ASKED CONFIG: the lines of ASKED that kconfig did not take over.
refused() {
	local line
	while read -r line; do
		case $line in
		CONFIG_*=n) ! grep -q "^${line%=n}=" "$2" ;;
		CONFIG_*) grep -qxF "$line" "$2" ;;
		esac || printf ' %s' "$line"
	done <"$1"
}

make_config() {
	local missing
	# shellcheck disable=SC2046 # one name a word
	merged $(fragments) >"$TREE/.config.fragment"
	progress "config" "$T/log/config.log" 0 "$log_fix" \
		"${kernel_make[@]}" KCONFIG_ALLCONFIG=.config.fragment KCONFIG_CONFIG=.config.new allnoconfig
	missing=$(refused "$TREE/.config.fragment" "$TREE/.config.new")
	[ -z "$missing" ] ||
		die "kconfig refused what configs/ asks for:$missing" \
		    "a dependency is missing there, or the option is gone from Linux $VERSION"
	if cmp -s "$TREE/.config.new" "$TREE/.config"; then
		rm "$TREE/.config.new"
	else
		mv "$TREE/.config.new" "$TREE/.config"
	fi
}

stage_config() {
	local hash
	# shellcheck disable=SC2046 # one name a word
	hash=$ROOT_NAME-$VERSION-$(hash_files scripts/lib/stages/config.sh "${SERIES[@]}" $(fragments))
	! stamped config "$hash" || return 0
	make_config
	lean || stamp full yes
	stamp config "$hash"
}
