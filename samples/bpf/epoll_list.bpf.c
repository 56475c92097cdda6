// SPDX-License-Identifier: GPL-2.0
/*
 * Lists the targets of an epoll set as text, one a line. A program that has the
 * set as descriptor 5 can have it listed whenever somebody looks:
 *
 *	bpftool iter pin epoll_list.bpf.o /sys/fs/bpf/list epoll 5
 *	cat /sys/fs/bpf/list
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf_iter_epoll.h"

char LICENSE[] SEC("license") = "GPL";

SEC("iter/epoll")
int list(struct bpf_iter__epoll *ctx)
{
	struct epitem *epi = ctx->epi;

	/* There is no entry at the end, and for an empty set. */
	if (!epi)
		return 0;
	BPF_SEQ_PRINTF(ctx->meta->seq, "tfd: %d events: %x data: %llx\n",
		       epi->ffd.fd, epi->event.events, epi->event.data);
	return 0;
}
