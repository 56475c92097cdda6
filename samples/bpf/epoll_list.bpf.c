// SPDX-License-Identifier: GPL-2.0
/*
 * Lists the targets of an epoll instance as text, one a line. A process that has
 * the instance as descriptor 5 can make it readable as a file:
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

	/* There is no epitem at the end, and for an empty list. */
	if (!epi)
		return 0;
	BPF_SEQ_PRINTF(ctx->meta->seq, "tfd: %d events: %x data: %llx\n",
		       epi->ffd.fd, epi->event.events, epi->event.data);
	return 0;
}
