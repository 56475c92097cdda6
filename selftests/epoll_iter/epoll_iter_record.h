/* SPDX-License-Identifier: GPL-2.0 */
/* What the programs write, and the tests read. */
#ifndef _EPOLL_ITER_RECORD_H
#define _EPOLL_ITER_RECORD_H

#include <linux/types.h>

struct record {
	__u64 seq_num;
	__u64 session_id;
	/* Addresses, and whether that of the set is the same in the target. */
	__u64 ep;
	__u64 file;
	__u64 ino;
	__u64 data;
	__u32 events;
	__s32 fd;
	__u32 same_ep;
	/* There is no target: all have been shown. */
	__u32 end;
};

/* So large that a reader's buffer in the kernel, 32 KiB, has room for one. */
#define BIG_RECORD	20000

/* The most that a pass by the open-coded iterator remembers. */
#define MAX_WALKED	8192

#endif /* _EPOLL_ITER_RECORD_H */
