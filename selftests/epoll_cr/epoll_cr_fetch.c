// SPDX-License-Identifier: GPL-2.0
/* EPOLL_CR_FETCH: a descriptor for the file of a target. */
#include <stdatomic.h>

#include "epoll_cr_fixture.h"

#define NR_GARBAGE	2000

TEST_F(epoll_cr, no_such_entry)
{
	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));

	EXPECT_EQ(-ENOENT, fetch(self->dev, SELF, self->efd, TFD, 1, 0));
	EXPECT_EQ(-ENOENT, fetch(self->dev, SELF, self->efd, TFD, -1, 0));
	EXPECT_EQ(-ENOENT, fetch(self->dev, SELF, self->efd, TFD - 1, 0, 0));
	EXPECT_EQ(-ENOENT, fetch(self->dev, SELF, self->efd, TFD + 1, 0, 0));
	EXPECT_EQ(-ENOENT, fetch(self->dev, SELF, self->efd, -1, 0, 0));
	EXPECT_EQ(-EBADF, fetch(self->dev, SELF, NO_FD, TFD, 0, 0));
	EXPECT_EQ(-EBADF, fetch(self->dev, SELF, -1, TFD, 0, 0));
	EXPECT_EQ(-EOPNOTSUPP, fetch(self->dev, SELF, self->fd, TFD, 0, 0));
}

/* The tfd is closed, or refers to another file by now. */
TEST_F(epoll_cr, closed_number)
{
	__u64 file = identity(self->dev, self->fd), value;
	int fd;

	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));
	fd = fetch(self->dev, SELF, self->efd, TFD, 0, 0);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(file, identity(self->dev, fd));
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	EXPECT_EQ(sizeof(value), read(fd, &value, sizeof(value)));
	EXPECT_EQ(1, value);
	close(fd);

	ASSERT_EQ(TFD, dup2(self->other, TFD));
	fd = fetch(self->dev, SELF, self->efd, TFD, 0, 0);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(file, identity(self->dev, fd));
}

/*
 * Many files that were added by one descriptor, each by its toff and by its
 * identity.
 */
TEST_F(epoll_cr, same_number)
{
	struct epoll_cr_item items[600];
	int i, fd;
	__u64 count;

	ASSERT_EQ(0, allow_fds(2000));
	for (i = 0; i < 600; i++) {
		fd = eventfd(0, EFD_CLOEXEC);
		ASSERT_GE(fd, 0);
		ASSERT_EQ(0, add_as(self->efd, fd, 1999, EPOLLIN, i));
	}
	ASSERT_EQ(0, snapshot(self->dev, SELF, self->efd, items, 600, &count));
	ASSERT_EQ(600, count);

	for (i = 0; i < 600; i += 37) {
		fd = fetch(self->dev, SELF, self->efd, 1999, i, 0);
		ASSERT_GE(fd, 0);
		EXPECT_EQ(items[i].file, identity(self->dev, fd));
		close(fd);
		fd = fetch(self->dev, SELF, self->efd, 1999, i, items[i].file);
		EXPECT_GE(fd, 0);
		close(fd);
		EXPECT_EQ(-ESTALE, fetch(self->dev, SELF, self->efd, 1999, i,
					 items[(i + 1) % 600].file));
	}
}

/* A target whose file no process has open. */
TEST_F(epoll_cr, nobody_has_it)
{
	int sock, pidfd, fd;
	__u64 value;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to fetch what nobody has");
	pid = fork_synced(&sock);
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (add_in_flight(self->efd, 77, TFD, 0))
			_exit(1);
		sync_post(sock);
		sync_wait(sock);
		_exit(0);
	}
	ASSERT_TRUE(sync_wait(sock));
	pidfd = pidfd_of(pid, 0);
	ASSERT_GE(pidfd, 0);

	fd = fetch(self->dev, pidfd, self->efd, TFD, 0, 0);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(sizeof(value), read(fd, &value, sizeof(value)));
	EXPECT_EQ(77, value);

	/*
	 * It is the target's file itself, and stays open when the other process
	 * is gone.
	 */
	EXPECT_EQ(0, sync_end(sock, pid));
	value = 5;
	EXPECT_EQ(sizeof(value), write(fd, &value, sizeof(value)));
}

/* Unix sockets that a process has open, or that are only in messages. */
TEST_F(epoll_cr, unix_sockets)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
	int socks[2], carrier[2], fd;
	unsigned int i;
	char byte;

	if (geteuid())
		SKIP(return, "needs root to fetch what nobody has");
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, carrier));
	for (i = 0; i < ARRAY_SIZE(types); i++) {
		ASSERT_EQ(0, socketpair(AF_UNIX, types[i] | SOCK_CLOEXEC, 0,
					socks));
		ASSERT_EQ(0, add_as(self->efd, socks[0], TFD, EPOLLIN, 0));
		fd = fetch(self->dev, SELF, self->efd, TFD, 0, 0);
		ASSERT_GE(fd, 0);
		EXPECT_EQ(identity(self->dev, socks[0]),
			  identity(self->dev, fd));
		close(fd);

		ASSERT_EQ(0, send_fd(carrier[0], socks[0]));
		close(socks[0]);
		ASSERT_EQ(1, write(socks[1], "x", 1));
		fd = fetch(self->dev, SELF, self->efd, TFD, 0, 0);
		ASSERT_GE(fd, 0);
		EXPECT_EQ(1, read(fd, &byte, 1));
		EXPECT_EQ('x', byte);
		close(fd);
		close(receive_fd(carrier[1], 0));
		close(socks[1]);
		ASSERT_EQ(0, entries(self->dev, self->efd));
	}
}

/* Make the garbage collector run again and again. */
static void *close_sockets(void *arg)
{
	atomic_bool *stop = arg;
	int socks[2];

	while (!atomic_load(stop)) {
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, socks))
			continue;
		close(socks[0]);
		close(socks[1]);
	}

	return NULL;
}

/*
 * A socket that only a message in its own queue refers to is garbage. It is
 * fetched before the collector notices, with everything in its queue, or not at
 * all.
 */
TEST_F(epoll_cr, garbage)
{
	int socks[2], fd, i, fetched = 0, gone = 0;
	long long end = now_ns() + LONG_ENOUGH_NS;
	atomic_bool stop = false;
	pthread_t thread;
	char buf[8];

	if (geteuid())
		SKIP(return, "needs root to fetch what nobody has");
	ASSERT_EQ(0, pthread_create(&thread, NULL, close_sockets, &stop));
	for (i = 0; i < NR_GARBAGE && now_ns() < end; i++) {
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
		ASSERT_EQ(0, add_as(self->efd, socks[0], TFD, EPOLLIN, 0));
		ASSERT_EQ(4, write(socks[1], "data", 4));
		/* Into its own queue. */
		ASSERT_EQ(0, send_fd(socks[1], socks[0]));
		close(socks[0]);
		close(socks[1]);

		fd = fetch(self->dev, SELF, self->efd, TFD, 0, 0);
		if (fd < 0) {
			ASSERT_EQ(-ENOENT, fd);
			gone++;
			/* Until the collector has released it. */
			while (entries(self->dev, self->efd))
				sched_yield();
			continue;
		}
		fetched++;
		ASSERT_EQ(4, recv(fd, buf, 4, MSG_DONTWAIT));
		ASSERT_EQ(0, memcmp(buf, "data", 4));
		socks[0] = receive_fd(fd, MSG_DONTWAIT);
		ASSERT_GE(socks[0], 0);
		close(socks[0]);
		close(fd);
		ASSERT_EQ(0, entries(self->dev, self->efd));
	}
	stop = true;
	ASSERT_EQ(0, pthread_join(thread, NULL));
	TH_LOG("%d fetched, %d collected before", fetched, gone);
	EXPECT_NE(0, fetched);
}

TEST_F(epoll_cr, no_room)
{
	struct rlimit lim;

	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &lim));
	lim.rlim_cur = 3;
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &lim));
	EXPECT_EQ(-EMFILE, fetch(self->dev, SELF, self->efd, TFD, 0, 0));
}

/* Nothing is leaked: the file is released when the descriptors are closed. */
TEST_F(epoll_cr, no_reference_is_kept)
{
	int i, fd;

	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));
	for (i = 0; i < 100; i++) {
		fd = fetch(self->dev, SELF, self->efd, TFD, 0, 0);
		ASSERT_GE(fd, 0);
		close(fd);
		identity(self->dev, self->fd);
	}
	close(self->fd);
	EXPECT_EQ(0, entries(self->dev, self->efd));
}

TEST_HARNESS_MAIN
