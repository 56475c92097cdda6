// SPDX-License-Identifier: GPL-2.0
/* EPOLL_CR_RESTORE: targets are added as they were. */
#include "epoll_cr_restore.h"

/* The events that the epoll instance reports for data @data now, or 0. */
static __u32 poll_for(int efd, __u64 data)
{
	struct epoll_event evs[16];
	int i, n = epoll_wait(efd, evs, 16, 0);

	for (i = 0; i < n; i++)
		if (evs[i].data.u64 == data)
			return evs[i].events;

	return 0;
}

TEST_F(epoll_cr, nothing)
{
	__u64 bad = 7;

	EXPECT_EQ(0, restore(self->dev, self->efd, NULL, 0, &bad));
	EXPECT_EQ(0, bad);
}

/*
 * A snapshot that is restored to another epoll instance is shown there
 * unchanged.
 */
TEST_F(epoll_cr, round_trip)
{
	struct epoll_cr_item before[8], after[8];
	struct epoll_cr_add adds[8];
	struct epoll_event evs[8];
	int copy = epoll_create1(EPOLL_CLOEXEC);
	__u64 count, bad;
	unsigned int i;

	ASSERT_EQ(0, add_as(self->efd, self->fd, 700, EPOLLIN, -1));
	ASSERT_EQ(0, add_as(self->efd, self->fd, 702, EPOLLIN | EPOLLONESHOT, 3));
	ASSERT_EQ(0, add_as(self->efd, self->fd, 704, EPOLLIN | EPOLLET, 5));
	ASSERT_EQ(3, epoll_wait(self->efd, evs, 8, 0));
	ASSERT_EQ(0, add_as(self->efd, self->other, 701, EPOLLIN | EPOLLPRI, 2));
	ASSERT_EQ(0, add_as(self->efd, self->other, 703, EPOLLIN | EPOLLONESHOT, 4));
	ASSERT_EQ(0, add_as(self->efd, self->fd, 705, EPOLLIN | EPOLLET, 6));
	ASSERT_EQ(0, add_as(self->efd, self->other, 706, EPOLLOUT | EPOLLEXCLUSIVE, 7));

	ASSERT_EQ(0, snapshot(self->dev, SELF, self->efd, before, 8, &count));
	ASSERT_EQ(7, count);
	for (i = 0; i < count; i++)
		adds[i] = item(before[i].file == identity(self->dev, self->fd) ?
			       self->fd : self->other, before[i].tfd,
			       before[i].events, before[i].flags,
			       before[i].data);
	ASSERT_EQ(0, restore(self->dev, copy, adds, count, &bad));
	EXPECT_EQ(count, bad);
	ASSERT_EQ(0, snapshot(self->dev, SELF, copy, after, 8, &count));
	ASSERT_EQ(7, count);
	EXPECT_EQ(0, memcmp(before, after, count * sizeof(before[0])));
}

TEST_F(epoll_cr, fired_oneshot)
{
	struct epoll_cr_add add = item(self->fd, TFD, EPOLLONESHOT, 0, 9);
	struct epoll_event ev = {
		.events = EPOLLIN | EPOLLONESHOT,
		.data.u64 = 9,
	};
	int pipes[2];
	__u64 bad;

	ASSERT_EQ(0, restore(self->dev, self->efd, &add, 1, &bad));
	EXPECT_EQ(0, poll_for(self->efd, 9));
	ASSERT_TRUE(put(self->fd));
	EXPECT_EQ(0, poll_for(self->efd, 9));

	/* It can be armed again. */
	ASSERT_EQ(TFD, dup2(self->fd, TFD));
	ASSERT_EQ(0, epoll_ctl(self->efd, EPOLL_CTL_MOD, TFD, &ev));
	EXPECT_EQ(EPOLLIN, poll_for(self->efd, 9));
	EXPECT_EQ(0, poll_for(self->efd, 9));

	/* Not even a close of the other end is reported. */
	ASSERT_EQ(0, pipe2(pipes, O_CLOEXEC));
	add = item(pipes[0], TFD + 1, EPOLLONESHOT | EPOLLET, 0, 10);
	ASSERT_EQ(0, restore(self->dev, self->efd, &add, 1, &bad));
	close(pipes[1]);
	EXPECT_EQ(0, poll_for(self->efd, 10));
}

TEST_F(epoll_cr, edge_triggered)
{
	struct epoll_cr_add adds[] = {
		item(self->fd, TFD, EPOLLIN | EPOLLET | ALWAYS, 0, 1),
		item(self->fd, TFD + 1, EPOLLIN | EPOLLET | ALWAYS,
		     EPOLL_CR_ITEM_READY, 2),
	};
	struct epoll_event evs[4];
	__u64 bad;

	ASSERT_EQ(0, restore(self->dev, self->efd, adds, 2, &bad));
	/* There is data: the first has reported it, the second has not. */
	ASSERT_EQ(1, epoll_wait(self->efd, evs, 4, 0));
	EXPECT_EQ(2, evs[0].data.u64);
	EXPECT_EQ(0, epoll_wait(self->efd, evs, 4, 0));

	/* Both report new data. */
	ASSERT_TRUE(put(self->fd));
	EXPECT_EQ(2, epoll_wait(self->efd, evs, 4, 0));
	EXPECT_EQ(0, epoll_wait(self->efd, evs, 4, 0));
}

/* As with EPOLLET: another epoll instance may have got the event. */
TEST_F(epoll_cr, exclusive)
{
	struct epoll_cr_add adds[] = {
		item(self->fd, TFD, EPOLLIN | EPOLLEXCLUSIVE | ALWAYS, 0, 1),
		item(self->fd, TFD + 1, EPOLLIN | EPOLLEXCLUSIVE | ALWAYS,
		     EPOLL_CR_ITEM_READY, 2),
	};
	struct epoll_event evs[4];
	__u64 value, bad;

	ASSERT_EQ(0, restore(self->dev, self->efd, adds, 2, &bad));
	ASSERT_EQ(1, epoll_wait(self->efd, evs, 4, 0));
	EXPECT_EQ(2, evs[0].data.u64);

	/* Without EPOLLET a target stays ready while there is data. */
	ASSERT_TRUE(put(self->fd));
	EXPECT_EQ(2, epoll_wait(self->efd, evs, 4, 0));
	EXPECT_EQ(2, epoll_wait(self->efd, evs, 4, 0));
	ASSERT_EQ(sizeof(value), read(self->fd, &value, sizeof(value)));
	EXPECT_EQ(0, epoll_wait(self->efd, evs, 4, 0));
}

TEST_F(epoll_cr, level_triggered)
{
	struct epoll_cr_add adds[] = {
		item(self->fd, TFD, EPOLLIN | ALWAYS, 0, 1),
		item(self->fd, TFD + 1, EPOLLIN | ALWAYS, EPOLL_CR_ITEM_READY, 2),
		item(self->other, TFD + 2, EPOLLIN | ALWAYS,
		     EPOLL_CR_ITEM_READY, 3),
	};
	struct epoll_event evs[4];
	__u64 bad;

	ASSERT_EQ(0, restore(self->dev, self->efd, adds, 3, &bad));
	EXPECT_EQ(2, epoll_wait(self->efd, evs, 4, 0));
	EXPECT_EQ(2, epoll_wait(self->efd, evs, 4, 0));
	ASSERT_TRUE(put(self->other));
	EXPECT_EQ(3, epoll_wait(self->efd, evs, 4, 0));
}

/* Those who wait are told which targets are ready. */
static void *waiter_fn(void *data)
{
	struct epoll_event ev;

	return (void *)(long)epoll_wait(*(int *)data, &ev, 1, PATIENCE_MS);
}

TEST_F(epoll_cr, wakes_up)
{
	struct epoll_cr_add add = item(self->fd, TFD, EPOLLIN | ALWAYS, 1, 1);
	pthread_t thread;
	void *ret;
	__u64 bad;

	ASSERT_EQ(0, pthread_create(&thread, NULL, waiter_fn, &self->efd));
	usleep(100000);
	ASSERT_EQ(0, restore(self->dev, self->efd, &add, 1, &bad));
	ASSERT_EQ(0, pthread_join(thread, &ret));
	EXPECT_EQ(1, (long)ret);
}

/*
 * The tfd may be closed, or refer to another file; the file that is given
 * counts.
 */
TEST_F(epoll_cr, numbers)
{
	/* The last one that a process could have. */
	int last = read_number(NR_OPEN) - 1;
	struct epoll_cr_add adds[] = {
		item(self->fd, self->other, EPOLLIN | ALWAYS, 0, 1),
		item(self->other, self->fd, EPOLLIN | ALWAYS, 0, 2),
		item(self->fd, NO_FD, EPOLLIN | ALWAYS, 0, 3),
		item(self->other, NO_FD, EPOLLIN | ALWAYS, 0, 4),
		item(self->fd, last, EPOLLIN | ALWAYS, 0, 5),
	};
	struct epoll_cr_item items[8];
	__u64 count, bad;
	int i;

	ASSERT_EQ(0, restore(self->dev, self->efd, adds, 5, &bad));
	ASSERT_EQ(0, snapshot(self->dev, SELF, self->efd, items, 8, &count));
	ASSERT_EQ(5, count);
	for (i = 0; i < 5; i++) {
		if (items[i].tfd == self->other || items[i].tfd == last)
			EXPECT_EQ(identity(self->dev, self->fd), items[i].file);
		if (items[i].tfd == self->fd)
			EXPECT_EQ(identity(self->dev, self->other), items[i].file);
	}
	EXPECT_EQ(NO_FD, items[2].tfd);
	EXPECT_EQ(NO_FD, items[3].tfd);
	EXPECT_EQ(1, items[3].toff);
}

TEST_F(epoll_cr, nested)
{
	int sets[8];
	struct epoll_cr_add adds[2];
	unsigned int i;
	__u64 bad;

	for (i = 0; i < 8; i++) {
		sets[i] = epoll_create1(EPOLL_CLOEXEC);
		ASSERT_GE(sets[i], 0);
	}
	/* A cycle of two, after a good one. */
	adds[0] = item(sets[1], TFD, EPOLLIN | ALWAYS, 0, 0);
	ASSERT_EQ(0, restore(self->dev, sets[0], adds, 1, &bad));
	adds[0] = item(self->fd, TFD, EPOLLIN | ALWAYS, 0, 0);
	adds[1] = item(sets[0], TFD, EPOLLIN | ALWAYS, 0, 0);
	EXPECT_EQ(-ELOOP, restore(self->dev, sets[1], adds, 2, &bad));
	EXPECT_EQ(1, bad);
	EXPECT_EQ(0, entries(self->dev, sets[1]));

	/* Nested too deeply. */
	for (i = 1; i < 7; i++) {
		adds[0] = item(sets[i + 1], TFD, EPOLLIN | ALWAYS, 0, 0);
		if (restore(self->dev, sets[i], adds, 1, &bad))
			break;
	}
	EXPECT_EQ(4, i);
	EXPECT_EQ(0, bad);
	EXPECT_EQ(0, entries(self->dev, sets[i]));

	/* A ready target makes the outer instances ready. */
	adds[0] = item(self->fd, TFD, EPOLLIN | ALWAYS, 0, 0);
	ASSERT_EQ(0, restore(self->dev, sets[1], adds, 1, &bad));
	EXPECT_EQ(EPOLLIN, poll_for(sets[0], 0));
}

TEST_HARNESS_MAIN
