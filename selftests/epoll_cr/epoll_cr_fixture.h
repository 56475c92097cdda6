/* SPDX-License-Identifier: GPL-2.0 */
/* A device, an epoll instance and two files, in each test. */
#ifndef _EPOLL_CR_FIXTURE_H
#define _EPOLL_CR_FIXTURE_H

#include "epoll_cr.h"
#include "kselftest_harness.h"

/* Yama restricts who may attach, in addition to the rules of ptrace(2). */
#define YAMA	"/proc/sys/kernel/yama/ptrace_scope"

FIXTURE(epoll_cr)
{
	int dev;
	int efd;
	int fd;
	int other;
	/* The value before a test changed it, or negative. */
	long yama;
};

FIXTURE_SETUP(epoll_cr)
{
	self->yama = -1;
	self->dev = device_load();
	if (self->dev == -ENOENT)
		SKIP(return, "no " DEVICE);
	if (self->dev == -EACCES)
		SKIP(return, "needs root to open " DEVICE);
	ASSERT_GE(self->dev, 0);
	/* More than the usual limit, where that is allowed. */
	allow_fds(4096);
	self->efd = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_GE(self->efd, 0);
	self->fd = ready_eventfd();
	ASSERT_GE(self->fd, 0);
	self->other = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_GE(self->other, 0);
}

FIXTURE_TEARDOWN(epoll_cr)
{
	if (self->yama >= 0)
		set_sysctl(YAMA, self->yama);
}

#endif /* _EPOLL_CR_FIXTURE_H */
