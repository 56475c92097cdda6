// SPDX-License-Identifier: GPL-2.0
/* A program that lets a kernel thread walk an epoll instance. */
#include "epoll_iter.bpf.h"
#include "epoll_iter_walk.bpf.h"

#include <linux/errno.h>

char _license[] SEC("license") = "GPL";

int bpf_wq_init(struct bpf_wq *wq, void *p__map, unsigned int flags) __ksym;
int bpf_wq_start(struct bpf_wq *wq, unsigned int flags) __ksym;
int bpf_wq_set_callback(struct bpf_wq *wq,
			int (callback_fn)(void *map, int *key, void *value),
			unsigned int flags) __ksym;

struct work {
	struct bpf_wq wq;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, struct work);
} works SEC(".maps");

/* The task whose epoll instance is walked, and the instance. */
int pid;
int efd;

/* How often a walk has ended; how many targets the last one saw; its error. */
__u32 walks;
__u32 count;
int error;

static int walk_in_thread(void *map, int *key, void *value)
{
	struct task_struct *task = bpf_task_from_pid(pid);
	struct bpf_iter_epoll it;
	__u32 seen = 0;

	if (!task)
		return 0;
	bpf_iter_epoll_new(&it, task, efd);
	while (bpf_iter_epoll_next(&it))
		seen++;
	error = bpf_iter_epoll_status(&it);
	bpf_iter_epoll_destroy(&it);
	bpf_task_release(task);
	count = seen;
	__sync_fetch_and_add(&walks, 1);

	return 0;
}

SEC("syscall")
int begin(void *ctx)
{
	struct work *work;
	int key = 0, ret;

	work = bpf_map_lookup_elem(&works, &key);
	if (!work)
		return 1;
	ret = bpf_wq_init(&work->wq, &works, 0);
	/* By an earlier call. */
	if (ret && ret != -EBUSY)
		return 2;
	if (bpf_wq_set_callback(&work->wq, walk_in_thread, 0))
		return 3;

	return bpf_wq_start(&work->wq, 0) ? 4 : 0;
}
