#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Shows what the epoll sets of a program watch, once with the kernel's C handler
# of KCMP_EPOLL_TFD and once with the Rust module; fails if one answer differs.
# Leaves the module unloaded.

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
	"$bin/kcmp_epoll_client" $pids >"$tmp/$1.table" || exit 1
	"$bin/kcmp_epoll_client" -q $pids >"$tmp/$1.answers" || exit 1

	handler=C
	[ ! -d $state ] || handler=Rust
	[ $handler = "$1" ] || die "the $1 handler was to answer, not the $handler one"
}

# Says how $1 differs from $2.
same()
{
	diff -u "$tmp/$1" "$tmp/$2" || die "$1 and $2 differ as above"
}

[ ! -d $state ] || rmmod kcmp_epoll || die "cannot unload kcmp_epoll"

# It lives until descriptor 9 is closed.
mkfifo "$tmp/in" "$tmp/out" || exit 1
"$bin/epoll_demo" -t <"$tmp/in" >"$tmp/out" &
exec 9>"$tmp/in" 8<"$tmp/out"
pids=
while [ -z "$pids" ] && read -r line <&8; do
	case $line in
	ready*) pids=${line#ready } ;;
	*) echo "$line" ;;
	esac
done >"$tmp/expected.answers"
[ -n "$pids" ] || die "epoll_demo did not get ready"

ask C
insmod "$ko" || die "cannot load $ko"
ask Rust
rmmod kcmp_epoll || die "cannot unload kcmp_epoll"

cat <<END
An epoll set watches open files, each under the number it had when it was added. fdinfo shows the
number only, and by now that may be closed or mean another file. What is really watched was found
with kcmp alone. DATA says what was added: 1 a pipe; 2, 3, 4 pipes as number 702, the last now in a
message not received yet; 5 a file received over a unix socket; 6 a nested set, 8 its timer; 7 an
eventfd inherited by a child.

END
cat "$tmp/C.table"
echo

same C.answers Rust.answers
same C.table Rust.table
same expected.answers C.answers

n=$(grep -c tfd= "$tmp/expected.answers")
echo "The C handler and the Rust module gave the same $n answers, all right as epoll_demo knows."
