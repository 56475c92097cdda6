/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the two parts of epoll_iter have of each other.
 */
#ifndef EPOLL_ITER_BPF_H
#define EPOLL_ITER_BPF_H

#include <linux/types.h>

struct file;
struct task_struct;

/* The iterator that a program has on its stack. */
struct bpf_iter_epoll {
	__u64 __opaque[2];
} __aligned(8);

/*
 * What it gets for each entry. The verifier believes that what a pointer to a
 * struct leads to remains there, and what a pointer in that leads to. Of a
 * pointer to a union it knows that it is memory of the iterator, and of what is
 * in there that it is numbers.
 */
union bpf_epoll_item {
	struct {
		__u64 data;
		struct file *file;
		int fd;
		__u32 events;
	};
};

/* in Rust */
int epoll_items_new(struct bpf_iter_epoll *it, struct task_struct *task, int efd);
union bpf_epoll_item *epoll_items_next(struct bpf_iter_epoll *it);
int epoll_items_status(struct bpf_iter_epoll *it);
void epoll_items_destroy(struct bpf_iter_epoll *it);

/* in C */
int epoll_iter_register_kfuncs(void);

#endif
