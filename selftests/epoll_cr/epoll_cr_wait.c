// SPDX-License-Identifier: GPL-2.0
/* Waiting for an epoll instance: what ends it, and what goes on meanwhile. */
#include "epoll_cr_fixture.h"

#define CANNOT_HOLD	"needs root and userfaultfd to hold a set"

/* The calls that look at an instance. */
FIXTURE_VARIANT(epoll_cr)
{
	bool fetch;
};

FIXTURE_VARIANT_ADD(epoll_cr, snapshot) {
	.fetch = false,
};

FIXTURE_VARIANT_ADD(epoll_cr, fetch) {
	.fetch = true,
};

/* A process that makes such a call once and exits with the error. */
static pid_t fork_caller(bool is_fetch, int dev, int pidfd, int efd)
{
	pid_t pid = fork_bound();

	if (!pid) {
		struct epoll_cr_item item;
		__u64 count;
		int ret = is_fetch ? fetch(dev, pidfd, efd, TFD, 0, 0) :
				     snapshot(dev, pidfd, efd, &item, 1, &count);

		_exit(ret < 0 ? -ret : 0);
	}

	return pid;
}

/*
 * The process that is looked at executes another program meanwhile. It takes the
 * lock under which access was checked, which many files in /proc wait for, too.
 */
TEST_F(epoll_cr, exec_during_call)
{
	struct held_set held;
	int ret, sock, pidfd, null;
	pid_t task, pid;

	if (geteuid())
		SKIP(return, CANNOT_HOLD);
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	ASSERT_GE(null, 0);
	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));

	/* Asked to, it becomes a list of the tests here and a known status. */
	task = fork_synced(&sock);
	ASSERT_GE(task, 0);
	if (!task) {
		if (sync_wait(sock) && dup2(null, STDOUT_FILENO) >= 0 &&
		    dup2(null, STDERR_FILENO) >= 0)
			execl("/proc/self/exe", "epoll_cr_wait", "-l", NULL);
		_exit(1);
	}
	pidfd = pidfd_of(task, 0);
	ASSERT_GE(pidfd, 0);

	ret = hold_set(&held, self->efd);
	if (ret == -EOPNOTSUPP)
		SKIP(return, CANNOT_HOLD);
	ASSERT_EQ(0, ret);
	pid = fork_caller(variant->fetch, self->dev, pidfd, self->efd);
	ASSERT_GE(pid, 0);
	ASSERT_TRUE(wait_asleep_in(pid, __NR_ioctl));

	ASSERT_TRUE(sync_post(sock));
	EXPECT_EQ(KSFT_SKIP, wait_exit(task));
	EXPECT_TRUE(asleep_in(pid, __NR_ioctl));

	EXPECT_EQ(1, release_set(&held));
	/* What it waited for was its own by then. */
	EXPECT_EQ(0, wait_exit(pid));
}

/* Whoever is killed does not wait on. */
TEST_F(epoll_cr, killed_waiting_for_set)
{
	struct held_set held;
	pid_t pid;
	int ret;

	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));
	ret = hold_set(&held, self->efd);
	if (ret == -EOPNOTSUPP)
		SKIP(return, CANNOT_HOLD);
	ASSERT_EQ(0, ret);
	pid = fork_caller(variant->fetch, self->dev, SELF, self->efd);
	ASSERT_GE(pid, 0);
	ASSERT_TRUE(wait_asleep_in(pid, __NR_ioctl));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(-SIGKILL, wait_exit(pid));
	EXPECT_EQ(1, release_set(&held));
	EXPECT_EQ(1, entries(self->dev, self->efd));
}

TEST_HARNESS_MAIN
