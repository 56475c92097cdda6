/* SPDX-License-Identifier: GPL-2.0 */
#ifndef TASK_H
#define TASK_H

/* The pid of a task in the reader's namespace; 0 if it has ended. */
static __always_inline __s32 vpid(struct task_struct *task)
{
	struct task_struct *reader = (void *)bpf_get_current_task_btf();
	__u32 level = BPF_CORE_READ(reader, thread_pid, level);
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	void *upid;
	__s32 nr = 0;

	if (pid) {
		upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
		       level * bpf_core_type_size(struct upid);
		bpf_probe_read_kernel(&nr, sizeof(nr), upid +
				      bpf_core_field_offset(struct upid, nr));
	}
	return nr;
}

#endif /* TASK_H */
