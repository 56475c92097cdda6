/* SPDX-License-Identifier: GPL-2.0 */
#ifndef BPF_ITER_EPOLL_H
#define BPF_ITER_EPOLL_H

#include <bpf/bpf_helpers.h>

/* An epoll file has these operations. */
extern const void eventpoll_fops __ksym;

/*
 * What the module epoll_iter hands to a program. Its own type information has
 * it, too; that of the kernel, which vmlinux.h is made of, does not.
 */
struct bpf_iter__epoll {
	struct bpf_iter_meta *meta;
	struct eventpoll *ep;
	/* NULL at the end, and for an empty interest list */
	struct epitem *epi;
};

#endif /* BPF_ITER_EPOLL_H */
