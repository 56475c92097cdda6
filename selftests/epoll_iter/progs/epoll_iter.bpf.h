/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs need to know of the kernel. Offsets are those of the
 * kernel that runs, by its BTF.
 *
 * Two of its structures are packed, for which the compiler would load bytes
 * one by one, which is not allowed for pointers. Here they are not.
 */
#ifndef _EPOLL_ITER_BPF_H
#define _EPOLL_ITER_BPF_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define __kernel_layout	__attribute__((preserve_access_index))

struct seq_file;
struct eventpoll;

struct inode {
	unsigned long i_ino;
} __kernel_layout;

struct file {
	struct inode *f_inode;
} __kernel_layout;

struct epoll_key___loose {
	struct file *file;
	int fd;
} __kernel_layout;

struct epoll_event___loose {
	__u32 events;
	__u64 data;
} __kernel_layout;

struct epitem___loose {
	struct epoll_key___loose ffd;
	struct eventpoll *ep;
	struct epoll_event___loose event;
} __kernel_layout;

struct task_struct {
	int pid;
	int tgid;
} __kernel_layout;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
} __kernel_layout;

struct bpf_iter__epoll {
	struct bpf_iter_meta *meta;
	struct eventpoll *ep;
	struct epitem___loose *epi;
} __kernel_layout;

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} __kernel_layout;

#endif /* _EPOLL_ITER_BPF_H */
