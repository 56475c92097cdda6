// SPDX-License-Identifier: GPL-2.0
/* What is read from an epoll instance that changes meanwhile. */
#include <stdatomic.h>

#include "epoll_iter_fixture.h"

#define NR_STAY		2000
#define NR_COME_AND_GO	64
#define NR_CYCLES	200
/* Its first number is how many files are open in the whole system. */
#define FILE_NR		"/proc/sys/fs/file-nr"

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

/* All have one tfd, so that the position depends on the file. */
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
	 * Two files by each descriptor; one of them stays open as another
	 * one.
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
	/* Descriptors of their own, between and after those that stay. */
	static struct storm storms[2] = { { .first = 12000 },
					  { .first = 30000 } };
	const size_t steps[] = { sizeof(struct record) / 2 + 1, 400, 65536 };
	int *fds = calloc(NR_STAY, sizeof(*fds)), i, j, k;
	unsigned long foreign = 0;
	atomic_bool stop = false;
	pthread_t threads[2];
	struct record *r;

	ASSERT_EQ(0, allow_fds(40000));
	/* Half of them have a tfd each, half of them share one. */
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
