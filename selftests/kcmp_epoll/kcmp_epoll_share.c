// SPDX-License-Identifier: GPL-2.0
/* Files and epoll instances that several tasks have, and nested instances. */
#include "kcmp_epoll_fixture.h"

/* A file that was received, added and closed is found by its sender. */
TEST_F(kcmp_epoll, scm_rights)
{
	pid_t me = getpid(), pid;
	int sock, fd, cmp;

	pid = fork_synced(&sock);
	ASSERT_GE(pid, 0);
	if (!pid) {
		ASSERT_TRUE(sync_wait(sock));
		fd = receive_fd(sock, 0);
		EXPECT_GE(fd, 0);
		EXPECT_EQ(0, add_as(self->efd, fd, TFD + 1, EPOLLIN, 0));
		close(fd);
		EXPECT_TRUE(sync_post(sock));
		sync_wait(sock);
		_exit(0);
	}

	/*
	 * It is made after the fork: the receiver gets it over the socket only.
	 */
	fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(fd, 0);
	ASSERT_TRUE(sync_post(sock));
	ASSERT_EQ(0, send_fd(sock, fd));
	ASSERT_TRUE(sync_wait(sock));

	EXPECT_EQ(0, kcmp_tfd(me, fd, pid, self->efd, TFD + 1, 0));
	cmp = kcmp_tfd(me, self->fd, pid, self->efd, TFD + 1, 0);
	EXPECT_GT(cmp, 0);
	EXPECT_EQ(kcmp_file_self(self->fd, fd), cmp);

	/* The sender's reference is the last one. */
	close(fd);
	EXPECT_EQ(-ENOENT, kcmp_tfd(me, self->fd, pid, self->efd, TFD + 1, 0));

	EXPECT_EQ(0, sync_end(sock, pid));
}

/* A file in flight is open, though no task has it. */
TEST_F(kcmp_epoll, scm_rights_in_flight)
{
	int socks[2], cmp, fd;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
	ASSERT_EQ(0, send_fd(socks[0], self->fd));
	cmp = kcmp_tfd_self(self->other, self->efd, TFD, 0);
	close(self->fd);

	EXPECT_GT(cmp, 0);
	EXPECT_EQ(cmp, kcmp_tfd_self(self->other, self->efd, TFD, 0));

	fd = receive_fd(socks[1], 0);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(0, kcmp_tfd_self(fd, self->efd, TFD, 0));

	ASSERT_EQ(0, send_fd(socks[0], fd));
	close(fd);
	close(socks[0]);
	close(socks[1]);
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->other, self->efd, TFD, 0));
}

/* Only the child still has the file of the target. */
TEST_F(kcmp_epoll, owner_is_forked_child)
{
	pid_t me = getpid(), pid;
	int sock, fd = self->fd;

	pid = fork_synced(&sock);
	ASSERT_GE(pid, 0);
	if (!pid) {
		EXPECT_TRUE(sync_wait(sock));
		EXPECT_EQ(0, kcmp_tfd(getpid(), fd, me, self->efd, TFD, 0));
		EXPECT_EQ(0, kcmp_tfd_self(fd, self->efd, TFD, 0));
		EXPECT_TRUE(sync_post(sock));
		sync_wait(sock);
		_exit(0);
	}

	close(fd);
	EXPECT_EQ(0, kcmp_tfd(pid, fd, me, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd(pid, fd, pid, self->efd, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd(me, fd, me, self->efd, TFD, 0));

	ASSERT_TRUE(sync_post(sock));
	ASSERT_TRUE(sync_wait(sock));
	EXPECT_EQ(0, sync_end(sock, pid));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->other, self->efd, TFD, 0));
}

/*
 * The same descriptors refer to other files and instances in another process.
 */
TEST_F(kcmp_epoll, numbers_are_per_task)
{
	pid_t me = getpid(), pid;
	int sock;

	pid = fork_synced(&sock);
	ASSERT_GE(pid, 0);
	if (!pid) {
		int efd = epoll_create1(EPOLL_CLOEXEC);

		EXPECT_EQ(self->fd, dup2(self->other, self->fd));
		EXPECT_EQ(0, add_as(efd, self->other, TFD, EPOLLIN, 0));
		EXPECT_EQ(self->efd, dup2(efd, self->efd));
		EXPECT_TRUE(sync_post(sock));
		sync_wait(sock);
		_exit(0);
	}
	ASSERT_TRUE(sync_wait(sock));

	EXPECT_EQ(0, kcmp_tfd(me, self->fd, me, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd(pid, self->fd, pid, self->efd, TFD, 0));
	EXPECT_EQ(kcmp_file_self(self->other, self->fd),
		  kcmp_tfd(pid, self->fd, me, self->efd, TFD, 0));
	EXPECT_EQ(kcmp_file_self(self->fd, self->other),
		  kcmp_tfd(me, self->fd, pid, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd(me, self->other, pid, self->efd, TFD, 0));

	EXPECT_EQ(0, sync_end(sock, pid));
}

struct tasklet {
	pid_t tid;
	int sock;
	/* Descriptors to close in a table of its own, if not negative. */
	int fd, efd;
};

static void *thread_fn(void *data)
{
	struct tasklet *task = data;

	task->tid = gettid();
	if (task->fd >= 0 && !unshare(CLONE_FILES))
		close(task->fd);
	if (task->efd >= 0 && !unshare(CLONE_FILES))
		close(task->efd);

	sync_post(task->sock);
	sync_wait(task->sock);

	return NULL;
}

/* A thread can be queried by its id. */
TEST_F(kcmp_epoll, thread)
{
	struct tasklet task = { .fd = -1, .efd = -1 };
	pid_t me = getpid();
	pthread_t thread;
	int socks[2], fd;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks));
	task.sock = socks[1];
	ASSERT_EQ(0, pthread_create(&thread, NULL, thread_fn, &task));
	ASSERT_TRUE(sync_wait(socks[0]));
	ASSERT_NE(me, task.tid);

	EXPECT_EQ(0, kcmp_tfd(task.tid, self->fd, me, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd(me, self->fd, task.tid, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd(task.tid, self->fd, task.tid, self->efd, TFD,
			      0));

	/* They share one table: what one opens, the other has. */
	fd = fcntl(self->fd, F_DUPFD_CLOEXEC, NO_FD);
	ASSERT_GE(fd, NO_FD);
	EXPECT_EQ(0, kcmp_tfd(task.tid, fd, task.tid, self->efd, TFD, 0));
	close(fd);
	EXPECT_EQ(-EBADF, kcmp_tfd(task.tid, fd, me, self->efd, TFD, 0));

	ASSERT_TRUE(sync_post(socks[0]));
	ASSERT_EQ(0, pthread_join(thread, NULL));
}

/* A thread that does not share the table has descriptors of its own. */
TEST_F(kcmp_epoll, thread_with_own_table)
{
	struct tasklet task = { .fd = self->fd, .efd = self->efd };
	pid_t me = getpid();
	pthread_t thread;
	int socks[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks));
	task.sock = socks[1];
	ASSERT_EQ(0, pthread_create(&thread, NULL, thread_fn, &task));
	ASSERT_TRUE(sync_wait(socks[0]));

	EXPECT_EQ(0, kcmp_tfd(me, self->fd, me, self->efd, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd(task.tid, self->fd, me, self->efd, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd(me, self->fd, task.tid, self->efd, TFD, 0));
	EXPECT_EQ(kcmp_file_self(self->other, self->fd),
		  kcmp_tfd(task.tid, self->other, me, self->efd, TFD, 0));

	ASSERT_TRUE(sync_post(socks[0]));
	ASSERT_EQ(0, pthread_join(thread, NULL));
}

/* A process that shares its parent's table without being its thread. */
TEST_F(kcmp_epoll, shared_table)
{
	pid_t me = getpid(), pid;
	int socks[2], fd;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks));
	pid = syscall(__NR_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		sync_wait(socks[1]);
		_exit(0);
	}

	fd = fcntl(self->fd, F_DUPFD_CLOEXEC, NO_FD);
	ASSERT_GE(fd, NO_FD);
	EXPECT_EQ(0, kcmp_tfd(pid, fd, me, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd(me, fd, pid, self->efd, TFD, 0));

	ASSERT_TRUE(sync_post(socks[0]));
	EXPECT_EQ(0, wait_exit(pid));
}

/*
 * An epoll instance is a file: it can be a target, and can be queried itself.
 */
TEST_F(kcmp_epoll, nested)
{
	int outer = epoll_create1(EPOLL_CLOEXEC);
	int outmost = epoll_create1(EPOLL_CLOEXEC);

	ASSERT_GE(outer, 0);
	ASSERT_GE(outmost, 0);
	ASSERT_EQ(0, add_as(outer, self->efd, TFD, EPOLLIN, 0));
	ASSERT_EQ(0, add_as(outmost, outer, TFD, EPOLLIN, 0));
	ASSERT_EQ(0, add_as(outmost, self->efd, TFD + 1, EPOLLIN, 0));

	EXPECT_EQ(0, kcmp_tfd_self(self->efd, outer, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd_self(outer, outmost, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd_self(self->efd, outmost, TFD + 1, 0));
	EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));

	/* The targets of a nested instance are not those of the outer one. */
	EXPECT_EQ(kcmp_file_self(self->fd, self->efd),
		  kcmp_tfd_self(self->fd, outer, TFD, 0));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, outer, TFD, 1));

	/* The queried epoll instance is compared like any other file. */
	EXPECT_EQ(kcmp_file_self(outmost, outer),
		  kcmp_tfd_self(outmost, outmost, TFD, 0));

	close(self->efd);
	EXPECT_EQ(-EBADF, kcmp_tfd_self(self->efd, outer, TFD, 0));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, outer, TFD, 0));
}

/* Two descriptors of one epoll instance give the same answers. */
TEST_F(kcmp_epoll, duplicated_set)
{
	int dup = fcntl(self->efd, F_DUPFD_CLOEXEC, NO_FD);

	ASSERT_GE(dup, NO_FD);

	EXPECT_EQ(0, kcmp_tfd_self(self->fd, dup, TFD, 0));
	close(self->efd);
	EXPECT_EQ(0, kcmp_tfd_self(self->fd, dup, TFD, 0));
	ASSERT_EQ(0, add_as(dup, self->other, TFD + 1, EPOLLIN, 0));
	EXPECT_EQ(0, kcmp_tfd_self(self->other, dup, TFD + 1, 0));
}

/* An O_PATH descriptor counts as open. */
TEST_F(kcmp_epoll, o_path)
{
	int path = open("/", O_PATH | O_CLOEXEC);
	int ret;

	ASSERT_GE(path, 0);

	ret = kcmp_tfd_self(path, self->efd, TFD, 0);
	EXPECT_GT(ret, 0);
	EXPECT_EQ(kcmp_file_self(path, self->fd), ret);

	EXPECT_EQ(-EINVAL, kcmp_tfd_self(self->fd, path, TFD, 0));
	EXPECT_EQ(-EINVAL, kcmp_tfd_self(path, path, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd_self(NO_FD, path, TFD, 0));
	EXPECT_EQ(-EBADF, kcmp_tfd_self(path, NO_FD, TFD, 0));
}

TEST_HARNESS_MAIN
