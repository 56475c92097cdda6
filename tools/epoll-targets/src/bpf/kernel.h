/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's types as far as the programs use them. libbpf relocates the fields
 * when it loads the programs, so that the build needs no kernel.
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
};

enum {
	BPF_ANY = 0,
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

struct file_operations;

struct file {
	const struct file_operations *f_op;
	void *private_data;
	struct inode *f_inode;
	struct path f_path;
	long long f_pos;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct upid {
	int nr;
};

struct pid {
	unsigned int level;
	struct upid numbers[];
};

struct task_struct {
	int pid;
	int tgid;
	unsigned int flags;
	int exit_state;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct files_struct *files;
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

struct epitem {
	struct rb_node rbn;
	struct epoll_key ffd;
	struct eventpoll *ep;
	struct epoll_event event;
};

struct eventpoll {
	struct rb_root_cached rbr;
	__u64 id;
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

struct bpf_iter__epoll {
	struct bpf_iter_meta *meta;
	struct eventpoll *ep;
	struct epitem *epi;
};

#endif /* KERNEL_H */
