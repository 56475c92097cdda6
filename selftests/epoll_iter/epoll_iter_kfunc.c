// SPDX-License-Identifier: GPL-2.0
/* Programs that walk an epoll instance by bpf_iter_epoll_new() and so on. */
#include "epoll_iter.h"
#include "epoll_iter.skel.h"
#include "epoll_iter_kfunc.skel.h"

#define NR_FEW		20
#define NR_SOME		5000
#define CANNOT_HOLD	"needs userfaultfd to hold up a program"

FIXTURE(epoll_iter)
{
	struct epoll_iter *skel;
	struct epoll_iter_kfunc *kfunc;
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

/* Returns what the program returns, or a negative errno. */
static int run(struct bpf_program *prog)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts);
	int ret = bpf_prog_test_run_opts(bpf_program__fd(prog), &opts);

	return ret ?: opts.retval;
}

/* How many targets a walk has seen, or the error that ended it early. */
static int walk(struct epoll_iter_kfunc *kfunc)
{
	int ret = run(kfunc->progs.walk);

	return ret ? -ECHILD : kfunc->bss->error ?: kfunc->bss->count;
}

TEST_F(epoll_iter, empty_set)
{
	EXPECT_EQ(0, walk(self->kfunc));
}

/* The same targets, in the same order, as with the other iterator. */
TEST_F(epoll_iter, same_targets)
{
	const struct record *walked = self->kfunc->bss->walked;
	int *fds = calloc(NR_SOME, sizeof(*fds)), i;
	struct record *r;

	self->skel = epoll_iter__open_and_load();
	ASSERT_NE(NULL, self->skel);
	self->skel->bss->hold_seq_num = ~0ULL;
	ASSERT_EQ(0, allow_fds(30000));
	ASSERT_EQ(0, add_files(self->efd, fds, NR_SOME / 2, 10000, 1, 0));
	ASSERT_EQ(0, add_files(self->efd, fds + NR_SOME / 2, NR_SOME / 2, 11000,
			       0, NR_SOME / 2));

	ASSERT_EQ(NR_SOME, pass(self->skel->progs.records, self->efd, 65536,
				&r));
	ASSERT_EQ(NR_SOME, walk(self->kfunc));
	for (i = 0; i < NR_SOME; i++) {
		ASSERT_EQ(r[i].file, walked[i].file);
		ASSERT_EQ(r[i].ino, walked[i].ino);
		ASSERT_EQ(r[i].fd, walked[i].fd);
		ASSERT_EQ(r[i].data, walked[i].data);
		ASSERT_EQ(r[i].events, walked[i].events);
	}
}

TEST_F(epoll_iter, errors)
{
	int fd = eventfd(0, EFD_CLOEXEC), i;

	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, epoll_add(self->efd, fd, EPOLLIN, 0));
	for (i = 0; i < 100; i++) {
		self->kfunc->bss->efd = NO_FD;
		ASSERT_EQ(-EBADF, walk(self->kfunc));
		ASSERT_EQ(-EBADF, self->kfunc->bss->begun);
		self->kfunc->bss->efd = -1;
		ASSERT_EQ(-EBADF, walk(self->kfunc));
		self->kfunc->bss->efd = fd;
		ASSERT_EQ(-EOPNOTSUPP, walk(self->kfunc));
		/* And there is nothing to walk then. */
		ASSERT_EQ(0, self->kfunc->bss->count);
	}
	self->kfunc->bss->efd = self->efd;
	EXPECT_EQ(1, walk(self->kfunc));
}

TEST_F(epoll_iter, early_end)
{
	int i;

	ASSERT_EQ(0, add_files(self->efd, self->fds, NR_FEW, 100, 1, 0));
	self->kfunc->bss->stop_after = 3;
	for (i = 0; i < 100; i++)
		ASSERT_EQ(3, walk(self->kfunc));

	/*
	 * It kept nothing: the next walk sees all targets, and they can be
	 * removed.
	 */
	self->kfunc->bss->stop_after = 0;
	EXPECT_EQ(NR_FEW, walk(self->kfunc));
	close_files(self->fds, NR_FEW);
	EXPECT_EQ(0, walk(self->kfunc));
}

/* The descriptor is one of the task that was named. */
TEST_F(epoll_iter, of_another_task)
{
	pid_t pid;
	int sock;

	ASSERT_EQ(0, add_files(self->efd, self->fds, 2, 100, 1, 0));
	pid = fork_synced(&sock);
	ASSERT_GE(pid, 0);
	if (!pid) {
		int fds[NR_FEW], efd = epoll_create1(0);

		if (efd < 0 || add_files(efd, fds, NR_FEW, 100, 1, 0) ||
		    dup2(efd, NO_FD) < 0 || !sync_post(sock))
			_exit(1);
		sync_wait(sock);
		_exit(0);
	}
	ASSERT_TRUE(sync_wait(sock));
	self->kfunc->bss->efd = NO_FD;
	EXPECT_EQ(-EBADF, walk(self->kfunc));
	self->kfunc->bss->pid = pid;
	EXPECT_EQ(NR_FEW, walk(self->kfunc));
	EXPECT_EQ(0, sync_end(sock, pid));
}

/* A task that has ended, but was not reaped, has no descriptors. */
TEST_F(epoll_iter, of_dead_task)
{
	siginfo_t info;
	pid_t pid = fork_bound();

	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(0);
	ASSERT_EQ(0, waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
	self->kfunc->bss->pid = pid;
	EXPECT_EQ(-EBADF, walk(self->kfunc));
	EXPECT_EQ(0, wait_exit(pid));
	EXPECT_EQ(-ECHILD, walk(self->kfunc));
}

/* Walks of the same epoll instance can be nested. */
TEST_F(epoll_iter, within_itself)
{
	ASSERT_EQ(0, add_files(self->efd, self->fds, NR_FEW, 100, 1, 0));
	self->kfunc->bss->inner_pid = getpid();
	self->kfunc->bss->inner_efd = self->efd;
	ASSERT_EQ(0, run(self->kfunc->progs.walk_within));
	EXPECT_EQ(NR_FEW, self->kfunc->bss->count);
	EXPECT_EQ(NR_FEW * NR_FEW, self->kfunc->bss->inner_count);
}

/* One program walks A within B, and another one B within A. */
struct crossing {
	pthread_t thread;
	struct epoll_iter_kfunc *kfunc;
	int complete;
	int error;
};

static void *cross(void *data)
{
	struct crossing *crossing = data;
	int i;

	for (i = 0; i < 200 && !crossing->error; i++) {
		crossing->error = run(crossing->kfunc->progs.walk_within);
		if (crossing->kfunc->bss->count != NR_FEW ||
		    crossing->kfunc->bss->inner_count != NR_FEW * NR_FEW)
			crossing->error = -EBADMSG;
		crossing->complete++;
	}

	return NULL;
}

TEST_F_TIMEOUT(epoll_iter, crosswise, LONG_TIMEOUT)
{
	int other = epoll_create1(EPOLL_CLOEXEC), i;
	struct crossing crossings[2] = {};

	ASSERT_GE(other, 0);
	ASSERT_EQ(0, add_files(self->efd, self->fds, NR_FEW, 100, 1, 0));
	ASSERT_EQ(0, add_files(other, self->fds, NR_FEW, 200, 1, 0));
	crossings[0].kfunc = self->kfunc;
	crossings[1].kfunc = epoll_iter_kfunc__open_and_load();
	ASSERT_NE(NULL, crossings[1].kfunc);
	for (i = 0; i < 2; i++) {
		struct epoll_iter_kfunc *kfunc = crossings[i].kfunc;

		kfunc->bss->pid = getpid();
		kfunc->bss->inner_pid = getpid();
		kfunc->bss->efd = i ? other : self->efd;
		kfunc->bss->inner_efd = i ? self->efd : other;
		ASSERT_EQ(0, pthread_create(&crossings[i].thread, NULL, cross,
					    &crossings[i]));
	}
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_join(crossings[i].thread, NULL));
		EXPECT_EQ(0, crossings[i].error);
		EXPECT_NE(0, crossings[i].complete);
	}
	epoll_iter_kfunc__destroy(crossings[1].kfunc);
}

static void *walk_on(void *kfunc)
{
	return (void *)(long)walk(kfunc);
}

/*
 * Between two targets the mutex is free, and the file that the program has is
 * kept, even if it is removed and closed.
 */
TEST_F(epoll_iter, free_in_between)
{
	struct pollfd pfd = { .events = POLLIN };
	struct served served;
	int fds[2], late, ret;
	pthread_t thread;
	struct stat st;
	void *seen;

	ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
	ASSERT_EQ(0, fstat(fds[1], &st));
	ASSERT_EQ(0, epoll_add(self->efd, fds[1], EPOLLIN, 0));
	ret = served_init(&served, 1);
	if (ret == -EOPNOTSUPP)
		SKIP(return, CANNOT_HOLD);
	ASSERT_EQ(0, ret);
	self->kfunc->bss->hold_address = (unsigned long)served.map;
	ASSERT_EQ(0, pthread_create(&thread, NULL, walk_on, self->kfunc));
	ASSERT_EQ(0, served_wait(&served));

	ASSERT_EQ(0, epoll_ctl(self->efd, EPOLL_CTL_DEL, fds[1], NULL));
	ASSERT_EQ(0, close(fds[1]));
	ASSERT_EQ(0, add_files(self->efd, &late, 1, NO_FD, 1, 1));
	pfd.fd = fds[0];
	EXPECT_EQ(0, poll(&pfd, 1, A_WHILE_MS));

	ASSERT_EQ(0, served_fill(&served, 0, NULL));
	ASSERT_EQ(0, pthread_join(thread, &seen));
	EXPECT_EQ(2, (long)seen);
	EXPECT_EQ(st.st_ino, self->kfunc->bss->walked[0].ino);
	EXPECT_EQ(NO_FD, self->kfunc->bss->walked[1].fd);
	EXPECT_EQ(1, poll(&pfd, 1, PATIENCE_MS));
	EXPECT_EQ(POLLHUP, pfd.revents);
}

/* A program waits for whoever holds the instance, and can be killed. */
TEST_F(epoll_iter, held_set)
{
	struct held_set held;
	pthread_t thread;
	void *seen;
	pid_t pid;
	int ret;

	ASSERT_EQ(0, add_files(self->efd, self->fds, NR_FEW, 100, 1, 0));
	ASSERT_EQ(0, eventfd_write(self->fds[0], 1));
	ret = hold_set(&held, self->efd);
	if (ret == -EOPNOTSUPP)
		SKIP(return, CANNOT_HOLD);
	ASSERT_EQ(0, ret);

	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(walk(self->kfunc) == NR_FEW ? 0 : 1);
	ASSERT_TRUE(wait_asleep_in(pid, __NR_bpf));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(-SIGKILL, wait_exit(pid));
	EXPECT_EQ(0, self->kfunc->bss->begun);
	EXPECT_EQ(-EINTR, self->kfunc->bss->error);
	EXPECT_EQ(0, self->kfunc->bss->count);

	ASSERT_EQ(0, pthread_create(&thread, NULL, walk_on, self->kfunc));
	sleep_ms(A_WHILE_MS);
	EXPECT_EQ(0, self->kfunc->bss->count);
	EXPECT_EQ(1, release_set(&held));
	ASSERT_EQ(0, pthread_join(thread, &seen));
	EXPECT_EQ(NR_FEW, (long)seen);
}

/* In an iterator over something else. */
TEST_F(epoll_iter, in_task_iterator)
{
	char bytes[16];
	int link, iter;

	ASSERT_EQ(0, add_files(self->efd, self->fds, NR_FEW, 100, 1, 0));
	link = bpf_link_create(bpf_program__fd(self->kfunc->progs.in_task_iter),
			       0, BPF_TRACE_ITER, NULL);
	ASSERT_GE(link, 0);
	iter = bpf_iter_create(link);
	ASSERT_GE(iter, 0);
	EXPECT_EQ(0, read(iter, bytes, sizeof(bytes)));
	EXPECT_EQ(0, self->kfunc->bss->error);
	EXPECT_EQ(NR_FEW, self->kfunc->bss->count);
	EXPECT_EQ(119, self->kfunc->bss->walked[NR_FEW - 1].fd);
}

TEST_F(epoll_iter, keeps_module)
{
	EXPECT_EQ(-EAGAIN, try_unload(MODULE));
	epoll_iter_kfunc__destroy(self->kfunc);
	self->kfunc = NULL;
	EXPECT_EQ(0, unload(MODULE));
	EXPECT_EQ(0, module_load());
}

/* Load only the program with that name, and get the log of the verifier. */
static int load_one(const char *name, int level, char *log, size_t len)
{
	struct epoll_iter_kfunc *kfunc = epoll_iter_kfunc__open();
	struct bpf_program *prog;
	int ret = -ENOENT;

	log[0] = '\0';
	if (!kfunc)
		return -ENOMEM;
	bpf_object__for_each_program(prog, kfunc->obj) {
		bool it = !strcmp(bpf_program__name(prog), name);

		bpf_program__set_autoload(prog, it);
		if (it) {
			bpf_program__set_log_buf(prog, log, len);
			bpf_program__set_log_level(prog, level);
			ret = 0;
		}
	}
	ret = ret ?: epoll_iter_kfunc__load(kfunc);
	epoll_iter_kfunc__destroy(kfunc);

	return ret;
}

/*
 * Load one of the programs that must be refused. Returns whether it was, with
 * these words in the log.
 */
static bool refused(const char *name, const char *words, char *log, size_t len)
{
	int ret = load_one(name, 1, log, len);

	return ret && ret != -ENOENT && strstr(log, words);
}

#define EXPECT_REFUSED(name, words) do {				\
	static char log[65536];						\
									\
	EXPECT_TRUE(refused(name, words, log, sizeof(log))) {		\
		TH_LOG("%s", log);					\
	}								\
} while (0)

/* The epoll instance is never NULL, the epitem may be, and both are trusted. */
TEST_F(epoll_iter, trusted_arguments)
{
	static char log[1 << 20];

	EXPECT_EQ(0, load_one("reads_both", 2, log, sizeof(log))) {
		TH_LOG("%s", log);
	}
	EXPECT_NE(NULL, strstr(log, "=trusted_ptr_eventpoll("));
	EXPECT_NE(NULL, strstr(log, "=trusted_ptr_or_null_epitem("));

	EXPECT_REFUSED("no_null_check", "invalid mem access 'trusted_ptr_or_null_'");
	EXPECT_REFUSED("writes", "only read is supported");
}

TEST_F(epoll_iter, allowed_in_file_iterator)
{
	static char log[65536];

	EXPECT_EQ(0, load_one("in_file_iter", 1, log, sizeof(log))) {
		TH_LOG("%s", log);
	}
}

/*
 * The mutex is held there, or a lock is that the mutex may be waited for with.
 */
TEST_F(epoll_iter, refused_where_locks_are_held)
{
	static const char words[] =
		"calling kernel function bpf_iter_epoll_new is not allowed";

	EXPECT_REFUSED("in_epoll_iter", words);
	EXPECT_REFUSED("in_vma_iter", words);
	EXPECT_REFUSED("in_tracepoint", words);
}

TEST_F(epoll_iter, refused_if_misused)
{
	EXPECT_REFUSED("not_begun", "expected an initialized iter_epoll");
	EXPECT_REFUSED("not_destroyed", "Unreleased reference");
	EXPECT_REFUSED("used_afterwards", "invalid mem access 'scalar'");
}

TEST_HARNESS_MAIN
