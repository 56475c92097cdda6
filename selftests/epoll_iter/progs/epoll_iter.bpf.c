// SPDX-License-Identifier: GPL-2.0
/* Programs for each target of an epoll instance. */
#include "epoll_iter.bpf.h"
#include "../epoll_iter_record.h"

char _license[] SEC("license") = "GPL";

/* The address to wait at, until userspace provides its page. */
__u64 hold_seq_num;
__u64 hold_address;
/* The target to ask for twice. */
__u64 again_seq_num;
__u32 again_left;

/* Of the programs that only count. */
__u64 counted;
__u64 ended;

char big[BIG_RECORD];

static __always_inline void fill(struct record *r, struct bpf_iter__epoll *ctx)
{
	struct epitem___loose *epi = ctx->epi;

	r->seq_num = ctx->meta->seq_num;
	r->session_id = ctx->meta->session_id;
	r->ep = (unsigned long)ctx->ep;
	if (!epi) {
		r->end = 1;
		return;
	}
	r->file = (unsigned long)epi->ffd.file;
	r->ino = epi->ffd.file->f_inode->i_ino;
	r->data = epi->event.data;
	r->events = epi->event.events;
	r->fd = epi->ffd.fd;
	r->same_ep = epi->ep == ctx->ep;
}

static __always_inline int show(struct bpf_iter__epoll *ctx)
{
	struct record r = {};

	fill(&r, ctx);
	bpf_seq_write(ctx->meta->seq, &r, sizeof(r));

	return 0;
}

SEC("iter/epoll")
int records(struct bpf_iter__epoll *ctx)
{
	return show(ctx);
}

SEC("iter.s/epoll")
int sleepable_records(struct bpf_iter__epoll *ctx)
{
	return show(ctx);
}

SEC("iter/epoll")
int text(struct bpf_iter__epoll *ctx)
{
	struct epitem___loose *epi = ctx->epi;
	struct seq_file *seq = ctx->meta->seq;

	if (epi)
		BPF_SEQ_PRINTF(seq, "%llu: tfd %d events %x data %llx\n",
			       ctx->meta->seq_num, epi->ffd.fd,
			       epi->event.events, epi->event.data);
	else
		BPF_SEQ_PRINTF(seq, "end\n");

	return 0;
}

static __always_inline void hold_at(__u64 seq_num)
{
	char byte;

	if (seq_num == hold_seq_num)
		bpf_copy_from_user(&byte, sizeof(byte),
				   (const void *)(unsigned long)hold_address);
}

/* Waits with the mutex held. */
SEC("iter.s/epoll")
int hold(struct bpf_iter__epoll *ctx)
{
	if (ctx->epi)
		hold_at(ctx->meta->seq_num);

	return show(ctx);
}

/* A pass that fills no buffer takes one read(). */
SEC("iter.s/epoll")
int hold_and_count(struct bpf_iter__epoll *ctx)
{
	if (!ctx->epi) {
		ended++;
		return 0;
	}
	hold_at(ctx->meta->seq_num);
	counted++;

	return 0;
}

SEC("iter/epoll")
int big_records(struct bpf_iter__epoll *ctx)
{
	fill((struct record *)big, ctx);
	if (ctx->epi)
		bpf_seq_write(ctx->meta->seq, big, sizeof(big));

	return 0;
}

/* 1: show this one again, nothing was written. */
SEC("iter/epoll")
int again(struct bpf_iter__epoll *ctx)
{
	if (ctx->epi && ctx->meta->seq_num == again_seq_num && again_left) {
		again_left--;
		return 1;
	}

	return show(ctx);
}

SEC("iter/task")
int other_target(struct bpf_iter__task *ctx)
{
	return 0;
}
