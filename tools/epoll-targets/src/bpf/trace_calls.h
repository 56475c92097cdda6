/* SPDX-License-Identifier: GPL-2.0 */
/* The hooks of trace.bpf.c: what is added, and which closing may leave it behind. */
#include <bpf/bpf_tracing.h>

#define EPOLL_CTL_ADD	1
#define EPOLL_CTL_DEL	2
#define EEXIST		17
#define CLOSE_RANGE_CLOEXEC	(1U << 2)
#define TS_COMPAT	2

/* x86-64 */
#define NR_close	3
#define NR_dup2		33
#define NR_execve	59
#define NR_epoll_ctl	233
#define NR_dup3		292
#define NR_execveat	322
#define NR_close_range	436

/* More is counted in `cut`. */
#define MAX_FDS		1048576

/* Where the system call was made, and what is on the stack there. */
static __always_inline void set_stack(struct stack *stack, const struct pt_regs *regs)
{
	stack->ip = regs->ip;
	stack->sp = regs->sp;
	stack->bp = regs->bp;
	stack->syscall = regs->orig_ax;
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
	event->files = 0;
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

static __always_inline void after_ctl(const struct pt_regs *regs, long ret)
{
	int epfd = regs->di, op = regs->si, fd = regs->dx;
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
	if (!epfile || !file || (__u64)CAST(struct file, epfile)->f_op != cfg->ep_fops) {
		COUNT(raced);
		return;
	}
	key.ep = (__u64)CAST(struct file, epfile)->private_data;
	key.file = (__u64)file;
	key.fd = fd;
	if (op == EPOLL_CTL_DEL) {
		COUNT(dels);
		forget(&key);
		return;
	}
	if (!CAST(struct file, file)->f_ep) {
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
		record = find_record(&key);
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

SEC("tp_btf/sys_exit")
int BPF_PROG(exit_call, const struct pt_regs *regs, long ret)
{
	if (regs->orig_ax == NR_epoll_ctl && !is_compat())
		after_ctl(regs, ret);
	return 0;
}

SEC("fexit/__x64_sys_epoll_ctl")
int BPF_PROG(exit_epoll_ctl, const struct pt_regs *regs, long ret)
{
	after_ctl(regs, ret);
	return 0;
}

static __always_inline void left(struct config *cfg, struct key *key,
				 struct record *record, const struct pt_regs *regs)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct event *event = new_event(WHAT_LEFT);

	if (!event)
		return;
	event->key = *key;
	event->files = (__u64)task->files;
	set_who(&event->who, task, cfg);
	if (regs) {
		set_stack(&event->stack, CAST(struct pt_regs, regs));
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
		record = find_record(&key);
		/* Once one may have left it behind, others can have its file as the tfd, too. */
		if (record && (record->left || record->files == (__u64)files))
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

static __always_inline void before_close(const struct pt_regs *regs, long nr)
{
	struct config *cfg = get_config();
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 fd = regs->di;

	if (!cfg || !is_traced_now(cfg, task))
		return;
	switch (nr) {
	case NR_close:
		close_one(cfg, task->files, fd, regs);
		break;
	case NR_dup2:
	case NR_dup3:
		if ((__u32)regs->si != fd)
			close_one(cfg, task->files, regs->si, regs);
		break;
	case NR_close_range:
		if (!(regs->dx & CLOSE_RANGE_CLOEXEC))
			close_many(cfg, fd, regs->si, false, regs);
		break;
	default:
		close_many(cfg, 0, -1U, true, regs);
	}
}

SEC("tp_btf/sys_enter")
int BPF_PROG(enter_call, const struct pt_regs *regs, long nr)
{
	if (nr != NR_close && nr != NR_dup2 && nr != NR_dup3 && nr != NR_close_range &&
	    nr != NR_execve && nr != NR_execveat)
		return 0;
	if (!is_compat())
		before_close(regs, nr);
	return 0;
}

#define BEFORE(call)							\
SEC("fentry/__x64_sys_" #call)						\
int BPF_PROG(enter_##call, const struct pt_regs *regs)			\
{									\
	before_close(regs, NR_##call);					\
	return 0;							\
}

BEFORE(close)
BEFORE(dup2)
BEFORE(dup3)
BEFORE(close_range)
BEFORE(execve)
BEFORE(execveat)

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
