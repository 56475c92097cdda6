/* SPDX-License-Identifier: GPL-2.0 */
#ifndef TASKS_BPF_H
#define TASKS_BPF_H

/* What an iterator's program can ask about tasks and files, after vmlinux.h. */

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct task_struct *bpf_task_from_vpid(s32 vpid) __ksym;
void bpf_task_release(struct task_struct *task) __ksym;

extern const void eventpoll_fops __ksym;

/* The pid that the reader knows a task by. */
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

/* Whether a descriptor is a file that our caller holds. */
static __always_inline bool is_open_as(__s32 pid, __u32 fd, const struct file *file)
{
	struct task_struct *task = bpf_task_from_vpid(pid);
	struct files_struct *files, *after;
	struct file *found = NULL;
	struct fdtable *fdt;

	if (!task)
		return false;
	/*
	 * The table can be freed at any time, and its memory be that of another.
	 * To read it does no harm: a load that faults gives 0. But a task that
	 * ends, or gets another table, has no pointer to this one by the time
	 * that it lets go of it. So if it has it still, it was its table.
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
