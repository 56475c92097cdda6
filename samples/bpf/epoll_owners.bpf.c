// SPDX-License-Identifier: GPL-2.0
/*
 * Joins the descriptors of processes with the targets of epoll instances, by
 * open file, in one pass over each.
 *
 * list_descriptors() records one descriptor for each open file. list_targets()
 * looks up the files of targets: two hash lookups a target, however many
 * descriptors there are. Files are told apart by their addresses, which do not
 * leave the program.
 *
 * A record may be out of date: its descriptor can be closed by now, and the
 * memory of its file can be reused for another. But while list_targets() runs,
 * the iterator holds the target, so a file with its address is the target's.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf_iter_epoll.h"
#include "epoll_owners.h"
#include "task.h"

char LICENSE[] SEC("license") = "GPL";

/* Without the kernel's packing, which clang would load byte by byte. */
struct epitem___loads {
	struct {
		struct file *file;
		int fd;
	} ffd;
	struct {
		__u32 events;
		__u64 data;
	} event;
} __attribute__((preserve_access_index));

struct owner {
	__s32 pid;
	__s32 fd;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, __u64);
	__type(value, struct owner);
} owners SEC(".maps");

/* The epoll instance that list_targets() is run for. */
__s32 instance_pid;
__s32 instance_efd;

/* There are more files than the map has room for. */
bool overflow;

SEC("iter/task_file")
int list_descriptors(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct owner owner = {};
	struct owner *known;
	struct epoll_instance instance;
	__u64 key;

	if (!task || !file)
		return 0;
	owner.pid = vpid(task);
	owner.fd = ctx->fd;
	key = (__u64)file;
	known = bpf_map_lookup_elem(&owners, &key);
	/*
	 * The program runs again for a record that did not fit into the output.
	 * And a descriptor that was recorded for this address can refer to
	 * another file by now.
	 */
	if (known && (known->pid != owner.pid || known->fd != owner.fd) &&
	    is_open_as(known->pid, known->fd, file) == OPEN_AS_SAME)
		return 0;
	if (bpf_map_update_elem(&owners, &key, &owner, BPF_ANY))
		overflow = true;

	/* Reached once for each epoll instance: by its first descriptor. */
	if (file->f_op == &eventpoll_fops) {
		instance.pid = owner.pid;
		instance.efd = owner.fd;
		bpf_seq_write(ctx->meta->seq, &instance, sizeof(instance));
	}
	return 0;
}

SEC("iter/epoll")
int list_targets(struct bpf_iter__epoll *ctx)
{
	struct epitem___loads *epi = (void *)ctx->epi;
	struct seq_file *seq = ctx->meta->seq;
	struct owner *owner = NULL;
	char path[256] = "?";
	struct file *file;
	__u64 key;

	if (!epi)
		return 0;
	file = epi->ffd.file;
	BPF_SEQ_PRINTF(seq, "%7d %5d %7d %8x %16llx ", instance_pid, instance_efd,
		       epi->ffd.fd, epi->event.events, epi->event.data);
	/* In most cases, the tfd is the owner: check that first. */
	if (is_open_as(instance_pid, epi->ffd.fd, file) == OPEN_AS_SAME) {
		BPF_SEQ_PRINTF(seq, "%7d:%-7d", instance_pid, epi->ffd.fd);
	} else {
		key = (__u64)file;
		owner = bpf_map_lookup_elem(&owners, &key);
		if (owner &&
		    is_open_as(owner->pid, owner->fd, file) == OPEN_AS_SAME)
			BPF_SEQ_PRINTF(seq, "%7d:%-7d", owner->pid, owner->fd);
		else
			BPF_SEQ_PRINTF(seq, "%7s %-7s", "nobody", "");
	}
	bpf_d_path((struct path *)&file->f_path, path, sizeof(path));
	BPF_SEQ_PRINTF(seq, " %s\n", path);
	return 0;
}
