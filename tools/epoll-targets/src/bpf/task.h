/* SPDX-License-Identifier: GPL-2.0 */
#ifndef TASK_H
#define TASK_H

/*
 * Queries about tasks and files, for the programs of iterators. The samples use them
 * as well: include kernel.h or vmlinux.h before this.
 */
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct task_struct *bpf_task_from_vpid(__s32 vpid) __ksym;
void bpf_task_release(struct task_struct *task) __ksym;
void *bpf_rdonly_cast(const void *address, __u32 type) __ksym;

/* The address of what a pid is in the PID namespace of a level. */
static __always_inline void *upid_at(const struct pid *pid, __u32 level)
{
	return (void *)pid + bpf_core_field_offset(struct pid, numbers) +
	       level * bpf_core_type_size(struct upid);
}

/* The pid of a task in the reader's namespace; 0 if it has ended. */
static __always_inline __s32 vpid(struct task_struct *task)
{
	struct task_struct *reader = (void *)bpf_get_current_task_btf();
	__u32 level = BPF_CORE_READ(reader, thread_pid, level);
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__s32 nr = 0;

	if (pid)
		bpf_probe_read_kernel(&nr, sizeof(nr), upid_at(pid, level) +
				      bpf_core_field_offset(struct upid, nr));
	return nr;
}

/* Whether this is the name of a file's dentry, at most 15 bytes. */
static __always_inline bool is_named(const struct file *file, const char *name,
				     unsigned int size)
{
	char found[16] = {};
	unsigned int i;

	bpf_probe_read_kernel(found, size,
			      BPF_CORE_READ(file, f_path.dentry, d_name.name));
	for (i = 0; i < size; i++)
		if (found[i] != name[i])
			return false;
	return true;
}

/* What a descriptor is, compared with a file. */
enum open_as {
	OPEN_AS_NOTHING,
	OPEN_AS_OTHER,
	OPEN_AS_SAME,
};

/*
 * Compare descriptor fd of a process with a file. The caller holds the file, so
 * that what has its address is that file and no other.
 */
static __always_inline enum open_as is_open_as(__s32 pid, __u32 fd,
					       const struct file *file)
{
	struct task_struct *task = bpf_task_from_vpid(pid);
	enum open_as result = OPEN_AS_NOTHING;
	struct files_struct *table, *after;
	struct file *found = NULL;
	struct fdtable *fdt;

	if (!task)
		return OPEN_AS_NOTHING;
	/*
	 * The table can be freed at any time, and its memory be reused. Reading it
	 * is safe: a load that faults returns 0. A task that exits, or gets another
	 * table, drops its pointer to this one before it releases it. So if the
	 * pointer is unchanged afterwards, the table was the task's.
	 */
	table = task->files;
	if (table) {
		fdt = table->fdt;
		if (fdt && fd < fdt->max_fds)
			bpf_probe_read_kernel(&found, sizeof(found), fdt->fd + fd);
	}
	bpf_core_read(&after, sizeof(after), &task->files);
	if (found && after == table)
		result = found == file ? OPEN_AS_SAME : OPEN_AS_OTHER;
	bpf_task_release(task);
	return result;
}

#endif /* TASK_H */
