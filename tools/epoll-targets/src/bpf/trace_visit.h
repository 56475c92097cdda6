/* SPDX-License-Identifier: GPL-2.0 */
/* The iterators of trace.bpf.c: what is watched, and what holds it. */

#define AF_UNIX		1
#define SOCKFS_MAGIC		0x534f434b
#define ANON_INODE_FS_MAGIC	0x09041934

/* Limits of loops. What is beyond them is counted in `cut`, apart from the first. */
#define MAX_DEPTH	64
#define MAX_MESSAGES	256
#define MAX_FILES	253	/* SCM_MAX_FD */
#define MAX_REGISTERED	32768

/*
 * How many records of one file or mapping a pass writes, as all of them have to fit in the
 * iterator's buffer of 32 KiB; and how many are written in all passes together.
 */
#define MAX_RECORDS	256
#define MAX_PASSES	64

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

/* Write a record, if it is one for this pass. Returns whether there may be more of these. */
static __always_inline bool write_found(struct seq_file *seq, struct config *cfg,
					struct found *found)
{
	__u32 nr = found->nr++;

	if (nr < cfg->from)
		return true;
	if (nr < cfg->from + MAX_RECORDS) {
		bpf_seq_write(seq, found, sizeof(*found));
		return true;
	}
	if (nr < MAX_RECORDS * MAX_PASSES)
		cfg->more = 1;
	else
		COUNT(cut);
	return false;
}

/* Count what is left out, in the pass that has written the last of what there was before. */
static __always_inline void count_cut(const struct config *cfg, const struct found *found)
{
	if (!cfg->from || found->nr > cfg->from)
		COUNT(cut);
}

/* Report a file that is held by something else than a descriptor. Returns as the above. */
static __always_inline bool found_hidden(struct seq_file *seq, struct config *cfg,
					 struct found *found, struct file *file)
{
	__u64 address = (__u64)file;
	struct hlist_node *node;
	struct epitem *epi;
	int i;

	found->file = address;
	if (cfg->mode == MODE_HOLDERS) {
		if (bpf_map_lookup_elem(&wanted, &address))
			return write_found(seq, cfg, found);
		return true;
	}
	node = first_watcher(file);
	found->ino = BPF_CORE_READ(file, f_inode, i_ino);
	bpf_for(i, 0, MAX_WATCHERS) {
		if (!node)
			return true;
		epi = item_of(node);
		node = BPF_CORE_READ(node, next);
		found->ep = (__u64)BPF_CORE_READ(epi, ep);
		found->tfd = BPF_CORE_READ(epi, ffd.fd);
		found->data = BPF_CORE_READ(epi, event.data);
		if (!write_found(seq, cfg, found))
			return false;
	}
	if (node)
		count_cut(cfg, found);
	return true;
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
			if (sent && !found_hidden(seq, cfg, found, sent))
				return;
		}
		skb = BPF_CORE_READ(skb, next);
	}
	if (skb && skb != end)
		count_cut(cfg, found);
}

/* Only the kernel names anonymous inodes. */
static __always_inline bool is_ring(const struct file *file)
{
	static const char name[] = "[io_uring]";

	return is_named(file, name, sizeof(name));
}

static __always_inline void look_in_ring(struct seq_file *seq, struct config *cfg,
					 struct found *found, struct file *file)
{
	struct io_ring_ctx *ring = BPF_CORE_READ(file, private_data);
	struct io_rsrc_node **nodes, *node;
	unsigned long registered;
	int i, count;

	if (!bpf_core_field_exists(struct io_rsrc_node, file_ptr) ||
	    !bpf_core_field_exists(struct io_ring_ctx, file_table.data.nodes)) {
		count_cut(cfg, found);
		return;
	}
	nodes = BPF_CORE_READ(ring, file_table.data.nodes);
	count = BPF_CORE_READ(ring, file_table.data.nr);
	found->kind = HOLDER_RING;
	bpf_for(i, 0, count) {
		if (i >= MAX_REGISTERED) {
			count_cut(cfg, found);
			return;
		}
		node = NULL;
		bpf_probe_read_kernel(&node, sizeof(node), nodes + i);
		if (!node)
			continue;
		/* The lowest bits are flags. */
		registered = BPF_CORE_READ(node, file_ptr) & ~3UL;
		if (registered && !found_hidden(seq, cfg, found, (void *)registered))
			return;
	}
}

/* Targets whose tfd refers to their file in this table, which has their instance. */
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
		record = find_record(&key);
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

/* Note what an epoll file is, by one of the reader's, and the reader's namespace. */
static __always_inline void learn(struct config *cfg, const struct file *file)
{
	struct task_struct *reader = bpf_get_current_task_btf();
	struct pid *pid = BPF_CORE_READ(reader, thread_pid);
	struct pid_namespace *ns = NULL;

	cfg->ep_fops = (__u64)file->f_op;
	cfg->reader_level = BPF_CORE_READ(pid, level);
	bpf_probe_read_kernel(&ns, sizeof(ns), upid_at(pid, cfg->reader_level) +
			      bpf_core_field_offset(struct upid, ns));
	cfg->reader_ns = (__u64)ns;
}

/* Note who has an instance. */
static __always_inline void note_instance(struct seq_file *seq, struct config *cfg,
					  struct found *found, struct task_struct *task,
					  const struct file *file)
{
	struct instance instance = {
		.ep = (__u64)file->private_data,
		.files = (__u64)task->files,
	};

	if (bpf_map_update_elem(&instances, &instance, &cfg->generation, BPF_ANY))
		COUNT(cut);
	found->kind = HOLDER_INSTANCE;
	found->ep = instance.ep;
	write_found(seq, cfg, found);
}

/* Report the candidates that are targets of an instance. */
static __always_inline void look_for_candidates(struct seq_file *seq, struct config *cfg,
						struct found *found,
						const struct file *file)
{
	const struct eventpoll *ep = file->private_data;
	struct key *candidate;
	__u32 i, index;

	bpf_for(i, 0, cfg->candidates) {
		index = i;
		candidate = bpf_map_lookup_elem(&candidates, &index);
		if (!candidate || candidate->ep != (__u64)ep ||
		    (!has_target(ep, candidate, false) && !has_target(ep, candidate, true)))
			continue;
		found->kind = HOLDER_TARGET;
		found->ep = candidate->ep;
		found->file = candidate->file;
		found->tfd = candidate->fd;
		if (!write_found(seq, cfg, found))
			return;
	}
}

SEC("iter/task_file")
int visit_files(struct bpf_iter__task_file *ctx)
{
	struct config *cfg = get_config();
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct task_struct *reader;
	struct found found = {};
	unsigned long magic;
	bool is_epoll;
	__u64 address;
	__s32 tgid;

	if (!cfg || !task || !file)
		return 0;
	if (cfg->mode == MODE_LEARN) {
		reader = bpf_get_current_task_btf();
		if (task->tgid == reader->tgid && ctx->fd == (__u32)cfg->efd)
			learn(cfg, file);
		return 0;
	}
	found.fd = ctx->fd;
	set_place(&found, task, cfg);
	is_epoll = (__u64)file->f_op == cfg->ep_fops;
	if (cfg->mode == MODE_INSTANCES) {
		if (is_epoll)
			note_instance(seq, cfg, &found, task, file);
		return 0;
	}
	if (cfg->mode == MODE_TARGETS) {
		tgid = tgid_of(task, cfg);
		if (cfg->all || bpf_map_lookup_elem(&traced, &tgid))
			look_at_targets(task, file, cfg, true, &found);
		return 0;
	}
	if (cfg->mode == MODE_HOLDERS) {
		if (is_epoll)
			look_for_candidates(seq, cfg, &found, file);
		look_at_targets(task, file, cfg, false, &found);
		address = (__u64)file;
		if (bpf_map_lookup_elem(&wanted, &address)) {
			found.kind = HOLDER_FD;
			found.file = address;
			write_found(seq, cfg, &found);
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
