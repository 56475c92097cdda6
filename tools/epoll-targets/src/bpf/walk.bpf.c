// SPDX-License-Identifier: GPL-2.0
/*
 * Lists the descriptors of all tasks, and the targets of epoll instances, on a kernel
 * that has no iterator over them.
 *
 * The programs report open files by their addresses, which do not leave the process
 * that reads them. The interest list is read without the mutex of its instance, so
 * that it can be incomplete if it changes meanwhile: the reader compares two readings,
 * and what fdinfo shows. Nothing here relies on what it finds: each load can fail or
 * see something else, and each loop is bounded.
 *
 * What makes the loads safe: a program that does not sleep runs as an RCU reader, and
 * epitems are freed after a grace period. The iterator over the files of tasks holds
 * the epoll file, and thereby its instance. A file is only taken for one of epoll if
 * its operations are those of an instance of the reader's own.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "task.h"
#include "walk.h"

char LICENSE[] SEC("license") = "GPL";

#define PF_EXITING	0x00000004
#define PF_KTHREAD	0x00200000

/* How much a program does before it returns to the reader. */
#define MAX_BLOCKS	2048
#define MAX_TARGETS	8192

/* How many instances are walked in one pass. */
#define MAX_WANTED	(1 << 12)

/* How many tables can be chosen. */
#define MAX_CHOSEN	(1 << 10)

#define MAX_ASTRAY	1024

/* The last pass in which a table was listed. If there is no room, it is listed twice. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 14);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} tables SEC(".maps");

/* The tables to list, if not all of them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CHOSEN);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} chosen SEC(".maps");

/* The epoll files to walk, by address, and the last pass in which that was done. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WANTED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} wanted SEC(".maps");

/* One descriptor of the block. */
static long list_one(__u64 n, void *unused)
{
	struct control *ctl = get_control();
	const struct file_operations *fops = NULL;
	struct file *file;
	__u64 epoll = 0;
	__u64 *out;

	if (!ctl)
		return 1;
	file = (void *)ctl->block[n & (BLOCK - 1)];
	if (!file)
		return 0;
	if (ctl->kinds) {
		bpf_core_read(&fops, sizeof(fops), &file->f_op);
		epoll = (__u64)fops == ctl->fops;
	}
	/* There is enough: see list_block(). */
	out = room(ctl, 2);
	if (!out)
		return 1;
	out[0] = HEAD(TAG_FD, epoll << 32 | (__u32)(ctl->next_fd + n));
	out[1] = (__u64)file;
	return 0;
}

/* One block of the table's descriptors. Returns 1 to stop. */
static long list_block(__u64 i, void *unused)
{
	struct control *ctl = get_control();
	struct files_struct *table;
	struct fdtable *fdt = NULL;
	struct file **slots = NULL;
	__u32 max_fds = 0;
	__u32 fd;

	if (!ctl || is_full(ctl))
		return 1;
	table = (void *)ctl->table;
	/*
	 * A table that grows gets a new array. This one stays as long as there are RCU
	 * readers, so that it is looked up for each block.
	 */
	bpf_core_read(&fdt, sizeof(fdt), &table->fdt);
	bpf_core_read(&max_fds, sizeof(max_fds), &fdt->max_fds);
	bpf_core_read(&slots, sizeof(slots), &fdt->fd);
	fd = ctl->next_fd;
	/* max_fds is a multiple of the bits of a word. */
	if (!slots || fd >= max_fds ||
	    bpf_probe_read_kernel(ctl->block, sizeof(ctl->block), slots + fd)) {
		ctl->done = 1;
		return 1;
	}
	bpf_loop(BLOCK, list_one, NULL, 0);
	ctl->next_fd = fd + BLOCK;
	return 0;
}

SEC("iter/task")
int list_tables(struct bpf_iter__task *ctx)
{
	struct control *ctl = get_control();
	struct task_struct *task = ctx->task;
	struct task_struct *leader;
	struct files_struct *table, *of_leader;
	__u32 *seen;
	__u64 key;
	__u64 *out;

	if (!ctl || !task || task->flags & PF_KTHREAD)
		return 0;
	/*
	 * Not by a load: for each that yields a pointer, the verifier searches all types of the
	 * kernel, several times.
	 */
	table = BPF_CORE_READ(task, files);
	if (!table)
		return 0;
	leader = BPF_CORE_READ(task, group_leader);
	of_leader = leader != task ? BPF_CORE_READ(leader, files) : NULL;
	if (of_leader == table)
		return 0;
	key = (__u64)table;
	if (ctl->only && !bpf_map_lookup_elem(&chosen, &key))
		return 0;
	if (ctl->task != (__u64)task || ctl->table != key) {
		if (is_full(ctl))
			return 1;
		out = room(ctl, 3);
		if (!out)
			return 1;
		out[0] = HEAD(TAG_TASK, (__u64)vpid(leader) << 32 | (__u32)vpid(task));
		out[1] = key;
		out[2] = of_leader != NULL;
		seen = bpf_map_lookup_elem(&tables, &key);
		if (seen && *seen == ctl->pass)
			return 0;
		bpf_map_update_elem(&tables, &key, &ctl->pass, BPF_ANY);
		ctl->task = (__u64)task;
		ctl->table = key;
		ctl->next_fd = 0;
	}
	ctl->done = 0;
	bpf_loop(MAX_BLOCKS, list_block, NULL, 0);
	if (!ctl->done)
		return 1;
	ctl->task = 0;
	return 0;
}

/*
 * How often each task has left its CPU, except for the reader. One that is not running,
 * here and when it is asked about again, has not run in between unless it has left its
 * CPU once more.
 */
SEC("iter/task")
int list_threads(struct bpf_iter__task *ctx)
{
	struct control *ctl = get_control();
	struct task_struct *task = ctx->task;
	struct files_struct *table;
	__u64 running = 0;
	__u64 *out;

	if (!ctl || !task || task->flags & PF_KTHREAD)
		return 0;
	if (task == (void *)bpf_get_current_task_btf())
		return 0;
	table = BPF_CORE_READ(task, files);
	if (!table) {
		if (task->flags & PF_EXITING && !task->exit_state)
			ctl->exiting++;
		return 0;
	}
	if (is_full(ctl))
		return 1;
	out = room(ctl, 4);
	if (!out)
		return 1;
	/* With one CPU, it is the reader's. The size of the field depends on the kernel. */
	if (bpf_core_field_exists(task->on_cpu))
		running = BPF_CORE_READ_BITFIELD(task, on_cpu) != 0;
	/* What is counted is read after that. */
	__sync_fetch_and_add(&ctl->barrier, 1);
	out[0] = HEAD(TAG_THREAD, running);
	out[1] = (__u64)table;
	out[2] = (__u64)task;
	out[3] = task->nvcsw + task->nivcsw;
	return 0;
}

/* Whether a key comes after the last one that was reported. */
static __always_inline bool is_after(const struct control *ctl, __u64 file, __s32 fd)
{
	if (ctl->by_fd)
		return fd != ctl->last_fd ? fd > ctl->last_fd : file > ctl->last_file;
	return file != ctl->last_file ? file > ctl->last_file : fd > ctl->last_fd;
}

static __always_inline struct epitem *epitem_of(__u64 node)
{
	return (void *)node - bpf_core_field_offset(struct epitem, rbn);
}

/*
 * A field of the epitem that was read last. It is read at once: to call a helper for each
 * field is most of what a walk takes.
 */
#define FIELD(type, field)						\
	(*(type *)((void *)ctl->epitem + bpf_core_field_offset(struct epitem, field)))

/* Whether a target is on the ready list; 0 if the kernel has none by that name. */
static __always_inline __u64 is_ready(const struct control *ctl, struct epitem *epi)
{
	if (!bpf_core_field_exists(epi->rdllink))
		return 0;
	return FIELD(__u64, rdllink.next) !=
	       (__u64)epi + bpf_core_field_offset(struct epitem, rdllink);
}

static __always_inline void push(struct control *ctl, __u64 node)
{
	ctl->stack[ctl->depth & (MAX_DEPTH - 1)] = node;
	ctl->depth++;
}

/* One step down from the root. Returns 1 to stop. */
static long descend_one(__u64 i, void *unused)
{
	struct control *ctl = get_control();
	struct rb_node *node, *next = NULL;
	struct epitem *epi;
	__u64 file = 0;
	__s32 fd = 0;

	if (!ctl || !ctl->node)
		return 1;
	node = (void *)ctl->node;
	epi = epitem_of(ctl->node);
	bpf_core_read(&file, sizeof(file), &epi->ffd.file);
	bpf_core_read(&fd, sizeof(fd), &epi->ffd.fd);
	if (is_after(ctl, file, fd)) {
		push(ctl, ctl->node);
		bpf_core_read(&next, sizeof(next), &node->rb_left);
	} else {
		bpf_core_read(&next, sizeof(next), &node->rb_right);
	}
	ctl->node = (__u64)next;
	return 0;
}

/* Finds the first node after the last one, and puts it and its like on the stack. */
static __always_inline void descend(struct control *ctl)
{
	struct eventpoll *ep = (void *)ctl->ep;
	struct rb_node *root = NULL;

	ctl->depth = 0;
	bpf_core_read(&root, sizeof(root), &ep->rbr.rb_root.rb_node);
	ctl->node = (__u64)root;
	bpf_loop(MAX_DEPTH, descend_one, NULL, 0);
}

/* One step to the first node of a subtree. Returns 1 to stop. */
static long push_one(__u64 i, void *unused)
{
	struct control *ctl = get_control();
	struct rb_node *node, *next = NULL;

	if (!ctl || !ctl->node)
		return 1;
	node = (void *)ctl->node;
	push(ctl, ctl->node);
	bpf_core_read(&next, sizeof(next), &node->rb_left);
	ctl->node = (__u64)next;
	return 0;
}

/* One target. Returns 1 to stop. */
static long walk_one(__u64 i, void *unused)
{
	struct control *ctl = get_control();
	struct epitem *epi;
	__u64 file, node, next;
	__s32 fd;
	__u64 *out;

	if (!ctl || is_full(ctl))
		return 1;
	if (!ctl->depth) {
		descend(ctl);
		if (!ctl->depth) {
			ctl->done = 1;
			return 1;
		}
	}
	ctl->depth--;
	node = ctl->stack[ctl->depth & (MAX_DEPTH - 1)];
	epi = epitem_of(node);
	/* If that fails, there are zeros. */
	bpf_probe_read_kernel(ctl->epitem, bpf_core_type_size(struct epitem), epi);
	file = FIELD(__u64, ffd.file);
	fd = FIELD(__s32, ffd.fd);
	/* It was removed, or the tree turned, since it was put on the stack. */
	if (FIELD(__u64, ep) != ctl->ep || !file || fd < 0 || !is_after(ctl, file, fd)) {
		ctl->depth = 0;
		if (++ctl->astray < MAX_ASTRAY)
			return 0;
		ctl->done = 1;
		return 1;
	}
	next = FIELD(__u64, rbn.rb_right);
	out = room(ctl, 5);
	if (!out)
		return 1;
	out[0] = HEAD(TAG_TARGET, (__u32)fd);
	out[1] = file;
	/* It is not aligned. */
	out[2] = FIELD(__u32, event.data) | (__u64)(&FIELD(__u32, event.data))[1] << 32;
	out[3] = is_ready(ctl, epi) << 32 | FIELD(__u32, event.events);
	out[4] = (__u64)epi;
	ctl->last_file = file;
	ctl->last_fd = fd;
	ctl->node = next;
	if (next)
		bpf_loop(MAX_DEPTH, push_one, NULL, 0);
	return 0;
}

SEC("iter/task_file")
int walk_instances(struct bpf_iter__task_file *ctx)
{
	struct control *ctl = get_control();
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct task_struct *reader;
	__u64 key = (__u64)file;
	__u32 *seen;
	__u64 *out;

	if (!ctl || !task || !file)
		return 0;
	if (!ctl->fops) {
		reader = (void *)bpf_get_current_task_btf();
		if (ctx->fd == ctl->own_efd &&
		    BPF_CORE_READ(task, files) == BPF_CORE_READ(reader, files))
			ctl->learned = (__u64)BPF_CORE_READ(file, f_op);
		return 0;
	}
	if (!ctl->left)
		return 1;
	if ((__u64)file->f_op != ctl->fops)
		return 0;
	if (ctl->file != key || ctl->ep != (__u64)file->private_data) {
		seen = bpf_map_lookup_elem(&wanted, &key);
		if (!seen || *seen == ctl->pass)
			return 0;
		if (is_full(ctl))
			return 1;
		out = room(ctl, 2);
		if (!out)
			return 1;
		out[0] = HEAD(TAG_INSTANCE, ctx->fd);
		out[1] = key;
		ctl->file = key;
		ctl->ep = (__u64)file->private_data;
		ctl->last_file = 0;
		ctl->last_fd = -1;
		ctl->astray = 0;
	}
	/* Nodes on the stack may have been freed since the last run. */
	ctl->depth = 0;
	ctl->done = 0;
	bpf_loop(MAX_TARGETS, walk_one, NULL, 0);
	if (!ctl->done)
		return 1;
	out = room(ctl, 1);
	if (!out)
		return 1;
	out[0] = HEAD(TAG_END, ctl->astray >= MAX_ASTRAY);
	ctl->file = 0;
	ctl->ep = 0;
	if (ctl->left)
		ctl->left--;
	bpf_map_update_elem(&wanted, &key, &ctl->pass, BPF_ANY);
	return 0;
}
