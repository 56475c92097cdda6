// SPDX-License-Identifier: GPL-2.0
/* Writes what there is to know of each target of an epoll instance. */

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

/* Where the fields really are, libbpf finds out. In the kernel two are packed. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct epoll_event {
	__u32 events;
	__u64 data;
};

struct epoll_key {
	int fd;
};

struct epitem {
	struct epoll_key ffd;
	struct epoll_event event;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__epoll {
	struct bpf_iter_meta *meta;
	struct epitem *epi;
};

#pragma clang attribute pop

/* As bpf.rs has it. */
struct target {
	__u32 tfd;
	__u32 events;
	__u64 data;
};

SEC("iter/epoll")
int pass(struct bpf_iter__epoll *ctx)
{
	struct epitem *epi = ctx->epi;
	struct target target;

	if (!epi)
		return 0;
	target.tfd = epi->ffd.fd;
	target.events = epi->event.events;
	target.data = epi->event.data;
	bpf_seq_write(ctx->meta->seq, &target, sizeof(target));
	return 0;
}
