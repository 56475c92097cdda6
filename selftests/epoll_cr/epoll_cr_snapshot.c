// SPDX-License-Identifier: GPL-2.0
/* EPOLL_CR_SNAPSHOT: what is shown of an epoll instance. */
#include "epoll_cr_fixture.h"

#define MANY	1000

TEST_F(epoll_cr, empty)
{
	struct epoll_cr_item item = { .tfd = -5 };
	__u64 count = 99;

	EXPECT_EQ(0, snapshot(self->dev, SELF, self->efd, NULL, 0, &count));
	EXPECT_EQ(0, count);
	EXPECT_EQ(0, snapshot(self->dev, SELF, self->efd, &item, 1, &count));
	EXPECT_EQ(0, count);
	EXPECT_EQ(-5, item.tfd);
}

TEST_F(epoll_cr, not_a_set)
{
	__u64 count;
	int path = open("/", O_PATH | O_CLOEXEC);

	EXPECT_EQ(-EBADF, snapshot(self->dev, SELF, NO_FD, NULL, 0, &count));
	EXPECT_EQ(-EBADF, snapshot(self->dev, SELF, -1, NULL, 0, &count));
	EXPECT_EQ(-EOPNOTSUPP, snapshot(self->dev, SELF, self->fd, NULL, 0,
					&count));
	EXPECT_EQ(-EOPNOTSUPP, snapshot(self->dev, SELF, path, NULL, 0,
					&count));
}

TEST_F(epoll_cr, contents)
{
	struct epoll_cr_item items[8];
	struct epoll_event ev, evs[8];
	__u64 count;

	/* Ready, level-triggered. */
	ASSERT_EQ(0, add_as(self->efd, self->fd, 700, EPOLLIN, 0x1122334455667788));
	/* Not ready. */
	ASSERT_EQ(0, add_as(self->efd, self->other, 701, EPOLLIN | EPOLLRDHUP, -1));
	/* Has fired. */
	ASSERT_EQ(0, add_as(self->efd, self->fd, 702, EPOLLIN | EPOLLONESHOT, 3));
	ASSERT_EQ(2, epoll_wait(self->efd, evs, 8, 0));
	/* Armed. */
	ASSERT_EQ(0, add_as(self->efd, self->other, 703, EPOLLIN | EPOLLONESHOT, 4));
	/* Ready and not yet reported, edge-triggered; then reported. */
	ASSERT_EQ(0, add_as(self->efd, self->fd, 704, EPOLLIN | EPOLLET, 5));

	ASSERT_EQ(0, snapshot(self->dev, SELF, self->efd, items, 8, &count));
	ASSERT_EQ(5, count);

	EXPECT_EQ(700, items[0].tfd);
	EXPECT_EQ(EPOLLIN | ALWAYS, items[0].events);
	EXPECT_EQ(0x1122334455667788, items[0].data);
	EXPECT_EQ(EPOLL_CR_ITEM_READY, items[0].flags);

	EXPECT_EQ(701, items[1].tfd);
	EXPECT_EQ(EPOLLIN | EPOLLRDHUP | ALWAYS, items[1].events);
	EXPECT_EQ(-1, items[1].data);
	EXPECT_EQ(0, items[1].flags);

	EXPECT_EQ(702, items[2].tfd);
	EXPECT_EQ(EPOLLONESHOT, items[2].events);
	EXPECT_EQ(3, items[2].data);
	EXPECT_EQ(0, items[2].flags);

	EXPECT_EQ(703, items[3].tfd);
	EXPECT_EQ(EPOLLIN | EPOLLONESHOT | ALWAYS, items[3].events);
	EXPECT_EQ(0, items[3].flags);

	EXPECT_EQ(704, items[4].tfd);
	EXPECT_EQ(EPOLLIN | EPOLLET | ALWAYS, items[4].events);
	EXPECT_EQ(EPOLL_CR_ITEM_READY, items[4].flags);

	ASSERT_LE(1, epoll_wait(self->efd, &ev, 1, 0));
	ASSERT_LE(1, epoll_wait(self->efd, &ev, 1, 0));
	ASSERT_EQ(0, snapshot(self->dev, SELF, self->efd, items, 8, &count));
	EXPECT_EQ(0, items[4].flags);
	EXPECT_EQ(EPOLL_CR_ITEM_READY, items[0].flags);
}

/* A file has the same identity whatever refers to it. */
TEST_F(epoll_cr, identities)
{
	int second = epoll_create1(EPOLL_CLOEXEC);
	int dup = fcntl(self->fd, F_DUPFD_CLOEXEC, 0);
	int dev2 = device_open();
	struct epoll_cr_item items[4], more[2];
	__u64 count;

	ASSERT_GE(dev2, 0);
	ASSERT_EQ(0, epoll_add(self->efd, self->fd, EPOLLIN, 0));
	ASSERT_EQ(0, epoll_add(self->efd, dup, EPOLLIN, 0));
	ASSERT_EQ(0, add_as(self->efd, self->other, TFD, EPOLLIN, 0));
	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));
	ASSERT_EQ(0, add_as(second, self->fd, TFD, EPOLLIN, 0));
	ASSERT_EQ(0, add_as(second, self->efd, TFD + 1, EPOLLIN, 0));

	ASSERT_EQ(0, snapshot(self->dev, SELF, self->efd, items, 4, &count));
	ASSERT_EQ(4, count);
	ASSERT_EQ(0, snapshot(self->dev, SELF, second, more, 2, &count));
	ASSERT_EQ(2, count);

	EXPECT_NE(0, items[0].file);
	EXPECT_EQ(items[0].file, items[1].file);
	EXPECT_EQ(identity(self->dev, self->fd), items[0].file);
	EXPECT_EQ(items[0].file, more[0].file);
	EXPECT_EQ(identity(self->dev, self->efd), more[1].file);

	/* Two files that were added by one descriptor. */
	EXPECT_EQ(TFD, items[2].tfd);
	EXPECT_EQ(0, items[2].toff);
	EXPECT_EQ(TFD, items[3].tfd);
	EXPECT_EQ(1, items[3].toff);
	EXPECT_NE(items[2].file, items[3].file);
	EXPECT_EQ(identity(self->dev, self->fd) ^
		  identity(self->dev, self->other),
		  items[2].file ^ items[3].file);

	/* Another opening of the device gives other identities. */
	EXPECT_NE(identity(self->dev, self->fd), identity(dev2, self->fd));
	EXPECT_NE(0, identity(dev2, self->fd));
}

/*
 * Nothing is lost if the buffer is too small, and nothing is written beyond it.
 */
TEST_F(epoll_cr, too_small)
{
	struct epoll_cr_item *items = calloc(MANY + 1, sizeof(*items));
	struct epoll_cr_item *few = calloc(MANY + 1, sizeof(*items));
	static const int rooms[] = {
		0, 1, 127, 128, 129, 255, 256, 257, MANY - 1,
	};
	__u64 count;
	unsigned int i;

	for (i = 0; i < MANY; i++)
		ASSERT_EQ(0, add_as(self->efd, i & 1 ? self->fd : self->other,
				    1000 + i / 2, EPOLLIN, i));
	ASSERT_EQ(0, snapshot(self->dev, SELF, self->efd, items, MANY, &count));
	ASSERT_EQ(MANY, count);
	for (i = 0; i < MANY; i++) {
		EXPECT_EQ(1000 + i / 2, items[i].tfd);
		EXPECT_EQ(i % 2, items[i].toff);
	}

	for (i = 0; i < ARRAY_SIZE(rooms); i++) {
		memset(few, 0xff, (MANY + 1) * sizeof(*few));
		EXPECT_EQ(-ENOSPC, snapshot(self->dev, SELF, self->efd, few,
					    rooms[i], &count));
		EXPECT_EQ(MANY, count);
		EXPECT_EQ(0, memcmp(items, few, rooms[i] * sizeof(*few)));
		EXPECT_EQ(-1, few[rooms[i]].tfd);
	}

	memset(few, 0xff, (MANY + 1) * sizeof(*few));
	EXPECT_EQ(0, snapshot(self->dev, SELF, self->efd, few, MANY + 1, &count));
	EXPECT_EQ(MANY, count);
	EXPECT_EQ(0, memcmp(items, few, MANY * sizeof(*few)));
	EXPECT_EQ(-1, few[MANY].tfd);
}

TEST_F(epoll_cr, epoll_id)
{
	struct epoll_cr_snapshot args = {
		.size = sizeof(args),
		.pidfd = SELF,
		.efd = self->efd,
		.item_size = sizeof(struct epoll_cr_item),
	};
	long long id = fdinfo_of(self->efd, "\nepoll-id:");

	ASSERT_LT(0, id);
	EXPECT_EQ(0, call(self->dev, EPOLL_CR_SNAPSHOT, &args));
	EXPECT_EQ(id, args.epoll_id);
}

/*
 * An epoll instance of another process; nobody has the files of some targets
 * open.
 */
TEST_F(epoll_cr, other_process)
{
	struct epoll_cr_item items[4];
	__u64 count, mine;
	int sock, pidfd;
	pid_t pid = fork_synced(&sock);

	ASSERT_GE(pid, 0);
	if (!pid) {
		if (dup_as(epoll_create1(0), TFD) != TFD ||
		    add_as(TFD, self->fd, TFD + 1, EPOLLIN, 11) ||
		    add_in_flight(TFD, 0, TFD + 2, 12))
			_exit(1);
		sync_post(sock);
		sync_wait(sock);
		_exit(0);
	}
	ASSERT_TRUE(sync_wait(sock));
	pidfd = pidfd_of(pid, 0);
	ASSERT_GE(pidfd, 0);
	mine = identity(self->dev, self->fd);

	EXPECT_EQ(-EBADF, snapshot(self->dev, SELF, TFD, items, 4, &count));
	ASSERT_EQ(0, snapshot(self->dev, pidfd, TFD, items, 4, &count));
	ASSERT_EQ(2, count);
	EXPECT_EQ(mine, items[0].file);
	EXPECT_EQ(11, items[0].data);
	EXPECT_NE(mine, items[1].file);
	EXPECT_EQ(12, items[1].data);

	EXPECT_EQ(0, sync_end(sock, pid));
}

/* MSG_PEEK gives a descriptor for an epoll instance that is in flight. */
TEST_F(epoll_cr, set_in_flight)
{
	struct epoll_cr_item item;
	__u64 count;
	int socks[2], efd;

	ASSERT_EQ(0, epoll_add(self->efd, self->fd, EPOLLIN, 7));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
	ASSERT_EQ(0, send_fd(socks[0], self->efd));
	close(self->efd);

	efd = receive_fd(socks[1], MSG_PEEK);
	ASSERT_GE(efd, 0);
	ASSERT_EQ(0, snapshot(self->dev, PIDFD_SELF_THREAD_GROUP, efd, &item, 1,
			      &count));
	EXPECT_EQ(1, count);
	EXPECT_EQ(7, item.data);
	EXPECT_EQ(identity(self->dev, self->fd), item.file);
}

/* What happens to a descriptor when the first of its targets are written. */
struct change {
	struct served served;
	int efd, instead;
};

static void *change_fn(void *data)
{
	struct change *change = data;
	long nr, last = change->instead == -2 ? 3 : 1;

	for (nr = 0; nr < last; nr++) {
		if (served_wait(&change->served) != nr)
			return NULL;
		if (change->instead >= 0)
			dup2(change->instead, change->efd);
		else if (change->instead == -1)
			close(change->efd);
		if (served_fill(&change->served, nr, NULL))
			return NULL;
	}

	return data;
}

TEST_F(epoll_cr, set_is_replaced)
{
	int other_set = epoll_create1(EPOLL_CLOEXEC);
	/* -1: it is closed, -2: it is left alone. */
	const int instead[] = { -2, -1, other_set, self->fd };
	unsigned int i, j, page = sysconf(_SC_PAGESIZE);
	unsigned int all = 3 * page / sizeof(struct epoll_cr_item);

	if (geteuid())
		SKIP(return, "needs root to serve page faults of the kernel");
	/* A batch of entries is no longer than a page. */
	ASSERT_EQ(4096, page);
	for (i = 0; i < all; i++)
		ASSERT_EQ(0, add_as(self->efd, self->other, 1000 + i, EPOLLIN,
				    i));

	for (j = 0; j < ARRAY_SIZE(instead); j++) {
		struct change change = { .instead = instead[j] };
		pthread_t thread;
		__u64 count;
		void *done;

		ASSERT_EQ(0, served_init(&change.served, 3));
		change.efd = fcntl(self->efd, F_DUPFD_CLOEXEC, 0);
		ASSERT_GE(change.efd, 0);
		ASSERT_EQ(0, pthread_create(&thread, NULL, change_fn, &change));
		EXPECT_EQ(instead[j] == -2 ? 0 : -ESTALE,
			  snapshot(self->dev, SELF, change.efd,
				   (void *)change.served.map, all, &count));
		ASSERT_EQ(0, pthread_join(thread, &done));
		ASSERT_EQ(&change, done);
		EXPECT_EQ(instead[j] == -2 ? all : all / 3, count);
		close(change.efd);
	}
}

struct churn {
	int efd, fd;
	bool stop;
};

static void *churn_fn(void *data)
{
	struct churn *churn = data;
	struct epoll_event ev = { .events = EPOLLIN };
	int i;

	while (!__atomic_load_n(&churn->stop, __ATOMIC_RELAXED)) {
		for (i = 0; i < 10; i++) {
			dup2(churn->fd, TFD + i);
			epoll_ctl(churn->efd, EPOLL_CTL_ADD, TFD + i, &ev);
		}
		for (i = 0; i < 10; i++) {
			epoll_ctl(churn->efd, EPOLL_CTL_DEL, TFD + i, &ev);
			close(TFD + i);
		}
	}

	return NULL;
}

/*
 * A target that stays is shown exactly once, whatever comes and goes beside it.
 */
TEST_F(epoll_cr, entries_come_and_go)
{
	struct churn churn = { .efd = self->efd, .fd = self->other };
	struct epoll_cr_item *items = calloc(MANY + 16, sizeof(*items));
	unsigned int i, n, round;
	pthread_t thread;
	__u64 count;

	for (i = 0; i < MANY; i++)
		ASSERT_EQ(0, add_as(self->efd, self->fd, 1000 + i, EPOLLIN, i));
	ASSERT_EQ(0, pthread_create(&thread, NULL, churn_fn, &churn));

	for (round = 0; round < 200; round++) {
		ASSERT_EQ(0, snapshot(self->dev, SELF, self->efd, items,
				      MANY + 16, &count));
		for (i = 0, n = 0; i < count; i++)
			if (items[i].tfd >= 1000)
				ASSERT_EQ(n++, items[i].data);
		ASSERT_EQ(MANY, n);
	}

	__atomic_store_n(&churn.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
}

TEST_HARNESS_MAIN
