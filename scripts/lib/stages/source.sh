# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Linux, and whether the build root's tools are new enough for it.

stage_source() {
	if [ -z "$LINUX_SOURCE" ] && VERSION=$(cat "$OUT/source/$LINUX${SNAPSHOT:+-$SNAPSHOT}.from" 2>/dev/null) &&
		[ -d "$OUT/source/$VERSION" ]; then
		SOURCE=$OUT/source/$VERSION
		return
	fi
	with_lock "$OUT/source/lock" progress "Linux $LINUX" "$OUT/source/log" 0 \
		"What is wrong stands above; the next try starts anew." \
		scripts/lib/linux-source "$T/source.name"
	sed -n 's/^# /  /p' "$OUT/source/log"
	VERSION=$(cat "$T/source.name")
	SOURCE=$OUT/source/$VERSION
}

# The version of a tool as the kernel's build sees it.
tool_version() {
	case $1 in
	rustc | bindgen | pahole) "$1" --version ;;
	llvm) clang --version ;;
	libbpf) dpkg-query -W -f '${Version}' libbpf-dev ;;
	esac | grep -oE '[0-9]+(\.[0-9]+)+' | head -n 1
}

# The newest that some test has seen, by Documentation/tested.csv.
tested() {
	awk -F, -v tool="$1" '
		NR == 1 { for (i = 1; i <= NF; i++) if ($i == tool) column = i; next }
		column { print $column }' Documentation/tested.csv | sort -V | tail -n 1
}

# Say what there is, refuse what is too old, name what is newer than any test.
stage_tools() {
	local hash tool have least line="" new=""
	hash=$ROOT_NAME-$VERSION-$(hash_files Documentation/tested.csv Cargo.toml scripts/lib/stages/source.sh)
	! stamped tools "$hash" || {
		cat "$T/tools"
		return
	}
	for tool in rustc bindgen llvm pahole libbpf; do
		have=$(scripts/enter bash -c "$(declare -f tool_version); tool_version $tool")
		[ -n "$have" ] || die "the build root has no $tool that tells its version"
		line="$line, $tool $have"
		least=
		case $tool in
		rustc | bindgen | llvm) least=$(sh "$SOURCE/scripts/min-tool-version.sh" "$tool") ;;
		esac
		if [ -n "$least" ] && older "$have" "$least"; then
			die "Linux $VERSION needs $tool $least, but $DEBIAN has $have" "take a newer suite: DEBIAN=forky"
		fi
		! older "$(tested "$tool")" "$have" || new="$new, $tool $have"
	done
	have=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
	! older "$(scripts/enter rustc --version | cut -d" " -f2)" "$have" ||
		die "our programs need rustc $have" "take a newer suite: DEBIAN=forky"
	have=$(make -s -C "$SOURCE" kernelversion 2>/dev/null)
	! older "$(tested linux)" "$have" || new="$new, Linux $have"
	mkdir -p "$T"
	echo "toolchain: $DEBIAN${line#,}, Linux $have ($VERSION)" >"$T/tools"
	[ -z "$new" ] || echo "newer than any test has seen:${new#,}" >>"$T/tools"
	cat "$T/tools"
	stamp tools "$hash"
}
