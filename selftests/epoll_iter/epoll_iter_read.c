// SPDX-License-Identifier: GPL-2.0
/* What is read from an epoll instance that does not change meanwhile. */
#include "epoll_iter.h"
#include "epoll_iter.skel.h"

#define NR_FEW		20
/* More than are visited without releasing the mutex. */
#define NR_SOME		700
#define NR_MANY		100000

FIXTURE(epoll_iter)
{
	struct epoll_iter *skel;
	int efd;
};

FIXTURE_VARIANT(epoll_iter)
{
	bool sleepable;
};

FIXTURE_VARIANT_ADD(epoll_iter, plain) {
	.sleepable = false,
};

FIXTURE_VARIANT_ADD(epoll_iter, sleepable) {
	.sleepable = true,
};

FIXTURE_SETUP(epoll_iter)
{
	char why[128];

	if (!have_module(why, sizeof(why)))
		SKIP(return, "%s", why);

	ASSERT_EQ(0, allow_fds(10000));
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

#define RECORDS	(variant->sleepable ? self->skel->progs.sleepable_records : \
				      self->skel->progs.records)

TEST_F(epoll_iter, empty_set)
{
	int iter = open_iter(RECORDS, self->efd), i;
	struct record r[2];

	ASSERT_GE(iter, 0);
	/* The program runs once, and without a target. */
	ASSERT_EQ(sizeof(r[0]), read(iter, r, sizeof(r)));
	EXPECT_EQ(0, check_pass(r, 1));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, read(iter, r, sizeof(r)));
}

TEST_F(epoll_iter, pipe_ends_and_sockets)
{
	struct record *r;
	int fds[8], i;
	struct stat st;

	ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
	ASSERT_EQ(0, pipe2(fds + 2, O_CLOEXEC));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, fds + 4));
	fds[6] = socket(AF_UNIX, SOCK_DGRAM, 0);
	fds[7] = epoll_create1(EPOLL_CLOEXEC);
	for (i = 0; i < 8; i++)
		ASSERT_EQ(0, epoll_add(self->efd, fds[i],
				       i & 1 ? EPOLLOUT | EPOLLET : EPOLLIN,
				       ~0ULL - i));

	/* These numbers ascend, as they were assigned. */
	ASSERT_EQ(8, pass(RECORDS, self->efd, 65536, &r));
	for (i = 0; i < 8; i++) {
		EXPECT_EQ(fds[i], r[i].fd);
		EXPECT_EQ(~0ULL - i, r[i].data);
		EXPECT_EQ((i & 1 ? EPOLLOUT | EPOLLET : EPOLLIN) |
			  EPOLLERR | EPOLLHUP, r[i].events);
		ASSERT_EQ(0, fstat(fds[i], &st));
		EXPECT_EQ(st.st_ino, r[i].ino);
	}
	/* The ends of a pipe are two files with one inode. */
	EXPECT_EQ(r[0].ino, r[1].ino);
	EXPECT_NE(r[0].file, r[1].file);
}

/* The changes that epoll_ctl() made, and those that epoll_wait() made. */
TEST_F(epoll_iter, events_and_data)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLONESHOT };
	int fd = eventfd(1, EFD_CLOEXEC);
	struct record *r;

	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, epoll_ctl(self->efd, EPOLL_CTL_ADD, fd, &ev));
	ASSERT_EQ(1, epoll_wait(self->efd, &ev, 1, 0));
	ASSERT_EQ(1, pass(RECORDS, self->efd, 4096, &r));
	EXPECT_EQ(EPOLLONESHOT, r[0].events);

	ev.events = EPOLLOUT;
	ev.data.u64 = 0x123456789abcdef0;
	ASSERT_EQ(0, epoll_ctl(self->efd, EPOLL_CTL_MOD, fd, &ev));
	ASSERT_EQ(1, pass(RECORDS, self->efd, 4096, &r));
	EXPECT_EQ(EPOLLOUT | EPOLLERR | EPOLLHUP, r[0].events);
	EXPECT_EQ(0x123456789abcdef0, r[0].data);
}

/* A nested epoll instance is a target; its own targets are not shown. */
TEST_F(epoll_iter, set_in_set)
{
	int inner = epoll_create1(EPOLL_CLOEXEC), fds[NR_FEW];
	struct record *r;

	ASSERT_GE(inner, 0);
	ASSERT_EQ(0, add_files(inner, fds, NR_FEW, 100, 1, 0));
	ASSERT_EQ(0, epoll_add(self->efd, inner, EPOLLIN, 7));

	ASSERT_EQ(1, pass(RECORDS, self->efd, 4096, &r));
	EXPECT_EQ(inner, r[0].fd);
	EXPECT_EQ(7, r[0].data);
	EXPECT_EQ(NR_FEW, pass(RECORDS, inner, 4096, &r));
}

/*
 * An iterator cannot be polled, so it cannot be added to an epoll instance, not
 * even to the one that it reads, which it continues to do.
 */
TEST_F(epoll_iter, own_descriptor)
{
	struct record r[3];
	int fds[2], iter;

	ASSERT_EQ(0, add_files(self->efd, fds, 2, 100, 1, 0));
	iter = open_iter(RECORDS, self->efd);
	ASSERT_GE(iter, 0);
	EXPECT_EQ(-EPERM, epoll_add(self->efd, iter, EPOLLIN, 0));
	ASSERT_EQ(sizeof(r[0]), read(iter, r, sizeof(r[0])));
	EXPECT_EQ(-EPERM, epoll_add(self->efd, iter, EPOLLIN, 0));
	ASSERT_EQ(2 * sizeof(r[0]), read(iter, r + 1, 2 * sizeof(r[0])));
	EXPECT_EQ(2, check_pass(r, 3));
	EXPECT_EQ(0, read(iter, r, sizeof(r[0])));
}

TEST_F(epoll_iter, reads_of_any_size)
{
	const size_t steps[] = { 1, 3, sizeof(struct record) - 1,
				 sizeof(struct record),
				 sizeof(struct record) + 1, 1000, 65536 };
	struct record *all, *r;
	int fds[NR_FEW], i, j;

	/* Three targets with each tfd. */
	for (i = 0; i < NR_FEW; i++) {
		fds[i] = eventfd(0, EFD_CLOEXEC);
		ASSERT_EQ(0, add_as(self->efd, fds[i], 100 + i / 3, EPOLLIN, i));
	}
	ASSERT_EQ(NR_FEW, pass(RECORDS, self->efd, 1 << 20, &all));
	for (i = 0; i < ARRAY_SIZE(steps); i++) {
		ASSERT_EQ(NR_FEW, pass(RECORDS, self->efd, steps[i], &r)) {
			TH_LOG("by reads of %zu", steps[i]);
		}
		for (j = 0; j < NR_FEW; j++) {
			EXPECT_EQ(all[j].fd, r[j].fd);
			EXPECT_EQ(all[j].file, r[j].file);
			EXPECT_EQ(all[j].data, r[j].data);
		}
		free(r);
	}
}

/* The same text, byte by byte and at once. */
TEST_F(epoll_iter, text)
{
	char *at_once, *by_bytes;
	int fds[NR_SOME], iter;
	ssize_t len;

	ASSERT_EQ(0, add_files(self->efd, fds, NR_SOME / 2, 1000, 1, 0));
	ASSERT_EQ(0, add_files(self->efd, fds + NR_SOME / 2, NR_SOME / 2, 2000,
			       0, NR_SOME / 2));

	iter = open_iter(self->skel->progs.text, self->efd);
	ASSERT_GE(iter, 0);
	len = read_all(iter, 1 << 20, &at_once);
	ASSERT_GT(len, 20 * NR_SOME);
	close(iter);

	iter = open_iter(self->skel->progs.text, self->efd);
	ASSERT_GE(iter, 0);
	ASSERT_EQ(len, read_all(iter, 1, &by_bytes));
	EXPECT_EQ(0, memcmp(at_once, by_bytes, len));
	at_once[len - 1] = '\0';
	EXPECT_STREQ("end", strrchr(at_once, '\n') + 1);
}

/* How often each of @nr was seen, by its data: exactly once. */
static bool all_once(const struct record *r, ssize_t nr)
{
	bool *seen = calloc(nr, sizeof(*seen)), right = true;
	ssize_t i;

	for (i = 0; i < nr && right; i++) {
		right = r[i].data < nr && !seen[r[i].data];
		if (right)
			seen[r[i].data] = true;
	}
	free(seen);

	return right;
}

TEST_F(epoll_iter, one_number)
{
	const size_t steps[] = { 1, sizeof(struct record), 65536 };
	int fds[NR_SOME + 2], i;
	struct record *r;

	/* All but the first and the last one, whose tfds are adjacent. */
	ASSERT_EQ(0, add_files(self->efd, fds, NR_SOME, 2000, 0, 0));
	ASSERT_EQ(0, add_files(self->efd, fds + NR_SOME, 2, 1999, 2, NR_SOME));
	for (i = 0; i < ARRAY_SIZE(steps); i++) {
		ASSERT_EQ(NR_SOME + 2,
			  pass(RECORDS, self->efd, steps[i], &r));
		EXPECT_TRUE(all_once(r, NR_SOME + 2));
		EXPECT_EQ(1999, r[0].fd);
		EXPECT_EQ(2000, r[1].fd);
		EXPECT_EQ(2000, r[NR_SOME].fd);
		EXPECT_EQ(2001, r[NR_SOME + 1].fd);
		free(r);
	}
}

TEST_F_TIMEOUT(epoll_iter, many, LONG_TIMEOUT)
{
	/* With kmemleak, all of them would take minutes. */
	int nr = access("/sys/kernel/debug/kmemleak", F_OK) ? NR_MANY : NR_MANY / 10;
	int *fds = calloc(nr, sizeof(*fds)), i;
	struct record *r;

	ASSERT_EQ(0, allow_fds(nr + 1000));
	for (i = 0; i < nr; i++) {
		fds[i] = eventfd(0, EFD_CLOEXEC);
		ASSERT_GE(fds[i], 0);
		ASSERT_EQ(0, epoll_add(self->efd, fds[i], EPOLLIN, i));
	}
	ASSERT_EQ(nr, pass(RECORDS, self->efd, 1 << 20, &r));
	EXPECT_TRUE(all_once(r, nr));
	for (i = 0; i < nr; i++)
		ASSERT_EQ(fds[i], r[i].fd);
	free(r);
}

/* Iterators of one link, and over one epoll instance, are independent. */
TEST_F(epoll_iter, independent)
{
	int fds[NR_FEW], link, iters[3], i, j;
	struct record r[3][NR_FEW + 1];

	ASSERT_EQ(0, add_files(self->efd, fds, NR_FEW, 100, 1, 0));
	link = attach(RECORDS, self->efd);
	ASSERT_GE(link, 0);
	for (i = 0; i < 2; i++) {
		iters[i] = bpf_iter_create(link);
		ASSERT_GE(iters[i], 0);
	}
	iters[2] = open_iter(self->skel->progs.hold, self->efd);
	ASSERT_GE(iters[2], 0);

	for (j = 0; j <= NR_FEW; j++) {
		for (i = 0; i < 3; i++)
			ASSERT_EQ(sizeof(r[i][j]),
				  read(iters[i], &r[i][j], sizeof(r[i][j])));
	}
	for (i = 0; i < 3; i++)
		EXPECT_EQ(NR_FEW, check_pass(r[i], NR_FEW + 1));
	EXPECT_NE(r[0][0].session_id, r[1][0].session_id);
}

/* The end stays the end, whatever is added later. */
TEST_F(epoll_iter, end_is_final)
{
	int fds[2], iter, i;
	struct record r;

	ASSERT_EQ(0, add_files(self->efd, fds, 1, 100, 1, 0));
	iter = open_iter(RECORDS, self->efd);
	ASSERT_GE(iter, 0);
	ASSERT_EQ(sizeof(r), read(iter, &r, sizeof(r)));
	ASSERT_EQ(sizeof(r), read(iter, &r, sizeof(r)));
	EXPECT_EQ(1, r.end);

	ASSERT_EQ(0, add_files(self->efd, fds + 1, 1, 101, 1, 1));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, read(iter, &r, sizeof(r)));
}

/* The record of the end was written, but not read to its last byte. */
TEST_F(epoll_iter, end_in_pieces)
{
	size_t half = sizeof(struct record) / 2;
	struct record r;
	int iter, fd;

	iter = open_iter(RECORDS, self->efd);
	ASSERT_GE(iter, 0);
	ASSERT_EQ(half, read(iter, &r, half));
	ASSERT_EQ(0, add_files(self->efd, &fd, 1, 100, 1, 0));
	ASSERT_EQ(half, read(iter, (char *)&r + half, sizeof(r)));
	EXPECT_EQ(0, check_pass(&r, 1));
	EXPECT_EQ(0, read(iter, &r, sizeof(r)));
}

/* A record that does not fit is shown again, with the same number. */
TEST_F(epoll_iter, records_that_do_not_fit)
{
	int fds[NR_FEW], iter, i;
	char *bytes;

	ASSERT_EQ(0, add_files(self->efd, fds, NR_FEW, 100, 1, 0));
	iter = open_iter(self->skel->progs.big_records, self->efd);
	ASSERT_GE(iter, 0);
	ASSERT_EQ(NR_FEW * BIG_RECORD, read_all(iter, 1 << 20, &bytes));
	for (i = 0; i < NR_FEW; i++) {
		const struct record *r = (void *)(bytes + i * BIG_RECORD);

		EXPECT_EQ(i, r->seq_num);
		EXPECT_EQ(100 + i, r->fd);
		EXPECT_EQ(i, r->data);
	}
}

/* A program that asks to be called again gets the same target. */
TEST_F(epoll_iter, again)
{
	int fds[NR_FEW], iter, i;
	struct record *r;
	ssize_t nr;

	ASSERT_EQ(0, add_files(self->efd, fds, NR_FEW, 100, 1, 0));
	/*
	 * The records before it are returned first, and the request is not
	 * visible.
	 */
	self->skel->bss->again_seq_num = 5;
	self->skel->bss->again_left = 3;
	iter = open_iter(self->skel->progs.again, self->efd);
	ASSERT_GE(iter, 0);
	r = calloc(NR_FEW + 1, sizeof(*r));
	ASSERT_EQ(5 * sizeof(*r), read(iter, r, (NR_FEW + 1) * sizeof(*r)));
	EXPECT_EQ(2, self->skel->bss->again_left);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(-1, read(iter, r + 5, NR_FEW * sizeof(*r)));
		EXPECT_EQ(EAGAIN, errno);
	}
	nr = read(iter, r + 5, NR_FEW * sizeof(*r));
	ASSERT_EQ((NR_FEW - 5 + 1) * sizeof(*r), nr);
	EXPECT_EQ(NR_FEW, check_pass(r, NR_FEW + 1));
	EXPECT_EQ(0, read(iter, r, sizeof(*r)));
}

/* Another process may continue to read; nobody can seek. */
TEST_F(epoll_iter, passed_on)
{
	int fds[2], iter;
	struct record r;
	pid_t pid;

	ASSERT_EQ(0, add_files(self->efd, fds, 2, 100, 1, 0));
	iter = open_iter(RECORDS, self->efd);
	ASSERT_GE(iter, 0);
	ASSERT_EQ(sizeof(r), read(iter, &r, sizeof(r)));
	EXPECT_EQ(-1, lseek(iter, 0, SEEK_SET));
	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		close(self->efd);
		if (read(iter, &r, sizeof(r)) != sizeof(r))
			_exit(1);
		_exit(r.seq_num == 1 && r.fd == 101 ? 0 : 2);
	}
	EXPECT_EQ(0, wait_exit(pid));
	ASSERT_EQ(sizeof(r), read(iter, &r, sizeof(r)));
	EXPECT_EQ(1, r.end);
}

TEST_HARNESS_MAIN
