// SPDX-License-Identifier: GPL-2.0
/* EPOLL_CR_RESTORE fails after it has added targets: it removes these, and no others. */
#include "epoll_cr_restore.h"

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

/* Killed while it waits for a held instance: to add, or to remove again. */
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

/* The same, if a nested instance is held. */
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

/* What somebody else does with the instance meanwhile stays as it is. */
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

TEST_HARNESS_MAIN
