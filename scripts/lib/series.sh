# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The series as they are sent: commits in a git repository of the files that they touch.
# Sourced after common.sh.
#
# What a patch in patches/ changes is what Linux has already. The files that it adds to
# that are our own, from rust/, include/ and selftests/: patches/NAME/files says which patch
# of the series NAME brings which, one 'NNNN PATTERN' a line. So there is one source.

# brought NAME NUMBER: the files that this patch brings.
brought() {
	local number pattern
	[ -e "$TOP/patches/$1/files" ] || return 0
	while read -r number pattern; do
		[ "$number" = "$2" ] || continue
		# shellcheck disable=SC2086 # a pattern
		(shopt -s dotglob && cd "$TOP" && find $pattern -maxdepth 0 -type f ! -name '*~' ! -name '.*.sw?' | sort)
	done < <(grep -v '^#' "$TOP/patches/$1/files")
}

# without_later FILE DIR: our own file, without the declarations of modules of the crate
# that are not in DIR yet: those come with a later patch.
without_later() {
	local to
	to=$2/$(place_of "$1")
	# They are in a directory of its name, or beside the root of the crate.
	awk -v below="${to%.rs}" -v beside="${to%/*}" '
		function there(name, line) {
			return (getline line <(below "/" name ".rs")) >= 0 ||
			       (getline line <(beside "/" name ".rs")) >= 0
		}
		# An attribute belongs to what follows it.
		/^#\[cfg\(/ { held = held $0 "\n"; next }
		/^(pub )?mod [a-z_]+;$/ {
			name = $NF
			sub(/;/, "", name)
			if (!there(name)) {
				gone[name] = 1
				held = ""
				next
			}
		}
		/^pub use self::/ {
			name = $3
			sub(/^self::/, "", name)
			sub(/::.*/, "", name)
			if (name in gone)
				next
		}
		{ printf "%s%s\n", held, $0; held = "" }
	' "$TOP/$1"
}

# commit_series DIR NAME COMMAND...: apply the series NAME to the repository DIR with all
# that it brings, and after each patch, call COMMAND with its path.
commit_series() {
	local dir=$1 name=$2 patch number from to all=("$1/.git/own")
	shift 2
	local git=(git -C "$dir" -c user.name=series -c user.email=series@localhost)
	touch "${all[0]}"
	while read -r patch; do
		number=$(basename "$patch" | cut -c1-4)
		"${git[@]}" am -q --committer-date-is-author-date "$patch"
		if [ -n "$(brought "$name" "$number")" ]; then
			brought "$name" "$number" >>"${all[0]}"
			# All of them again: one may declare a module that is there only now.
			while read -r from; do
				to=$dir/$(place_of "$from")
				mkdir -p "${to%/*}"
				touch "$to"
			done <"${all[0]}"
			while read -r from; do
				to=$dir/$(place_of "$from")
				cp -p "$TOP/$from" "$to"
				[[ $from != *.rs ]] || without_later "$from" "$dir" >"$to"
			done <"${all[0]}"
			"${git[@]}" add -A
			GIT_COMMITTER_DATE=$("${git[@]}" log -1 --format=%ad) \
				"${git[@]}" commit -q --amend --no-edit
		fi
		"$@" "$patch"
	done < <(series_of "$LINUX" "$name")
}

# series_repository DIR SOURCE: in DIR, a repository of all files that the series touch, as
# they are in SOURCE.
series_repository() {
	local dir=$1 source=$2 f
	rm -rf "$dir"
	mkdir -p "$dir"
	git -C "$dir" init -q
	git -C "$dir" config core.autocrlf false
	for f in "${SERIES[@]}"; do
		git apply --numstat "$f" | cut -f3
	done | sort -u >"$dir/.git/touched"
	while read -r f; do
		[ ! -e "$source/$f" ] || (cd "$source" && cp --parents -t "$dir" "$f")
	done <"$dir/.git/touched"
	git -C "$dir" add .
	git -C "$dir" -c user.name=series -c user.email=series@localhost commit -q \
		--date=2026-11-21T00:00:00Z -m "Linux ${source##*/}"
}

# changed DIR [PATHSPEC]...: how many lines the last commit adds and removes, apart from
# lines that it only moves and from files of ours that it brings.
changed() {
	local own=()
	mapfile -t own < <(sort -u "$1/.git/own" | while read -r own; do
		printf ':(exclude)%s\n' "$(place_of "$own")"
	done)
	git -C "$1" -c color.diff.old=red -c color.diff.new=green \
		-c color.diff.oldMoved=magenta -c color.diff.oldMovedAlternative=magenta \
		-c color.diff.newMoved=cyan -c color.diff.newMovedAlternative=cyan \
		show --format= --no-renames --color=always --color-moved=blocks HEAD -- . "${@:2}" "${own[@]}" |
		awk '/^\033\[32m\+/ { new++ } /^\033\[31m-/ { old++ } END { print new + 0, old + 0 }'
}
