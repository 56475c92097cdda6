// SPDX-License-Identifier: GPL-2.0
/*
 * A program that runs in a kernel thread, which nobody can kill: it must not wait
 * for an instance that a program can hold as long as it likes.
 */
#include "epoll_iter.h"
#include "epoll_iter_wq.skel.h"

#define NR_FEW		20
#define CANNOT_HOLD	"needs userfaultfd to hold up a program"

FIXTURE(epoll_iter)
{
	struct epoll_iter_wq *skel;
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
	self->skel = epoll_iter_wq__open_and_load();
	ASSERT_NE(NULL, self->skel);
	self->skel->bss->pid = getpid();
	self->skel->bss->efd = self->efd;
	ASSERT_EQ(0, add_files(self->efd, self->fds, NR_FEW, 100, 1, 0));
}

FIXTURE_TEARDOWN(epoll_iter)
{
	epoll_iter_wq__destroy(self->skel);
	EXPECT_EQ(0, end_module());
}

/* Lets a thread walk. Returns how many targets it has seen, or how it ended. */
static int walk(struct epoll_iter_wq *skel)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts);
	__u32 *walks = &skel->bss->walks;
	long long end = now_ms() + PATIENCE_MS;
	__u32 before = __atomic_load_n(walks, __ATOMIC_RELAXED);
	int ret = bpf_prog_test_run_opts(bpf_program__fd(skel->progs.begin),
					 &opts);

	if (ret || opts.retval)
		return ret ?: -ECHILD;
	while (__atomic_load_n(walks, __ATOMIC_RELAXED) == before) {
		if (now_ms() > end)
			return -ETIME;
		sleep_ms(1);
	}

	return skel->bss->error ?: skel->bss->count;
}

TEST_F(epoll_iter, in_kernel_thread)
{
	int i;

	for (i = 0; i < 20; i++)
		ASSERT_EQ(NR_FEW, walk(self->skel));
}

TEST_F(epoll_iter, kernel_thread_does_not_wait)
{
	struct held_set held;
	int ret;

	ASSERT_EQ(0, eventfd_write(self->fds[0], 1));
	ret = hold_set(&held, self->efd);
	if (ret == -EOPNOTSUPP)
		SKIP(return, CANNOT_HOLD);
	ASSERT_EQ(0, ret);

	EXPECT_EQ(-EAGAIN, walk(self->skel));
	EXPECT_EQ(0, self->skel->bss->count);

	EXPECT_EQ(1, release_set(&held));
	EXPECT_EQ(NR_FEW, walk(self->skel));
}

TEST_HARNESS_MAIN
