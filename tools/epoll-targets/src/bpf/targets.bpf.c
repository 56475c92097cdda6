// SPDX-License-Identifier: GPL-2.0
/*
 * Lists the targets of an epoll instance, with the iterator of the module epoll_iter.
 *
 * Open files and targets are reported by their addresses, which do not leave the
 * process that reads them. An address identifies a file only while that is held: the
 * reader lists descriptors between two readings, and a target that is in both was
 * there, and held its file, in between.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

/* Layouts shared with resolve/by_walk/items.rs. */
struct target {
	__u64 file;
	__u64 epitem;
	__u64 data;
	__s64 pos;
	__u64 ino;
	__u32 dev;
	__u32 tfd;
	__u32 events;
	__u32 pad;
};

/* The id of the instance that was read last. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} epoll_id SEC(".maps");

SEC("iter/epoll")
int list_targets(struct bpf_iter__epoll *ctx)
{
	struct epitem *epi = ctx->epi;
	struct target out = {};
	struct inode *inode;
	struct file *file;
	__u32 zero = 0;
	__u64 *id;

	id = bpf_map_lookup_elem(&epoll_id, &zero);
	if (id)
		*id = ctx->ep->id;
	/* All that there is for an empty instance. */
	if (!epi)
		return 0;
	file = epi->ffd.file;
	inode = file->f_inode;
	out.file = (__u64)file;
	out.epitem = (__u64)epi;
	out.data = epi->event.data;
	out.pos = file->f_pos;
	out.ino = inode->i_ino;
	out.dev = inode->i_sb->s_dev;
	out.tfd = epi->ffd.fd;
	out.events = epi->event.events;
	bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
	return 0;
}
