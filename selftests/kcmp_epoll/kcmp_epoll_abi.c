// SPDX-License-Identifier: GPL-2.0
/* Each result of kcmp(KCMP_EPOLL_TFD), and which error takes precedence. */
#include <limits.h>
#include <stddef.h>

#include "kcmp_epoll_fixture.h"

TEST_F(kcmp_epoll, equal)
{
	EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));
}

TEST_F(kcmp_epoll, less_and_greater)
{
	int ret, back;

	ret = kcmp_tfd_self(self->other, self->efd, TFD, 0);
	ASSERT_TRUE(ret == 1 || ret == 2);
	EXPECT_EQ(kcmp_file_self(self->other, self->fd), ret);

	ASSERT_EQ(0, add_as(self->efd, self->other, TFD + 1, EPOLLIN, 0));
	back = kcmp_tfd_self(self->fd, self->efd, TFD + 1, 0);
	EXPECT_EQ(3 - ret, back);
}

TEST_F(kcmp_epoll, esrch)
{
	const pid_t pids[] = { unused_pid(), 0, -1, INT_MAX, INT_MIN };
	pid_t pid = getpid();
	int i;

	ASSERT_GT(pids[0], 0);

	for (i = 0; i < ARRAY_SIZE(pids); i++) {
		EXPECT_EQ(-ESRCH, kcmp_tfd(pids[i], self->fd, pid, self->efd,
					   TFD, 0));
		EXPECT_EQ(-ESRCH, kcmp_tfd(pid, self->fd, pids[i], self->efd,
					   TFD, 0));
		EXPECT_EQ(-ESRCH, kcmp_tfd(pids[i], self->fd, pids[i],
					   self->efd, TFD, 0));
	}
}

TEST_F(kcmp_epoll, eperm)
{
	pid_t root = getpid(), pid;

	if (geteuid())
		SKIP(return, "needs root to change its user");

	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		EXPECT_EQ(0, become(UID_A));
		EXPECT_EQ(-EPERM, kcmp_tfd(root, self->fd, getpid(), self->efd,
					   TFD, 0));
		EXPECT_EQ(-EPERM, kcmp_tfd(getpid(), self->fd, root, self->efd,
					   TFD, 0));
		EXPECT_EQ(-EPERM, kcmp_tfd(root, self->fd, root, self->efd,
					   TFD, 0));
		EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
}

TEST_F(kcmp_epoll, efault)
{
	EXPECT_EQ(-EFAULT, kcmp(getpid(), getpid(), KCMP_EPOLL_TFD, self->fd,
				0));
}

TEST_F(kcmp_epoll, ebadf_idx)
{
	ASSERT_LT(fcntl(NO_FD, F_GETFD), 0);

	EXPECT_EQ(-EBADF, kcmp_tfd_self(NO_FD, self->efd, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd_self(UINT_MAX, self->efd, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd_self(INT_MAX, self->efd, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd_self(1U << 31, self->efd, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd_self(~0UL, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));

	close(self->fd);
	EXPECT_EQ(-EBADF, kcmp_tfd_self(self->fd, self->efd, TFD, 0));
}

TEST_F(kcmp_epoll, ebadf_efd)
{
	ASSERT_LT(fcntl(NO_FD, F_GETFD), 0);

	EXPECT_EQ(-EBADF, kcmp_tfd_self(self->fd, NO_FD, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd_self(self->fd, UINT_MAX, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd_self(self->fd, INT_MAX, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd_self(self->fd, 1U << 31, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));

	close(self->efd);
	EXPECT_EQ(-EBADF, kcmp_tfd_self(self->fd, self->efd, TFD, 0));
}

TEST_F(kcmp_epoll, einval)
{
	int fds[4], i;

	ASSERT_EQ(0, pipe(fds));
	fds[2] = open("/", O_RDONLY | O_DIRECTORY);
	ASSERT_GE(fds[2], 0);
	fds[3] = open("/dev/null", O_RDWR);
	ASSERT_GE(fds[3], 0);

	EXPECT_EQ(-EINVAL, kcmp_tfd_self(self->fd, self->fd, TFD, 0));
	for (i = 0; i < ARRAY_SIZE(fds); i++)
		EXPECT_EQ(-EINVAL, kcmp_tfd_self(self->fd, fds[i], TFD, 0));
}

TEST_F(kcmp_epoll, enoent)
{
	int empty = epoll_create1(EPOLL_CLOEXEC);

	ASSERT_GE(empty, 0);

	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, empty, TFD, 0));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, TFD - 1, 0));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, TFD + 1, 0));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, 0, 0));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, INT_MAX, 0));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, 1U << 31, 0));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, UINT_MAX, 0));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, TFD, 1));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, TFD, INT_MAX));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, TFD, 1U << 31));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, TFD, UINT_MAX));

	/*
	 * A descriptor that the file has now is not the one it was added by.
	 */
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, self->fd, 0));
}

TEST_F(kcmp_epoll, idx_beyond_32_bits)
{
	const unsigned long high[] = {
		1UL << 32, 1UL << 63, 0xffffffffUL << 32,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(high); i++) {
		EXPECT_EQ(0, kcmp_tfd_self(high[i] | self->fd, self->efd, TFD,
					   0));
		EXPECT_EQ(kcmp_file_self(self->other, self->fd),
			  kcmp_tfd_self(high[i] | self->other, self->efd, TFD,
					0));
		EXPECT_EQ(-EBADF, kcmp_tfd_self(high[i] | NO_FD, self->efd,
						TFD, 0));
	}
}

/* A zombie process has no descriptors. */
TEST_F(kcmp_epoll, zombie)
{
	pid_t me = getpid(), pid;
	siginfo_t info;

	if (geteuid())
		SKIP(return, "needs root to query a zombie process");

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(0);

	ASSERT_EQ(0, waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
	EXPECT_EQ(-EBADF, kcmp_tfd(pid, self->fd, me, self->efd, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd(me, self->fd, pid, self->efd, TFD, 0));

	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	EXPECT_EQ(-ESRCH, kcmp_tfd(pid, self->fd, me, self->efd, TFD, 0));
}

/* What can be wrong with a query, in the order in which it is checked. */
enum {
	WRONG_PID,
	WRONG_OWNER,
	WRONG_SLOT,
	WRONG_IDX,
	WRONG_EFD,
	WRONG_EFD_TYPE,
	WRONG_TFD,
	NR_WRONGS,
};

static const int wrong_errno[NR_WRONGS] = {
	[WRONG_PID]		= ESRCH,
	[WRONG_OWNER]		= EPERM,
	[WRONG_SLOT]		= EFAULT,
	[WRONG_IDX]		= EBADF,
	[WRONG_EFD]		= EBADF,
	[WRONG_EFD_TYPE]	= EINVAL,
	[WRONG_TFD]		= ENOENT,
};

struct question {
	/* Pids that do not exist, that may not be queried, and that may. */
	pid_t none, root, me;
	int fd, efd;
	/* The memory after it cannot be read. */
	char *end;
};

static int ask_wrongly(const struct question *q, unsigned int wrongs,
		       bool swap)
{
	struct kcmp_epoll_slot slot = { .efd = q->efd, .tfd = TFD };
	size_t readable = sizeof(slot);
	pid_t pid1 = q->me, pid2 = q->me;
	int fd = q->fd;

	if (wrongs & (1 << WRONG_PID))
		pid1 = q->none;
	if (wrongs & (1 << WRONG_OWNER))
		pid2 = q->root;
	if (wrongs & (1 << WRONG_IDX))
		fd = NO_FD;
	if (wrongs & (1 << WRONG_EFD))
		slot.efd = NO_FD;
	if (wrongs & (1 << WRONG_EFD_TYPE))
		slot.efd = q->fd;
	if (wrongs & (1 << WRONG_TFD))
		slot.tfd = TFD + 1;
	/* A slot with wrong descriptors can still be read. */
	if (wrongs & (1 << WRONG_SLOT))
		readable = offsetof(struct kcmp_epoll_slot, toff);

	memcpy(q->end - readable, &slot, readable);

	return kcmp(swap ? pid2 : pid1, swap ? pid1 : pid2, KCMP_EPOLL_TFD, fd,
		    (unsigned long)(q->end - readable));
}

/* Each combination of mistakes is answered with the errno of the first one. */
TEST_F(kcmp_epoll, precedence)
{
	long page = sysconf(_SC_PAGESIZE);
	struct question q = {
		.none = unused_pid(),
		.root = getpid(),
		.fd = self->fd,
		.efd = self->efd,
	};
	unsigned int wrongs, swap;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to change its user");

	ASSERT_GT(q.none, 0);
	ASSERT_LT(fcntl(NO_FD, F_GETFD), 0);
	q.end = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, q.end);
	q.end += page;
	ASSERT_EQ(0, munmap(q.end, page));

	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		EXPECT_EQ(0, become(UID_A));
		q.me = getpid();
		EXPECT_EQ(0, ask_wrongly(&q, 0, false));

		for (wrongs = 1; wrongs < 1 << NR_WRONGS; wrongs++) {
			int expected = -wrong_errno[__builtin_ctz(wrongs)];

			/*
			 * For a descriptor that is not open, its type is not
			 * checked.
			 */
			if ((wrongs & (1 << WRONG_EFD)) &&
			    (wrongs & (1 << WRONG_EFD_TYPE)))
				continue;

			for (swap = 0; swap < 2; swap++) {
				EXPECT_EQ(expected,
					  ask_wrongly(&q, wrongs, swap)) {
					TH_LOG("wrongs %#x, swap %u", wrongs,
					       swap);
				}
			}
		}
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
}

/* Permission is checked before the arguments. */
TEST_F(kcmp_epoll, type_after_permission)
{
	const int types[] = { KCMP_TYPES, KCMP_TYPES + 1, -1, INT_MAX };
	pid_t none = unused_pid(), root = getpid(), pid;
	int i;

	if (geteuid())
		SKIP(return, "needs root to change its user");

	ASSERT_GT(none, 0);

	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		pid_t me = getpid();

		EXPECT_EQ(0, become(UID_A));
		for (i = 0; i < ARRAY_SIZE(types); i++) {
			EXPECT_EQ(-ESRCH, kcmp(none, me, types[i], 0, 0));
			EXPECT_EQ(-ESRCH, kcmp(root, none, types[i], 0, 0));
			EXPECT_EQ(-EPERM, kcmp(root, me, types[i], 0, 0));
			EXPECT_EQ(-EPERM, kcmp(me, root, types[i], 0, 0));
			EXPECT_EQ(-EINVAL, kcmp(me, me, types[i], 0, 0));
		}
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
}

TEST_HARNESS_MAIN
