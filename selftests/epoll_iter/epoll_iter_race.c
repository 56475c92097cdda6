// SPDX-License-Identifier: GPL-2.0
/*
 * What is read from an epoll instance that changes meanwhile, and what that may
 * block.
 */
#include <stdatomic.h>

#include "epoll_iter.h"
#include "epoll_iter.skel.h"

#define NR_FEW		12
#define NR_STAY		2000
#define NR_COME_AND_GO	64
#define NR_CYCLES	200
/* Its first number is how many files are open in the whole system. */
#define FILE_NR		"/proc/sys/fs/file-nr"
#define CANNOT_HOLD	"needs userfaultfd to hold up a program"

FIXTURE(epoll_iter)
{
	struct epoll_iter *skel;
	int efd;
	int fds[NR_FEW];
};

FIXTURE_SETUP(epoll_iter)
{
	char why[128];

	if (!have_module(why, sizeof(why)))
		SKIP(return, "%s", why);

	self->efd = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_GE(self->efd, 0);
	self->skel = epoll_iter__open_and_load();
	ASSERT_NE(NULL, self->skel);
	/* The program is not held up at any target. */
	self->skel->bss->hold_seq_num = ~0ULL;
}

FIXTURE_TEARDOWN(epoll_iter)
{
	epoll_iter__destroy(self->skel);
	EXPECT_EQ(0, end_module());
}

/*
 * Begins to read an epoll instance with @nr new files, whose data is 0 and so
 * on. Their numbers begin with 100 if @step is 1, and all are 100 if it is 0.
 */
static int begin(struct __test_metadata *_metadata, struct epoll_iter *skel,
		 int efd, int *fds, int nr, int step)
{
	int iter;

	ASSERT_EQ(0, add_files(efd, fds, nr, 100, step, 0));
	iter = open_iter(skel->progs.records, efd);
	ASSERT_GE(iter, 0);

	return iter;
}

/* Reads the next record, of a target or of the end. */
static struct record *next(struct __test_metadata *_metadata, int iter)
{
	static struct record r;

	ASSERT_EQ(sizeof(r), read(iter, &r, sizeof(r)));

	return &r;
}

/*
 * Whether the next record is that of the target with this data, the
 * @seq_num-th.
 */
static void expect_target(struct __test_metadata *_metadata, int iter,
			  unsigned int seq_num, unsigned int data)
{
	struct record *r = next(_metadata, iter);

	ASSERT_EQ(0, r->end);
	EXPECT_EQ(seq_num, r->seq_num);
	EXPECT_EQ(data, r->data);
}

static void expect_end(struct __test_metadata *_metadata, int iter)
{
	EXPECT_EQ(1, next(_metadata, iter)->end);
}

/* The target that was shown last is removed, at each position. */
TEST_F(epoll_iter, shown_is_removed)
{
	int iter, i;
	char c;

	iter = begin(_metadata, self->skel, self->efd, self->fds, NR_FEW, 1);
	for (i = 0; i < NR_FEW; i++) {
		expect_target(_metadata, iter, i, i);
		ASSERT_EQ(0, del_as(self->efd, self->fds[i], 100 + i));
	}
	expect_end(_metadata, iter);
	EXPECT_EQ(0, read(iter, &c, 1));
}

/* The same if it is added again: it is not shown a second time. */
TEST_F(epoll_iter, shown_is_added_again)
{
	int iter, i;

	iter = begin(_metadata, self->skel, self->efd, self->fds, NR_FEW, 1);
	for (i = 0; i < NR_FEW; i++) {
		expect_target(_metadata, iter, i, i);
		ASSERT_EQ(0, del_as(self->efd, self->fds[i], 100 + i));
		ASSERT_EQ(0, add_as(self->efd, self->fds[i], 100 + i, EPOLLIN, i));
	}
	expect_end(_metadata, iter);
}

/* The target to be shown next is removed: the one after it is shown instead. */
TEST_F(epoll_iter, next_is_removed)
{
	int iter, i;

	iter = begin(_metadata, self->skel, self->efd, self->fds, NR_FEW, 1);
	for (i = 0; i < NR_FEW; i += 2) {
		expect_target(_metadata, iter, i / 2, i);
		ASSERT_EQ(0, del_as(self->efd, self->fds[i], 100 + i));
		ASSERT_EQ(0, del_as(self->efd, self->fds[i + 1], 101 + i));
	}
	expect_end(_metadata, iter);
}

/* All have one number, so that the position depends on the file. */
TEST_F(epoll_iter, shown_of_one_number_is_removed)
{
	bool seen[NR_FEW] = {};
	struct record *r;
	int iter, i;

	iter = begin(_metadata, self->skel, self->efd, self->fds, NR_FEW, 0);
	for (i = 0; i < NR_FEW; i++) {
		r = next(_metadata, iter);
		ASSERT_EQ(0, r->end);
		EXPECT_EQ(i, r->seq_num);
		ASSERT_LT(r->data, NR_FEW);
		EXPECT_FALSE(seen[r->data]);
		seen[r->data] = true;
		/* Another file may get its memory. */
		ASSERT_EQ(0, del_as(self->efd, self->fds[r->data], 100));
		close(self->fds[r->data]);
	}
	expect_end(_metadata, iter);
}

TEST_F(epoll_iter, all_are_removed)
{
	int iter, i;

	iter = begin(_metadata, self->skel, self->efd, self->fds, NR_FEW, 1);
	expect_target(_metadata, iter, 0, 0);
	for (i = 0; i < NR_FEW; i++)
		ASSERT_EQ(0, del_as(self->efd, self->fds[i], 100 + i));
	expect_end(_metadata, iter);
}

/* A target that is added before the position is not shown; one after it is. */
TEST_F(epoll_iter, added_before_and_after)
{
	int iter;

	iter = begin(_metadata, self->skel, self->efd, self->fds, 2, 1);
	expect_target(_metadata, iter, 0, 0);
	ASSERT_EQ(0, add_files(self->efd, self->fds + 2, 1, 99, 1, 2));
	ASSERT_EQ(0, add_files(self->efd, self->fds + 3, 1, 102, 1, 3));
	expect_target(_metadata, iter, 1, 1);
	expect_target(_metadata, iter, 2, 3);
	expect_end(_metadata, iter);
}

/* Threads that add and remove targets between those that stay. */
struct storm {
	int efd;
	int first;
	int fds[NR_COME_AND_GO];
	atomic_bool *stop;
	atomic_ulong rounds;
	int error;
};

/* Data of none of those that stay. */
#define COMES_AND_GOES	0x100000000ULL

static int come_and_go(struct storm *storm, int nr)
{
	/*
	 * Two files by each number; one of them stays open as another
	 * descriptor.
	 */
	int i, num = storm->first;

	for (i = 0; i < nr; i++) {
		if (dup2(storm->fds[i], num + i / 2) < 0 ||
		    epoll_add(storm->efd, num + i / 2, EPOLLIN,
			      COMES_AND_GOES + i))
			return -errno;
	}
	for (i = 0; i < nr; i++) {
		/* Every other one is removed by releasing its file. */
		if (i & 1) {
			close(storm->fds[i]);
			close(num + i / 2);
			storm->fds[i] = eventfd(0, EFD_CLOEXEC);
			if (storm->fds[i] < 0)
				return -errno;
			continue;
		}
		if (dup2(storm->fds[i], num + i / 2) < 0 ||
		    epoll_ctl(storm->efd, EPOLL_CTL_DEL, num + i / 2, NULL))
			return -errno;
	}

	return 0;
}

static void *run_storm(void *data)
{
	struct storm *storm = data;
	int i;

	for (i = 0; i < NR_COME_AND_GO; i++) {
		storm->fds[i] = eventfd(0, EFD_CLOEXEC);
		if (storm->fds[i] < 0) {
			storm->error = -errno;
			return NULL;
		}
	}
	while (!atomic_load(storm->stop) && !storm->error) {
		storm->error = come_and_go(storm, NR_COME_AND_GO);
		atomic_fetch_add(&storm->rounds, 1);
	}

	return NULL;
}

TEST_F_TIMEOUT(epoll_iter, storm, LONG_TIMEOUT)
{
	/* Numbers of their own, between and after those that stay. */
	static struct storm storms[2] = { { .first = 12000 },
					  { .first = 30000 } };
	const size_t steps[] = { sizeof(struct record) / 2 + 1, 400, 65536 };
	int *fds = calloc(NR_STAY, sizeof(*fds)), i, j, k;
	unsigned long foreign = 0;
	atomic_bool stop = false;
	pthread_t threads[2];
	struct record *r;

	ASSERT_EQ(0, allow_fds(40000));
	/* Half of them have a number each, half of them share one. */
	ASSERT_EQ(0, add_files(self->efd, fds, NR_STAY / 4, 11600, 1, 0));
	ASSERT_EQ(0, add_files(self->efd, fds + NR_STAY / 4, NR_STAY / 4,
			       12100, 1, NR_STAY / 4));
	ASSERT_EQ(0, add_files(self->efd, fds + NR_STAY / 2, NR_STAY / 2,
			       12010, 0, NR_STAY / 2));

	for (i = 0; i < 2; i++) {
		storms[i].efd = self->efd;
		storms[i].stop = &stop;
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, run_storm,
					    &storms[i]));
	}

	for (i = 0; i < ARRAY_SIZE(steps); i++) {
		for (j = 0; j < 10; j++) {
			bool seen[NR_STAY] = {};
			ssize_t nr = pass(self->skel->progs.records, self->efd,
					  steps[i], &r);
			int stayed = 0;

			ASSERT_GE(nr, NR_STAY) {
				TH_LOG("by reads of %zu", steps[i]);
			}
			for (k = 0; k < nr; k++) {
				if (r[k].data >= COMES_AND_GOES) {
					foreign++;
					continue;
				}
				ASSERT_LT(r[k].data, NR_STAY);
				ASSERT_FALSE(seen[r[k].data]);
				seen[r[k].data] = true;
				stayed++;
			}
			ASSERT_EQ(NR_STAY, stayed);
			free(r);
		}
	}

	atomic_store(&stop, true);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(0, storms[i].error);
		/* The thread did add and remove targets. */
		EXPECT_LT(10, atomic_load(&storms[i].rounds));
	}
	EXPECT_LT(0, foreign);
}

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

/* What was shown is not kept until the next read. */
TEST_F(epoll_iter, shown_target_is_let_go)
{
	struct pollfd pfd = { .events = POLLIN };
	int fds[2], iter;

	ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
	ASSERT_EQ(0, epoll_add(self->efd, fds[1], EPOLLIN, 0));
	iter = begin(_metadata, self->skel, self->efd, self->fds, NR_FEW, 1);
	expect_target(_metadata, iter, 0, 0);

	close(fds[1]);
	pfd.fd = fds[0];
	EXPECT_EQ(1, poll(&pfd, 1, PATIENCE_MS));
	EXPECT_EQ(POLLHUP, pfd.revents);
	EXPECT_EQ(1, next(_metadata, iter)->seq_num);
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

/*
 * The iterator stops at a target that is a socket, and is itself in a queue
 * that lives as long as that socket: it would keep itself alive if it kept the
 * target.
 */
static int make_cycle(struct bpf_program *prog, bool set_too)
{
	int efd = epoll_create1(EPOLL_CLOEXEC), socks[2], iter, ret;
	struct record r;

	if (efd < 0 || socketpair(AF_UNIX, SOCK_DGRAM, 0, socks))
		return -errno;
	ret = epoll_add(efd, socks[0], EPOLLIN, 0);
	if (!ret)
		ret = epoll_add(efd, socks[1], EPOLLIN, 0);
	if (ret)
		return ret;
	iter = open_iter(prog, efd);
	if (iter < 0)
		return iter;
	if (read(iter, &r, sizeof(r)) != sizeof(r) || r.fd != socks[0])
		return -EIO;

	ret = send_fd(socks[0], iter) ?: send_fd(socks[1], socks[1]) ?:
	      send_fd(socks[0], socks[0]);
	if (!ret && set_too)
		ret = send_fd(socks[1], efd);
	close(iter);
	close(efd);
	close(socks[0]);
	close(socks[1]);

	return ret;
}

TEST_F_TIMEOUT(epoll_iter, cycle_of_sockets, LONG_TIMEOUT)
{
	long before, after;
	int i, socks[2];
	long long end;

	before = read_number(FILE_NR);
	ASSERT_LT(0, before);
	for (i = 0; i < NR_CYCLES; i++)
		ASSERT_EQ(0, make_cycle(self->skel->progs.records, i & 1));
	end = now_ms() + 2 * PATIENCE_MS;

	/*
	 * Sockets in their own queues are collected when the next one is
	 * released. A tenth is allowed for what else happens in the system.
	 */
	do {
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM, 0, socks));
		ASSERT_EQ(0, send_fd(socks[0], socks[1]));
		close(socks[0]);
		close(socks[1]);
		sleep_ms(10);
		after = read_number(FILE_NR);
	} while (after > before + NR_CYCLES / 10 && now_ms() < end);
	EXPECT_LE(after, before + NR_CYCLES / 10);
	/* Unloading the module shows that no iterator is left. */
}

TEST_HARNESS_MAIN
