/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of /dev/epoll_cr share. */
#ifndef _EPOLL_CR_TEST_H
#define _EPOLL_CR_TEST_H

#include <linux/epoll_cr.h>
#include <sys/sysmacros.h>

#define MODULE		"epoll_cr"
#define MODULE_KO	"EPOLL_CR_KO"

#include "epoll-helpers.h"
#include "epoll-hold.h"
#include "epoll-module.h"
#include "epoll-process.h"

#define DEVICE		"/dev/epoll_cr"

/* The caller itself, in place of a pidfd. */
#ifndef PIDFD_SELF_THREAD
#define PIDFD_SELF_THREAD		-10000
#endif
#ifndef PIDFD_SELF_THREAD_GROUP
#define PIDFD_SELF_THREAD_GROUP		-10001
#endif
#ifndef PIDFD_THREAD
#define PIDFD_THREAD			O_EXCL
#endif
#define SELF				PIDFD_SELF_THREAD

/* Events as the kernel keeps them. */
#define ALWAYS		(EPOLLERR | EPOLLHUP)

static inline int pidfd_of(pid_t pid, unsigned int flags)
{
	int fd = syscall(__NR_pidfd_open, pid, flags);

	return fd < 0 ? -errno : fd;
}

/* Opens the device, which exists if the module is loaded. */

static inline int device_open(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* The same, after loading the module if necessary. */
static inline int device_load(void)
{
	if (access(DEVICE, F_OK))
		module_load();

	return device_open();
}

/* Returns the previous value. */
static inline long set_sysctl(const char *path, long value)
{
	long old = read_number(path);
	char text[32];
	int ret;

	if (old < 0)
		return old;
	snprintf(text, sizeof(text), "%ld", value);
	ret = write_file(path, text);

	return ret ?: old;
}

/* The ioctls. */

static inline int call(int dev, unsigned int cmd, void *arg)
{
	int ret = ioctl(dev, cmd, arg);

	return ret < 0 ? -errno : ret;
}

static inline int snapshot(int dev, int pidfd, __u32 efd,
			   struct epoll_cr_item *items, __u64 capacity,
			   __u64 *count)
{
	struct epoll_cr_snapshot args = {
		.size = sizeof(args),
		.pidfd = pidfd,
		.efd = efd,
		.items = (unsigned long)items,
		.capacity = capacity,
		.item_size = sizeof(*items),
	};
	int ret = call(dev, EPOLL_CR_SNAPSHOT, &args);

	*count = args.count;
	return ret;
}

static inline int files(int dev, int pidfd, struct epoll_cr_fd *fds,
			__u64 capacity, __u64 *count, __u64 *table)
{
	struct epoll_cr_files args = {
		.size = sizeof(args),
		.pidfd = pidfd,
		.fd_size = sizeof(*fds),
		.fds = (unsigned long)fds,
		.capacity = capacity,
	};
	int ret = call(dev, EPOLL_CR_FILES, &args);

	*count = args.count;
	if (table)
		*table = args.table;
	return ret;
}

static inline int describe(int dev, int pidfd, const __u32 *fds,
			   struct epoll_cr_file *files, __u64 count,
			   char *paths, __u64 size, __u64 *len)
{
	struct epoll_cr_describe args = {
		.size = sizeof(args),
		.pidfd = pidfd,
		.file_size = sizeof(*files),
		.fds = (unsigned long)fds,
		.files = (unsigned long)files,
		.count = count,
		.paths = (unsigned long)paths,
		.paths_size = size,
	};
	int ret = call(dev, EPOLL_CR_DESCRIBE, &args);

	*len = args.paths_len;
	return ret;
}

static inline int fetch(int dev, int pidfd, __u32 efd, __s32 tfd, __u32 toff,
			__u64 file)
{
	struct epoll_cr_fetch args = {
		.size = sizeof(args),
		.pidfd = pidfd,
		.efd = efd,
		.tfd = tfd,
		.toff = toff,
		.file = file,
	};

	return call(dev, EPOLL_CR_FETCH, &args);
}

static inline int restore(int dev, int efd, const struct epoll_cr_add *items,
			  __u64 count, __u64 *bad)
{
	struct epoll_cr_restore args = {
		.size = sizeof(args),
		.efd = efd,
		.item_size = sizeof(*items),
		.items = (unsigned long)items,
		.count = count,
		.bad = 12345,
	};
	int ret = call(dev, EPOLL_CR_RESTORE, &args);

	*bad = args.bad;
	return ret;
}

/* The identity of the file of a descriptor of the caller, or 0. */
static inline __u64 identity(int dev, __u32 fd)
{
	struct epoll_cr_file file = {};
	__u64 len;

	if (describe(dev, SELF, &fd, &file, 1, NULL, 0, &len))
		return 0;

	return file.file;
}

/* How many targets an epoll instance of the caller has, or a negative errno. */
static inline long entries(int dev, int efd)
{
	__u64 count;
	int ret = snapshot(dev, SELF, efd, NULL, 0, &count);

	return ret && ret != -ENOSPC ? ret : (long)count;
}

/* Ends what is repeated, on a debug kernel. */
#define LONG_ENOUGH_NS	10000000000LL

/* An eventfd that is readable. */
static inline int ready_eventfd(void)
{
	return eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
}

/* Whoever accesses these pages has to wait again. */
static inline int served_forget(struct served *served, size_t nr, size_t count)
{
	return fallocate(served->memfd,
			 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 nr * served->page, count * served->page) ? -errno : 0;
}

/* From this page on the memory cannot be accessed any more. */
static inline int served_take_away(struct served *served, size_t nr)
{
	struct uffdio_range range = {
		.start = (unsigned long)served->map,
		.len = served->pages * served->page,
	};

	if (ftruncate(served->memfd, nr * served->page) ||
	    ioctl(served->uffd, UFFDIO_WAKE, &range))
		return -errno;

	return 0;
}

/*
 * Add an eventfd with that value by descriptor @num. Afterwards nobody has a
 * descriptor for it: it is only in a message that was not received.
 */
static inline int add_in_flight(int efd, unsigned int value, int num,
				__u64 data)
{
	int socks[2], fd = eventfd(value, EFD_NONBLOCK), ret;

	if (fd < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, socks))
		return -errno;

	ret = add_as(efd, fd, num, EPOLLIN, data) ?: send_fd(socks[0], fd);
	close(fd);

	return ret;
}

#endif /* _EPOLL_CR_TEST_H */
