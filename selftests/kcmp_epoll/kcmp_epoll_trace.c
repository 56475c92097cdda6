// SPDX-License-Identifier: GPL-2.0
/* The tracepoint kcmp:kcmp_epoll_tfd. */
#include <sys/mount.h>
#include <sys/stat.h>

#include "kcmp_epoll_fixture.h"

#define TRACEFS	"/sys/kernel/tracing"
#define EVENT	"events/kcmp/kcmp_epoll_tfd"

struct answer {
	int pid1, pid2;
	unsigned int fd, efd, tfd, toff;
	int ret;
};

/* Why answers cannot be traced here, or NULL if they can. */
static const char *cannot_trace(bool rust)
{
	if (geteuid())
		return "needs root to trace";
	if (access(TRACEFS "/instances", F_OK) &&
	    (mount("tracefs", TRACEFS, "tracefs", 0, NULL) ||
	     access(TRACEFS "/instances", F_OK)))
		return "no tracefs";
	/* A kernel with the module has the tracepoint. */
	if (!rust && access(TRACEFS "/" EVENT, F_OK))
		return "no tracepoint in a kernel without the series";

	return NULL;
}

static int enable_trace(const char *dir, bool enable)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/" EVENT "/enable", dir);

	return write_file(path, enable ? "1" : "0");
}

/* Trace into an instance of its own, whose directory becomes @dir. */
static int start_trace(char *dir, size_t len)
{
	int ret;

	snprintf(dir, len, TRACEFS "/instances/kcmp_epoll.%d", getpid());
	if (mkdir(dir, 0700))
		return -errno;

	ret = enable_trace(dir, true);
	if (ret)
		rmdir(dir);

	return ret;
}

/* Read the traced answers about @pid1. Returns how many there are. */
static int read_trace(const char *dir, pid_t pid1, struct answer *answers,
		      int max)
{
	char path[256], line[512];
	int nr = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/trace", dir);
	f = fopen(path, "re");
	if (!f)
		return -errno;

	while (fgets(line, sizeof(line), f)) {
		char *at = strstr(line, "kcmp_epoll_tfd: ");
		struct answer a;

		if (!at)
			continue;
		if (sscanf(at, "kcmp_epoll_tfd: pid1=%d pid2=%d fd=%u efd=%u tfd=%u toff=%u ret=%d",
			   &a.pid1, &a.pid2, &a.fd, &a.efd, &a.tfd, &a.toff,
			   &a.ret) != 7) {
			nr = -EINVAL;
			break;
		}
		if (a.pid1 != pid1)
			continue;
		if (nr < max)
			answers[nr] = a;
		nr++;
	}
	fclose(f);

	return nr;
}

TEST_F(kcmp_epoll, answers)
{
	struct answer asked[] = {
		/* The files that exist. */
		{ .fd = self->fd, .efd = self->efd, .tfd = TFD },
		{ .fd = self->other, .efd = self->efd, .tfd = TFD },
		/* ENOENT, twice; EBADF, twice; EINVAL */
		{ .fd = self->fd, .efd = self->efd, .tfd = TFD, .toff = 1 },
		{ .fd = self->fd, .efd = self->efd, .tfd = ~0, .toff = ~0 },
		{ .fd = NO_FD, .efd = self->efd, .tfd = TFD },
		{ .fd = self->fd, .efd = NO_FD, .tfd = TFD, .toff = 3 },
		{ .fd = self->fd, .efd = self->fd, .tfd = TFD },
		/* A query about another process. */
		{ .fd = self->fd, .efd = self->efd, .tfd = TFD },
	};
	struct answer seen[ARRAY_SIZE(asked)];
	pid_t me = getpid(), pid;
	const char *why = cannot_trace(variant->rust);
	char dir[128];
	int sock, i;

	if (why)
		SKIP(return, "%s", why);

	pid = fork_synced(&sock);
	ASSERT_GE(pid, 0);
	if (!pid) {
		sync_wait(sock);
		_exit(0);
	}

	ASSERT_EQ(0, start_trace(dir, sizeof(dir)));

	for (i = 0; i < ARRAY_SIZE(asked); i++) {
		asked[i].pid1 = me;
		asked[i].pid2 = i < ARRAY_SIZE(asked) - 1 ? me : pid;
		asked[i].ret = kcmp_tfd(me, asked[i].fd, asked[i].pid2,
					asked[i].efd, asked[i].tfd,
					asked[i].toff);
	}
	/* A slot that cannot be read is not shown. */
	EXPECT_EQ(-EFAULT, kcmp(me, me, KCMP_EPOLL_TFD, self->fd, 0));

	EXPECT_EQ(0, enable_trace(dir, false));
	/* This is not traced any more. */
	EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));

	EXPECT_EQ(0, asked[0].ret);
	EXPECT_GT(asked[1].ret, 0);
	EXPECT_EQ(-ENOENT, asked[2].ret);
	EXPECT_EQ(-ENOENT, asked[3].ret);
	EXPECT_EQ(-EBADF, asked[4].ret);
	EXPECT_EQ(-EBADF, asked[5].ret);
	EXPECT_EQ(-EINVAL, asked[6].ret);
	EXPECT_EQ(0, asked[7].ret);

	EXPECT_EQ(ARRAY_SIZE(asked),
		  read_trace(dir, me, seen, ARRAY_SIZE(seen)));
	for (i = 0; i < ARRAY_SIZE(asked); i++) {
		EXPECT_EQ(asked[i].pid2, seen[i].pid2);
		EXPECT_EQ(asked[i].fd, seen[i].fd);
		EXPECT_EQ(asked[i].efd, seen[i].efd);
		EXPECT_EQ(asked[i].tfd, seen[i].tfd);
		EXPECT_EQ(asked[i].toff, seen[i].toff);
		EXPECT_EQ(asked[i].ret, seen[i].ret);
	}

	EXPECT_EQ(0, rmdir(dir));
	EXPECT_EQ(0, sync_end(sock, pid));
}

/* The answer to a caller that was killed, and so did not see it. */
TEST_F(kcmp_epoll, killed_caller)
{
	const char *why = cannot_trace(variant->rust);
	struct held_set held;
	struct answer seen = {};
	pid_t me = getpid(), pid;
	char dir[128];
	int ret;

	if (why)
		SKIP(return, "%s", why);

	ASSERT_EQ(0, eventfd_write(self->fd, 1));
	ret = hold_set(&held, self->efd);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "needs userfaultfd to hold a mutex");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, start_trace(dir, sizeof(dir)));

	pid = fork_bound();
	EXPECT_GE(pid, 0);
	if (!pid) {
		kcmp_tfd(me, self->fd, me, self->efd, TFD, 0);
		_exit(0);
	}
	EXPECT_TRUE(wait_asleep_in(pid, __NR_kcmp));
	EXPECT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(-SIGKILL, wait_exit(pid));
	EXPECT_EQ(1, release_set(&held));

	EXPECT_EQ(0, enable_trace(dir, false));
	EXPECT_EQ(1, read_trace(dir, me, &seen, 1));
	EXPECT_EQ(-EINTR, seen.ret);
	EXPECT_EQ(0, rmdir(dir));
}

TEST_HARNESS_MAIN
