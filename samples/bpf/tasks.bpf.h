/* SPDX-License-Identifier: GPL-2.0 */
#ifndef TASKS_BPF_H
#define TASKS_BPF_H

/* Queries about tasks and files, for programs of iterators. Needs vmlinux.h. */

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct task_struct *bpf_task_from_vpid(s32 vpid) __ksym;
void bpf_task_release(struct task_struct *task) __ksym;

extern const void eventpoll_fops __ksym;

/* The pid of a task in the reader's namespace. */
static __always_inline __s32 vpid(struct task_struct *task)
{
	struct task_struct *reader = (void *)bpf_get_current_task_btf();
	__u32 level = BPF_CORE_READ(reader, thread_pid, level);
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__s32 nr = 0;

	if (pid)
		bpf_core_read(&nr, sizeof(nr), &pid->numbers[0].nr +
			      level * sizeof(struct upid) / sizeof(nr));
	return nr;
}

/* Whether a descriptor refers to a file that the caller holds. */
static __always_inline bool is_open_as(__s32 pid, __u32 fd, const struct file *file)
{
	struct task_struct *task = bpf_task_from_vpid(pid);
	struct files_struct *files, *after;
	struct file *found = NULL;
	struct fdtable *fdt;

	if (!task)
		return false;
	/*
	 * The table can be freed at any time, and its memory can be reused. Reading
	 * it is harmless: a load that faults gives 0. A task that ends, or gets
	 * another table, clears its pointer before it drops its reference. So if
	 * the pointer is unchanged afterwards, this was the table of the task.
	 */
	files = task->files;
	if (files) {
		fdt = files->fdt;
		if (fdt && fd < fdt->max_fds)
			bpf_probe_read_kernel(&found, sizeof(found), fdt->fd + fd);
	}
	bpf_core_read(&after, sizeof(after), &task->files);
	bpf_task_release(task);
	return found == file && after == files;
}

#endif /* TASKS_BPF_H */
