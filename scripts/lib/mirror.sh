# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Debian's mirror, and this machine's apt turned on it: without the machine's own
# lists, state and preferences, but with its proxies and timeouts. Sourced after
# common.sh. MIRROR, SECURITY_MIRROR, SNAPSHOT and KEYRING are the user's.

MIRROR=${MIRROR-} SECURITY_MIRROR=${SECURITY_MIRROR-}
KEYRING=${KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}

# apt_mirror LABEL: the first repository with this label that this machine's apt knows.
apt_mirror() {
	# shellcheck disable=SC2016 # apt's variables, not the shell's
	apt-get indextargets --format '$(REPO_URI)|$(ORIGIN)|$(LABEL)' 'Created-By: Packages' |
		awk -F'|' -v label="$1" '$2 == "Debian" && $3 == label { print $1; exit }'
}

# Set main and security to the URLs of the archives; security may be 'none'.
find_mirror() {
	local archive=${MIRROR%/}/archive
	if [ -n "$SNAPSHOT" ]; then
		[ -n "$MIRROR" ] ||
			die "SNAPSHOT=$SNAPSHOT needs the URL of a snapshot archive" \
			    "give it, the part before /archive/debian: make setup SNAPSHOT=$SNAPSHOT MIRROR=URL"
		main=$archive/debian/$SNAPSHOT
		security=${SECURITY_MIRROR:-$archive/debian-security/$SNAPSHOT}
		return
	fi
	main=${MIRROR:-$(apt_mirror Debian)}
	if [ -z "$main" ]; then
		apt-get update
		main=$(apt_mirror Debian)
	fi
	main=${main%/}
	[ -n "$main" ] ||
		die "apt's configuration names no Debian mirror" \
		    "give one: make setup MIRROR=URL (and SECURITY_MIRROR=URL)"
	# A mirror given by hand may not hold the security archive: do without then.
	security=${SECURITY_MIRROR:-${MIRROR:+none}}
	security=${security:-$(apt_mirror Debian-Security)}
	security=${security:-none}
	security=${security%/}
}

# source_line TYPE URL SUITE: a line of sources.list.
source_line() {
	# A snapshot is past its date by design.
	echo "$1 [signed-by=$KEYRING${SNAPSHOT:+ check-valid-until=no}] $2 $3 main"
}

# probe URL SUITE: print nothing if the archive at URL has SUITE, or a sentence that says
# what is wrong.
probe() {
	local tmp out
	tmp=$(mktemp -d)
	if out=$(/usr/lib/apt/apt-helper -o Acquire::Retries=2 -o APT::Sandbox::User=root \
		download-file "$1/dists/$2/InRelease" "$tmp/release" 2>&1); then
		:
	elif grep -qE '404|File not found|No such file' <<<"$out"; then
		echo "the mirror $1 has no suite $2"
	else
		echo "the mirror $1 cannot be reached: $(sed -n 's/^E: Failed to fetch [^ ]*  *//p' <<<"$out" | tail -n 1)"
	fi
	rm -rf "$tmp"
}

# apt_private DIR COMMAND ARG...: apt's COMMAND with everything it reads and writes in DIR,
# where sources.list stands.
apt_private() {
	local dir=$1 command=$2
	shift 2
	mkdir -p "$dir"/{state/lists/partial,cache/archives/partial}
	touch "$dir/status"
	"$command" -qq -o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
		-o "Dir::State=$dir/state" -o "Dir::State::status=$dir/status" \
		-o "Dir::Cache=$dir/cache" -o APT::Architecture=amd64 -o APT::Architectures=amd64 \
		-o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3 \
		-o APT::Get::List-Cleanup=false "$@"
}
