/* SPDX-License-Identifier: GPL-2.0 */
/* Hold up accesses to memory, and with them the mutex of an epoll instance. */
#ifndef _EPOLL_HOLD_H
#define _EPOLL_HOLD_H

#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "epoll-helpers.h"

/*
 * Memory whose pages are missing until the test fills them, so that whoever
 * accesses them can be stopped in the middle. It may be that of another
 * process.
 */
struct served {
	int uffd, memfd;
	char *map;
	size_t page, pages;
};

/* Returns -EOPNOTSUPP if page faults of the kernel cannot be handled here. */
static inline int served_init(struct served *served, size_t pages)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_MISSING_SHMEM,
	};
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	served->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (served->uffd < 0)
		return -EOPNOTSUPP;

	served->page = sysconf(_SC_PAGESIZE);
	served->pages = pages;
	served->memfd = memfd_create("served", MFD_CLOEXEC);
	if (served->memfd < 0 ||
	    ftruncate(served->memfd, pages * served->page))
		return -errno;
	served->map = mmap(NULL, pages * served->page, PROT_READ | PROT_WRITE,
			   MAP_SHARED, served->memfd, 0);
	if (served->map == MAP_FAILED)
		return -errno;

	reg.range.start = (unsigned long)served->map;
	reg.range.len = pages * served->page;

	return ioctl(served->uffd, UFFDIO_API, &api) ||
	       ioctl(served->uffd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

/* Wait until a task waits for a page. Returns the number of the page. */
static inline long served_wait(struct served *served)
{
	struct pollfd pfd = { .fd = served->uffd, .events = POLLIN };
	struct uffd_msg msg;

	if (poll(&pfd, 1, PATIENCE_MS) != 1)
		return -ETIME;
	if (read(served->uffd, &msg, sizeof(msg)) != sizeof(msg))
		return -errno;
	if (msg.event != UFFD_EVENT_PAGEFAULT)
		return -ENOMSG;

	return (msg.arg.pagefault.address - (unsigned long)served->map) /
	       served->page;
}

/* Let the tasks that wait for a page go on. It is empty without @data. */
static inline int served_fill(struct served *served, size_t nr,
			      const void *data)
{
	struct uffdio_copy copy = {
		.dst = (unsigned long)served->map + nr * served->page,
		.src = (unsigned long)data,
		.len = served->page,
	};
	struct uffdio_zeropage zero = { .range = { copy.dst, copy.len } };

	return (data ? ioctl(served->uffd, UFFDIO_COPY, &copy) :
		       ioctl(served->uffd, UFFDIO_ZEROPAGE, &zero)) ? -errno : 0;
}

/*
 * Holding the mutex of an epoll instance: a thread lets epoll_wait() write an
 * event to a page that is missing, so the kernel holds the mutex until it is
 * there.
 */
struct held_set {
	pthread_t thread;
	struct served served;
	int efd;
};

static inline void *held_set_collect(void *data)
{
	struct held_set *held = data;

	return (void *)(long)epoll_wait(held->efd, (void *)held->served.map, 1,
					-1);
}

/*
 * The epoll instance must have a ready target. Returns as served_init() does.
 */
static inline int hold_set(struct held_set *held, int efd)
{
	int ret = served_init(&held->served, 1);

	if (ret)
		return ret;

	held->efd = efd;
	if (pthread_create(&held->thread, NULL, held_set_collect, held))
		return -EAGAIN;

	return served_wait(&held->served);
}

/* Returns how many events the thread got, which should be 1. */
static inline long release_set(struct held_set *held)
{
	int err = served_fill(&held->served, 0, NULL);
	void *ret;

	if (err)
		return err;
	if (pthread_join(held->thread, &ret))
		return -ECHILD;

	return (long)ret;
}

#endif /* _EPOLL_HOLD_H */
