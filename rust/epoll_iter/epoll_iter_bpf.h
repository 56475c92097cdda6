/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Interface between the C and Rust halves of epoll_iter.
 */
#ifndef EPOLL_ITER_BPF_H
#define EPOLL_ITER_BPF_H

#include <linux/types.h>

struct file;
struct task_struct;

/* The iterator, on the stack of the program. */
struct bpf_iter_epoll {
	__u64 __opaque[2];
} __aligned(8);

/*
 * A copy of an epitem. This is a union because the verifier assumes that memory
 * behind a pointer to a struct stays valid, and follows pointers in it. Memory
 * behind a pointer to a union belongs to the iterator, and contains scalars.
 */
union bpf_epoll_item {
	struct {
		__u64 data;
		struct file *file;
		int fd;
		__u32 events;
	};
};

/* implemented in Rust */
int epoll_items_new(struct bpf_iter_epoll *it, struct task_struct *task, int efd);
union bpf_epoll_item *epoll_items_next(struct bpf_iter_epoll *it);
int epoll_items_status(struct bpf_iter_epoll *it);
void epoll_items_destroy(struct bpf_iter_epoll *it);

/* implemented in C */
int epoll_iter_register_kfuncs(void);

#endif
