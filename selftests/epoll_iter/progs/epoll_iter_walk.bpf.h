/* SPDX-License-Identifier: GPL-2.0 */
/* What programs that walk an epoll instance themselves call. */
#ifndef _EPOLL_ITER_WALK_BPF_H
#define _EPOLL_ITER_WALK_BPF_H

struct bpf_iter_epoll {
	__u64 __opaque[2];
};

union bpf_epoll_item {
	struct {
		__u64 data;
		struct file *file;
		int fd;
		__u32 events;
	};
} __kernel_layout;

struct task_struct *bpf_task_from_pid(__s32 pid) __ksym;
void bpf_task_release(struct task_struct *p) __ksym;

int bpf_iter_epoll_new(struct bpf_iter_epoll *it, struct task_struct *task,
		       int efd) __ksym;
union bpf_epoll_item *bpf_iter_epoll_next(struct bpf_iter_epoll *it) __ksym;
int bpf_iter_epoll_status(struct bpf_iter_epoll *it) __ksym;
void bpf_iter_epoll_destroy(struct bpf_iter_epoll *it) __ksym;

#endif /* _EPOLL_ITER_WALK_BPF_H */
