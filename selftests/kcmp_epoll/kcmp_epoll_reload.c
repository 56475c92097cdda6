// SPDX-License-Identifier: GPL-2.0
/*
 * Load and unload the module repeatedly while callers make queries,
 * KCMP_EPOLL_RELOADS times.
 */
#include <stdatomic.h>

#include "kcmp_epoll.h"
#include "kselftest_harness.h"

#define RELOADS		20
#define NR_CALLERS	4

/* The taint flags W and D: the kernel has warned, or has oopsed. */
#define TAINT_BAD	((1UL << 9) | (1UL << 7))

struct caller {
	atomic_ulong asked;
	atomic_ulong wrong;
};

struct known {
	int efd, fd, other;
	int cmp;
};

FIXTURE(reload)
{
	struct caller *callers;
	struct known known;
};

FIXTURE_SETUP(reload)
{
	struct known *known = &self->known;
	char why[128];

	/* Check that it can be loaded, then begin without it. */
	if (!use_module(true, why, sizeof(why)) ||
	    !use_module(false, why, sizeof(why)))
		SKIP(return, "%s", why);

	self->callers = mmap(NULL, NR_CALLERS * sizeof(*self->callers),
			     PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			     -1, 0);
	ASSERT_NE(MAP_FAILED, self->callers);

	known->efd = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_GE(known->efd, 0);
	known->fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(known->fd, 0);
	known->other = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(known->other, 0);
	ASSERT_EQ(0, add_as(known->efd, known->fd, TFD, EPOLLIN, 0));

	known->cmp = kcmp_file_self(known->other, known->fd);
	ASSERT_GT(known->cmp, 0);
}

FIXTURE_TEARDOWN(reload)
{
}

static void ask_forever(const struct known *known, struct caller *caller)
{
	pid_t me = getpid();

	for (;;) {
		if (kcmp_tfd(me, known->fd, me, known->efd, TFD, 0) ||
		    kcmp_tfd(me, known->other, me, known->efd, TFD, 0) !=
		    known->cmp ||
		    kcmp_tfd(me, known->fd, me, known->efd, TFD, 1) !=
		    -ENOENT ||
		    kcmp_tfd(me, NO_FD, me, known->efd, TFD, 0) != -EBADF)
			caller->wrong++;
		caller->asked++;
	}
}

/*
 * Let each caller make at least two queries, the second one entirely after
 * this.
 */
static bool wait_asked(struct caller *callers)
{
	long long end = now_ms() + PATIENCE_MS;
	int i;

	for (i = 0; i < NR_CALLERS; i++) {
		unsigned long asked = callers[i].asked;

		while (callers[i].asked < asked + 2) {
			if (now_ms() > end)
				return false;
			usleep(100);
		}
	}

	return true;
}

static unsigned long bad_taint(void)
{
	return read_number("/proc/sys/kernel/tainted") & TAINT_BAD;
}

TEST_F_TIMEOUT(reload, under_load, 1800)
{
	const char *env = getenv("KCMP_EPOLL_RELOADS");
	int reloads = env && *env ? atoi(env) : RELOADS;
	unsigned long taint = bad_taint();
	pid_t pids[NR_CALLERS];
	int i;

	ASSERT_GT(reloads, 0);

	for (i = 0; i < NR_CALLERS; i++) {
		pids[i] = fork_bound();
		ASSERT_GE(pids[i], 0);
		if (!pids[i])
			ask_forever(&self->known, &self->callers[i]);
	}

	for (i = 0; i < reloads; i++) {
		ASSERT_EQ(0, module_load());
		ASSERT_TRUE(module_loaded());
		ASSERT_TRUE(wait_asked(self->callers));

		ASSERT_EQ(0, unload(MODULE));
		ASSERT_FALSE(module_loaded());
		ASSERT_TRUE(wait_asked(self->callers));
	}

	/* Without callers, nobody has a reference. */
	ASSERT_EQ(0, module_load());
	ASSERT_TRUE(wait_asked(self->callers));
	for (i = 0; i < NR_CALLERS; i++) {
		ASSERT_EQ(0, kill(pids[i], SIGKILL));
		EXPECT_EQ(-SIGKILL, wait_exit(pids[i]));
		EXPECT_EQ(0, atomic_load(&self->callers[i].wrong));
		EXPECT_GT(atomic_load(&self->callers[i].asked), 4 * reloads);
	}
	EXPECT_EQ(0, module_refs());
	EXPECT_EQ(0, try_unload(MODULE));

	EXPECT_EQ(taint, bad_taint());
}

TEST_HARNESS_MAIN
