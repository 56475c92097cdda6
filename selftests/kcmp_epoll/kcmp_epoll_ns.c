// SPDX-License-Identifier: GPL-2.0
/* Who may query whom, and which task a pid refers to. */
#include "kcmp_epoll_fixture.h"

TEST_F(kcmp_epoll, pid_namespace)
{
	pid_t me = getpid(), pid;
	int sock;

	if (geteuid())
		SKIP(return, "needs root to make a pid namespace");
	/* The namespace has the pids 1 and 2. */
	ASSERT_GT(me, 2);
	if (unshare(CLONE_NEWPID))
		SKIP(return, "no pid namespaces: %s", strerror(errno));

	/*
	 * fork_bound() cannot recognise its parent by a pid of another
	 * namespace.
	 */
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		pid_t child;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		EXPECT_EQ(1, getpid());
		EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));

		/* Pids of the outer namespace do not exist. */
		EXPECT_EQ(-ESRCH, kcmp_tfd(me, self->fd, 1, self->efd, TFD,
					   0));
		EXPECT_EQ(-ESRCH, kcmp_tfd(1, self->fd, me, self->efd, TFD,
					   0));
		EXPECT_EQ(-ESRCH, kcmp_tfd(0, self->fd, 1, self->efd, TFD,
					   0));

		child = fork_synced(&sock);
		EXPECT_EQ(child ? 2 : 0, child);
		if (!child) {
			close(self->fd);
			sync_post(sock);
			sync_wait(sock);
			_exit(0);
		}
		EXPECT_TRUE(sync_wait(sock));
		EXPECT_EQ(0, kcmp_tfd(1, self->fd, 2, self->efd, TFD, 0));
		EXPECT_EQ(-EBADF, kcmp_tfd(2, self->fd, 1, self->efd, TFD, 0));
		EXPECT_EQ(0, sync_end(sock, child));
		EXPECT_EQ(-ESRCH, kcmp_tfd(1, self->fd, 2, self->efd, TFD, 0));
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
}

/*
 * From outside, the tasks of a pid namespace have pids of the outer namespace.
 */
TEST_F(kcmp_epoll, pid_namespace_from_outside)
{
	pid_t me = getpid(), pid;
	int socks[2], cmp;

	if (geteuid())
		SKIP(return, "needs root to make a pid namespace");
	if (unshare(CLONE_NEWPID))
		SKIP(return, "no pid namespaces: %s", strerror(errno));

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(socks[0]);
		EXPECT_EQ(0, add_as(self->efd, self->other, TFD + 1, EPOLLIN, 0));
		close(self->other);
		sync_post(socks[1]);
		sync_wait(socks[1]);
		_exit(0);
	}
	close(socks[1]);
	ASSERT_TRUE(sync_wait(socks[0]));

	EXPECT_NE(1, pid);
	EXPECT_EQ(0, kcmp_tfd(pid, self->fd, pid, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd(me, self->other, pid, self->efd, TFD + 1, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd(pid, self->other, pid, self->efd, TFD, 0));
	cmp = kcmp_tfd(me, self->other, pid, self->efd, TFD, 0);
	EXPECT_EQ(kcmp_file_self(self->other, self->fd), cmp);

	EXPECT_EQ(0, sync_end(socks[0], pid));
}

/* Root in a user namespace of its own has no privileges outside. */
TEST_F(kcmp_epoll, user_namespace)
{
	pid_t me = getpid(), pid, child;
	int sock, child_sock;

	if (geteuid())
		SKIP(return, "needs root to query the tasks of the namespace");

	pid = fork_synced(&sock);
	ASSERT_GE(pid, 0);
	if (!pid) {
		/*
		 * The same ids, but the capabilities are limited to the
		 * namespace.
		 */
		if (unshare(CLONE_NEWUSER))
			_exit(KSFT_SKIP);

		EXPECT_EQ(-EPERM, kcmp_tfd(me, self->fd, getpid(), self->efd,
					   TFD, 0));
		EXPECT_EQ(-EPERM, kcmp_tfd(getpid(), self->fd, me, self->efd,
					   TFD, 0));
		EXPECT_EQ(-EPERM, kcmp(me, me, KCMP_EPOLL_TFD, NO_FD, 0));
		EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));

		/* Another task in the namespace. */
		child = fork_synced(&child_sock);
		EXPECT_GE(child, 0);
		if (!child) {
			sync_wait(child_sock);
			_exit(0);
		}
		EXPECT_EQ(0, kcmp_tfd(child, self->fd, getpid(), self->efd,
				      TFD, 0));
		EXPECT_EQ(0, kcmp_tfd(getpid(), self->fd, child, self->efd,
				      TFD, 0));
		EXPECT_EQ(0, sync_end(child_sock, child));

		sync_post(sock);
		sync_wait(sock);
		_exit(0);
	}
	if (!sync_wait(sock)) {
		ASSERT_EQ(KSFT_SKIP, wait_exit(pid));
		SKIP(return, "no user namespaces");
	}

	/* Root outside is privileged inside. */
	EXPECT_EQ(0, kcmp_tfd(pid, self->fd, pid, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd(me, self->fd, pid, self->efd, TFD, 0));

	EXPECT_EQ(0, sync_end(sock, pid));
}

/* Query @pid and the caller itself as an unprivileged user. */
static int ask_as(uid_t id, pid_t pid, bool swap, int fd, int efd, int type)
{
	pid_t child = fork_bound();

	if (!child) {
		struct kcmp_epoll_slot slot = { .efd = efd, .tfd = TFD };
		pid_t me = getpid();
		int ret;

		if (become(id))
			_exit(255);
		ret = kcmp(swap ? me : pid, swap ? pid : me, type, fd,
			   (unsigned long)&slot);
		_exit(ret < 0 ? -ret : ret + 200);
	}

	return wait_exit(child);
}

/* The exit status of ask_as() if the files are the same. */
#define SAME	200

static pid_t fork_target(uid_t id, int *sock)
{
	pid_t pid = fork_synced(sock);

	if (!pid) {
		if (become(id))
			_exit(1);

		/* Becomes non-dumpable and dumpable again when told. */
		sync_post(*sock);
		while (sync_wait(*sock)) {
			if (prctl(PR_SET_DUMPABLE, !prctl(PR_GET_DUMPABLE)))
				_exit(1);
			sync_post(*sock);
		}
		_exit(0);
	}
	if (pid > 0 && !sync_wait(*sock))
		return -1;

	return pid;
}

TEST_F(kcmp_epoll, other_owner)
{
	int sock, swap;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to change its user");

	pid = fork_target(UID_B, &sock);
	ASSERT_GT(pid, 0);

	for (swap = 0; swap < 2; swap++) {
		EXPECT_EQ(SAME, ask_as(UID_B, pid, swap, self->fd, self->efd,
				       KCMP_EPOLL_TFD));
		EXPECT_EQ(EPERM, ask_as(UID_A, pid, swap, self->fd, self->efd,
					KCMP_EPOLL_TFD));
		/* The error reveals nothing else about the query. */
		EXPECT_EQ(EPERM, ask_as(UID_A, pid, swap, NO_FD, self->efd,
					KCMP_EPOLL_TFD));
		EXPECT_EQ(EPERM, ask_as(UID_A, pid, swap, self->fd, NO_FD,
					KCMP_EPOLL_TFD));
		EXPECT_EQ(EPERM, ask_as(UID_A, pid, swap, self->fd, self->fd,
					KCMP_EPOLL_TFD));
		EXPECT_EQ(EPERM, ask_as(UID_A, pid, swap, self->fd, self->efd,
					KCMP_TYPES + 1));
	}

	/* Root may query it. */
	EXPECT_EQ(0, kcmp_tfd(pid, self->fd, pid, self->efd, TFD, 0));

	EXPECT_EQ(0, sync_end(sock, pid));
}

/* The owner of a task may not query it if it is not dumpable. */
TEST_F(kcmp_epoll, not_dumpable)
{
	int sock, swap;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to change its user");

	pid = fork_target(UID_A, &sock);
	ASSERT_GT(pid, 0);
	for (swap = 0; swap < 2; swap++) {
		EXPECT_EQ(SAME, ask_as(UID_A, pid, swap, self->fd, self->efd,
				       KCMP_EPOLL_TFD));
	}

	ASSERT_TRUE(sync_post(sock));
	ASSERT_TRUE(sync_wait(sock));
	for (swap = 0; swap < 2; swap++) {
		EXPECT_EQ(EPERM, ask_as(UID_A, pid, swap, self->fd, self->efd,
					KCMP_EPOLL_TFD));
		EXPECT_EQ(EPERM, ask_as(UID_A, pid, swap, NO_FD, self->efd,
					KCMP_EPOLL_TFD));
		EXPECT_EQ(EPERM, ask_as(UID_A, pid, swap, self->fd, self->efd,
					KCMP_TYPES + 1));
	}

	/* Root may query it nevertheless. */
	EXPECT_EQ(0, kcmp_tfd(pid, self->fd, pid, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd(getpid(), self->fd, pid, self->efd, TFD, 0));

	ASSERT_TRUE(sync_post(sock));
	ASSERT_TRUE(sync_wait(sock));
	EXPECT_EQ(SAME, ask_as(UID_A, pid, false, self->fd, self->efd,
			       KCMP_EPOLL_TFD));

	EXPECT_EQ(0, sync_end(sock, pid));
}

TEST_HARNESS_MAIN
