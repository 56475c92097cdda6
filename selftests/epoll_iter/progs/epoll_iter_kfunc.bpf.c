// SPDX-License-Identifier: GPL-2.0
/* Programs that walk an epoll instance themselves. */
#include "epoll_iter.bpf.h"
#include "epoll_iter_walk.bpf.h"
#include "../epoll_iter_record.h"

#include <bpf/bpf_core_read.h>

char _license[] SEC("license") = "GPL";

/*
 * The task whose epoll instance is walked, and the instance of a nested walk.
 */
int pid;
int efd;
int inner_pid;
int inner_efd;
/* Give up after so many. */
__u32 stop_after;
/* As in epoll_iter.bpf.c. */
__u64 hold_seq_num;
__u64 hold_address;

/* What bpf_iter_epoll_new() returned, and how the loops ended. */
int begun;
int error;
int inner_error;
__u32 count;
__u64 inner_count;
struct record walked[MAX_WALKED];

static __always_inline void remember(union bpf_epoll_item *item)
{
	struct file *file = bpf_core_cast(item->file, struct file);
	__u32 i = count;

	if (i < MAX_WALKED) {
		walked[i].seq_num = i;
		walked[i].file = (unsigned long)item->file;
		walked[i].ino = file->f_inode->i_ino;
		walked[i].data = item->data;
		walked[i].events = item->events;
		walked[i].fd = item->fd;
	}
	count = i + 1;
}

static __always_inline int go_through(struct task_struct *task)
{
	union bpf_epoll_item *item;
	struct bpf_iter_epoll it;
	char byte;

	count = 0;
	begun = bpf_iter_epoll_new(&it, task, efd);
	while ((item = bpf_iter_epoll_next(&it))) {
		if (hold_address && count == hold_seq_num)
			bpf_copy_from_user(&byte, sizeof(byte),
					   (const void *)(unsigned long)hold_address);
		remember(item);
		if (stop_after && count == stop_after)
			break;
	}
	error = bpf_iter_epoll_status(&it);
	bpf_iter_epoll_destroy(&it);

	return 0;
}

SEC("syscall")
int walk(void *ctx)
{
	struct task_struct *task = bpf_task_from_pid(pid);

	if (!task)
		return 1;
	go_through(task);
	bpf_task_release(task);

	return 0;
}

/* All targets of one instance for each of the other. */
SEC("syscall")
int walk_within(void *ctx)
{
	struct task_struct *task, *inner_task;
	struct bpf_iter_epoll it, inner_it;
	union bpf_epoll_item *item;

	task = bpf_task_from_pid(pid);
	if (!task)
		return 1;
	inner_task = bpf_task_from_pid(inner_pid);
	if (!inner_task) {
		bpf_task_release(task);
		return 1;
	}

	count = 0;
	inner_count = 0;
	inner_error = 0;
	bpf_iter_epoll_new(&it, task, efd);
	while ((item = bpf_iter_epoll_next(&it))) {
		remember(item);
		bpf_iter_epoll_new(&inner_it, inner_task, inner_efd);
		while (bpf_iter_epoll_next(&inner_it))
			inner_count++;
		inner_error = bpf_iter_epoll_status(&inner_it);
		bpf_iter_epoll_destroy(&inner_it);
		if (inner_error)
			break;
	}
	error = bpf_iter_epoll_status(&it);
	bpf_iter_epoll_destroy(&it);
	bpf_task_release(inner_task);
	bpf_task_release(task);

	return 0;
}

/* A walk within an iterator over something else. */
SEC("iter.s/task")
int in_task_iter(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (!task || task->pid != pid)
		return 0;

	return go_through(task);
}

/* And over files. */
SEC("?iter.s/task_file")
int in_file_iter(struct bpf_iter__task *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct bpf_iter_epoll it;

	bpf_iter_epoll_new(&it, task, efd);
	bpf_iter_epoll_destroy(&it);

	return 0;
}

/* What programs for the target itself may do with their arguments. */
SEC("?iter/epoll")
int reads_both(struct bpf_iter__epoll *ctx)
{
	struct epitem___loose *epi = ctx->epi;
	struct eventpoll *ep = ctx->ep;

	if (epi)
		count += epi->ep == ep;

	return 0;
}

/* To be refused: the epitem may be NULL; and nothing may be written. */

SEC("?iter/epoll")
int no_null_check(struct bpf_iter__epoll *ctx)
{
	count += ctx->epi->ffd.fd;

	return 0;
}

SEC("?iter/epoll")
int writes(struct bpf_iter__epoll *ctx)
{
	struct epitem___loose *epi = ctx->epi;

	if (epi)
		epi->ffd.fd = 1;

	return 0;
}

/* To be refused: the mutex is held already, or may not be waited for. */

SEC("?iter.s/epoll")
int in_epoll_iter(struct bpf_iter__epoll *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct bpf_iter_epoll it;

	bpf_iter_epoll_new(&it, task, efd);
	bpf_iter_epoll_destroy(&it);

	return 0;
}

/* It runs with the mmap_lock of a task held. */
SEC("?iter.s/task_vma")
int in_vma_iter(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct bpf_iter_epoll it;

	bpf_iter_epoll_new(&it, task, efd);
	bpf_iter_epoll_destroy(&it);

	return 0;
}

SEC("?tp_btf/sys_enter")
int in_tracepoint(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct bpf_iter_epoll it;

	bpf_iter_epoll_new(&it, task, efd);
	bpf_iter_epoll_destroy(&it);

	return 0;
}

/*
 * To be refused: an iterator that _new() did not make, and one that is not
 * destroyed.
 */

SEC("?syscall")
int not_begun(void *ctx)
{
	struct bpf_iter_epoll it = {};

	bpf_iter_epoll_next(&it);

	return 0;
}

SEC("?syscall")
int not_destroyed(void *ctx)
{
	struct task_struct *task = bpf_task_from_pid(pid);
	struct bpf_iter_epoll it;

	if (!task)
		return 1;
	bpf_iter_epoll_new(&it, task, efd);
	bpf_task_release(task);

	return 0;
}

/* To be refused: using an item after its iterator was destroyed. */
SEC("?syscall")
int used_afterwards(void *ctx)
{
	struct task_struct *task = bpf_task_from_pid(pid);
	union bpf_epoll_item *item;
	struct bpf_iter_epoll it;
	__u64 data = 0;

	if (!task)
		return 1;
	bpf_iter_epoll_new(&it, task, efd);
	bpf_task_release(task);
	item = bpf_iter_epoll_next(&it);
	bpf_iter_epoll_destroy(&it);
	if (item)
		data = item->data;

	return data != 0;
}
