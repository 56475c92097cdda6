#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Shows what the epoll instances of a program watch, asked once of the kernel's C
# handler of KCMP_EPOLL_TFD and once of the Rust module; fails if one answer
# differs. Leaves the module unloaded.

if [ $# -ne 2 ]; then
	echo "usage: demo.sh BINDIR MODULE.ko (as root, on a kernel with the series)" >&2
	exit 2
fi

bin=$1
ko=$2
PATH=$PATH:/usr/sbin:/sbin
state=/sys/module/kcmp_epoll
tmp=$(mktemp -d) || exit 1
trap 'exec 9>&-; wait; rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

die()
{
	echo "demo.sh: $*" >&2
	exit 1
}

# Asks with the handler that has to be the one called $1.
# shellcheck disable=SC2086 # $pids is a list
ask()
{
	"$bin/kcmp_epoll_client" $pids >"$tmp/$1" || exit 1

	handler=C
	[ ! -d $state ] || handler=Rust
	[ $handler = "$1" ] || die "the $1 handler was to answer, not the $handler one"
}

# Says how $1 differs from $2.
same()
{
	diff -u "$tmp/$1" "$tmp/$2" || die "the answers of $1 and $2 differ as above"
}

# The answers on standard input, as a table with the names of the files.
table()
{
	format='%1s %6s %3s %3s %6s %4s  %-22s %-16s %s\n'
	# shellcheck disable=SC2059 # it is one
	printf "$format" '' PID EFD TFD EVENTS DATA 'fdinfo suggests' really ''
	while read -r answer; do
		pid='' efd='' tfd='' events='' data='' number='' owners=''
		for word in $answer; do
			case $word in
			pid=*) pid=${word#*=} ;;
			efd=*) efd=${word#*=} ;;
			tfd=*) tfd=${word#*=} ;;
			events=*) events=${word#*=} ;;
			data=*) data=${word#*=} ;;
			number=*) number=${word#*=} ;;
			owners=*) owners=${word#*=} ;;
			same=*) echo "  $(printf '%6s %3s' "$pid" "$efd")  the same as ${word#*=}" ;;
			esac
		done
		[ -n "$tfd" ] || continue
		mark='!' suggests=closed file=
		[ "$number" != right ] || mark=
		[ "$number" = closed ] || suggests=$(readlink "/proc/$pid/fd/$tfd")
		owner=${owners%%,*}
		[ "$owners" = none ] || file=$(readlink "/proc/${owner%:*}/fd/${owner#*:}")
		# shellcheck disable=SC2059 # as above
		printf "$format" "$mark" "$pid" "$efd" "$tfd" "$events" "$data" "$suggests" "$owners" "$file"
	done
}

[ ! -d $state ] || rmmod kcmp_epoll || die "cannot unload kcmp_epoll"

# It lives until descriptor 9 is closed.
mkfifo "$tmp/in" "$tmp/out" || exit 1
"$bin/epoll_demo" -t <"$tmp/in" >"$tmp/out" &
exec 9>"$tmp/in" 8<"$tmp/out"
pids=
while [ -z "$pids" ] && read -r line <&8; do
	case $line in
	ready*) pids=$(echo "${line#ready }" | tr ' ' '\n' | sort -n) ;;
	*) echo "$line" ;;
	esac
done >"$tmp/expected"
[ -n "$pids" ] || die "epoll_demo did not get ready"

ask C
insmod "$ko" || die "cannot load $ko"
ask Rust
rmmod kcmp_epoll || die "cannot unload kcmp_epoll"

cat <<END
An epoll instance watches open files, each under the descriptor it had when it was added. fdinfo
shows that descriptor only, and by now it may be closed or refer to another file. What is really
watched, as PID:FD, was found with kcmp alone. DATA says what was added: 1 a pipe; 2, 3, 4 pipes as
descriptor 702, the last now in a message not received yet; 5 a file received over a unix socket; 6
a nested epoll instance, 8 its timer; 7 an eventfd inherited by a child.

END
for pid in $pids; do
	echo "pid $pid: $(cat "/proc/$pid/comm")"
done
echo
table <"$tmp/C" | sed 's/ *$//'
echo

same C Rust
sort "$tmp/expected" >"$tmp/expected.sorted"
sort "$tmp/C" >"$tmp/C.sorted"
same expected.sorted C.sorted

n=$(grep -c tfd= "$tmp/expected")
echo "The C handler and the Rust module gave the same $n answers, all right as epoll_demo knows."
