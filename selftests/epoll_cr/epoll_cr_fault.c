// SPDX-License-Identifier: GPL-2.0
/*
 * Each allocation and each access to memory of the caller fails, one after the
 * other: a call is done, or fails and leaves nothing behind.
 */
#include "epoll_cr.h"

#define DEBUG	"/sys/kernel/debug"
/* More than are read at once. */
#define MANY	140
/* More than anything here does. */
#define LIMIT	20000

/* Prepare each kind of failure, all of which the tests rely on. */
static bool prepare(void)
{
	static const char *const kinds[] = {
		"failslab", "fail_page_alloc", "fail_usercopy",
	};
	static const char *const knobs[][2] = {
		{ "verbose", "0" }, { "ignore-gfp-wait", "N" },
		{ "cache-filter", "N" }, { "ignore-gfp-highmem", "N" },
		{ "min-order", "0" },
	};
	unsigned int i, j;
	char path[128];

	for (i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), DEBUG "/%s", kinds[i]);
		if (access(path, F_OK))
			return false;
		for (j = 0; j < 5; j++) {
			snprintf(path, sizeof(path), DEBUG "/%s/%s", kinds[i],
				 knobs[j][0]);
			if (!access(path, F_OK) &&
			    write_file(path, knobs[j][1]))
				return false;
		}
	}

	return true;
}

static bool set_nth(int fail, unsigned int n)
{
	char buf[16];

	snprintf(buf, sizeof(buf), "%u", n);
	return pwrite(fail, buf, strlen(buf), 0) > 0;
}

/* Stop failing. Returns whether something has failed. */
static bool has_failed(int fail)
{
	char buf[16] = "";

	if (pread(fail, buf, sizeof(buf) - 1, 0) <= 0)
		return false;
	set_nth(fail, 0);

	return atoi(buf) == 0;
}

static bool expected(int ret)
{
	return ret == -ENOMEM || ret == -EFAULT;
}

static struct epoll_cr_add adds[MANY];

/* Why a test is to be left out, or NULL once all is prepared for it. */
static const char *set_up(int efd, int fd, int *fail)
{
	int i;

	*fail = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (*fail < 0)
		return "this kernel cannot let allocations fail";
	if (geteuid())
		return "needs root";
	if (!prepare())
		return "cannot prepare all of " DEBUG "/fail*";

	for (i = 0; i < MANY; i++) {
		if (add_as(efd, fd, 1000 + i, EPOLLIN, i))
			return "no entries can be added";
		adds[i] = (struct epoll_cr_add) {
			.fd = fd,
			.tfd = 1000 + i,
			.events = EPOLLIN | ALWAYS,
		};
	}

	return NULL;
}

TEST_F(epoll_cr, fault_in_open)
{
	const char *why;
	unsigned int n, failed = 0;
	int dev;
	int fail;

	why = set_up(self->efd, self->fd, &fail);
	if (why)
		SKIP(return, "%s", why);

	for (n = 1; n < LIMIT; n++) {
		ASSERT_TRUE(set_nth(fail, n));
		dev = device_open();
		if (!has_failed(fail))
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
	const char *why;
	struct epoll_cr_item items[MANY];
	unsigned int n, failed = 0;
	__u64 count;
	int ret;
	int fail;

	why = set_up(self->efd, self->fd, &fail);
	if (why)
		SKIP(return, "%s", why);

	for (n = 1; n < LIMIT; n++) {
		ASSERT_TRUE(set_nth(fail, n));
		ret = snapshot(self->dev, SELF, self->efd, items, MANY, &count);
		if (!has_failed(fail))
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
	const char *why;
	struct epoll_cr_fd fds[64];
	struct epoll_cr_file infos[64];
	__u32 list[64];
	char paths[8192];
	unsigned int n, i, failed = 0;
	__u64 count, len;
	int ret;
	int fail;

	why = set_up(self->efd, self->fd, &fail);
	if (why)
		SKIP(return, "%s", why);

	for (n = 1; n < LIMIT; n++) {
		ASSERT_TRUE(set_nth(fail, n));
		ret = files(self->dev, SELF, fds, 64, &count, NULL);
		if (!has_failed(fail))
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
		ASSERT_TRUE(set_nth(fail, n));
		ret = describe(self->dev, SELF, list, infos, count, paths,
			       sizeof(paths), &len);
		if (!has_failed(fail))
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
	const char *why;
	unsigned int n, failed = 0;
	int fd;
	int fail;

	why = set_up(self->efd, self->fd, &fail);
	if (why)
		SKIP(return, "%s", why);

	for (n = 1; n < LIMIT; n++) {
		ASSERT_TRUE(set_nth(fail, n));
		fd = fetch(self->dev, SELF, self->efd, 1000 + MANY / 2, 0, 0);
		if (!has_failed(fail))
			break;
		if (fd >= 0) {
			close(fd);
			continue;
		}
		ASSERT_TRUE(expected(fd));
		failed++;
	}
	ASSERT_GE(fd, 0);
	/* At least that the arguments cannot be read. */
	EXPECT_LT(0, failed);
	close(fd);
	/* No descriptor was lost. */
	EXPECT_EQ(fd, fcntl(self->fd, F_DUPFD_CLOEXEC, 0));
}

TEST_F_TIMEOUT(epoll_cr, fault_in_restore, 240)
{
	const char *why;
	unsigned int n, failed = 0;
	__u64 bad;
	int ret;
	int fail, copy = epoll_create1(EPOLL_CLOEXEC);

	why = set_up(self->efd, self->fd, &fail);
	if (why)
		SKIP(return, "%s", why);

	for (n = 1; n < LIMIT; n++) {
		ASSERT_TRUE(set_nth(fail, n));
		ret = restore(self->dev, copy, adds, MANY, &bad);
		if (!has_failed(fail))
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
	/* Each of the entries, and the accesses to the array. */
	EXPECT_LT(MANY, failed);
}

TEST_HARNESS_MAIN
