// SPDX-License-Identifier: GPL-2.0
/* Callers that wait: what ends the wait, and what is kept meanwhile. */
#include "kcmp_epoll_fixture.h"

#define CANNOT_HOLD	"needs root and userfaultfd to hold a mutex"

/* A process that makes one query and exits with the answer. */
static pid_t fork_caller(pid_t pid1, int fd, pid_t pid2, int efd)
{
	pid_t pid = fork_bound();

	if (!pid) {
		int ret = kcmp_tfd(pid1, fd, pid2, efd, TFD, 0);

		_exit(ret < 0 ? -ret : ret + 200);
	}

	return pid;
}

/* Its exit status. */
#define EQUAL	200

/* Likewise, once it waits. */
static pid_t start_caller(struct __test_metadata *_metadata, pid_t pid1, int fd,
			  pid_t pid2, int efd)
{
	pid_t pid = fork_caller(pid1, fd, pid2, efd);

	ASSERT_GE(pid, 0);
	ASSERT_TRUE(wait_asleep_in(pid, __NR_kcmp));

	return pid;
}

/*
 * Makes target @fd ready and holds the epoll instance. Returns false if that is
 * not possible here.
 */
static bool hold_by(struct __test_metadata *_metadata, int efd, int fd,
		    struct held_set *held)
{
	int ret;

	ASSERT_EQ(0, eventfd_write(fd, 1));
	ret = hold_set(held, efd);
	if (ret == -EOPNOTSUPP)
		return false;
	ASSERT_EQ(0, ret);

	return true;
}

TEST_F(kcmp_epoll, killed_waiting_for_set)
{
	int refs = module_refs();
	struct held_set held;
	pid_t pid;

	if (!hold_by(_metadata, self->efd, self->fd, &held))
		SKIP(return, CANNOT_HOLD);

	pid = start_caller(_metadata, getpid(), self->fd, getpid(), self->efd);
	ASSERT_EQ(0, kill(pid, SIGKILL));

	EXPECT_EQ(-SIGKILL, wait_exit(pid));
	EXPECT_EQ(refs, module_refs());
	EXPECT_EQ(1, release_set(&held));
	EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));
}

/* A signal that is not fatal does not end the wait either. */
TEST_F(kcmp_epoll, signalled_waiting_for_set)
{
	struct sigaction act = { .sa_handler = ignore_signal };
	struct held_set held;
	pid_t pid;

	if (!hold_by(_metadata, self->efd, self->fd, &held))
		SKIP(return, CANNOT_HOLD);

	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	pid = start_caller(_metadata, getpid(), self->fd, getpid(), self->efd);
	ASSERT_EQ(0, kill(pid, SIGUSR1));

	sleep_ms(A_WHILE_MS);
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	EXPECT_TRUE(asleep_in(pid, __NR_kcmp));

	EXPECT_EQ(1, release_set(&held));
	EXPECT_EQ(EQUAL, wait_exit(pid));
}

/*
 * A process that, asked to, becomes a list of the tests here, with KSFT_SKIP as its
 * status.
 */
static pid_t fork_executor(int *sock)
{
	pid_t pid = fork_synced(sock);
	int null;

	if (!pid) {
		null = open("/dev/null", O_WRONLY | O_CLOEXEC);
		if (sync_wait(*sock) && dup2(null, STDOUT_FILENO) >= 0 &&
		    dup2(null, STDERR_FILENO) >= 0)
			execl("/proc/self/exe", "kcmp_epoll_wait", "-l", NULL);
		_exit(1);
	}

	return pid;
}

/*
 * The tasks that a caller asks about can execute another program while it waits
 * for the instance: nothing of theirs is locked.
 */
TEST_F(kcmp_epoll, exec_while_caller_waits)
{
	pid_t me = getpid(), task, first, second;
	struct held_set held;
	int sock;

	if (geteuid())
		SKIP(return, CANNOT_HOLD);
	task = fork_executor(&sock);
	ASSERT_GE(task, 0);
	if (!hold_by(_metadata, self->efd, self->fd, &held))
		SKIP(return, CANNOT_HOLD);

	first = start_caller(_metadata, task, self->fd, me, self->efd);
	second = start_caller(_metadata, me, self->fd, task, self->efd);

	ASSERT_TRUE(sync_post(sock));
	EXPECT_EQ(KSFT_SKIP, wait_exit(task));
	EXPECT_TRUE(asleep_in(first, __NR_kcmp));
	EXPECT_TRUE(asleep_in(second, __NR_kcmp));

	/* The files are those that they had when the caller was let in. */
	EXPECT_EQ(1, release_set(&held));
	EXPECT_EQ(EQUAL, wait_exit(first));
	EXPECT_EQ(EQUAL, wait_exit(second));
}

/* A query whose slot is in memory that is not there yet. */
struct served_query {
	pid_t task;
	int fd, ret;
	struct served served;
};

static void *ask_by_served_slot(void *data)
{
	struct served_query *query = data;

	query->ret = kcmp(query->task, query->task, KCMP_EPOLL_TFD, query->fd,
			  (unsigned long)query->served.map);

	return NULL;
}

/* Whoever serves the caller's memory does not hold up the tasks, either. */
TEST_F(kcmp_epoll, exec_while_slot_is_read)
{
	struct kcmp_epoll_slot *slot;
	struct served_query query = { .fd = self->fd };
	static char page[65536];
	pthread_t thread;
	int ret, sock;

	if (geteuid())
		SKIP(return, CANNOT_HOLD);
	query.task = fork_executor(&sock);
	ASSERT_GE(query.task, 0);
	ret = served_init(&query.served, 1);
	if (ret == -EOPNOTSUPP)
		SKIP(return, CANNOT_HOLD);
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, pthread_create(&thread, NULL, ask_by_served_slot, &query));
	ASSERT_EQ(0, served_wait(&query.served));

	ASSERT_TRUE(sync_post(sock));
	EXPECT_EQ(KSFT_SKIP, wait_exit(query.task));

	slot = (void *)page;
	slot->efd = self->efd;
	slot->tfd = TFD;
	ASSERT_EQ(0, served_fill(&query.served, 0, page));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	/* By now it has no descriptors. */
	EXPECT_EQ(-EBADF, query.ret);
}

/* The first file stays open until it has been compared. */
TEST_F(kcmp_epoll, first_file_stays_open)
{
	struct pollfd pfd = { .events = POLLIN };
	struct held_set held;
	int fds[2], ret, cmp;
	pid_t me = getpid(), pid;

	ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
	cmp = kcmp_tfd_self(fds[1], self->efd, TFD, 0);
	ASSERT_GT(cmp, 0);

	if (!hold_by(_metadata, self->efd, self->fd, &held))
		SKIP(return, CANNOT_HOLD);

	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		close(fds[1]);
		ret = kcmp_tfd(me, fds[1], me, self->efd, TFD, 0);
		_exit(ret < 0 ? -ret : ret + EQUAL);
	}
	ASSERT_TRUE(wait_asleep_in(pid, __NR_kcmp));

	/* The read end reports when the write end is released. */
	close(fds[1]);
	pfd.fd = fds[0];
	EXPECT_EQ(0, poll(&pfd, 1, A_WHILE_MS));

	EXPECT_EQ(1, release_set(&held));
	EXPECT_EQ(EQUAL + cmp, wait_exit(pid));
	EXPECT_EQ(1, poll(&pfd, 1, PATIENCE_MS));
	EXPECT_EQ(POLLHUP, pfd.revents);
}

/*
 * A target whose file has lost its last reference, but which is still there, is
 * none any more: there is no file to compare with. Its removal waits for the
 * instance, behind the caller.
 */
TEST_F(kcmp_epoll, target_is_closed_meanwhile)
{
	int gone = eventfd(0, EFD_CLOEXEC), sock;
	pid_t me = getpid(), caller, closer;
	struct held_set held;

	ASSERT_GE(gone, 0);
	ASSERT_EQ(0, add_as(self->efd, gone, NO_FD, EPOLLIN, 0));
	if (!hold_by(_metadata, self->efd, self->fd, &held))
		SKIP(return, CANNOT_HOLD);

	caller = fork_bound();
	ASSERT_GE(caller, 0);
	if (!caller) {
		int ret;

		close(gone);
		ret = kcmp_tfd(me, self->fd, me, self->efd, NO_FD, 0);
		_exit(ret < 0 ? -ret : ret + EQUAL);
	}
	ASSERT_TRUE(wait_asleep_in(caller, __NR_kcmp));

	closer = fork_synced(&sock);
	ASSERT_GE(closer, 0);
	if (!closer) {
		if (!sync_wait(sock))
			_exit(1);
		close(gone);
		_exit(0);
	}
	close(gone);
	ASSERT_TRUE(sync_post(sock));
	ASSERT_TRUE(wait_asleep_in(closer, __NR_close));

	EXPECT_EQ(1, release_set(&held));
	EXPECT_EQ(ENOENT, wait_exit(caller));
	EXPECT_EQ(0, wait_exit(closer));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, NO_FD, 0));
}

/* A call is finished by the handler that began it. */
TEST_F(kcmp_epoll, handler_changes_while_waiting)
{
	struct held_set held;
	int ret, refs = module_refs();
	pid_t pid;

	if (!hold_by(_metadata, self->efd, self->fd, &held))
		SKIP(return, CANNOT_HOLD);

	pid = start_caller(_metadata, getpid(), self->fd, getpid(), self->efd);

	if (variant->rust) {
		/* The module stays loaded while it is needed. */
		EXPECT_EQ(refs + 1, module_refs());
		EXPECT_EQ(-EAGAIN, try_unload(MODULE));
		EXPECT_TRUE(module_loaded());
	} else {
		ret = module_load();
		if (ret) {
			release_set(&held);
			wait_exit(pid);
			SKIP(return, "cannot load " MODULE ": %s",
			     strerror(-ret));
		}
		/* The C handler has the call, so the module can be unloaded. */
		EXPECT_EQ(0, module_refs());
	}

	EXPECT_EQ(1, release_set(&held));
	EXPECT_EQ(EQUAL, wait_exit(pid));
	EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));

	if (!variant->rust)
		EXPECT_EQ(0, unload(MODULE));
	EXPECT_EQ(refs, module_refs());
}

/* No kind of answer leaks a reference to the module. */
TEST_F(kcmp_epoll, module_references)
{
	int refs = module_refs(), i;

	ASSERT_EQ(variant->rust, refs >= 0);

	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));
		ASSERT_LT(0, kcmp_tfd_self(self->other, self->efd, TFD, 0));
		ASSERT_EQ(-ESRCH, kcmp_tfd(-1, self->fd, -1, self->efd, TFD,
					   0));
		ASSERT_EQ(-EFAULT, kcmp(getpid(), getpid(), KCMP_EPOLL_TFD,
					self->fd, 0));
		ASSERT_EQ(-EBADF, kcmp_tfd_self(NO_FD, self->efd, TFD, 0));
		ASSERT_EQ(-EBADF, kcmp_tfd_self(self->fd, NO_FD, TFD, 0));
		ASSERT_EQ(-EINVAL, kcmp_tfd_self(self->fd, self->fd, TFD, 0));
		ASSERT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, TFD, 1));
	}

	EXPECT_EQ(refs, module_refs());
}

TEST_HARNESS_MAIN
