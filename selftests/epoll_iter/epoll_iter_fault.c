// SPDX-License-Identifier: GPL-2.0
/*
 * Allocations, and accesses to memory of the caller, fail one after the other:
 * an operation succeeds, or fails with ENOMEM or EFAULT.
 */
#include "epoll-fault.h"
#include "epoll_iter.h"
#include "epoll_iter.skel.h"
#include "epoll_iter_kfunc.skel.h"

#define NR_FEW		20
/* No operation here makes as many. */
#define LIMIT		2000

FIXTURE(epoll_iter)
{
	struct epoll_iter *skel;
	struct epoll_iter_kfunc *kfunc;
	int efd;
	int fds[NR_FEW];
	int fail_nth;
};

FIXTURE_SETUP(epoll_iter)
{
	const char *cannot = cannot_fail(&self->fail_nth);
	char why[128];

	if (cannot)
		SKIP(return, "%s", cannot);
	if (!have_module(why, sizeof(why)))
		SKIP(return, "%s", why);

	self->efd = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_GE(self->efd, 0);
	ASSERT_EQ(0, add_files(self->efd, self->fds, NR_FEW, 100, 1, 0));
	self->skel = epoll_iter__open_and_load();
	ASSERT_NE(NULL, self->skel);
	self->skel->bss->hold_seq_num = ~0ULL;
	self->kfunc = epoll_iter_kfunc__open_and_load();
	ASSERT_NE(NULL, self->kfunc);
	self->kfunc->bss->pid = getpid();
	self->kfunc->bss->efd = self->efd;
}

FIXTURE_TEARDOWN(epoll_iter)
{
	epoll_iter__destroy(self->skel);
	epoll_iter_kfunc__destroy(self->kfunc);
	EXPECT_EQ(0, end_module());
}

/*
 * Let each allocation and access of @act fail, until there are no more. If @act
 * succeeds, @verify checks what it returned. Returns how many failures made it
 * fail, or minus the number of one after which the result was wrong.
 */
static int each(int fail_nth, int (*act)(void *), bool (*verify)(void *, int),
		void *data)
{
	int n, ret, failed = 0;
	bool injected;

	/* This maps the pages that it needs. */
	ret = act(data);
	if (ret < 0 || !verify(data, ret))
		return -1;

	for (n = 1; n < LIMIT; n++) {
		fail_at(fail_nth, n);
		ret = act(data);
		injected = has_failed(fail_nth);
		if (ret < 0) {
			failed++;
			if (!injected || (ret != -ENOMEM && ret != -EFAULT))
				return -n;
		} else if (!verify(data, ret)) {
			return -n;
		}
		if (!injected) {
			printf("# %d that can fail, %d that it cannot do without\n",
			       n - 1, failed);
			return failed;
		}
	}

	return -n;
}

struct link {
	struct bpf_program *prog;
	int efd;
	int fd;
	struct record r[NR_FEW + 1];
};

static int do_attach(void *data)
{
	struct link *link = data;

	return attach(link->prog, link->efd);
}

static bool verify_link(void *data, int fd)
{
	int iter = bpf_iter_create(fd);
	struct record *r;
	ssize_t nr;

	close(fd);
	if (iter < 0)
		return false;
	nr = read_records(iter, 4096, &r);
	close(iter);
	nr = nr < 0 ? nr : check_pass(r, nr);
	free(r);

	return nr == NR_FEW;
}

TEST_F(epoll_iter, attach)
{
	struct link link = { self->skel->progs.records, self->efd };

	EXPECT_LT(0, each(self->fail_nth, do_attach, verify_link, &link));
}

static int do_create(void *data)
{
	struct link *link = data;

	return bpf_iter_create(link->fd);
}

static bool verify_iter(void *data, int iter)
{
	struct record *r;
	ssize_t nr = read_records(iter, 4096, &r);

	close(iter);
	nr = nr < 0 ? nr : check_pass(r, nr);
	free(r);

	return nr == NR_FEW;
}

TEST_F(epoll_iter, create)
{
	struct link link = { self->skel->progs.records, self->efd };

	link.fd = attach(link.prog, link.efd);
	ASSERT_GE(link.fd, 0);
	EXPECT_LT(0, each(self->fail_nth, do_create, verify_iter, &link));
}

/*
 * Without the descriptors, which are allocated, too: an iterator for each
 * attempt, created before.
 */
static int do_read(void *data)
{
	struct link *link = data;
	ssize_t ret = read(link->fd, link->r, sizeof(link->r));
	int err = ret < 0 ? -errno : 0;

	if (err) {
		/* It has read nothing, and continues there. */
		link->r[0].seq_num = ~0ULL;
		return err;
	}

	return ret / sizeof(link->r[0]);
}

static bool verify_read(void *data, int nr)
{
	struct link *link = data;
	int fd;

	if (check_pass(link->r, nr) != NR_FEW)
		return false;

	fd = open_iter(link->prog, link->efd);
	if (fd < 0)
		return false;

	return dup2(fd, link->fd) == link->fd && !close(fd);
}

TEST_F(epoll_iter, read)
{
	struct link link = { self->skel->progs.records, self->efd };
	int failed;

	link.fd = open_iter(link.prog, link.efd);
	ASSERT_GE(link.fd, 0);
	/*
	 * Only the buffer is allocated, which can be done in two ways, and then
	 * copied.
	 */
	failed = each(self->fail_nth, do_read, verify_read, &link);
	EXPECT_LE(1, failed);
	EXPECT_GE(2, failed);
}

static int do_walk(void *data)
{
	struct epoll_iter_kfunc *kfunc = data;
	struct bpf_test_run_opts opts = { .sz = sizeof(opts) };
	int ret = bpf_prog_test_run_opts(bpf_program__fd(kfunc->progs.walk),
					 &opts);

	if (ret)
		return ret;
	if (opts.retval)
		return -ECHILD;

	return kfunc->bss->error ?: kfunc->bss->count;
}

static bool verify_walk(void *data, int nr)
{
	return nr == NR_FEW;
}

TEST_F(epoll_iter, walk)
{
	EXPECT_LT(0, each(self->fail_nth, do_walk, verify_walk, self->kfunc));
}

TEST_HARNESS_MAIN
