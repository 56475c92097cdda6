/* SPDX-License-Identifier: GPL-2.0 */
#ifndef TRACE_H
#define TRACE_H
/*
 * The maps of trace.bpf.c and their layouts, which trace/programs.rs shares, and what
 * the hooks and the iterators both need.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "file.h"
#include "task.h"

/* How much of a stack is kept: enough for the innermost functions. */
#define STACK	2048

/* Limits of loops. What is beyond them is counted in `cut`. */
#define MAX_WATCHERS	4096

/* How many records of targets that were removed are kept. */
#define MAX_SPARE	1024

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
	/* the table in which the tfd refers to the file; 0 if the target was removed */
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
	/* the table in which it is closed */
	__u64 files;
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
	/* which of the records of one file or mapping is the first to be written */
	__u32 from;
	/* set if some were left for the next pass */
	__u32 more;
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
	/* what the target was added with */
	__u64 data;
	__u32 kind;
	__s32 pid;
	__s32 fd;
	/* of a target; who sent a message */
	__s32 tfd;
	__s32 sender;
	/* which one it is of those of one file or mapping */
	__u32 nr;
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
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
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

/*
 * How many records are of targets that were removed. They are kept for the next target
 * with the same key: an event loop that removes one often adds it again, and to make a
 * record takes longer than all the rest.
 */
__s64 spare;

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
	upid = upid_at(pid, cfg->reader_level);
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

/*
 * What is behind an address, to be read by loads. One that faults gives 0, as a helper that
 * reads would leave it; but a call of a helper for each field is most of what a hook takes.
 */
#define CAST(type, address)						\
	((type *)bpf_rdonly_cast(address, bpf_core_type_id_kernel(type)))

/* What a descriptor refers to in a table. */
static __always_inline struct file *file_at(const struct files_struct *files, __u32 fd)
{
	const struct fdtable *fdt = CAST(struct files_struct, files)->fdt;
	struct file *file = NULL;

	if (fdt && fd < fdt->max_fds)
		bpf_probe_read_kernel(&file, sizeof(file), fdt->fd + fd);
	return file;
}

static __always_inline struct record *new_record(struct key *key)
{
	struct record *record = bpf_map_lookup_elem(&records, key);
	__u32 zero = 0;
	void *empty;

	if (record) {
		if (!__sync_lock_test_and_set(&record->files, 0))
			__sync_fetch_and_add(&spare, -1);
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
	struct record *record = bpf_map_lookup_elem(&records, key);

	if (!record || !record->files)
		return;
	if (spare < MAX_SPARE) {
		if (__sync_lock_test_and_set(&record->files, 0))
			__sync_fetch_and_add(&spare, 1);
	} else if (!bpf_map_delete_elem(&records, key)) {
		ADD_TO(known, -1);
	}
}

/* What is known of a target that was not removed. */
static __always_inline struct record *find_record(struct key *key)
{
	struct record *record = bpf_map_lookup_elem(&records, key);

	return record && record->files ? record : NULL;
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

#endif /* TRACE_H */
