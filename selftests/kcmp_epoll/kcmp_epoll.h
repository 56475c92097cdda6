/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of kcmp(KCMP_EPOLL_TFD) share. */
#ifndef _KCMP_EPOLL_H
#define _KCMP_EPOLL_H

#include <linux/kcmp.h>

#define MODULE		"kcmp_epoll"
#define MODULE_KO	"KCMP_EPOLL_KO"

#include "epoll-helpers.h"
#include "epoll-hold.h"
#include "epoll-module.h"
#include "epoll-process.h"

/* The queries. */

static inline int kcmp(pid_t pid1, pid_t pid2, int type, unsigned long idx1,
		       unsigned long idx2)
{
	long ret = syscall(__NR_kcmp, pid1, pid2, type, idx1, idx2);

	return ret < 0 ? -errno : ret;
}

static inline int kcmp_tfd(pid_t pid1, unsigned long idx1, pid_t pid2,
			   __u32 efd, __u32 tfd, __u32 toff)
{
	struct kcmp_epoll_slot slot = { .efd = efd, .tfd = tfd, .toff = toff };

	return kcmp(pid1, pid2, KCMP_EPOLL_TFD, idx1, (unsigned long)&slot);
}

static inline int kcmp_tfd_self(unsigned long idx1, __u32 efd, __u32 tfd,
				__u32 toff)
{
	return kcmp_tfd(getpid(), idx1, getpid(), efd, tfd, toff);
}

static inline int kcmp_file_self(int fd1, int fd2)
{
	return kcmp(getpid(), getpid(), KCMP_FILE, fd1, fd2);
}

/* A pid that does not exist. */
static inline pid_t unused_pid(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	if (pid < 0 || waitpid(pid, NULL, 0) != pid)
		return -1;

	return pid;
}

#endif /* _KCMP_EPOLL_H */
