// SPDX-License-Identifier: GPL-2.0
/*
 * Each allocation, and each access to memory of the caller, fails in turn: a
 * call succeeds, or fails and leaves nothing behind.
 */
#include "epoll-fault.h"
#include "epoll_cr.h"
#include "kselftest_harness.h"

/* More than one batch. */
#define MANY	140
/* No operation here makes as many. */
#define LIMIT	20000

static bool expected(int ret)
{
	return ret == -ENOMEM || ret == -EFAULT;
}

static struct epoll_cr_add adds[MANY];

/* A device, and an epoll instance with many targets. */
FIXTURE(epoll_cr)
{
	int fail_nth;
	int dev;
	int efd;
	int fd;
};

FIXTURE_SETUP(epoll_cr)
{
	const char *cannot = cannot_fail(&self->fail_nth);
	int i;

	if (cannot)
		SKIP(return, "%s", cannot);
	self->dev = device_load();
	if (self->dev == -ENOENT)
		SKIP(return, "no " DEVICE);
	ASSERT_GE(self->dev, 0);

	ASSERT_EQ(0, allow_fds(1000 + MANY));
	self->efd = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_GE(self->efd, 0);
	self->fd = ready_eventfd();
	ASSERT_GE(self->fd, 0);
	for (i = 0; i < MANY; i++) {
		ASSERT_EQ(0, add_as(self->efd, self->fd, 1000 + i, EPOLLIN, i));
		adds[i] = (struct epoll_cr_add) {
			.fd = self->fd,
			.tfd = 1000 + i,
			.events = EPOLLIN | ALWAYS,
		};
	}
}

FIXTURE_TEARDOWN(epoll_cr)
{
}

TEST_F(epoll_cr, fault_in_open)
{
	unsigned int n, failed = 0;
	int dev;

	for (n = 1; n < LIMIT; n++) {
		fail_at(self->fail_nth, n);
		dev = device_open();
		if (!has_failed(self->fail_nth))
			break;
		if (dev >= 0)
			close(dev);
		else
			failed++;
	}
	ASSERT_GE(dev, 0);
	EXPECT_LT(0, failed);
	close(dev);
}

TEST_F(epoll_cr, fault_in_snapshot)
{
	struct epoll_cr_item items[MANY];
	unsigned int n, failed = 0;
	__u64 count;
	int ret;

	for (n = 1; n < LIMIT; n++) {
		fail_at(self->fail_nth, n);
		ret = snapshot(self->dev, SELF, self->efd, items, MANY, &count);
		if (!has_failed(self->fail_nth))
			break;
		if (ret)
			ASSERT_TRUE(expected(ret));
		failed += !!ret;
	}
	EXPECT_EQ(0, ret);
	EXPECT_EQ(MANY, count);
	EXPECT_LT(0, failed);
}

TEST_F(epoll_cr, fault_in_files_and_describe)
{
	struct epoll_cr_fd fds[64];
	struct epoll_cr_file infos[64];
	__u32 list[64];
	char paths[8192];
	unsigned int n, i, failed = 0;
	__u64 count, len;
	int ret;

	for (n = 1; n < LIMIT; n++) {
		fail_at(self->fail_nth, n);
		ret = files(self->dev, SELF, fds, 64, &count, NULL);
		if (!has_failed(self->fail_nth))
			break;
		if (ret)
			ASSERT_TRUE(expected(ret));
		failed += !!ret;
	}
	ASSERT_EQ(0, ret);
	EXPECT_LT(0, failed);

	for (i = 0; i < count; i++)
		list[i] = fds[i].fd;
	for (n = 1, failed = 0; n < LIMIT; n++) {
		fail_at(self->fail_nth, n);
		ret = describe(self->dev, SELF, list, infos, count, paths,
			       sizeof(paths), &len);
		if (!has_failed(self->fail_nth))
			break;
		if (ret)
			ASSERT_TRUE(expected(ret));
		failed += !!ret;
	}
	EXPECT_EQ(0, ret);
	EXPECT_LT(0, failed);
}

TEST_F(epoll_cr, fault_in_fetch)
{
	unsigned int n, failed = 0;
	int fd;

	for (n = 1; n < LIMIT; n++) {
		fail_at(self->fail_nth, n);
		fd = fetch(self->dev, SELF, self->efd, 1000 + MANY / 2, 0, 0);
		if (!has_failed(self->fail_nth))
			break;
		if (fd >= 0) {
			close(fd);
			continue;
		}
		ASSERT_TRUE(expected(fd));
		failed++;
	}
	ASSERT_GE(fd, 0);
	/* At least one failure: that to read the arguments. */
	EXPECT_LT(0, failed);
	close(fd);
	/* No descriptor was leaked. */
	EXPECT_EQ(fd, fcntl(self->fd, F_DUPFD_CLOEXEC, 0));
}

TEST_F_TIMEOUT(epoll_cr, fault_in_restore, 240)
{
	unsigned int n, failed = 0;
	__u64 bad;
	int ret;
	int copy = epoll_create1(EPOLL_CLOEXEC);

	for (n = 1; n < LIMIT; n++) {
		fail_at(self->fail_nth, n);
		ret = restore(self->dev, copy, adds, MANY, &bad);
		if (!has_failed(self->fail_nth))
			break;
		if (!ret) {
			ASSERT_EQ(MANY, entries(self->dev, copy));
			close(copy);
			copy = epoll_create1(EPOLL_CLOEXEC);
			continue;
		}
		ASSERT_TRUE(expected(ret));
		ASSERT_EQ(0, entries(self->dev, copy));
		failed++;
	}
	EXPECT_EQ(0, ret);
	EXPECT_EQ(MANY, entries(self->dev, copy));
	/* At least one for each target, and those for the array. */
	EXPECT_LT(MANY, failed);
}

TEST_HARNESS_MAIN
