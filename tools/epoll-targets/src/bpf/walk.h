/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WALK_H
#define WALK_H
/*
 * What the programs of walk.bpf.c and holders.bpf.c and their reader tell each other. An
 * iterator's own buffer is too small for what there is to say of one file, so that records
 * go to a map. A program that has filled it returns 1: then the reader empties it, and the
 * program is run on the same task or file again, and goes on where it was.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* Layouts shared with resolve/by_walk/runner.rs. */
#define CHUNK_WORDS	(1 << 11)
#define NR_CHUNKS	(1 << 5)
#define NR_WORDS	(NR_CHUNKS * CHUNK_WORDS)
/* No record is longer. */
#define MAX_RECORD	8

/* Pointers that are read at once. */
#define BLOCK		32

/* An epitem is not larger. */
#define MAX_EPITEM	256

/* A tree of 2^32 nodes is not higher. */
#define MAX_DEPTH	64

enum tag {
	TAG_NONE,		/* the rest of the chunk is empty */
	TAG_TASK,		/* TGID << 32 | TID; table; leader has another */
	TAG_FD,			/* is epoll << 32 | FD; file */
	TAG_INSTANCE,		/* FD; file */
	TAG_TARGET,		/* TFD; file; data; is ready << 32 | EVENTS; epitem */
	TAG_END,		/* whether the walk went astray */
	TAG_THREAD,		/* is running; table; task; SWITCHES */
	TAG_HOLDER,		/* kind << 32 | FD; PID << 32 | sender; address */
	TAG_HELD,		/* whether by nothing else; file */
};

#define HEAD(tag, rest)	((__u64)(tag) << 56 | (rest))

struct control {
	/* in: the file_operations of epoll; 0 to find them out */
	__u64 fops;
	/* in: the reader's own instance */
	__u32 own_efd;
	/* in: whether the tree is ordered by fd first */
	__u32 by_fd;
	/* in: the number of this pass */
	__u32 pass;
	/* in: whether to say which files are epoll's */
	__u32 kinds;
	/* in: how many instances there are to walk */
	__u32 left;
	/* in: whether to list only the chosen tables */
	__u32 only;
	/* in: whatever is seen twice within this many ns was there all the time */
	__u64 instant;

	/* out: words that are filled */
	__u32 filled;
	/* out: tasks that are giving up their descriptors */
	__u32 exiting;
	/* out: what was learned from own_efd */
	__u64 learned;
	/* out: searches that ended early, as there was too much to see */
	__u64 cut;

	/* The table, or instance, that the last run did not come to the end of. */
	__u64 task;
	__u64 table;
	__u64 next_fd;
	__u64 file;
	__u64 ep;
	/* The last target that was reported. */
	__u64 last_file;
	__s32 last_fd;
	__u32 astray;
	__u32 done;
	__u32 depth;
	/* Nodes whose keys are greater, on the way from the root. */
	__u64 stack[MAX_DEPTH];
	/* The node that a loop has come to. */
	__u64 node;
	__u64 barrier;
	/* The descriptors that are looked at, from next_fd on. */
	__u64 block[BLOCK];

	/* What holds the files that are looked at: a record without its tag. */
	__u64 holder[3];
	/* Connections that wait at a socket, how many were looked at, and which one is. */
	__u64 connections;
	__u64 next_connection;
	__u64 connection;
	/* The queue of a socket, how many of its messages were looked at, and which is. */
	__u64 queue;
	__u64 next_message;
	__u64 message;
	/* What the array that follows is part of: an io_uring, or the files of the message. */
	__u64 array_of;
	/* An array of pointers, how many it has, and how many were looked at. */
	__u64 array;
	__u32 count;
	__u32 next;

	/* The epitem that is looked at, as the kernel lays it out. */
	__u64 epitem[MAX_EPITEM / sizeof(__u64)];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

static __always_inline struct control *get_control(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

struct chunk {
	__u64 words[CHUNK_WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NR_CHUNKS);
	__type(key, __u32);
	__type(value, struct chunk);
} output SEC(".maps");

/* Room for a record of n words; NULL if the output is full. */
static __always_inline __u64 *room(struct control *ctl, __u32 n)
{
	__u32 at = ctl->filled;
	__u32 chunk = at / CHUNK_WORDS;
	__u32 offset = at % CHUNK_WORDS;
	struct chunk *out = bpf_map_lookup_elem(&output, &chunk);

	if (!out)
		return NULL;
	if (offset > CHUNK_WORDS - MAX_RECORD) {
		out->words[offset] = HEAD(TAG_NONE, 0);
		chunk++;
		offset = 0;
		out = bpf_map_lookup_elem(&output, &chunk);
		if (!out)
			return NULL;
	}
	ctl->filled = chunk * CHUNK_WORDS + offset + n;
	return &out->words[offset];
}

static __always_inline bool is_full(const struct control *ctl)
{
	return ctl->filled > NR_WORDS - BLOCK * 2 - 4 * MAX_RECORD;
}

#endif /* WALK_H */
