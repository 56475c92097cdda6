// SPDX-License-Identifier: GPL-2.0
/*
 * Joins the descriptors of processes with the targets of epoll sets, by open
 * file, in one pass over each.
 *
 * list_descriptors() notes for each open file a descriptor that has it.
 * list_targets() looks the files of a set's targets up: two hash lookups a
 * target, however many descriptors there are. Files are told apart by their
 * addresses, which stay in here.
 *
 * What was noted may be out of date: the descriptor can be closed by now, and
 * the file's memory be that of another. But while list_targets() runs, the
 * iterator holds the target. What has its address then is that file.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf_iter_epoll.h"
#include "epoll_owners.h"
#include "tasks.bpf.h"

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

/* The set that list_targets() is run for. */
__s32 set_pid;
__s32 set_efd;

/* More files than there is room for. */
bool overflow;

SEC("iter/task_file")
int list_descriptors(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct owner owner = {};
	struct owner *known;
	struct epoll_set set;
	__u64 key;

	if (!task || !file)
		return 0;
	owner.pid = vpid(task);
	owner.fd = ctx->fd;
	key = (__u64)file;
	known = bpf_map_lookup_elem(&owners, &key);
	/*
	 * What did not fit into the output comes again. And a descriptor that has
	 * another file by now was noted for one that had this address before.
	 */
	if (known && (known->pid != owner.pid || known->fd != owner.fd) &&
	    is_open_as(known->pid, known->fd, file))
		return 0;
	if (bpf_map_update_elem(&owners, &key, &owner, BPF_ANY))
		overflow = true;

	/* Each set comes here once: with its first descriptor. */
	if (file->f_op == &eventpoll_fops) {
		set.pid = owner.pid;
		set.efd = owner.fd;
		bpf_seq_write(ctx->meta->seq, &set, sizeof(set));
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
	BPF_SEQ_PRINTF(seq, "%7d %5d %7d %8x %16llx ", set_pid, set_efd,
		       epi->ffd.fd, epi->event.events, epi->event.data);
	/* Its number is its owner in most cases, and asked about first. */
	if (is_open_as(set_pid, epi->ffd.fd, file)) {
		BPF_SEQ_PRINTF(seq, "%7d:%-7d", set_pid, epi->ffd.fd);
	} else {
		key = (__u64)file;
		owner = bpf_map_lookup_elem(&owners, &key);
		if (owner && is_open_as(owner->pid, owner->fd, file))
			BPF_SEQ_PRINTF(seq, "%7d:%-7d", owner->pid, owner->fd);
		else
			BPF_SEQ_PRINTF(seq, "%7s %-7s", "nobody", "");
	}
	bpf_d_path((struct path *)&file->f_path, path, sizeof(path));
	BPF_SEQ_PRINTF(seq, " %s\n", path);
	return 0;
}
