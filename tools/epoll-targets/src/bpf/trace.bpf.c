// SPDX-License-Identifier: GPL-2.0
/*
 * Watches how targets get into interest lists, and which closing of a descriptor
 * leaves them there.
 *
 * A target is known by its instance, its file and its number. It is remembered, with
 * the table of descriptors in which its number means its file, from EPOLL_CTL_ADD to
 * EPOLL_CTL_DEL or the last close of the file. If a system call is about to close that
 * number in that table, and the file has other references, the target may be left
 * behind. Whether it was, the reader of the events finds out later, with the iterators
 * below: the call may fail, other processes may close the file as well, or another
 * process may have the instance and the file, at the same number.
 *
 * The tracepoints of system calls exist in each kernel that is built for people, and
 * depend on no function that a compiler may inline. What io_uring closes passes them.
 *
 * Addresses identify what is remembered. They are not shown to users.
 */
#include "trace_kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

#define EPOLL_CTL_ADD	1
#define EPOLL_CTL_DEL	2
#define EEXIST		17
#define CLOSE_RANGE_CLOEXEC	(1U << 2)
#define TS_COMPAT	2
#define AF_UNIX		1
#define S_IFMT		0170000
#define S_IFSOCK	0140000
#define SOCKFS_MAGIC		0x534f434b
#define ANON_INODE_FS_MAGIC	0x09041934

/* x86-64 */
#define NR_close	3
#define NR_dup2		33
#define NR_execve	59
#define NR_epoll_ctl	233
#define NR_dup3		292
#define NR_execveat	322
#define NR_close_range	436

/* How much of a stack is kept: enough for the innermost functions. */
#define STACK	2048

/* Limits of loops. What is beyond them is counted in `cut`. */
#define MAX_WATCHERS	4096
#define MAX_FDS		1048576
#define MAX_DEPTH	64
#define MAX_MESSAGES	256
#define MAX_FILES	253	/* SCM_MAX_FD */
#define MAX_REGISTERED	32768

/* Layouts shared with trace/programs.rs. */
struct key {
	__u64 ep;
	__u64 file;
	__u32 fd;
	__u32 pad;
};

struct stack {
	__u64 ip;
	__u64 sp;
	__u64 bp;
	/* the number of the system call; -1 if there is none */
	__s32 syscall;
	__u32 size;
	__u8 bytes[STACK];
};

struct who {
	__s32 tgid;
	__s32 tid;
	char comm[16];
};

struct record {
	/* the table in which the number means the file */
	__u64 files;
	/* when it was added; 0 if that was before the trace */
	__u64 time;
	struct who who;
	__s32 efd;
	/* reported as left behind */
	__u32 left;
	/* when the iterator saw it last */
	__u32 generation;
	__u32 pad;
	struct stack stack;
};

enum what {
	WHAT_PROCESS,	/* a process adds for the first time */
	WHAT_LEFT,	/* a close that may leave a target behind */
	WHAT_EXISTS,	/* an ADD that failed with EEXIST */
};

struct event {
	struct key key;
	__u64 time;
	__u32 what;
	__s32 efd;
	__u32 has_record;
	/* all descriptors of the table are closed */
	__u32 is_exit;
	struct who who;
	struct stack stack;
	struct record record;
};

enum mode {
	MODE_LEARN,	/* what the operations of epoll files are, and who reads */
	MODE_INSTANCES,	/* who has which instance */
	MODE_TARGETS,	/* remember the targets of these */
	MODE_HOLDERS,	/* who has the wanted files, and which wanted targets are there */
	MODE_HIDDEN,	/* what is watched and held by something else */
};

struct config {
	__u64 ep_fops;
	__u64 reader_ns;
	__u32 reader_level;
	__s32 efd;
	__u32 mode;
	__u32 generation;
	/* all processes are traced */
	__u32 all;
	/* how many candidates are looked for */
	__u32 candidates;
};

struct counts {
	__u64 adds;
	__u64 dels;
	__u64 exists;
	__u64 closes;
	/* how many targets are remembered */
	__u64 known;
	/* not remembered, as there was no room */
	__u64 full;
	/* events that were lost, as the reader was too slow */
	__u64 lost;
	/* descriptors that changed during the call */
	__u64 raced;
	/* loops that ended early */
	__u64 cut;
};

struct traced {
	/* the children are traced, this is not */
	__u32 is_root;
	__u32 pad;
	__u64 mm;
};

enum holder {
	HOLDER_FD,
	HOLDER_MESSAGE,
	HOLDER_RING,
	HOLDER_MAPPING,
	HOLDER_INSTANCE,
	HOLDER_TARGET,	/* not a holder: the target is still there */
};

/* What an iterator found. */
struct found {
	__u64 ep;
	__u64 file;
	/* the address of a mapping, or the inode of a file */
	__u64 at;
	__u64 ino;
	__u32 kind;
	__s32 pid;
	__s32 fd;
	/* of a target; who sent a message */
	__s32 tfd;
	__s32 sender;
	__u32 pad;
};

struct instance {
	__u64 ep;
	__u64 files;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);		/* set before it is loaded */
	__type(key, struct key);
	__type(value, struct record);
} records SEC(".maps");

/* What a new record begins as. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct record);
} blank SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __s32);
	__type(value, struct traced);
} traced SEC(".maps");

/* Who had which instance in which pass of the iterators; the oldest are dropped. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct instance);
	__type(value, __u32);
} instances SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __u32);
} wanted SEC(".maps");

/* Targets that are looked for. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct key);
} candidates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} events SEC(".maps");

static __always_inline struct config *get_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

#define ADD_TO(name, n) do {						\
	__u32 zero_ = 0;						\
	struct counts *counts_ = bpf_map_lookup_elem(&counts, &zero_);	\
									\
	if (counts_)							\
		__sync_fetch_and_add(&counts_->name, n);		\
} while (0)
#define COUNT(name) ADD_TO(name, 1)

/* A pid in the reader's namespace; 0 if it has none there. */
static __always_inline __s32 pid_nr(const struct pid *pid, const struct config *cfg)
{
	struct pid_namespace *ns = NULL;
	void *upid;
	__s32 nr = 0;

	if (!pid || BPF_CORE_READ(pid, level) < cfg->reader_level)
		return 0;
	upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
	       cfg->reader_level * bpf_core_type_size(struct upid);
	bpf_probe_read_kernel(&ns, sizeof(ns),
			      upid + bpf_core_field_offset(struct upid, ns));
	if ((__u64)ns != cfg->reader_ns)
		return 0;
	bpf_probe_read_kernel(&nr, sizeof(nr),
			      upid + bpf_core_field_offset(struct upid, nr));
	return nr;
}

static __always_inline __s32 tgid_of(struct task_struct *task, const struct config *cfg)
{
	if (!cfg->reader_level)
		return task->tgid;
	return pid_nr(BPF_CORE_READ(task, group_leader, thread_pid), cfg);
}

static __always_inline __s32 tid_of(struct task_struct *task, const struct config *cfg)
{
	if (!cfg->reader_level)
		return task->pid;
	return pid_nr(BPF_CORE_READ(task, thread_pid), cfg);
}

static __always_inline void set_who(struct who *who, struct task_struct *task,
				    const struct config *cfg)
{
	who->tgid = tgid_of(task, cfg);
	who->tid = tid_of(task, cfg);
	bpf_probe_read_kernel(who->comm, sizeof(who->comm), task->comm);
}

/* What a number means in a table. */
static __always_inline struct file *file_at(const struct files_struct *files, __u32 fd)
{
	struct fdtable *fdt = BPF_CORE_READ(files, fdt);
	struct file *file = NULL;

	if (!fdt || fd >= BPF_CORE_READ(fdt, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(fdt, fd) + fd);
	return file;
}

/* Where the system call was made, and what is on the stack there. */
static __always_inline void set_stack(struct stack *stack, const struct pt_regs *regs)
{
	stack->ip = BPF_CORE_READ(regs, ip);
	stack->sp = BPF_CORE_READ(regs, sp);
	stack->bp = BPF_CORE_READ(regs, bp);
	stack->syscall = BPF_CORE_READ(regs, orig_ax);
	stack->size = 0;
	/* The end of the stack may be nearer. */
	if (!bpf_probe_read_user(stack->bytes, STACK, (void *)stack->sp))
		stack->size = STACK;
	else if (!bpf_probe_read_user(stack->bytes, STACK / 4, (void *)stack->sp))
		stack->size = STACK / 4;
}

static __always_inline struct event *new_event(enum what what)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		COUNT(lost);
		return NULL;
	}
	event->what = what;
	event->time = bpf_ktime_get_boot_ns();
	event->has_record = 0;
	event->is_exit = 0;
	event->efd = -1;
	return event;
}

static __always_inline void copy_record(struct event *event, const struct record *record)
{
	event->has_record = !bpf_probe_read_kernel(&event->record,
						   sizeof(event->record), record);
}

/* Whether calls of this process are traced. */
static __always_inline bool is_traced(struct config *cfg, struct task_struct *task)
{
	__s32 tgid = tgid_of(task, cfg);
	struct traced *process = bpf_map_lookup_elem(&traced, &tgid);
	struct traced new = {};
	struct event *event;
	__u64 mm;

	if (process && process->is_root)
		return false;
	if (!process) {
		if (!cfg->all || !tgid)
			return false;
		bpf_map_update_elem(&traced, &tgid, &new, BPF_NOEXIST);
		process = bpf_map_lookup_elem(&traced, &tgid);
		if (!process)
			return true;
	}
	mm = (__u64)task->mm;
	if (mm && process->mm != mm) {
		process->mm = mm;
		event = new_event(WHAT_PROCESS);
		if (event) {
			set_who(&event->who, task, cfg);
			bpf_ringbuf_submit(event, 0);
		}
	}
	return true;
}

static __always_inline struct record *new_record(struct key *key)
{
	struct record *record = bpf_map_lookup_elem(&records, key);
	__u32 zero = 0;
	void *empty;

	if (record) {
		record->files = 0;
		return record;
	}
	empty = bpf_map_lookup_elem(&blank, &zero);
	if (!empty)
		return NULL;
	if (bpf_map_update_elem(&records, key, empty, BPF_NOEXIST)) {
		COUNT(full);
		return NULL;
	}
	COUNT(known);
	return bpf_map_lookup_elem(&records, key);
}

static __always_inline void forget(struct key *key)
{
	if (!bpf_map_delete_elem(&records, key))
		ADD_TO(known, -1);
}

static __always_inline void after_ctl(const struct pt_regs *regs, long ret)
{
	int epfd = BPF_CORE_READ(regs, di), op = BPF_CORE_READ(regs, si);
	int fd = BPF_CORE_READ(regs, dx);
	struct task_struct *task = bpf_get_current_task_btf();
	struct config *cfg = get_config();
	struct files_struct *files;
	struct record *record;
	struct file *epfile, *file;
	struct event *event;
	struct key key = {};

	if (!cfg || (op != EPOLL_CTL_ADD && op != EPOLL_CTL_DEL))
		return;
	if (ret && !(op == EPOLL_CTL_ADD && ret == -EEXIST))
		return;
	if (!is_traced(cfg, task))
		return;
	files = task->files;
	epfile = file_at(files, epfd);
	file = file_at(files, fd);
	if (!epfile || !file || (__u64)BPF_CORE_READ(epfile, f_op) != cfg->ep_fops) {
		COUNT(raced);
		return;
	}
	key.ep = (__u64)BPF_CORE_READ(epfile, private_data);
	key.file = (__u64)file;
	key.fd = fd;
	if (op == EPOLL_CTL_DEL) {
		COUNT(dels);
		forget(&key);
		return;
	}
	if (!BPF_CORE_READ(file, f_ep)) {
		COUNT(raced);
		return;
	}
	if (ret) {
		COUNT(exists);
		event = new_event(WHAT_EXISTS);
		if (!event)
			return;
		event->key = key;
		event->efd = epfd;
		set_who(&event->who, task, cfg);
		set_stack(&event->stack, regs);
		record = bpf_map_lookup_elem(&records, &key);
		if (record)
			copy_record(event, record);
		bpf_ringbuf_submit(event, 0);
		return;
	}
	COUNT(adds);
	record = new_record(&key);
	if (!record)
		return;
	set_who(&record->who, task, cfg);
	set_stack(&record->stack, regs);
	record->efd = epfd;
	record->left = 0;
	record->generation = cfg->generation;
	record->time = bpf_ktime_get_boot_ns();
	/* Last: from here on it counts. */
	record->files = (__u64)files;
}

/* The numbers of 32-bit calls are others. */
static __always_inline bool is_compat(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->thread_info.status & TS_COMPAT;
}

SEC("raw_tp/sys_exit")
int exit_call(__u64 *ctx)
{
	const struct pt_regs *regs = (void *)ctx[0];

	if (BPF_CORE_READ(regs, orig_ax) == NR_epoll_ctl && !is_compat())
		after_ctl(regs, ctx[1]);
	return 0;
}

/* Whether a file will be released once the caller drops its reference. */
static __always_inline bool is_last(const struct file *file)
{
	const struct file___ref *by_ref = (const void *)file;

	if (bpf_core_field_exists(by_ref->f_ref))
		return BPF_CORE_READ(by_ref, f_ref.refcnt.counter) == 0;
	return BPF_CORE_READ(file, f_count.counter) == 1;
}

static __always_inline struct epitem *item_of(struct hlist_node *node)
{
	return (void *)node - bpf_core_field_offset(struct epitem, fllink);
}

static __always_inline void set_key(struct key *key, struct epitem *epi, struct file *file)
{
	key->ep = (__u64)BPF_CORE_READ(epi, ep);
	key->file = (__u64)file;
	key->fd = BPF_CORE_READ(epi, ffd.fd);
	key->pad = 0;
}

static __always_inline struct hlist_node *first_watcher(const struct file *file)
{
	struct hlist_head *head = BPF_CORE_READ(file, f_ep);

	return head ? BPF_CORE_READ(head, first) : NULL;
}

static __always_inline void left(struct config *cfg, struct key *key,
				 struct record *record, const struct pt_regs *regs)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct event *event = new_event(WHAT_LEFT);

	if (!event)
		return;
	event->key = *key;
	set_who(&event->who, task, cfg);
	if (regs) {
		set_stack(&event->stack, regs);
	} else {
		event->is_exit = 1;
		event->stack.ip = 0;
		event->stack.size = 0;
		event->stack.syscall = -1;
	}
	copy_record(event, record);
	bpf_ringbuf_submit(event, 0);
	record->left = 1;
}

/* Descriptor fd of the table of this task is about to be closed. */
static __always_inline void close_one(struct config *cfg, const struct files_struct *files,
				      __u32 fd, const struct pt_regs *regs)
{
	struct file *file = file_at(files, fd);
	struct hlist_node *node;
	struct record *record;
	struct key key;
	bool last;
	int i;

	if (!file)
		return;
	node = first_watcher(file);
	if (!node)
		return;
	last = is_last(file);
	COUNT(closes);
	bpf_for(i, 0, MAX_WATCHERS) {
		if (!node)
			return;
		set_key(&key, item_of(node), file);
		node = BPF_CORE_READ(node, next);
		if (last) {
			/* The file is released with all its targets. */
			forget(&key);
			continue;
		}
		if (key.fd != fd)
			continue;
		record = bpf_map_lookup_elem(&records, &key);
		if (record && !record->left && record->files == (__u64)files)
			left(cfg, &key, record, regs);
	}
	if (node)
		COUNT(cut);
}

struct closing {
	struct config *cfg;
	const struct files_struct *files;
	const struct pt_regs *regs;
	const unsigned long *close_on_exec;
	__u32 first;
};

static long close_next(__u32 index, struct closing *closing)
{
	__u32 fd = closing->first + index;
	unsigned long word = 0;

	if (closing->close_on_exec) {
		bpf_probe_read_kernel(&word, sizeof(word), closing->close_on_exec + fd / 64);
		if (!(word & (1UL << (fd % 64))))
			return 0;
	}
	close_one(closing->cfg, closing->files, fd, closing->regs);
	return 0;
}

static __always_inline void close_many(struct config *cfg, __u32 first, __u32 last,
				       bool only_on_exec, const struct pt_regs *regs)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct files_struct *files = task->files;
	struct closing closing = {
		.cfg = cfg,
		.files = files,
		.regs = regs,
		.first = first,
	};
	struct fdtable *fdt;
	__u32 max;

	if (!files)
		return;
	fdt = BPF_CORE_READ(files, fdt);
	max = BPF_CORE_READ(fdt, max_fds);
	if (!max || first >= max)
		return;
	if (last >= max)
		last = max - 1;
	if (last < first)
		return;
	if (last - first >= MAX_FDS) {
		COUNT(cut);
		last = first + MAX_FDS - 1;
	}
	if (only_on_exec)
		closing.close_on_exec = BPF_CORE_READ(fdt, close_on_exec);
	bpf_loop(last - first + 1, close_next, &closing, 0);
}

static __always_inline bool is_traced_now(struct config *cfg, struct task_struct *task)
{
	__s32 tgid = tgid_of(task, cfg);

	return bpf_map_lookup_elem(&traced, &tgid);
}

SEC("raw_tp/sys_enter")
int enter_call(__u64 *ctx)
{
	const struct pt_regs *regs = (void *)ctx[0];
	struct task_struct *task;
	struct config *cfg;
	long nr = ctx[1];
	__u32 fd;

	if (nr != NR_close && nr != NR_dup2 && nr != NR_dup3 && nr != NR_close_range &&
	    nr != NR_execve && nr != NR_execveat)
		return 0;
	cfg = get_config();
	task = bpf_get_current_task_btf();
	if (!cfg || is_compat() || !is_traced_now(cfg, task))
		return 0;
	fd = BPF_CORE_READ(regs, di);
	switch (nr) {
	case NR_close:
		close_one(cfg, task->files, fd, regs);
		break;
	case NR_dup2:
	case NR_dup3:
		if ((__u32)BPF_CORE_READ(regs, si) != fd)
			close_one(cfg, task->files, BPF_CORE_READ(regs, si), regs);
		break;
	case NR_close_range:
		if (!(BPF_CORE_READ(regs, dx) & CLOSE_RANGE_CLOEXEC))
			close_many(cfg, fd, BPF_CORE_READ(regs, si), false, regs);
		break;
	default:
		close_many(cfg, 0, -1U, true, regs);
	}
	return 0;
}

SEC("raw_tp/sched_process_fork")
int on_fork(__u64 *ctx)
{
	struct task_struct *parent = (void *)ctx[0], *child = (void *)ctx[1];
	struct config *cfg = get_config();
	struct traced *process, new = {};
	__s32 tgid;

	if (!cfg)
		return 0;
	if (BPF_CORE_READ(child, pid) != BPF_CORE_READ(child, tgid))
		return 0;
	tgid = pid_nr(BPF_CORE_READ(parent, group_leader, thread_pid), cfg);
	process = bpf_map_lookup_elem(&traced, &tgid);
	if (!process)
		return 0;
	tgid = pid_nr(BPF_CORE_READ(child, thread_pid), cfg);
	if (tgid)
		bpf_map_update_elem(&traced, &tgid, &new, BPF_ANY);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int on_exit(__u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct config *cfg = get_config();
	struct files_struct *files = task->files;
	__s32 tgid;

	if (!cfg || !is_traced_now(cfg, task))
		return 0;
	/* The last task that has the table closes all. */
	if (files && BPF_CORE_READ(files, count.counter) == 1)
		close_many(cfg, 0, -1U, false, NULL);
	if (BPF_CORE_READ(task, signal, live.counter) <= 0) {
		tgid = tgid_of(task, cfg);
		bpf_map_delete_elem(&traced, &tgid);
	}
	return 0;
}

/* The iterators. */

/*
 * Whether an instance has a target. The tree may change meanwhile, so that it may be
 * missed: the reader asks again. The series changes the order of the tree.
 */
static __always_inline bool has_target(const struct eventpoll *ep, const struct key *key,
				       bool fd_first)
{
	struct rb_node *node = BPF_CORE_READ(ep, rbr.rb_root.rb_node);
	struct epitem *epi;
	bool is_less;
	__u64 file;
	__u32 fd;
	int i;

	bpf_for(i, 0, MAX_DEPTH) {
		if (!node)
			return false;
		epi = (void *)node - bpf_core_field_offset(struct epitem, rbn);
		file = (__u64)BPF_CORE_READ(epi, ffd.file);
		fd = BPF_CORE_READ(epi, ffd.fd);
		if (file == key->file && fd == key->fd)
			return true;
		if (fd_first)
			is_less = key->fd != fd ? key->fd < fd : key->file < file;
		else
			is_less = key->file != file ? key->file < file : key->fd < fd;
		node = is_less ? BPF_CORE_READ(node, rb_left) : BPF_CORE_READ(node, rb_right);
	}
	return false;
}

static __always_inline void set_place(struct found *found, struct task_struct *task,
				      const struct config *cfg)
{
	found->pid = pid_nr(BPF_CORE_READ(task, thread_pid), cfg);
}

/* Report a file that is held by something else than a descriptor. */
static __always_inline void found_hidden(struct seq_file *seq, struct config *cfg,
					 struct found *found, struct file *file)
{
	__u64 address = (__u64)file;
	struct hlist_node *node;
	struct epitem *epi;
	int i;

	found->file = address;
	if (cfg->mode == MODE_HOLDERS) {
		if (bpf_map_lookup_elem(&wanted, &address))
			bpf_seq_write(seq, found, sizeof(*found));
		return;
	}
	node = first_watcher(file);
	found->ino = BPF_CORE_READ(file, f_inode, i_ino);
	bpf_for(i, 0, MAX_WATCHERS) {
		if (!node)
			return;
		epi = item_of(node);
		node = BPF_CORE_READ(node, next);
		found->ep = (__u64)BPF_CORE_READ(epi, ep);
		found->tfd = BPF_CORE_READ(epi, ffd.fd);
		bpf_seq_write(seq, found, sizeof(*found));
	}
}

/* Files in messages that nobody has received from this socket. */
static __always_inline void look_in_socket(struct seq_file *seq, struct config *cfg,
					   struct found *found, struct file *file)
{
	struct socket *socket = BPF_CORE_READ(file, private_data);
	struct sock *sk = BPF_CORE_READ(socket, sk);
	struct unix_skb_parms *parms;
	struct scm_fp_list *fps;
	struct sk_buff *skb, *end;
	struct file *sent;
	int i, j, count;

	if (!sk || BPF_CORE_READ(sk, __sk_common.skc_family) != AF_UNIX)
		return;
	end = (void *)sk + bpf_core_field_offset(struct sock, sk_receive_queue);
	skb = BPF_CORE_READ(sk, sk_receive_queue.next);
	found->kind = HOLDER_MESSAGE;
	bpf_for(i, 0, MAX_MESSAGES) {
		if (!skb || skb == end)
			return;
		parms = (void *)skb + bpf_core_field_offset(struct sk_buff, cb);
		fps = BPF_CORE_READ(parms, fp);
		count = fps ? BPF_CORE_READ(fps, count) : 0;
		if (count > 0)
			found->sender = pid_nr(BPF_CORE_READ(parms, pid), cfg);
		bpf_for(j, 0, count) {
			if (j >= MAX_FILES)
				break;
			sent = NULL;
			bpf_probe_read_kernel(&sent, sizeof(sent), (void *)fps +
					      bpf_core_field_offset(struct scm_fp_list, fp) +
					      j * sizeof(sent));
			if (sent)
				found_hidden(seq, cfg, found, sent);
		}
		skb = BPF_CORE_READ(skb, next);
	}
	COUNT(cut);
}

/* Only the kernel names anonymous inodes. */
static __always_inline bool is_ring(const struct file *file)
{
	static const char ring[] = "[io_uring]";
	char name[sizeof(ring)] = {};
	unsigned int i;

	bpf_probe_read_kernel(name, sizeof(name), BPF_CORE_READ(file, f_path.dentry, d_name.name));
	for (i = 0; i < sizeof(ring); i++)
		if (name[i] != ring[i])
			return false;
	return true;
}

static __always_inline void look_in_ring(struct seq_file *seq, struct config *cfg,
					 struct found *found, struct file *file)
{
	struct io_ring_ctx *ring = BPF_CORE_READ(file, private_data);
	struct io_rsrc_node **nodes, *node;
	unsigned long registered;
	int i, count;

	if (!bpf_core_field_exists(struct io_rsrc_node, file_ptr) ||
	    !bpf_core_field_exists(struct io_ring_ctx, file_table.data.nodes))
		return;
	nodes = BPF_CORE_READ(ring, file_table.data.nodes);
	count = BPF_CORE_READ(ring, file_table.data.nr);
	found->kind = HOLDER_RING;
	bpf_for(i, 0, count) {
		if (i >= MAX_REGISTERED) {
			COUNT(cut);
			return;
		}
		node = NULL;
		bpf_probe_read_kernel(&node, sizeof(node), nodes + i);
		if (!node)
			continue;
		/* The lowest bits are flags. */
		registered = BPF_CORE_READ(node, file_ptr) & ~3UL;
		if (registered)
			found_hidden(seq, cfg, found, (void *)registered);
	}
}

/* Targets whose number means their file in this table, which has their instance. */
static __always_inline void look_at_targets(struct task_struct *task, struct file *file,
					    struct config *cfg, bool seed,
					    const struct found *found)
{
	struct hlist_node *node = first_watcher(file);
	struct instance instance = {};
	struct record *record;
	__u32 *generation;
	struct key key;
	int i;

	instance.files = (__u64)BPF_CORE_READ(task, files);
	bpf_for(i, 0, MAX_WATCHERS) {
		if (!node)
			return;
		set_key(&key, item_of(node), file);
		node = BPF_CORE_READ(node, next);
		if (key.fd != found->fd)
			continue;
		instance.ep = key.ep;
		generation = bpf_map_lookup_elem(&instances, &instance);
		if (!generation || *generation != cfg->generation)
			continue;
		record = bpf_map_lookup_elem(&records, &key);
		if (record) {
			record->generation = cfg->generation;
			if (!seed && record->left) {
				/* It can be removed by this process. */
				record->files = instance.files;
				record->left = 0;
			}
			continue;
		}
		if (!seed)
			continue;
		record = new_record(&key);
		if (!record)
			return;
		record->who.tgid = found->pid;
		record->who.tid = found->pid;
		bpf_probe_read_kernel(record->who.comm, sizeof(record->who.comm), task->comm);
		record->efd = -1;
		record->stack.syscall = -1;
		record->generation = cfg->generation;
		record->files = instance.files;
	}
	if (node)
		COUNT(cut);
}

SEC("iter/task_file")
int visit_files(struct bpf_iter__task_file *ctx)
{
	struct config *cfg = get_config();
	struct seq_file *seq = ctx->meta->seq;
	struct key *candidate;
	__u32 i, index;
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct found found = {};
	struct instance instance;
	unsigned long magic;
	bool is_epoll;
	__u64 address;

	if (!cfg || !task || !file)
		return 0;
	if (cfg->mode == MODE_LEARN) {
		struct task_struct *reader = bpf_get_current_task_btf();
		struct pid *pid = BPF_CORE_READ(reader, thread_pid);
		struct pid_namespace *ns = NULL;

		if (task->tgid != reader->tgid || ctx->fd != (__u32)cfg->efd)
			return 0;
		cfg->ep_fops = (__u64)file->f_op;
		cfg->reader_level = BPF_CORE_READ(pid, level);
		bpf_probe_read_kernel(&ns, sizeof(ns), (void *)pid +
				      bpf_core_field_offset(struct pid, numbers) +
				      cfg->reader_level * bpf_core_type_size(struct upid) +
				      bpf_core_field_offset(struct upid, ns));
		cfg->reader_ns = (__u64)ns;
		return 0;
	}
	found.fd = ctx->fd;
	set_place(&found, task, cfg);
	is_epoll = (__u64)file->f_op == cfg->ep_fops;
	if (cfg->mode == MODE_INSTANCES) {
		if (!is_epoll)
			return 0;
		instance.ep = (__u64)file->private_data;
		instance.files = (__u64)task->files;
		if (bpf_map_update_elem(&instances, &instance, &cfg->generation, BPF_ANY))
			COUNT(cut);
		found.kind = HOLDER_INSTANCE;
		found.ep = instance.ep;
		bpf_seq_write(seq, &found, sizeof(found));
		return 0;
	}
	if (cfg->mode == MODE_TARGETS) {
		__s32 tgid = tgid_of(task, cfg);

		if (cfg->all || bpf_map_lookup_elem(&traced, &tgid))
			look_at_targets(task, file, cfg, true, &found);
		return 0;
	}
	if (cfg->mode == MODE_HOLDERS) {
		if (is_epoll) {
			bpf_for(i, 0, cfg->candidates) {
				index = i;
				candidate = bpf_map_lookup_elem(&candidates, &index);
				if (!candidate ||
				    candidate->ep != (__u64)file->private_data ||
				    (!has_target(file->private_data, candidate, false) &&
				     !has_target(file->private_data, candidate, true)))
					continue;
				found.kind = HOLDER_TARGET;
				found.ep = candidate->ep;
				found.file = candidate->file;
				found.tfd = candidate->fd;
				bpf_seq_write(seq, &found, sizeof(found));
			}
		}
		look_at_targets(task, file, cfg, false, &found);
		address = (__u64)file;
		if (bpf_map_lookup_elem(&wanted, &address)) {
			found.kind = HOLDER_FD;
			found.file = address;
			bpf_seq_write(seq, &found, sizeof(found));
		}
	}
	magic = BPF_CORE_READ(file, f_inode, i_sb, s_magic);
	if (magic == SOCKFS_MAGIC)
		look_in_socket(seq, cfg, &found, file);
	else if (magic == ANON_INODE_FS_MAGIC && is_ring(file))
		look_in_ring(seq, cfg, &found, file);
	return 0;
}

SEC("iter/task_vma")
int visit_mappings(struct bpf_iter__task_vma *ctx)
{
	struct config *cfg = get_config();
	struct task_struct *task = ctx->task;
	struct vm_area_struct *vma = ctx->vma;
	struct found found = {};
	struct file *file;

	if (!cfg || !task || !vma)
		return 0;
	file = BPF_CORE_READ(vma, vm_file);
	if (!file || !BPF_CORE_READ(file, f_ep))
		return 0;
	set_place(&found, task, cfg);
	found.kind = HOLDER_MAPPING;
	found.at = BPF_CORE_READ(vma, vm_start);
	found_hidden(ctx->meta->seq, cfg, &found, file);
	return 0;
}
