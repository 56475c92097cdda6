// SPDX-License-Identifier: GPL-2.0
/*
 * Lists which descriptors refer to which open files, and which open files the
 * targets of an epoll instance are.
 *
 * The programs identify an open file by its address, and report a number in its
 * place. An address alone is not enough, since the memory of a file that is
 * released is reused, at once in most cases. So a descriptor is the owner of a
 * target only if its table has the address of the target while that is held: see
 * is_open_as().
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "task.h"

char LICENSE[] SEC("license") = "GPL";

#define SOCKFS_MAGIC		0x534f434b
#define PIPEFS_MAGIC		0x50495045
#define ANON_INODE_FS_MAGIC	0x09041934

/* Each is checked for each target, with the instance's mutex held. */
#define MAX_HOMES 16

/* Layouts shared with resolve/by_bpf/programs.rs. */
struct control {
	/* out: of the epoll instance */
	__u64 epoll_id;
	/* in: only thread group leaders */
	__u32 processes;
	/* in: how many processes have the instance, see homes */
	__u32 nr_homes;
	/* out: the maps are too small */
	__u32 overflow;
	/* the last numbers that were assigned */
	__u32 last_file;
	__u32 last_table;
	__u32 pad;
};

#include "control.h"

enum kind {
	KIND_OTHER,
	KIND_EPOLL,
	KIND_INODE,		/* socket:[INO] or pipe:[INO] */
};

struct descriptor {
	__u64 ino;
	__s32 pid;
	__s32 fd;
	__u32 table;
	__u32 file;
	__u32 kind;
	__u32 pad;
};

struct target {
	__u64 data;
	__s64 pos;
	__u64 ino;
	__u32 dev;
	__u32 tfd;
	__u32 events;
	__u32 file;
	/* a descriptor that has it, if pid is not 0 */
	__s32 pid;
	__s32 fd;
	/* the first home in which tfd is the target, or tfd is open; or -1 */
	__s32 home_same;
	__s32 home_open;
};

/* The value for an open file, by its address. */
struct file_state {
	__u32 number;
	/* the last descriptor seen, if pid is not 0 */
	__s32 pid;
	__s32 fd;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);		/* set before it is loaded */
	__type(key, __u64);
	__type(value, struct file_state);
} files SEC(".maps");

/* The numbers of descriptor tables, by their address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);		/* likewise */
	__type(key, __u64);
	__type(value, __u32);
} tables SEC(".maps");

/* The processes that have the instance, by their pids in the reader's namespace. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_HOMES);
	__type(key, __u32);
	__type(value, __s32);
} homes SEC(".maps");

/* The state of a file, which gets a number; NULL if the map is full. */
static __always_inline struct file_state *get_file(const struct file *file,
						   struct control *ctl)
{
	__u64 address = (__u64)file;
	struct file_state *state = bpf_map_lookup_elem(&files, &address);
	struct file_state new = {};

	if (state)
		return state;
	new.number = ++ctl->last_file;
	if (bpf_map_update_elem(&files, &address, &new, BPF_ANY))
		return NULL;
	return bpf_map_lookup_elem(&files, &address);
}

static __always_inline __u32 get_table(const struct files_struct *table,
				       struct control *ctl)
{
	__u64 address = (__u64)table;
	__u32 *number = bpf_map_lookup_elem(&tables, &address);
	__u32 new;

	if (number)
		return *number;
	new = ++ctl->last_table;
	if (bpf_map_update_elem(&tables, &address, &new, BPF_ANY))
		return 0;
	return new;
}

static __always_inline bool is_eventpoll(const struct file *file)
{
	static const char name[] = "[eventpoll]";

	return is_named(file, name, sizeof(name));
}

SEC("iter/task_file")
int list_descriptors(struct bpf_iter__task_file *ctx)
{
	struct control *ctl = get_control();
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct descriptor out = {};
	struct file_state *state;
	unsigned long magic;

	if (!ctl || !task || !file)
		return 0;
	if (ctl->processes && task->pid != task->tgid)
		return 0;
	out.pid = vpid(task);
	out.fd = ctx->fd;
	out.table = get_table(task->files, ctl);
	state = get_file(file, ctl);
	if (!state || !out.table) {
		ctl->overflow = 1;
		return 0;
	}
	if (!out.pid)
		return 0;
	state->pid = out.pid;
	state->fd = out.fd;
	out.file = state->number;

	magic = file->f_inode->i_sb->s_magic;
	if (magic == SOCKFS_MAGIC || magic == PIPEFS_MAGIC) {
		out.kind = KIND_INODE;
		out.ino = file->f_inode->i_ino;
	} else if (magic == ANON_INODE_FS_MAGIC && is_eventpoll(file)) {
		out.kind = KIND_EPOLL;
	}
	bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
	return 0;
}

SEC("iter/epoll")
int list_targets(struct bpf_iter__epoll *ctx)
{
	struct control *ctl = get_control();
	struct epitem *epi = ctx->epi;
	struct file_state *state;
	struct target out = {
		.home_same = -1,
		.home_open = -1,
	};
	struct inode *inode;
	struct file *file;
	__u32 i;

	if (!ctl)
		return 0;
	/* All that there is for an empty instance. */
	ctl->epoll_id = ctx->ep->id;
	if (!epi)
		return 0;
	file = epi->ffd.file;
	inode = file->f_inode;
	out.tfd = epi->ffd.fd;
	out.events = epi->event.events;
	out.data = epi->event.data;
	out.pos = file->f_pos;
	out.ino = inode->i_ino;
	out.dev = inode->i_sb->s_dev;

	bpf_for(i, 0, ctl->nr_homes) {
		__u32 index = i;
		__s32 *home = bpf_map_lookup_elem(&homes, &index);
		enum open_as slot;

		if (!home)
			break;
		slot = is_open_as(*home, out.tfd, file);
		if (slot == OPEN_AS_NOTHING)
			continue;
		if (out.home_open < 0)
			out.home_open = index;
		if (slot == OPEN_AS_SAME) {
			out.home_same = index;
			break;
		}
	}
	if (out.home_same < 0) {
		/* It gets a number in any case: its descriptor may be listed later. */
		state = get_file(file, ctl);
		if (!state) {
			ctl->overflow = 1;
			return 0;
		}
		out.file = state->number;
		if (state->pid && is_open_as(state->pid, state->fd, file) == OPEN_AS_SAME) {
			out.pid = state->pid;
			out.fd = state->fd;
		}
	}
	bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
	return 0;
}
