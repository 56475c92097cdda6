/* SPDX-License-Identifier: GPL-2.0 */
/* Programs for the iterator and an epoll instance, in each test. */
#ifndef _EPOLL_ITER_FIXTURE_H
#define _EPOLL_ITER_FIXTURE_H

#include "epoll_iter.h"
#include "epoll_iter.skel.h"

#define NR_FEW	12

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
 * on. Their tfds begin with 100 if @step is 1, and all are 100 if it is 0.
 */
static inline int begin(struct __test_metadata *_metadata, struct epoll_iter *skel,
			int efd, int *fds, int nr, int step)
{
	int iter;

	ASSERT_EQ(0, add_files(efd, fds, nr, 100, step, 0));
	iter = open_iter(skel->progs.records, efd);
	ASSERT_GE(iter, 0);

	return iter;
}

/* Reads the next record, of a target or of the end. */
static inline struct record *next(struct __test_metadata *_metadata, int iter)
{
	static struct record r;

	ASSERT_EQ(sizeof(r), read(iter, &r, sizeof(r)));

	return &r;
}

/*
 * Whether the next record is that of the target with this data, the
 * @seq_num-th.
 */
static inline void expect_target(struct __test_metadata *_metadata, int iter,
				 unsigned int seq_num, unsigned int data)
{
	struct record *r = next(_metadata, iter);

	ASSERT_EQ(0, r->end);
	EXPECT_EQ(seq_num, r->seq_num);
	EXPECT_EQ(data, r->data);
}

static inline void expect_end(struct __test_metadata *_metadata, int iter)
{
	EXPECT_EQ(1, next(_metadata, iter)->end);
}

#endif /* _EPOLL_ITER_FIXTURE_H */
