// SPDX-License-Identifier: GPL-2.0
/* EPOLL_CR_RESTORE adds targets only by descriptors the caller can have. */
#include "epoll_cr_fixture.h"

#define NR_OPEN	"/proc/sys/fs/nr_open"

static int restore_as(int dev, int efd, int fd, int tfd)
{
	struct epoll_cr_add add = {
		.fd = fd,
		.tfd = tfd,
		.events = EPOLLIN | ALWAYS,
	};
	__u64 bad;
	int ret = restore(dev, efd, &add, 1, &bad);

	/* The only element is to blame. */
	return ret && bad ? -EBADMSG : ret;
}

/* In a child, as a user without capabilities and with these limits. */
static int as_user(int dev, int efd, int fd, rlim_t soft, rlim_t hard, int tfd)
{
	struct rlimit lim = { .rlim_cur = soft, .rlim_max = hard };
	pid_t pid = fork_bound();

	if (!pid) {
		if (setrlimit(RLIMIT_NOFILE, &lim) || setgroups(0, NULL) ||
		    setresgid(UID_A, UID_A, UID_A) ||
		    setresuid(UID_A, UID_A, UID_A))
			_exit(255);
		_exit(-restore_as(dev, efd, fd, tfd));
	}

	return -wait_exit(pid);
}

/* What could be added by epoll_ctl(2), after dup2(2), and no more. */
TEST_F(epoll_cr, limit_of_descriptors)
{
	if (geteuid())
		SKIP(return, "needs root to become somebody else");

	EXPECT_EQ(0, as_user(self->dev, self->efd, self->fd, 64, 128, 63));
	/* It could raise its limit. */
	EXPECT_EQ(0, as_user(self->dev, self->efd, self->fd, 64, 128, 64));
	EXPECT_EQ(0, as_user(self->dev, self->efd, self->fd, 64, 128, 127));
	EXPECT_EQ(-EMFILE, as_user(self->dev, self->efd, self->fd, 64, 128, 128));
	EXPECT_EQ(-EMFILE, as_user(self->dev, self->efd, self->fd, 64, 128, 100000));
	EXPECT_EQ(3, entries(self->dev, self->efd));
}

/* Whoever may raise any limit may add a target by any possible descriptor. */
TEST_F(epoll_cr, limit_of_root)
{
	int nr_open = read_number(NR_OPEN);
	struct rlimit lim = { .rlim_cur = 64, .rlim_max = 64 };

	if (geteuid())
		SKIP(return, "needs root");
	ASSERT_GT(nr_open, 128);
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &lim));
	EXPECT_EQ(0, restore_as(self->dev, self->efd, self->fd, 128));
	EXPECT_EQ(0, restore_as(self->dev, self->efd, self->fd, nr_open - 1));
	EXPECT_EQ(-EINVAL, restore_as(self->dev, self->efd, self->fd, nr_open));
	EXPECT_EQ(2, entries(self->dev, self->efd));
}

TEST_HARNESS_MAIN
