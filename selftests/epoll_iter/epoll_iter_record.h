/* SPDX-License-Identifier: GPL-2.0 */
/* What the programs write, and the tests read. */
#ifndef _EPOLL_ITER_RECORD_H
#define _EPOLL_ITER_RECORD_H

#include <linux/types.h>

struct record {
	__u64 seq_num;
	__u64 session_id;
	/*
	 * Addresses, and whether the target has the same address of its epoll
	 * instance.
	 */
	__u64 ep;
	__u64 file;
	__u64 ino;
	__u64 data;
	__u32 events;
	__s32 fd;
	__u32 same_ep;
	/* There is no target: all were shown. */
	__u32 end;
};

/* So large that the kernel's buffer for a reader, 32 KiB, has room for one. */
#define BIG_RECORD	20000

/* The most that a walk by the open-coded iterator records. */
#define MAX_WALKED	8192

#endif /* _EPOLL_ITER_RECORD_H */
