// SPDX-License-Identifier: GPL-2.0
/* An iterator program with functions that others may replace. */
#include "epoll_iter.bpf.h"

char _license[] SEC("license") = "GPL";

/* Named as what programs for the target attach to in the kernel. */
__noinline int bpf_iter_task(int arg)
{
	asm volatile ("");
	return arg;
}

SEC("iter/task")
int named(struct bpf_iter__task *ctx)
{
	return bpf_iter_task(0);
}
