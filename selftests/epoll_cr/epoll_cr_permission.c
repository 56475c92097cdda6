// SPDX-License-Identifier: GPL-2.0
/* Who may look at whom. */
#include "epoll_cr.h"

#define YAMA	"/proc/sys/kernel/yama/ptrace_scope"

struct subject {
	pid_t pid;
	int sock, pidfd;
};

/* A child of the tests that has a set as number TFD, as another user or not. */
static bool subject_start(struct subject *subject, uid_t id, bool dumpable)
{
	subject->pid = fork_synced(&subject->sock);
	if (subject->pid < 0)
		return false;
	if (!subject->pid) {
		int efd = epoll_create1(0);
		int fd = eventfd(0, 0);

		if (dup2(efd, TFD) != TFD ||
		    add_as(TFD, fd, TFD + 1, EPOLLIN, 0) ||
		    (id && become(id, dumpable)))
			_exit(1);
		sync_post(subject->sock);
		sync_wait(subject->sock);
		_exit(0);
	}
	subject->pidfd = pidfd_of(subject->pid, 0);

	return sync_wait(subject->sock) && subject->pidfd >= 0;
}

/* What all calls on a subject return, if it is the same for all, else 1. */
static int ask(int dev, int pidfd)
{
	struct epoll_cr_item item;
	struct epoll_cr_file info;
	__u32 fd = TFD;
	__u64 count;
	int ret = snapshot(dev, pidfd, TFD, &item, 1, &count);
	int got = fetch(dev, pidfd, TFD, TFD + 1, 0, 0);
	int listed = files(dev, pidfd, NULL, 0, &count, NULL);

	if (got >= 0) {
		close(got);
		got = 0;
	}
	if (listed == -ENOSPC)
		listed = 0;
	if (got != ret || listed != ret ||
	    describe(dev, pidfd, &fd, &info, 1, NULL, 0, &count) != ret)
		return 1;

	return ret;
}

/* The same as user @id, in a child. The device was opened by root. */
static int ask_as(int dev, int pidfd, uid_t id)
{
	int status;
	pid_t pid = fork_bound();

	if (!pid) {
		if (become(id, true))
			_exit(200);
		_exit(-ask(dev, pidfd));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return 1;

	return -WEXITSTATUS(status);
}

/* Yama would refuse all that these tests are to see. */
static int yama(int scope)
{
	int fd = open(YAMA, O_RDWR | O_CLOEXEC), old = 0;
	char c;

	if (fd < 0)
		return 0;
	if (pread(fd, &c, 1, 0) == 1)
		old = c - '0';
	c = '0' + scope;
	if (pwrite(fd, &c, 1, 0) != 1)
		old = -1;
	close(fd);

	return old;
}

TEST_F(epoll_cr, users)
{
	struct subject a, b, hidden;
	int old;

	if (geteuid())
		SKIP(return, "needs root to become others");
	old = yama(0);
	ASSERT_TRUE(subject_start(&a, UID_A, true));
	ASSERT_TRUE(subject_start(&b, UID_B, true));
	ASSERT_TRUE(subject_start(&hidden, UID_A, false));

	EXPECT_EQ(0, ask(self->dev, a.pidfd));
	EXPECT_EQ(0, ask(self->dev, b.pidfd));
	EXPECT_EQ(0, ask(self->dev, hidden.pidfd));

	EXPECT_EQ(0, ask_as(self->dev, a.pidfd, UID_A));
	EXPECT_EQ(-EPERM, ask_as(self->dev, b.pidfd, UID_A));
	EXPECT_EQ(-EPERM, ask_as(self->dev, hidden.pidfd, UID_A));
	EXPECT_EQ(-EPERM, ask_as(self->dev, a.pidfd, UID_B));

	/* The later ones have the sockets of those before them. */
	EXPECT_EQ(0, sync_end(hidden.sock, hidden.pid));
	EXPECT_EQ(0, sync_end(b.sock, b.pid));
	EXPECT_EQ(0, sync_end(a.sock, a.pid));
	yama(old);
}

/* With yama, only a parent may attach. */
TEST_F(epoll_cr, yama)
{
	struct subject a;
	int old;

	if (geteuid())
		SKIP(return, "needs root to become others");
	if (access(YAMA, W_OK))
		SKIP(return, "no yama");
	ASSERT_TRUE(subject_start(&a, UID_A, true));
	old = yama(1);
	ASSERT_GE(old, 0);
	/* A sibling of the subject, of the same user. */
	EXPECT_EQ(-EPERM, ask_as(self->dev, a.pidfd, UID_A));
	EXPECT_EQ(0, ask(self->dev, a.pidfd));
	yama(0);
	EXPECT_EQ(0, ask_as(self->dev, a.pidfd, UID_A));
	EXPECT_EQ(0, sync_end(a.sock, a.pid));
	yama(old);
}

/* One may always look at oneself, and anybody may open the device. */
TEST_F(epoll_cr, self)
{
	struct epoll_cr_item item;
	struct epoll_cr_add add = {
		.fd = self->fd,
		.tfd = TFD,
		.events = EPOLLIN | ALWAYS,
	};
	int status;
	pid_t pid = fork_bound();

	ASSERT_GE(pid, 0);
	if (!pid) {
		__u64 count, bad;
		int dev;

		if (!geteuid() && become(UID_A, false))
			_exit(2);
		dev = device_open();
		if (dev < 0)
			_exit(3);
		if (snapshot(dev, SELF, self->efd, &item, 1, &count))
			_exit(4);
		if (restore(dev, self->efd, &add, 1, &bad))
			_exit(5);
		if (fetch(dev, SELF, self->efd, TFD, 0, 0) < 0)
			_exit(6);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

/* Root in a user namespace has no rights over those outside. */
TEST_F(epoll_cr, user_namespace)
{
	struct subject root;
	int status;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to become others");
	ASSERT_TRUE(subject_start(&root, 0, true));
	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (become(UID_A, true))
			_exit(200);
		if (unshare(CLONE_NEWUSER))
			_exit(201);
		_exit(-ask(self->dev, root.pidfd));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	if (status == 201 << 8)
		SKIP(return, "no user namespaces");
	EXPECT_EQ(EPERM << 8, status);
	EXPECT_EQ(0, sync_end(root.sock, root.pid));
}

/* A pidfd names a process of another pid namespace as well as any. */
TEST_F(epoll_cr, pid_namespace)
{
	struct epoll_cr_file info;
	struct epoll_cr_item item;
	int socks[2], pidfd, pipes[2];
	__u64 len;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to make a pid namespace");
	ASSERT_EQ(0, pipe2(pipes, O_CLOEXEC));
	ASSERT_EQ(0, fcntl(pipes[0], F_SETOWN, getpid()));
	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));
	if (unshare(CLONE_NEWPID))
		SKIP(return, "no pid namespaces: %s", strerror(errno));

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(socks[0]);
		/* The owner is nobody that is known in here. */
		if (describe(self->dev, SELF, (__u32 *)pipes, &info, 1, NULL, 0,
			     &len) || info.owner_pid)
			_exit(1);
		sync_post(socks[1]);
		sync_wait(socks[1]);
		_exit(0);
	}
	close(socks[1]);
	ASSERT_TRUE(sync_wait(socks[0]));
	pidfd = pidfd_of(pid, 0);
	ASSERT_GE(pidfd, 0);

	EXPECT_EQ(0, describe(self->dev, pidfd, (__u32 *)pipes, &info, 1, NULL,
			      0, &len));
	EXPECT_EQ(getpid(), info.owner_pid);
	EXPECT_EQ(0, snapshot(self->dev, pidfd, self->efd, &item, 1, &len));
	EXPECT_EQ(1, len);
	EXPECT_EQ(0, sync_end(socks[0], pid));
}

TEST_HARNESS_MAIN
