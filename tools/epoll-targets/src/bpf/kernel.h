/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's types as far as the programs use them. libbpf relocates the fields
 * when it loads the programs, so that the build needs no kernel, and only those that
 * a program uses have to be in the running one.
 */
#ifndef KERNEL_H
#define KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
#define bool _Bool
#define false 0
#define true 1

#define NULL ((void *)0)

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
};

struct bpf_iter_num {
	__u64 __opaque[1];
} __attribute__((aligned(8)));

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block {
	__u32 s_dev;
	unsigned long s_magic;
};

struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic64_t;

struct file_operations;

struct file {
	const struct file_operations *f_op;
	void *private_data;
	struct inode *f_inode;
	struct path f_path;
	long long f_pos;
	struct hlist_head *f_ep;
	/* to 6.12 */
	atomic64_t f_count;
};

/* from 6.13 on: one reference is 0 */
struct file___ref {
	struct {
		atomic64_t refcnt;
	} f_ref;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
	unsigned long *close_on_exec;
};

struct files_struct {
	atomic_t count;
	struct fdtable *fdt;
};

struct pid_namespace;

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[];
};

struct mm_struct;

struct thread_info {
	__u32 status;
};

struct signal_struct {
	atomic_t live;
};

struct task_struct {
	struct thread_info thread_info;
	int pid;
	int tgid;
	unsigned int flags;
	int exit_state;
	struct mm_struct *mm;
	struct signal_struct *signal;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct files_struct *files;
	int on_cpu;
	unsigned long nvcsw;
	unsigned long nivcsw;
	char comm[16];
};

struct pt_regs {
	unsigned long bp;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
	unsigned long ip;
	unsigned long sp;
};

struct rb_node {
	struct rb_node *rb_right;
	struct rb_node *rb_left;
};

struct rb_root {
	struct rb_node *rb_node;
};

struct rb_root_cached {
	struct rb_root rb_root;
};

/* These are packed in the kernel. Here they are not, or each byte is a load. */
struct epoll_event {
	__u32 events;
	__u64 data;
};

/* Its fields are found by their names, so that struct epoll_filefd will do as well. */
struct epoll_key {
	struct file *file;
	int fd;
};

struct eventpoll;

struct list_head {
	struct list_head *next;
};

struct epitem {
	struct rb_node rbn;
	struct list_head rdllink;
	struct epoll_key ffd;
	struct eventpoll *ep;
	struct hlist_node fllink;
	struct epoll_event event;
};

struct eventpoll {
	struct rb_root_cached rbr;
	__u64 id;
};

/* Messages that wait at a unix socket. */
struct sock_common {
	__u16 skc_family;
	unsigned char skc_state;
};

struct sk_buff {
	struct sk_buff *next;
	struct sk_buff *prev;
	struct sock *sk;
	char cb[48];
};

struct sk_buff_head {
	struct sk_buff *next;
	__u32 qlen;
};

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue;
};

struct socket {
	struct sock *sk;
};

struct scm_fp_list {
	short count;
	struct file *fp[];
};

struct unix_skb_parms {
	struct pid *pid;
	struct scm_fp_list *fp;
};

/* The registered files of an io_uring, from 6.13 on. */
struct io_rsrc_node {
	unsigned long file_ptr;
};

struct io_rsrc_data {
	unsigned int nr;
	struct io_rsrc_node **nodes;
};

struct io_file_table {
	struct io_rsrc_data data;
};

struct io_ring_ctx {
	struct io_file_table file_table;
};

struct vm_area_struct {
	unsigned long vm_start;
	struct file *vm_file;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

#pragma clang attribute pop

/* What programs get, as the kernel hands it over. Pointers have 64 bits in BPF. */
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	/* aligned to 64 bits by itself */
	struct file *file;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
};

struct bpf_iter__epoll {
	struct bpf_iter_meta *meta;
	struct eventpoll *ep;
	struct epitem *epi;
};

#endif /* KERNEL_H */
