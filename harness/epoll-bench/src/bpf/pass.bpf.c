// SPDX-License-Identifier: GPL-2.0
/* Writes what there is to know of each target of an epoll instance. */

#include "kernel.h"

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

/* As bpf.rs has it. */
struct target {
	__u32 tfd;
	__u32 events;
	__u64 data;
};

SEC("iter/epoll")
int pass(struct bpf_iter__epoll *ctx)
{
	struct epitem *epi = ctx->epi;
	struct target target;

	if (!epi)
		return 0;
	target.tfd = epi->ffd.fd;
	target.events = epi->event.events;
	target.data = epi->event.data;
	bpf_seq_write(ctx->meta->seq, &target, sizeof(target));
	return 0;
}
