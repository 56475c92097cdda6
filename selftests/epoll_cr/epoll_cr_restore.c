// SPDX-License-Identifier: GPL-2.0
/* EPOLL_CR_RESTORE: targets are added as they were, all or none. */
#include "epoll_cr_fixture.h"

#define WATCHES	"/proc/sys/fs/epoll/max_user_watches"
#define NR_OPEN	"/proc/sys/fs/nr_open"
#define MANY	1000

static struct epoll_cr_add item(int fd, int tfd, __u32 events, __u32 flags,
				__u64 data)
{
	return (struct epoll_cr_add) {
		.fd = fd,
		.tfd = tfd,
		.events = events,
		.flags = flags,
		.data = data,
	};
}

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

static bool put(int fd)
{
	__u64 one = 1;

	return write(fd, &one, sizeof(one)) == sizeof(one);
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
 * The number may be closed, or refer to another file; the file that is given
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

/* A thread that waits for events, until one with data -1 stops it. */
struct watcher {
	int efd;
	/* How many other events it has seen. */
	unsigned int seen;
};

static void *watcher_fn(void *data)
{
	struct watcher *watcher = data;
	struct epoll_event ev;

	for (;;) {
		if (epoll_wait(watcher->efd, &ev, 1, -1) != 1)
			return NULL;
		if (ev.data.u64 == -1ULL)
			return data;
		__atomic_add_fetch(&watcher->seen, 1, __ATOMIC_RELAXED);
	}
}

/*
 * Each way in which an element can be bad, after and before good ones. Nobody
 * sees those, although they are ready, unless the bad one is only noticed when
 * it is added.
 */
TEST_F(epoll_cr, bad_entries)
{
	struct watcher watcher = { .efd = self->efd };
	pthread_t thread;
	void *done;
	int path = open("/", O_PATH | O_CLOEXEC);
	int regular = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int set = epoll_create1(EPOLL_CLOEXEC);
	int nr_open = read_number(NR_OPEN);
	const struct {
		struct epoll_cr_add add;
		int error;
	} cases[] = {
		{ item(NO_FD, 5, EPOLLIN | ALWAYS, 0, 0), EBADF },
		{ item(-1, 5, EPOLLIN | ALWAYS, 0, 0), EBADF },
		{ item(path, 5, EPOLLIN | ALWAYS, 0, 0), EBADF },
		{ item(regular, 5, EPOLLIN | ALWAYS, 0, 0), EPERM },
		{ item(self->fd, -1, EPOLLIN | ALWAYS, 0, 0), EINVAL },
		{ item(self->fd, -2147483647, EPOLLIN | ALWAYS, 0, 0), EINVAL },
		{ item(self->fd, nr_open, EPOLLIN | ALWAYS, 0, 0), EINVAL },
		{ item(self->fd, 0x7fffffff, EPOLLIN | ALWAYS, 0, 0), EINVAL },
		{ item(self->fd, 5, EPOLLIN | ALWAYS, 2, 0), EINVAL },
		{ item(self->fd, 5, EPOLLIN | ALWAYS, 1U << 31, 0), EINVAL },
		{ item(self->fd, 5, EPOLLIN, 0, 0), EINVAL },
		{ item(self->fd, 5, EPOLLIN | EPOLLERR, 0, 0), EINVAL },
		{ item(self->fd, 5, 0, 0, 0), EINVAL },
		{ item(self->fd, 5, EPOLLET, 0, 0), EINVAL },
		{ item(self->fd, 5, EPOLLIN | EPOLLONESHOT, 0, 0), EINVAL },
		{ item(self->fd, 5, ALWAYS | EPOLLEXCLUSIVE | EPOLLONESHOT, 0,
		       0), EINVAL },
		{ item(self->fd, 5, ALWAYS | EPOLLEXCLUSIVE | EPOLLPRI, 0, 0),
		  EINVAL },
		{ item(set, 5, ALWAYS | EPOLLEXCLUSIVE | EPOLLIN, 0, 0), EINVAL },
		{ item(self->efd, 5, ALWAYS | EPOLLIN, 0, 0), EINVAL },
		{ item(self->other, TFD, ALWAYS | EPOLLIN, 0, 0), EEXIST },
		/* Noticed only when it is added. */
		{ item(self->fd, 1001, ALWAYS | EPOLLIN, 0, 0), EEXIST },
	};
	struct epoll_cr_add adds[MANY];
	static const int places[] = { 2, 127, 128, 129, 500, MANY - 1 };
	unsigned int i, j, k;
	__u64 bad;

	ASSERT_EQ(0, add_as(self->efd, self->other, TFD, EPOLLIN, -1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, watcher_fn, &watcher));
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		bool is_last = i == ARRAY_SIZE(cases) - 1;

		for (j = 0; j < ARRAY_SIZE(places); j++) {
			for (k = 0; k < MANY; k++)
				adds[k] = item(self->fd, 1000 + k,
					       EPOLLIN | ALWAYS, 0, k);
			adds[places[j]] = cases[i].add;
			EXPECT_EQ(-cases[i].error,
				  restore(self->dev, self->efd, adds, MANY,
					  &bad)) {
				TH_LOG("case %u", i);
			}
			EXPECT_EQ(places[j], bad) {
				TH_LOG("case %u", i);
			}
			ASSERT_EQ(1, entries(self->dev, self->efd)) {
				TH_LOG("case %u", i);
			}
			if (!is_last)
				ASSERT_EQ(0, __atomic_load_n(&watcher.seen,
							     __ATOMIC_RELAXED)) {
					TH_LOG("case %u", i);
				}
		}
	}
	/* The target that existed before is still there, and ready. */
	ASSERT_TRUE(put(self->other));
	ASSERT_EQ(0, pthread_join(thread, &done));
	EXPECT_EQ(&watcher, done);
}

/* The first of several bad ones is reported. */
TEST_F(epoll_cr, first_bad_entry)
{
	struct epoll_cr_add adds[] = {
		item(self->fd, 5, EPOLLIN | ALWAYS, 0, 0),
		item(self->fd, TFD, EPOLLIN | ALWAYS, 0, 0),
		item(NO_FD, 6, EPOLLIN | ALWAYS, 0, 0),
		item(self->fd, -1, EPOLLIN | ALWAYS, 0, 0),
	};
	__u64 bad;

	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));
	EXPECT_EQ(-EEXIST, restore(self->dev, self->efd, adds, 4, &bad));
	EXPECT_EQ(1, bad);
	adds[1].tfd = TFD + 1;
	EXPECT_EQ(-EBADF, restore(self->dev, self->efd, adds, 4, &bad));
	EXPECT_EQ(2, bad);
	adds[2].fd = self->fd;
	EXPECT_EQ(-EINVAL, restore(self->dev, self->efd, adds, 4, &bad));
	EXPECT_EQ(3, bad);
	adds[3].tfd = 7;
	EXPECT_EQ(0, restore(self->dev, self->efd, adds, 4, &bad));
	EXPECT_EQ(5, entries(self->dev, self->efd));
}

TEST_F(epoll_cr, not_a_set)
{
	struct epoll_cr_add add = item(self->fd, TFD, EPOLLIN | ALWAYS, 0, 0);
	__u64 bad;

	EXPECT_EQ(-EBADF, restore(self->dev, NO_FD, &add, 1, &bad));
	EXPECT_EQ(1, bad);
	EXPECT_EQ(-EBADF, restore(self->dev, -1, &add, 1, &bad));
	EXPECT_EQ(-EOPNOTSUPP, restore(self->dev, self->fd, &add, 1, &bad));
	EXPECT_EQ(1, bad);
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

/* A flag that takes a capability is refused without it. */
TEST_F(epoll_cr, wakeup)
{
	struct epoll_cr_add add = item(self->fd, TFD,
				       EPOLLIN | ALWAYS | EPOLLWAKEUP, 0, 0);
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to change its user");
	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		__u64 bad;

		if (become(UID_A))
			_exit(2);
		if (restore(self->dev, self->efd, &add, 1, &bad) != -EPERM)
			_exit(3);
		_exit(bad);
	}
	EXPECT_EQ(0, wait_exit(pid));
}

TEST_F(epoll_cr, limit)
{
	struct epoll_cr_add adds[200];
	int i, room, ret;
	__u64 bad;
	long old;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to change the limit");
	old = set_sysctl(WATCHES, 100);
	ASSERT_GT(old, 0);
	/* The limit is per user: use one who has no other epoll instance. */
	pid = fork_bound();
	if (!pid) {
		int set;

		if (become(UID_B))
			_exit(2);
		set = epoll_create1(EPOLL_CLOEXEC);
		for (i = 0; i < 200; i++)
			adds[i] = item(self->fd, 1000 + i, EPOLLIN | ALWAYS, 0,
				       0);
		for (room = 200; room > 100; room--)
			if (restore(self->dev, set, adds, room, &bad) !=
			    -ENOSPC || bad != room ||
			    entries(self->dev, set) != 0)
				_exit(3);
		if (restore(self->dev, set, adds, 60, &bad))
			_exit(4);
		if (restore(self->dev, set, adds + 60, 41, &bad) != -ENOSPC)
			_exit(5);
		if (entries(self->dev, set) != 60)
			_exit(6);
		if (restore(self->dev, set, adds + 60, 40, &bad))
			_exit(7);
		_exit(entries(self->dev, set) == 100 ? 0 : 8);
	}
	ret = wait_exit(pid);
	set_sysctl(WATCHES, old);
	EXPECT_EQ(0, ret);
}

/*
 * The end of the array cannot be read, which is noticed before anything is
 * added.
 */
TEST_F(epoll_cr, fault_in_array)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char *map = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct epoll_cr_add *adds;
	unsigned int i, n = 3 * page / sizeof(*adds);
	__u64 bad;

	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, mprotect(map + 3 * page, page, PROT_NONE));
	adds = (void *)(map + 3 * page - n * sizeof(*adds));
	for (i = 0; i < n; i++)
		adds[i] = item(self->fd, 1000 + i, EPOLLIN | ALWAYS, 0, 0);
	EXPECT_EQ(-EFAULT, restore(self->dev, self->efd, adds, n + 1, &bad));
	EXPECT_EQ(n + 1, bad);
	EXPECT_EQ(0, entries(self->dev, self->efd));
	/*
	 * The fault does not hide a bad element before it, in the same batch.
	 */
	adds[n - 2].events = EPOLLIN;
	EXPECT_EQ(-EINVAL, restore(self->dev, self->efd, adds, n + 1, &bad));
	EXPECT_EQ(n - 2, bad);
	EXPECT_EQ(0, entries(self->dev, self->efd));
	adds[n - 2].events = EPOLLIN | ALWAYS;
	EXPECT_EQ(-EFAULT, restore(self->dev, self->efd, (void *)-4096UL, 1,
				   &bad));
	/* More than any user may have. */
	EXPECT_EQ(-ENOSPC, restore(self->dev, self->efd, adds, -1ULL, &bad));
	EXPECT_EQ(-1ULL, bad);
	EXPECT_EQ(0, entries(self->dev, self->efd));
	EXPECT_EQ(0, restore(self->dev, self->efd, adds, n, &bad));
	EXPECT_EQ(n, entries(self->dev, self->efd));
}

/*
 * A child restores from an array whose pages the test serves, and waits where
 * the test wants it to, so that the test can inspect or change the epoll
 * instance, or kill the child.
 */
#define PAGES	4

struct served_restore {
	struct served served;
	pid_t pid;
	/* The content of the pages. */
	char data[PAGES][4096];
	__u64 n;
	/* The result of the call, in shared memory. */
	struct {
		int ret;
		__u64 bad;
	} *result;
};

static struct epoll_cr_add *served_item(struct served_restore *restore, int i)
{
	return (struct epoll_cr_add *)restore->data + i;
}

static int served_restore_start(struct served_restore *it, int dev, int efd,
				int even, int odd)
{
	int sock, i;

	if (sysconf(_SC_PAGESIZE) != sizeof(it->data[0]))
		return -EINVAL;
	it->n = sizeof(it->data) / sizeof(struct epoll_cr_add);
	for (i = 0; i < (int)it->n; i++)
		*served_item(it, i) = item(i & 1 ? odd : even, 1000 + i,
					   EPOLLOUT | EPOLLET | ALWAYS, 0, i);
	it->result = mmap(NULL, sizeof(*it->result), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (it->result == MAP_FAILED)
		return -errno;
	it->result->ret = 1;

	it->pid = fork_synced(&sock);
	if (it->pid < 0)
		return -errno;
	if (!it->pid) {
		if (served_init(&it->served, PAGES) ||
		    send(sock, &it->served, sizeof(it->served), 0) < 0 ||
		    send_fd(sock, it->served.uffd) ||
		    send_fd(sock, it->served.memfd))
			_exit(1);
		it->result->ret = restore(dev, efd, (void *)it->served.map,
					  it->n, &it->result->bad);
		_exit(0);
	}
	if (recv(sock, &it->served, sizeof(it->served), 0) !=
	    sizeof(it->served))
		return -EIO;
	it->served.uffd = receive_fd(sock, 0);
	it->served.memfd = receive_fd(sock, 0);

	return it->served.uffd < 0 || it->served.memfd < 0 ? -EIO : 0;
}

/* Serve pages until the call waits for page @until. */
static int served_restore_serve(struct served_restore *it, long from,
				long until)
{
	int ret;

	for (; from < until; from++) {
		if (served_wait(&it->served) != from)
			return -ETIME;
		ret = served_fill(&it->served, from, it->data[from]);
		if (ret)
			return ret;
	}

	return served_wait(&it->served) == until ? 0 : -ETIME;
}

/*
 * Serve pages until all targets of the first page are added, and the call waits
 * for the second page again.
 */
static int served_restore_to_adding(struct served_restore *it)
{
	int ret = served_restore_serve(it, 0, PAGES - 1);

	if (!ret)
		ret = served_forget(&it->served, 1, PAGES - 2);
	if (!ret)
		ret = served_fill(&it->served, PAGES - 1, it->data[PAGES - 1]);
	if (!ret && served_wait(&it->served) != 1)
		ret = -ETIME;

	return ret;
}

/* The call succeeds, if nothing interrupts it as in the other tests. */
TEST_F(epoll_cr, array_is_served)
{
	struct served_restore it;

	if (geteuid())
		SKIP(return, "needs root to serve page faults of the kernel");
	ASSERT_EQ(0, served_restore_start(&it, self->dev, self->efd, self->fd,
					  self->other));
	ASSERT_EQ(0, served_restore_to_adding(&it));
	EXPECT_LT(100, entries(self->dev, self->efd));
	ASSERT_EQ(0, served_fill(&it.served, 1, it.data[1]));
	ASSERT_EQ(2, served_wait(&it.served));
	ASSERT_EQ(0, served_fill(&it.served, 2, it.data[2]));
	EXPECT_EQ(0, wait_exit(it.pid));
	EXPECT_EQ(0, it.result->ret);
	EXPECT_EQ(it.n, entries(self->dev, self->efd));
}

/* The array is unmapped while targets are added. */
TEST_F(epoll_cr, array_vanishes)
{
	struct served_restore it;

	if (geteuid())
		SKIP(return, "needs root to serve page faults of the kernel");
	ASSERT_EQ(0, add_as(self->efd, self->other, TFD, EPOLLIN, 0));
	ASSERT_EQ(0, add_as(self->efd, self->other, 3000, EPOLLIN, 0));
	ASSERT_EQ(0, served_restore_start(&it, self->dev, self->efd, self->fd,
					  self->other));
	ASSERT_EQ(0, served_restore_to_adding(&it));
	EXPECT_LT(100, entries(self->dev, self->efd));
	ASSERT_EQ(0, served_take_away(&it.served, 1));
	EXPECT_EQ(0, wait_exit(it.pid));
	EXPECT_EQ(-EFAULT, it.result->ret);
	EXPECT_EQ(it.n, it.result->bad);
	EXPECT_EQ(2, entries(self->dev, self->efd));
}

/* The array has changed when it is read again: the second version counts. */
TEST_F(epoll_cr, array_changes)
{
	struct served_restore it;

	if (geteuid())
		SKIP(return, "needs root to serve page faults of the kernel");
	ASSERT_EQ(0, add_as(self->efd, self->other, TFD, EPOLLIN, 0));
	ASSERT_EQ(0, served_restore_start(&it, self->dev, self->efd, self->fd,
					  self->other));
	ASSERT_EQ(0, served_restore_to_adding(&it));
	served_item(&it, 200)->events = EPOLLIN;
	ASSERT_EQ(0, served_fill(&it.served, 1, it.data[1]));
	EXPECT_EQ(0, wait_exit(it.pid));
	EXPECT_EQ(-EINVAL, it.result->ret);
	EXPECT_EQ(200, it.result->bad);
	EXPECT_EQ(1, entries(self->dev, self->efd));
}

/* Killed while elements are checked or added: no target is left. */
TEST_F(epoll_cr, killed)
{
	struct served_restore it;
	int pass;

	if (geteuid())
		SKIP(return, "needs root to serve page faults of the kernel");
	ASSERT_EQ(0, add_as(self->efd, self->other, TFD, EPOLLIN, 0));
	for (pass = 1; pass <= 2; pass++) {
		ASSERT_EQ(0, served_restore_start(&it, self->dev, self->efd,
						  self->fd, self->other));
		if (pass == 1) {
			ASSERT_EQ(0, served_restore_serve(&it, 0, 2));
			EXPECT_EQ(1, entries(self->dev, self->efd));
		} else {
			ASSERT_EQ(0, served_restore_to_adding(&it));
			EXPECT_LT(100, entries(self->dev, self->efd));
		}
		ASSERT_EQ(0, kill(it.pid, SIGKILL));
		EXPECT_EQ(-SIGKILL, wait_exit(it.pid));
		EXPECT_EQ(1, it.result->ret);
		EXPECT_EQ(1, entries(self->dev, self->efd));
	}
}

/* Killed while it waits for a set that somebody holds: to add, or to remove again. */
TEST_F(epoll_cr, killed_waiting_for_set)
{
	int pass, ret, ready = ready_eventfd();
	struct served_restore it;
	struct held_set held;

	if (geteuid())
		SKIP(return, "needs root to serve page faults of the kernel");
	for (pass = 1; pass <= 2; pass++) {
		int efd = epoll_create1(EPOLL_CLOEXEC);

		ASSERT_GE(efd, 0);
		ASSERT_EQ(0, add_as(efd, ready, TFD, EPOLLIN, 0));
		ASSERT_EQ(0, served_restore_start(&it, self->dev, efd, self->fd,
						  self->other));
		ASSERT_EQ(0, served_restore_to_adding(&it));
		ASSERT_EQ(0, hold_set(&held, efd));
		ret = pass == 1 ? served_fill(&it.served, 1, it.data[1]) :
				  served_take_away(&it.served, 1);
		ASSERT_EQ(0, ret);
		/* It sleeps while it waits for a page, too. */
		sleep_ms(A_WHILE_MS);
		ASSERT_TRUE(wait_asleep_in(it.pid, __NR_ioctl));
		ASSERT_EQ(0, kill(it.pid, SIGKILL));
		EXPECT_EQ(-SIGKILL, wait_exit(it.pid));
		EXPECT_EQ(1, release_set(&held));
	}
}

/* The same, if a set within the set is held. */
TEST_F(epoll_cr, killed_waiting_for_inner_set)
{
	int inner = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_cr_add add = item(inner, TFD, EPOLLIN | ALWAYS, 0, 0);
	struct held_set held;
	pid_t pid;
	__u64 bad;
	int ret;

	ASSERT_EQ(0, add_as(inner, self->fd, TFD, EPOLLIN, 0));
	ret = hold_set(&held, inner);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "needs userfaultfd to hold a set");
	ASSERT_EQ(0, ret);
	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(-restore(self->dev, self->efd, &add, 1, &bad));
	ASSERT_TRUE(wait_asleep_in(pid, __NR_ioctl));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(-SIGKILL, wait_exit(pid));
	EXPECT_EQ(0, entries(self->dev, self->efd));
	EXPECT_EQ(1, release_set(&held));
	/* Nothing is left behind that would keep another one from it. */
	EXPECT_EQ(0, restore(self->dev, self->efd, &add, 1, &bad));
}

/* What somebody else does with the set meanwhile stays as it is. */
TEST_F(epoll_cr, others_add_and_delete)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = 77 };
	struct epoll_cr_item items[4];
	struct served_restore it;
	__u64 count;

	if (geteuid())
		SKIP(return, "needs root to serve page faults of the kernel");
	ASSERT_EQ(0, add_as(self->efd, self->other, TFD, EPOLLIN, 0));
	ASSERT_EQ(0, served_restore_start(&it, self->dev, self->efd, self->fd,
					  self->other));
	ASSERT_EQ(0, served_restore_to_adding(&it));

	/*
	 * One target that was added is replaced, one is removed, and others
	 * come and go.
	 */
	ASSERT_EQ(1020, dup2(self->fd, 1020));
	ASSERT_EQ(0, epoll_ctl(self->efd, EPOLL_CTL_DEL, 1020, &ev));
	ASSERT_EQ(0, epoll_ctl(self->efd, EPOLL_CTL_ADD, 1020, &ev));
	ASSERT_EQ(1022, dup2(self->fd, 1022));
	ASSERT_EQ(0, epoll_ctl(self->efd, EPOLL_CTL_DEL, 1022, &ev));
	ASSERT_EQ(1021, dup2(self->fd, 1021));
	ASSERT_EQ(0, epoll_ctl(self->efd, EPOLL_CTL_ADD, 1021, &ev));
	ASSERT_EQ(TFD, dup2(self->other, TFD));
	ASSERT_EQ(0, epoll_ctl(self->efd, EPOLL_CTL_DEL, TFD, &ev));

	ASSERT_EQ(0, served_take_away(&it.served, 1));
	EXPECT_EQ(0, wait_exit(it.pid));
	EXPECT_EQ(-EFAULT, it.result->ret);
	ASSERT_EQ(0, snapshot(self->dev, SELF, self->efd, items, 4, &count));
	ASSERT_EQ(2, count);
	EXPECT_EQ(1020, items[0].tfd);
	EXPECT_EQ(77, items[0].data);
	EXPECT_EQ(1021, items[1].tfd);
	EXPECT_EQ(77, items[1].data);
}

/*
 * The same while targets are removed: a thread deletes one that was added and
 * adds one in its place, at varying times.
 */
#define RACES	400
#define RACERS	300

struct racer {
	int efd, fd;
	unsigned int from, to;
	long long delay_ns;
	bool has_added, stop;
};

static void *racer_fn(void *data)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = 88 };
	struct racer *racer = data;
	unsigned int round, done = 0;
	long long start;

	while (!__atomic_load_n(&racer->stop, __ATOMIC_RELAXED)) {
		round = __atomic_load_n(&racer->from, __ATOMIC_ACQUIRE);
		if (round == done)
			continue;
		start = now_ns();
		while (now_ns() - start < racer->delay_ns)
			;
		racer->has_added =
			!epoll_ctl(racer->efd, EPOLL_CTL_DEL, racer->fd, &ev) &&
			!epoll_ctl(racer->efd, EPOLL_CTL_ADD, racer->fd, &ev);
		done = round;
		__atomic_store_n(&racer->to, done, __ATOMIC_RELEASE);
	}

	return NULL;
}

TEST_F(epoll_cr, others_while_it_fails)
{
	struct racer racer = { .efd = self->efd, .fd = 3000 };
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = 88 };
	struct epoll_cr_add adds[RACERS + 1];
	unsigned int i, round, added = 0;
	long long took = 0, start, end = now_ns() + LONG_ENOUGH_NS;
	pthread_t thread;
	__u64 bad;

	ASSERT_EQ(0, allow_fds(4096));
	ASSERT_EQ(racer.fd, dup2(self->other, racer.fd));
	/* It is added first, and removed last. */
	adds[0] = item(self->other, racer.fd, EPOLLIN | ALWAYS, 0, 0);
	for (i = 1; i < RACERS; i++)
		adds[i] = item(self->other, 1000 + i, EPOLLIN | ALWAYS, 0, i);
	adds[RACERS] = adds[RACERS - 1];
	ASSERT_EQ(0, pthread_create(&thread, NULL, racer_fn, &racer));

	for (round = 1; round <= RACES && now_ns() < end; round++) {
		/* Between the first addition and the last removal. */
		racer.delay_ns = took / 2 + took / 2 * (round % 97) / 97;
		__atomic_store_n(&racer.from, round, __ATOMIC_RELEASE);
		start = now_ns();
		EXPECT_EQ(-EEXIST, restore(self->dev, self->efd, adds,
					   RACERS + 1, &bad));
		took = now_ns() - start;
		while (__atomic_load_n(&racer.to, __ATOMIC_ACQUIRE) != round)
			sched_yield();
		EXPECT_EQ(racer.has_added, entries(self->dev, self->efd)) {
			TH_LOG("round %u", round);
		}
		if (racer.has_added)
			epoll_ctl(self->efd, EPOLL_CTL_DEL, racer.fd, &ev);
		added += racer.has_added;
	}
	__atomic_store_n(&racer.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	/* It happened in time at least once. */
	EXPECT_LT(0, added);
}

/*
 * The arguments cannot be written, which is noticed before anything is added.
 */
TEST_F(epoll_cr, read_only_arguments)
{
	size_t page = sysconf(_SC_PAGESIZE);
	struct epoll_cr_add add = item(self->fd, TFD, EPOLLIN | ALWAYS, 0, 0);
	struct epoll_cr_restore *args;

	args = mmap(NULL, page, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, args);
	*args = (struct epoll_cr_restore) {
		.size = sizeof(*args),
		.efd = self->efd,
		.item_size = sizeof(add),
		.items = (unsigned long)&add,
		.count = 1,
	};
	ASSERT_EQ(0, mprotect(args, page, PROT_READ));
	EXPECT_EQ(-EFAULT, call(self->dev, EPOLL_CR_RESTORE, args));
	EXPECT_EQ(0, entries(self->dev, self->efd));
}

TEST_HARNESS_MAIN
