/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's types as far as trace.bpf.c uses them, from Linux 6.12 on. libbpf
 * relocates the fields when it loads the programs.
 */
#ifndef TRACE_KERNEL_H
#define TRACE_KERNEL_H

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
	unsigned long s_magic;
};

struct inode {
	unsigned long i_ino;
	__u16 i_mode;
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

struct file {
	struct inode *f_inode;
	struct path f_path;
	const void *f_op;
	void *private_data;
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
	struct mm_struct *mm;
	struct signal_struct *signal;
	struct pid *thread_pid;
	struct task_struct *group_leader;
	struct files_struct *files;
	char comm[16];
};

struct pt_regs {
	unsigned long r10;
	unsigned long bp;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
	unsigned long ip;
	unsigned long sp;
};

struct rb_node {
	struct rb_node *rb_left;
	struct rb_node *rb_right;
};

struct rb_root {
	struct rb_node *rb_node;
};

struct rb_root_cached {
	struct rb_root rb_root;
};

struct eventpoll {
	struct rb_root_cached rbr;
};

/* 7.2 renamed the type of ffd; the members have the same names. */
struct epoll_key {
	struct file *file;
	int fd;
};


struct epitem {
	struct rb_node rbn;
	struct epoll_key ffd;
	struct eventpoll *ep;
	struct hlist_node fllink;
};

/* Messages that wait at a unix socket. */
struct sock_common {
	__u16 skc_family;
};

struct sk_buff {
	struct sk_buff *next;
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

struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
};

#endif /* TRACE_KERNEL_H */
