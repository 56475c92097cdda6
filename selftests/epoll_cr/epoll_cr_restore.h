/* SPDX-License-Identifier: GPL-2.0 */
/* Elements of the array of EPOLL_CR_RESTORE. */
#ifndef _EPOLL_CR_RESTORE_H
#define _EPOLL_CR_RESTORE_H

#include "epoll_cr_fixture.h"

#define NR_OPEN	"/proc/sys/fs/nr_open"

static inline struct epoll_cr_add item(int fd, int tfd, __u32 events,
				       __u32 flags, __u64 data)
{
	return (struct epoll_cr_add) {
		.fd = fd,
		.tfd = tfd,
		.events = events,
		.flags = flags,
		.data = data,
	};
}

static inline bool put(int fd)
{
	__u64 one = 1;

	return write(fd, &one, sizeof(one)) == sizeof(one);
}

#endif /* _EPOLL_CR_RESTORE_H */
