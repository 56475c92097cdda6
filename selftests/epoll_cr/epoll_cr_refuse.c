// SPDX-License-Identifier: GPL-2.0
/* EPOLL_CR_RESTORE: what is refused, and that nothing is added then. */
#include "epoll_cr_restore.h"

#define WATCHES	"/proc/sys/fs/epoll/max_user_watches"
#define MANY	1000

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
