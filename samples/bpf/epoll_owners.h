/* SPDX-License-Identifier: GPL-2.0 */
#ifndef EPOLL_OWNERS_H
#define EPOLL_OWNERS_H

/* What list_descriptors() writes for each epoll instance that it finds. */
struct epoll_instance {
	int pid;
	int efd;
};

#endif /* EPOLL_OWNERS_H */
