// SPDX-License-Identifier: GPL-2.0
/*
 * Finds what else than descriptors holds watched files: messages that nobody has received,
 * io_urings with which they are registered, and mappings.
 *
 * As in walk.bpf.c, nothing here relies on what it finds. The iterators hold the socket,
 * the io_uring and the mapping; what these hold can be released meanwhile, so that each
 * load can see something else.
 *
 * If a file has a single reference, and that is the one of its holder, no descriptor has the
 * file at that moment, whatever processes do. The holder has to be there before the
 * references are counted and after. To receive a message, and to send another one with the
 * same file that is like it in its place, takes longer than `instant`.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "file.h"
#include "task.h"
#include "walk.h"

char LICENSE[] SEC("license") = "GPL";

#define AF_UNIX			1
#define TCP_LISTEN		10
#define SOCKFS_MAGIC		0x534f434b
#define ANON_INODE_FS_MAGIC	0x09041934

/* Limits of loops. What is beyond them is counted in `cut`, apart from the second. */
#define MAX_CONNECTIONS	256
#define MAX_MESSAGES	256
#define MAX_FILES	253	/* SCM_MAX_FD */
#define MAX_REGISTERED	32768

enum kind {
	KIND_MESSAGE,
	KIND_RING,
	KIND_MAPPING,
};

/* A pid in the reader's namespace; 0 if it has none there. */
static __always_inline __u32 pid_nr(const struct pid *pid)
{
	struct task_struct *reader = (void *)bpf_get_current_task_btf();
	struct pid *own = BPF_CORE_READ(reader, thread_pid);
	struct pid_namespace *of_own = NULL, *of_pid = NULL;
	__u32 level;
	int nr = 0;

	if (!pid || !own)
		return 0;
	level = BPF_CORE_READ(own, level);
	if (BPF_CORE_READ(pid, level) < level)
		return 0;
	bpf_probe_read_kernel(&of_own, sizeof(of_own), upid_at(own, level) +
			      bpf_core_field_offset(struct upid, ns));
	bpf_probe_read_kernel(&of_pid, sizeof(of_pid), upid_at(pid, level) +
			      bpf_core_field_offset(struct upid, ns));
	if (of_pid != of_own)
		return 0;
	bpf_probe_read_kernel(&nr, sizeof(nr), upid_at(pid, level) +
			      bpf_core_field_offset(struct upid, nr));
	return nr;
}

/* Says what holds the files that follow. The caller knows that there is room. */
static __always_inline void write_holder(struct control *ctl)
{
	__u64 *out = room(ctl, 3);

	if (!out)
		return;
	out[0] = HEAD(TAG_HOLDER, ctl->holder[0]);
	out[1] = ctl->holder[1];
	out[2] = ctl->holder[2];
}

/* Whether the holder, which is no mapping, still has the nth file of the array. */
static __always_inline bool still_holds(const struct control *ctl, __u32 n, const struct file *file)
{
	const void *holder = (void *)ctl->array_of;
	const struct sk_buff *message = (void *)ctl->message;
	const struct unix_skb_parms *parms;
	const struct io_ring_ctx *ring;
	const struct io_rsrc_node *node;
	__u64 found = 0;

	if (bpf_probe_read_kernel(&found, sizeof(found),
				  (void *)ctl->array + n * sizeof(found)))
		return false;
	if (ctl->holder[0] >> 32 == KIND_RING) {
		if (!bpf_core_field_exists(struct io_rsrc_node, file_ptr) ||
		    !bpf_core_field_exists(struct io_ring_ctx, file_table.data.nodes))
			return false;
		ring = holder;
		node = (void *)found;
		return (__u64)BPF_CORE_READ(ring, file_table.data.nodes) == ctl->array &&
		       (BPF_CORE_READ(node, file_ptr) & ~3UL) == (__u64)file;
	}
	parms = (void *)message + bpf_core_field_offset(struct sk_buff, cb);
	return found == (__u64)file && BPF_CORE_READ(parms, fp) == holder &&
	       BPF_CORE_READ(message, prev, next) == message;
}

/* Whether nothing else than the holder has the nth file of the array. */
static __always_inline bool is_alone(struct control *ctl, __u32 n, const struct file *file)
{
	__u64 begin = bpf_ktime_get_ns();
	bool alone;

	if (!is_last(file) || !still_holds(ctl, n, file))
		return false;
	/* The loads are in this order. */
	__sync_fetch_and_add(&ctl->barrier, 1);
	alone = is_last(file);
	__sync_fetch_and_add(&ctl->barrier, 1);
	return alone && still_holds(ctl, n, file) && bpf_ktime_get_ns() - begin < ctl->instant;
}

/* Says that a file is held, if it is watched. The caller knows that there is room. */
static __always_inline __u64 *write_held(struct control *ctl, struct file *file)
{
	struct hlist_head *watchers = NULL;
	__u64 *out;

	if (!file || bpf_core_read(&watchers, sizeof(watchers), &file->f_ep) || !watchers)
		return NULL;
	out = room(ctl, 2);
	if (!out)
		return NULL;
	out[0] = HEAD(TAG_HELD, 0);
	out[1] = (__u64)file;
	return out;
}

/* One pointer of the block. Returns 1 to stop. */
static long look_at_one(__u64 n, void *unused)
{
	struct control *ctl = get_control();
	struct io_rsrc_node *node;
	__u64 file;
	__u64 *out;

	if (!ctl || ctl->next + n >= ctl->count)
		return 1;
	file = ctl->block[n & (BLOCK - 1)];
	if (ctl->holder[0] >> 32 == KIND_RING && file &&
	    bpf_core_field_exists(struct io_rsrc_node, file_ptr)) {
		node = (void *)file;
		/* The lowest bits are flags. */
		file = BPF_CORE_READ(node, file_ptr) & ~3UL;
	}
	out = write_held(ctl, (void *)file);
	if (out && is_alone(ctl, ctl->next + n, (void *)file))
		out[0] = HEAD(TAG_HELD, 1);
	return 0;
}

/* One block of an array of pointers. Returns 1 to stop. */
static long look_at_block(__u64 i, void *unused)
{
	struct control *ctl = get_control();
	__u32 size;

	if (!ctl || ctl->next >= ctl->count || is_full(ctl))
		return 1;
	/* No more than there is: the array may end where memory ends. */
	size = (ctl->count - ctl->next) * sizeof(ctl->block[0]);
	if (size > sizeof(ctl->block))
		size = sizeof(ctl->block);
	if (!bpf_probe_read_kernel(ctl->block, size,
				   (void *)ctl->array + ctl->next * sizeof(ctl->block[0])))
		bpf_loop(BLOCK, look_at_one, NULL, 0);
	ctl->next += BLOCK;
	return 0;
}

/* One message of a queue. Returns 1 to stop. */
static long look_at_message(__u64 i, void *unused)
{
	struct control *ctl = get_control();
	struct unix_skb_parms *parms;
	struct sk_buff *skb, *next;
	struct scm_fp_list *fps;
	int count;

	if (!ctl)
		return 1;
	skb = (void *)ctl->node;
	if (!skb || (__u64)skb == ctl->queue) {
		ctl->done = 1;
		return 1;
	}
	/* The others were looked at before the output was full. */
	if (i >= ctl->next_message) {
		if (ctl->message && ctl->message != (__u64)skb) {
			/* Some were received since. */
			ctl->cut++;
			ctl->next = 0;
		}
		ctl->message = (__u64)skb;
		parms = (void *)skb + bpf_core_field_offset(struct sk_buff, cb);
		fps = BPF_CORE_READ(parms, fp);
		count = fps ? BPF_CORE_READ(fps, count) : 0;
		if (count > 0) {
			if (is_full(ctl))
				return 1;
			ctl->holder[1] = ctl->holder[1] >> 32 << 32 |
					 pid_nr(BPF_CORE_READ(parms, pid));
			write_holder(ctl);
			ctl->array_of = (__u64)fps;
			ctl->array = (__u64)fps + bpf_core_field_offset(struct scm_fp_list, fp);
			ctl->count = count < MAX_FILES ? count : MAX_FILES;
			bpf_loop(MAX_FILES / BLOCK + 1, look_at_block, NULL, 0);
			if (ctl->next < ctl->count)
				return 1;
		}
		ctl->message = 0;
		ctl->next = 0;
		ctl->next_message = i + 1;
	}
	next = BPF_CORE_READ(skb, next);
	ctl->node = (__u64)next;
	return 0;
}

/* Files in messages that nobody has received from this socket. Returns 1 if there are more. */
static __always_inline int look_in_queue(struct control *ctl, struct sock *sk)
{
	struct sk_buff *first = BPF_CORE_READ(sk, sk_receive_queue.next);

	ctl->queue = (__u64)sk + bpf_core_field_offset(struct sock, sk_receive_queue);
	ctl->node = (__u64)first;
	ctl->done = 0;
	bpf_loop(MAX_MESSAGES, look_at_message, NULL, 0);
	if (ctl->done)
		return 0;
	if (ctl->next_message < MAX_MESSAGES)
		return 1;
	if (ctl->node && ctl->node != ctl->queue)
		ctl->cut++;
	return 0;
}

/* One connection that was not accepted yet. Returns 1 to stop. */
static long look_at_connection(__u64 i, void *unused)
{
	struct control *ctl = get_control();
	struct sk_buff *skb, *next;
	struct sock *sk;

	if (!ctl)
		return 1;
	skb = (void *)ctl->connection;
	if (!skb || (__u64)skb == ctl->connections)
		return 1;
	/* As in look_at_message(). */
	if (i >= ctl->next_connection) {
		sk = BPF_CORE_READ(skb, sk);
		if (sk && look_in_queue(ctl, sk))
			return 1;
		ctl->next_message = 0;
		ctl->next_connection = i + 1;
	}
	next = BPF_CORE_READ(skb, next);
	ctl->connection = (__u64)next;
	return 0;
}

/*
 * The same, and in messages on connections that were not accepted from it: such a connection
 * has no descriptor.
 */
static __always_inline int look_in_socket(struct control *ctl, struct file *file)
{
	struct socket *socket = file->private_data;
	struct sock *sk = BPF_CORE_READ(socket, sk);
	struct sk_buff *first;

	if (!sk || BPF_CORE_READ(sk, __sk_common.skc_family) != AF_UNIX)
		return 0;
	if (BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_LISTEN)
		return look_in_queue(ctl, sk);
	first = BPF_CORE_READ(sk, sk_receive_queue.next);
	ctl->connections = (__u64)sk + bpf_core_field_offset(struct sock, sk_receive_queue);
	ctl->connection = (__u64)first;
	bpf_loop(MAX_CONNECTIONS, look_at_connection, NULL, 0);
	if (!ctl->connection || ctl->connection == ctl->connections)
		return 0;
	if (ctl->next_connection < MAX_CONNECTIONS)
		return 1;
	ctl->cut++;
	return 0;
}

/* Only the kernel names anonymous inodes. */
static __always_inline bool is_ring(const struct file *file)
{
	static const char name[] = "[io_uring]";

	return is_named(file, name, sizeof(name));
}

/* Files that are registered with this io_uring. Returns 1 if there are more. */
static __always_inline int look_in_ring(struct control *ctl, struct file *file)
{
	struct io_ring_ctx *ring = file->private_data;
	struct io_rsrc_node **nodes;
	__u32 count;

	if (!bpf_core_field_exists(struct io_rsrc_node, file_ptr) ||
	    !bpf_core_field_exists(struct io_ring_ctx, file_table.data.nodes)) {
		ctl->cut++;
		return 0;
	}
	if (is_full(ctl))
		return 1;
	nodes = BPF_CORE_READ(ring, file_table.data.nodes);
	count = BPF_CORE_READ(ring, file_table.data.nr);
	if (!nodes || !count)
		return 0;
	write_holder(ctl);
	ctl->array_of = (__u64)ring;
	ctl->array = (__u64)nodes;
	ctl->count = count < MAX_REGISTERED ? count : MAX_REGISTERED;
	bpf_loop(MAX_REGISTERED / BLOCK, look_at_block, NULL, 0);
	if (ctl->next < ctl->count)
		return 1;
	if (count > MAX_REGISTERED)
		ctl->cut++;
	return 0;
}

SEC("iter/task_file")
int list_holders(struct bpf_iter__task_file *ctx)
{
	struct control *ctl = get_control();
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	__u64 holder, magic;
	int more = 0;

	if (!ctl || !task || !file)
		return 0;
	magic = BPF_CORE_READ(file, f_inode, i_sb, s_magic);
	if (magic == SOCKFS_MAGIC)
		holder = (__u64)KIND_MESSAGE << 32 | ctx->fd;
	else if (magic == ANON_INODE_FS_MAGIC && is_ring(file))
		holder = (__u64)KIND_RING << 32 | ctx->fd;
	else
		return 0;
	/* Otherwise there is more of it than what was written. */
	if (ctl->task != (__u64)task || ctl->file != (__u64)file || ctl->holder[0] != holder) {
		ctl->task = (__u64)task;
		ctl->file = (__u64)file;
		ctl->holder[0] = holder;
		ctl->holder[1] = (__u64)(__u32)vpid(task) << 32;
		ctl->holder[2] = 0;
		ctl->next_connection = 0;
		ctl->message = 0;
		ctl->next_message = 0;
		ctl->next = 0;
	}
	if (magic == SOCKFS_MAGIC)
		more = look_in_socket(ctl, file);
	else
		more = look_in_ring(ctl, file);
	if (!more)
		ctl->file = 0;
	return more;
}

SEC("iter/task_vma")
int list_mappings(struct bpf_iter__task_vma *ctx)
{
	struct control *ctl = get_control();
	struct task_struct *task = ctx->task;
	struct vm_area_struct *vma = ctx->vma;
	struct file *file;
	__u64 *out;

	if (!ctl || !task || !vma)
		return 0;
	file = BPF_CORE_READ(vma, vm_file);
	if (!file || !BPF_CORE_READ(file, f_ep))
		return 0;
	if (is_full(ctl))
		return 1;
	ctl->holder[0] = (__u64)KIND_MAPPING << 32;
	ctl->holder[1] = (__u64)(__u32)vpid(task) << 32;
	ctl->holder[2] = BPF_CORE_READ(vma, vm_start);
	write_holder(ctl);
	out = write_held(ctl, file);
	/* As the iterator has the lock of the memory map, the mapping stays. */
	if (out && is_last(file))
		out[0] = HEAD(TAG_HELD, 1);
	return 0;
}
