/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of kcmp(KCMP_EPOLL_TFD), of the BPF iterator for epoll instances
 * and of /dev/epoll_cr share: time, epoll instances, small files. Errors are
 * returned as negative errnos, here and in epoll-*.h.
 */
#ifndef _EPOLL_HELPERS_H
#define _EPOLL_HELPERS_H

#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "kselftest.h"

/* Descriptors that nothing else uses: add_as() makes sure that they are free. */
#define TFD		702
#define NO_FD		901

/* What must happen has happened by then. */
#define PATIENCE_MS	20000
/* Long enough for what must not happen. */
#define A_WHILE_MS	200

static inline void sleep_ms(unsigned int ms)
{
	usleep(ms * 1000);
}

static inline long long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static inline long long now_ms(void)
{
	return now_ns() / 1000000;
}

static inline int epoll_add(int efd, int fd, __u32 events, __u64 data)
{
	struct epoll_event ev = { .events = events, .data.u64 = data };

	return epoll_ctl(efd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

/* Duplicate @fd to @num, which must not be in use. */
static inline int dup_as(int fd, int num)
{
	if (fcntl(num, F_GETFD) >= 0)
		return -EEXIST;

	return dup2(fd, num) < 0 ? -errno : num;
}

/* Add the file of @fd by descriptor @num, which is closed afterwards. */
static inline int add_as(int efd, int fd, int num, __u32 events, __u64 data)
{
	int ret = dup_as(fd, num);

	if (ret < 0)
		return ret;

	ret = epoll_add(efd, num, events, data);
	close(num);

	return ret;
}

/* Remove the target that was added by descriptor @num for the file of @fd. */
static inline int del_as(int efd, int fd, int num)
{
	int ret = dup_as(fd, num);

	if (ret < 0)
		return ret;

	ret = epoll_ctl(efd, EPOLL_CTL_DEL, num, NULL) ? -errno : 0;
	close(num);

	return ret;
}

static inline int allow_fds(rlim_t nr)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim))
		return -errno;
	if (lim.rlim_cur >= nr)
		return 0;

	lim.rlim_cur = nr;
	if (lim.rlim_max < nr)
		lim.rlim_max = nr;

	return setrlimit(RLIMIT_NOFILE, &lim) ? -errno : 0;
}

/* The number at the beginning of a file. */
static inline long read_number(const char *path)
{
	char buf[32] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t ret;

	if (fd < 0)
		return -errno;

	ret = read(fd, buf, sizeof(buf) - 1);
	close(fd);

	return ret > 0 ? atol(buf) : -EIO;
}

static inline int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;

	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);

	return ret;
}

#endif /* _EPOLL_HELPERS_H */
