// SPDX-License-Identifier: GPL-2.0
/* Programs for two targets with one name, each of another module. */
#include "epoll_iter.bpf.h"

char _license[] SEC("license") = "GPL";

struct bpf_iter__twin {
	struct bpf_iter_meta *meta;
	__u64 number;
} __kernel_layout;

static __always_inline int show(struct bpf_iter__twin *ctx)
{
	__u64 number = ctx->number;

	bpf_seq_write(ctx->meta->seq, &number, sizeof(number));

	return 0;
}

SEC("?iter/bpf_iter_twin_1:twin")
int one(struct bpf_iter__twin *ctx)
{
	return show(ctx);
}

SEC("?iter/bpf_iter_twin_2:twin")
int two(struct bpf_iter__twin *ctx)
{
	return show(ctx);
}
