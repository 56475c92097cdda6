// SPDX-License-Identifier: GPL-2.0
/* A program that replaces a function which is named as that of a target. */
#include "epoll_iter.bpf.h"

char _license[] SEC("license") = "GPL";

SEC("freplace")
int replace(int arg)
{
	return arg;
}
