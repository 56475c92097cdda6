// SPDX-License-Identifier: GPL-2.0
/* What an iterator holds while its program runs, and what it waits for. */
#include <stdatomic.h>

#include "epoll_iter_fixture.h"

#define CANNOT_HOLD	"needs userfaultfd to hold up a program"

/* A reader whose program is held up. */
struct reader {
	pthread_t thread;
	struct served served;
	int iter;
	struct record *r;
	ssize_t nr;
};

static void *read_on(void *data)
{
	struct reader *reader = data;

	reader->nr = read_records(reader->iter, 65536, &reader->r);

	return NULL;
}

/*
 * Starts a reader by @prog, which is held up at the target with that number
 * until reader->served is filled. Returns -EOPNOTSUPP if that is not possible
 * here.
 */
static int hold_reader(struct __test_metadata *_metadata, struct epoll_iter *skel,
		       struct bpf_program *prog, int efd, unsigned int seq_num,
		       struct reader *reader)
{
	int ret = served_init(&reader->served, 1);

	if (ret == -EOPNOTSUPP)
		return ret;
	ASSERT_EQ(0, ret);
	skel->bss->hold_seq_num = seq_num;
	skel->bss->hold_address = (unsigned long)reader->served.map;

	reader->iter = open_iter(prog, efd);
	ASSERT_GE(reader->iter, 0);
	ASSERT_EQ(0, pthread_create(&reader->thread, NULL, read_on, reader));
	ASSERT_EQ(0, served_wait(&reader->served));

	return 0;
}

/* Lets the reader go on, and waits until it has ended. */
static void let_go(struct __test_metadata *_metadata, struct reader *reader)
{
	ASSERT_EQ(0, served_fill(&reader->served, 0, NULL));
	ASSERT_EQ(0, pthread_join(reader->thread, NULL));
}

/* A thread that does something that waits for the mutex. */
struct waiter {
	pthread_t thread;
	atomic_int tid;
	int efd, fd, num;
	int ret;
};

static void *close_target(void *data)
{
	struct waiter *waiter = data;

	atomic_store(&waiter->tid, gettid());
	waiter->ret = close(waiter->fd) ? -errno : 0;

	return NULL;
}

static void *add_target(void *data)
{
	struct waiter *waiter = data;

	atomic_store(&waiter->tid, gettid());
	waiter->ret = epoll_add(waiter->efd, waiter->fd, EPOLLIN, 4711);

	return NULL;
}

static int start_waiter(struct waiter *waiter, void *(*act)(void *), int nr)
{
	atomic_store(&waiter->tid, 0);
	if (pthread_create(&waiter->thread, NULL, act, waiter))
		return -EAGAIN;
	while (!atomic_load(&waiter->tid))
		sleep_ms(1);

	return wait_asleep_in(waiter->tid, nr) ? 0 : -ETIME;
}

/*
 * The last descriptors of some targets are closed while an iterator holds the
 * mutex: these targets are still in the list, but may not be shown any more,
 * and leave no gap. They are after the one that is being shown, at the end, and
 * in a row.
 */
TEST_F(epoll_iter, dying_targets)
{
	static const int dying[] = { 4, 6, 7, NR_FEW - 1 };
	struct waiter waiters[ARRAY_SIZE(dying)];
	struct reader reader = {};
	int i, left = 0;

	ASSERT_EQ(0, add_files(self->efd, self->fds, NR_FEW, 100, 1, 0));
	if (hold_reader(_metadata, self->skel, self->skel->progs.hold,
			self->efd, 2, &reader))
		SKIP(return, CANNOT_HOLD);

	for (i = 0; i < ARRAY_SIZE(dying); i++) {
		waiters[i].fd = self->fds[dying[i]];
		/* The release waits for the mutex, which is held. */
		ASSERT_EQ(0, start_waiter(&waiters[i], close_target,
					  __NR_close));
	}
	let_go(_metadata, &reader);
	for (i = 0; i < ARRAY_SIZE(dying); i++) {
		ASSERT_EQ(0, pthread_join(waiters[i].thread, NULL));
		EXPECT_EQ(0, waiters[i].ret);
	}

	ASSERT_EQ(NR_FEW - ARRAY_SIZE(dying) + 1, reader.nr);
	EXPECT_EQ(reader.nr - 1, check_pass(reader.r, reader.nr));
	for (i = 0; i < NR_FEW; i++) {
		int j;

		for (j = 0; j < ARRAY_SIZE(dying); j++)
			if (dying[j] == i)
				break;
		if (j == ARRAY_SIZE(dying))
			EXPECT_EQ(i, reader.r[left++].data);
	}
}

/* All that are left are released: the end comes, and only once. */
TEST_F(epoll_iter, dying_rest)
{
	struct waiter waiters[3];
	struct reader reader = {};
	int i;

	ASSERT_EQ(0, add_files(self->efd, self->fds, 4, 100, 1, 0));
	if (hold_reader(_metadata, self->skel, self->skel->progs.hold,
			self->efd, 0, &reader))
		SKIP(return, CANNOT_HOLD);
	for (i = 0; i < 3; i++) {
		waiters[i].fd = self->fds[i + 1];
		ASSERT_EQ(0, start_waiter(&waiters[i], close_target,
					  __NR_close));
	}
	let_go(_metadata, &reader);
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_join(waiters[i].thread, NULL));

	ASSERT_EQ(2, reader.nr);
	EXPECT_EQ(1, check_pass(reader.r, reader.nr));
}

/*
 * The target that is being shown is not released meanwhile, and is not kept any
 * longer either: closing its last descriptor does not wait.
 */
TEST_F(epoll_iter, shown_target_is_pinned)
{
	struct pollfd pfd = { .events = POLLIN };
	struct reader reader = {};
	int fds[2];
	struct stat st;

	ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
	ASSERT_EQ(0, fstat(fds[1], &st));
	ASSERT_EQ(0, epoll_add(self->efd, fds[1], EPOLLIN, 0));
	if (hold_reader(_metadata, self->skel, self->skel->progs.hold,
			self->efd, 0, &reader))
		SKIP(return, CANNOT_HOLD);

	/* The read end reports when the write end is released. */
	ASSERT_EQ(0, close(fds[1]));
	pfd.fd = fds[0];
	EXPECT_EQ(0, poll(&pfd, 1, A_WHILE_MS));

	let_go(_metadata, &reader);
	ASSERT_EQ(2, reader.nr);
	EXPECT_EQ(st.st_ino, reader.r[0].ino);
	EXPECT_EQ(1, poll(&pfd, 1, PATIENCE_MS));
	EXPECT_EQ(POLLHUP, pfd.revents);
}

/*
 * A pass over a large epoll instance takes one read(), but others who want the
 * mutex do not wait until it has ended: a target that is added meanwhile, at
 * the end, is shown.
 */
TEST_F_TIMEOUT(epoll_iter, others_get_the_set, LONG_TIMEOUT)
{
	const int nr = 20000, last = 70000;
	int *fds = calloc(nr, sizeof(*fds));
	struct reader reader = {};
	struct waiter waiter;

	ASSERT_EQ(0, allow_fds(last + 1));
	ASSERT_EQ(0, add_files(self->efd, fds, nr, 40000, 1, 0));
	if (hold_reader(_metadata, self->skel, self->skel->progs.hold_and_count,
			self->efd, 0, &reader))
		SKIP(return, CANNOT_HOLD);

	waiter.efd = self->efd;
	waiter.fd = dup2(fds[0], last);
	ASSERT_EQ(last, waiter.fd);
	ASSERT_EQ(0, start_waiter(&waiter, add_target, __NR_epoll_ctl));
	EXPECT_EQ(0, self->skel->bss->counted);
	let_go(_metadata, &reader);
	ASSERT_EQ(0, pthread_join(waiter.thread, NULL));

	EXPECT_EQ(0, waiter.ret);
	EXPECT_EQ(0, reader.nr);
	EXPECT_EQ(nr + 1, self->skel->bss->counted);
	EXPECT_EQ(1, self->skel->bss->ended);
}

/* A process that waits for the mutex with a read of one record. */
struct process_reader {
	struct held_set held;
	int iter;
	pid_t pid;
};

/* Returns -EOPNOTSUPP if the mutex cannot be held here. */
static int start_process(struct __test_metadata *_metadata,
			 struct epoll_iter *skel, int efd, int *fds,
			 struct process_reader *reader)
{
	struct record r;
	int ret;

	ASSERT_EQ(0, add_files(efd, fds, NR_FEW, 100, 1, 0));
	ASSERT_EQ(0, eventfd_write(fds[0], 1));
	ret = hold_set(&reader->held, efd);
	if (ret == -EOPNOTSUPP)
		return ret;
	ASSERT_EQ(0, ret);

	reader->iter = open_iter(skel->progs.records, efd);
	ASSERT_GE(reader->iter, 0);
	reader->pid = fork_bound();
	ASSERT_GE(reader->pid, 0);
	if (!reader->pid)
		_exit(read(reader->iter, &r, sizeof(r)) == sizeof(r) ? 0 : 1);
	ASSERT_TRUE(wait_asleep_in(reader->pid, __NR_read));

	return 0;
}

/*
 * A reader that waits for the mutex can be killed, and leaves nothing behind.
 */
TEST_F(epoll_iter, killed_reader)
{
	struct process_reader reader;
	struct record *r;

	if (start_process(_metadata, self->skel, self->efd, self->fds, &reader))
		SKIP(return, CANNOT_HOLD);
	ASSERT_EQ(0, kill(reader.pid, SIGKILL));
	EXPECT_EQ(-SIGKILL, wait_exit(reader.pid));

	EXPECT_EQ(1, release_set(&reader.held));
	/* The iterator is where it was. */
	r = next(_metadata, reader.iter);
	EXPECT_EQ(0, r->seq_num);
	EXPECT_EQ(100, r->fd);
}

/* A signal that is not fatal does not end the wait. */
TEST_F(epoll_iter, signalled_reader)
{
	struct sigaction act = { .sa_handler = ignore_signal };
	struct process_reader reader;

	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	if (start_process(_metadata, self->skel, self->efd, self->fds, &reader))
		SKIP(return, CANNOT_HOLD);
	ASSERT_EQ(0, kill(reader.pid, SIGUSR1));
	sleep_ms(A_WHILE_MS);
	EXPECT_TRUE(asleep_in(reader.pid, __NR_read));

	EXPECT_EQ(1, release_set(&reader.held));
	EXPECT_EQ(0, wait_exit(reader.pid));
}

TEST_HARNESS_MAIN
