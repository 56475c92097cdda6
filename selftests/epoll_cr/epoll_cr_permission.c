// SPDX-License-Identifier: GPL-2.0
/* Who may inspect whom. */
#include <linux/capability.h>

#include "epoll_cr_fixture.h"

struct subject {
	pid_t pid;
	int sock, pidfd;
};

/* Become root of a user namespace, without being hidden from others. */
static int own_namespace(void)
{
	if (unshare(CLONE_NEWUSER) || prctl(PR_SET_DUMPABLE, 1) ||
	    prctl(PR_SET_PDEATHSIG, SIGKILL))
		return -errno;

	return 0;
}

/*
 * A child of the test that has an epoll instance as descriptor TFD, as another
 * user or not, in a user namespace of its own or not.
 */
static bool subject_start_in(struct subject *subject, uid_t id, bool dumpable,
			     bool in_own_namespace)
{
	subject->pid = fork_synced(&subject->sock);
	if (subject->pid < 0)
		return false;
	if (!subject->pid) {
		int efd, fd;

		if ((id && become(id)) || prctl(PR_SET_DUMPABLE, dumpable) ||
		    (in_own_namespace && own_namespace()))
			_exit(1);
		efd = epoll_create1(0);
		fd = eventfd(0, 0);
		if (dup2(efd, TFD) != TFD ||
		    add_as(TFD, fd, TFD + 1, EPOLLIN, 0))
			_exit(1);
		sync_post(subject->sock);
		sync_wait(subject->sock);
		_exit(0);
	}
	subject->pidfd = pidfd_of(subject->pid, 0);

	return sync_wait(subject->sock) && subject->pidfd >= 0;
}

static bool subject_start(struct subject *subject, uid_t id, bool dumpable)
{
	return subject_start_in(subject, id, dumpable, false);
}

/* The result of all calls on a subject if they agree, else 1. */
static int ask(int dev, int pidfd)
{
	struct epoll_cr_item item;
	struct epoll_cr_file info;
	__u32 fd = TFD;
	__u64 count;
	int ret = snapshot(dev, pidfd, TFD, &item, 1, &count);
	int got = fetch(dev, pidfd, TFD, TFD + 1, 0, 0);
	int listed = files(dev, pidfd, NULL, 0, &count, NULL);

	if (got >= 0) {
		close(got);
		got = 0;
	}
	if (listed == -ENOSPC)
		listed = 0;
	if (got != ret || listed != ret ||
	    describe(dev, pidfd, &fd, &info, 1, NULL, 0, &count) != ret)
		return 1;

	return ret;
}

/* The same as user @id, in a child. Root opened the device. */
static int ask_as(int dev, int pidfd, uid_t id)
{
	pid_t pid = fork_bound();

	if (!pid) {
		if (become(id))
			_exit(200);
		_exit(-ask(dev, pidfd));
	}

	return -wait_exit(pid);
}

TEST_F(epoll_cr, users)
{
	struct subject a, b, hidden;

	if (geteuid())
		SKIP(return, "needs root to change its user");
	self->yama = set_sysctl(YAMA, 0);
	ASSERT_TRUE(subject_start(&a, UID_A, true));
	ASSERT_TRUE(subject_start(&b, UID_B, true));
	ASSERT_TRUE(subject_start(&hidden, UID_A, false));

	EXPECT_EQ(0, ask(self->dev, a.pidfd));
	EXPECT_EQ(0, ask(self->dev, b.pidfd));
	EXPECT_EQ(0, ask(self->dev, hidden.pidfd));

	EXPECT_EQ(0, ask_as(self->dev, a.pidfd, UID_A));
	EXPECT_EQ(-EPERM, ask_as(self->dev, b.pidfd, UID_A));
	EXPECT_EQ(-EPERM, ask_as(self->dev, hidden.pidfd, UID_A));
	EXPECT_EQ(-EPERM, ask_as(self->dev, a.pidfd, UID_B));

	/* Later subjects have inherited the sockets of earlier ones. */
	EXPECT_EQ(0, sync_end(hidden.sock, hidden.pid));
	EXPECT_EQ(0, sync_end(b.sock, b.pid));
	EXPECT_EQ(0, sync_end(a.sock, a.pid));
}

/* With Yama, only a parent may attach. */
TEST_F(epoll_cr, yama)
{
	struct subject a;

	if (geteuid())
		SKIP(return, "needs root to change its user");
	if (access(YAMA, W_OK))
		SKIP(return, "no yama");
	ASSERT_TRUE(subject_start(&a, UID_A, true));
	self->yama = set_sysctl(YAMA, 1);
	ASSERT_GE(self->yama, 0);
	/* The caller is a sibling of the subject, of the same user. */
	EXPECT_EQ(-EPERM, ask_as(self->dev, a.pidfd, UID_A));
	EXPECT_EQ(0, ask(self->dev, a.pidfd));
	set_sysctl(YAMA, 0);
	EXPECT_EQ(0, ask_as(self->dev, a.pidfd, UID_A));
	EXPECT_EQ(0, sync_end(a.sock, a.pid));
}

/* Only root may open the device, as long as nobody gives it to others. */
TEST_F(epoll_cr, mode_of_node)
{
	struct stat st;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to become others");
	ASSERT_EQ(0, stat(DEVICE, &st));
	EXPECT_EQ(S_IFCHR | 0600, st.st_mode);
	EXPECT_EQ(0, st.st_uid);
	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(become(UID_A) ? 1 : -device_open());
	EXPECT_EQ(EACCES, wait_exit(pid));
}

/* One may always look at oneself, if one is given the device. */
TEST_F(epoll_cr, self)
{
	struct epoll_cr_item item;
	struct epoll_cr_add add = {
		.tfd = TFD,
		.events = EPOLLIN | ALWAYS,
	};
	pid_t pid = fork_bound();

	ASSERT_GE(pid, 0);
	if (!pid) {
		int dev = self->dev;
		__u64 count, bad;

		if (!geteuid() &&
		    (become(UID_A) || prctl(PR_SET_DUMPABLE, 0)))
			_exit(2);
		add.fd = ready_eventfd();
		if (snapshot(dev, SELF, self->efd, &item, 1, &count))
			_exit(4);
		if (restore(dev, self->efd, &add, 1, &bad))
			_exit(5);
		if (fetch(dev, SELF, self->efd, TFD, 0, 0) < 0)
			_exit(6);
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
}

/* Root in a user namespace has no privileges outside. */
TEST_F(epoll_cr, user_namespace)
{
	struct subject root;
	pid_t pid;
	int ret;

	if (geteuid())
		SKIP(return, "needs root to change its user");
	ASSERT_TRUE(subject_start(&root, 0, true));
	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (become(UID_A))
			_exit(200);
		if (unshare(CLONE_NEWUSER))
			_exit(201);
		_exit(-ask(self->dev, root.pidfd));
	}
	ret = wait_exit(pid);
	if (ret == 201)
		SKIP(return, "no user namespaces");
	EXPECT_EQ(EPERM, ret);
	EXPECT_EQ(0, sync_end(root.sock, root.pid));
}

/*
 * User @id outside is root in here, which is needed to make further namespaces.
 */
static int own_namespace_with_root(uid_t id)
{
	char line[32];

	snprintf(line, sizeof(line), "0 %u 1", id);
	if (own_namespace() || write_file("/proc/self/setgroups", "deny") ||
	    write_file("/proc/self/uid_map", line) ||
	    write_file("/proc/self/gid_map", line))
		return -EPERM;

	return 0;
}

/*
 * The owner of a user namespace, and root in the owning one, may inspect its
 * tasks.
 */
TEST_F(epoll_cr, owner_of_user_namespace)
{
	struct subject outer, inner;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to change its user");
	self->yama = set_sysctl(YAMA, 0);
	ASSERT_TRUE(subject_start(&outer, UID_A, true));
	ASSERT_TRUE(subject_start_in(&inner, UID_A, true, true));

	EXPECT_EQ(0, ask(self->dev, inner.pidfd));
	EXPECT_EQ(0, ask_as(self->dev, inner.pidfd, UID_A));
	EXPECT_EQ(-EPERM, ask_as(self->dev, inner.pidfd, UID_B));
	EXPECT_EQ(0, sync_end(inner.sock, inner.pid));

	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (become(UID_A) || own_namespace_with_root(UID_A))
			_exit(200);
		/* The same user, but outside. */
		if (ask(self->dev, outer.pidfd) != -EPERM)
			_exit(201);
		if (!subject_start_in(&inner, 0, true, true))
			_exit(202);
		_exit(-ask(self->dev, inner.pidfd));
	}
	EXPECT_EQ(0, wait_exit(pid));
	EXPECT_EQ(0, sync_end(outer.sock, outer.pid));
}

/*
 * Fetch target @tfd of an epoll instance of a process, which can be SELF. As
 * user @id, who has that epoll instance, and none of its targets.
 */
static int fetch_as(int dev, int pidfd, int efd, int tfd, uid_t id)
{
	pid_t pid = fork_bound();
	int fd;

	if (!pid) {
		struct epoll_cr_item items[16];
		__u64 count;

		for (fd = 3; fd < TFD; fd++)
			if (fd != dev && fd != efd && fd != pidfd)
				close(fd);
		if (id && become(id))
			_exit(200);
		/* Whoever has the epoll instance may see its targets. */
		if (snapshot(dev, SELF, efd, items, 16, &count))
			_exit(201);
		fd = fetch(dev, pidfd, efd, tfd, 0, 0);
		_exit(fd < 0 ? -fd : 0);
	}

	return -wait_exit(pid);
}

/* Have no capability but this one, or none at all if it is negative. */
static int keep_capability(int cap)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct caps[2] = {};

	if (cap >= 0) {
		caps[cap / 32].permitted = 1U << cap % 32;
		caps[cap / 32].effective = 1U << cap % 32;
	}

	return syscall(__NR_capset, &head, caps) ? -errno : 0;
}

static int become_nobody_special(void)
{
	return become(UID_A);
}

/* As a set-user-ID program of root. */
static int become_effective_root(void)
{
	return setresgid(UID_A, UID_A, UID_A) || setresuid(UID_A, 0, 0);
}

static int become_saved_root(void)
{
	return setresgid(UID_A, UID_A, UID_A) || setresuid(UID_A, UID_A, 0);
}

static int become_other_group(void)
{
	return setresgid(UID_A, UID_B, UID_A) || setresuid(UID_A, UID_A, UID_A);
}

static int become_capable(void)
{
	return prctl(PR_SET_KEEPCAPS, 1) || become(UID_A);
}

static int become_incapable(void)
{
	return become_capable() || keep_capability(-1);
}

static int become_root_of_namespace(void)
{
	return become(UID_A) || unshare(CLONE_NEWUSER);
}

/*
 * An instance can be handed on without the files that it watches. Its receiver
 * gets none of them: they can be had from whoever has them open, by those who
 * could attach to it and duplicate the descriptor.
 */
TEST_F(epoll_cr, target_of_another_process)
{
	static const struct {
		int (*become_it)(void);
		/* Whether user A may attach to it. */
		bool attach;
	} openers[] = {
		{ become_nobody_special, true },
		{ become_incapable, true },
		{ become_capable, false },
		{ become_effective_root, false },
		{ become_saved_root, false },
		{ become_other_group, false },
		{ become_root_of_namespace, true },
	};
	unsigned int i;

	if (geteuid())
		SKIP(return, "needs root to change its user");
	self->yama = set_sysctl(YAMA, 0);
	/* One that only we have. */
	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));
	EXPECT_EQ(-EPERM, fetch_as(self->dev, SELF, self->efd, TFD, UID_A));
	EXPECT_EQ(0, fetch_as(self->dev, SELF, self->efd, TFD, 0));

	for (i = 0; i < ARRAY_SIZE(openers); i++) {
		int may = openers[i].attach ? 0 : -EPERM;
		int sock, pidfd, dev = self->dev, efd = self->efd;
		pid_t pid = fork_synced(&sock);

		ASSERT_GE(pid, 0);
		if (!pid) {
			close(self->fd);
			if (openers[i].become_it() ||
			    prctl(PR_SET_DUMPABLE, 1) ||
			    add_as(efd, ready_eventfd(), TFD + 1, EPOLLIN, 0) ||
			    add_in_flight(efd, 1, TFD + 2, 0))
				_exit(1);
			sync_post(sock);
			sync_wait(sock);
			_exit(0);
		}
		TH_LOG("opener %u", i);
		ASSERT_TRUE(sync_wait(sock));
		pidfd = pidfd_of(pid, 0);
		ASSERT_GE(pidfd, 0);

		EXPECT_EQ(may, fetch_as(dev, pidfd, efd, TFD + 1, UID_A));
		EXPECT_EQ(-EPERM, fetch_as(dev, pidfd, efd, TFD + 1, UID_B));
		EXPECT_EQ(0, fetch_as(dev, pidfd, efd, TFD + 1, 0));
		/* What it has opened, and has not open any more. */
		EXPECT_EQ(-EPERM, fetch_as(dev, pidfd, efd, TFD + 2, UID_A));
		EXPECT_EQ(0, fetch_as(dev, pidfd, efd, TFD + 2, 0));
		/* What is not its own. */
		EXPECT_EQ(-EPERM, fetch_as(dev, pidfd, efd, TFD, UID_A));
		EXPECT_EQ(0, fetch_as(dev, pidfd, efd, TFD, 0));
		/* The same, by one who has the instance, too. */
		EXPECT_EQ(-EPERM, fetch_as(dev, SELF, efd, TFD + 1, UID_A));
		EXPECT_EQ(-EPERM, fetch_as(dev, SELF, efd, TFD + 1, UID_B));
		EXPECT_EQ(0, fetch_as(dev, SELF, efd, TFD + 1, 0));

		EXPECT_EQ(0, sync_end(sock, pid));
		close(pidfd);
	}
	EXPECT_EQ(1, entries(self->dev, self->efd));
}

/* A file that the caller has open, by any descriptor and as any user. */
TEST_F(epoll_cr, target_of_oneself)
{
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to become others");
	ASSERT_EQ(0, allow_fds(4096));
	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		int dev = self->dev, efd = self->efd, fd = self->fd;

		/* Behind more descriptors than are compared at once. */
		if (add_as(efd, fd, TFD, EPOLLIN, 0) ||
		    dup2(fd, 4000) != 4000 || close(fd))
			_exit(100);
		for (fd = 1000; fd < 3500; fd++)
			if (dup2(self->other, fd) != fd)
				_exit(101);
		if (become(UID_A))
			_exit(102);
		fd = fetch(dev, SELF, efd, TFD, 0, 0);
		if (fd < 0)
			_exit(-fd);
		close(fd);
		close(4000);
		_exit(fetch(dev, SELF, efd, TFD, 0, 0) == -EPERM ? 0 : 103);
	}
	EXPECT_EQ(0, wait_exit(pid));
}

/* What nobody is known to have takes one of two capabilities. */
TEST_F(epoll_cr, capabilities)
{
	static const struct {
		int cap, error;
	} cases[] = {
		{ CAP_CHECKPOINT_RESTORE, 0 },
		{ CAP_SYS_PTRACE, 0 },
		{ CAP_SYS_ADMIN, EPERM },
		{ CAP_DAC_OVERRIDE, EPERM },
		{ -1, EPERM },
	};
	unsigned int i;

	if (geteuid())
		SKIP(return, "needs root to give up capabilities");
	ASSERT_EQ(0, add_in_flight(self->efd, 1, TFD, 0));
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		pid_t pid = fork_bound();
		int fd;

		ASSERT_GE(pid, 0);
		if (!pid) {
			if (keep_capability(cases[i].cap))
				_exit(200);
			fd = fetch(self->dev, SELF, self->efd, TFD, 0, 0);
			_exit(fd < 0 ? -fd : 0);
		}
		EXPECT_EQ(cases[i].error, wait_exit(pid)) {
			TH_LOG("capability %d", cases[i].cap);
		}
	}
}

/*
 * A container has all capabilities, be it in a user namespace of its own or not,
 * and an instance that was passed into it: it does not get what is outside.
 */
TEST_F(epoll_cr, containers)
{
	static const int flags[] = {
		CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUSER | CLONE_NEWPID,
	};
	unsigned int i;

	if (geteuid())
		SKIP(return, "needs root to make namespaces");
	ASSERT_EQ(0, add_in_flight(self->efd, 1, TFD, 0));
	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD + 1, EPOLLIN, 0));
	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		pid_t pid = fork_bound();
		int fd;

		ASSERT_GE(pid, 0);
		if (!pid) {
			if (unshare(flags[i]))
				_exit(200);
			pid = fork();
			if (pid)
				_exit(wait_exit(pid));
			if (fetch(self->dev, SELF, self->efd, TFD, 0, 0) != -EPERM)
				_exit(201);
			/* What it has open it may have. */
			fd = fetch(self->dev, SELF, self->efd, TFD + 1, 0, 0);
			_exit(fd < 0 ? -fd : 0);
		}
		EXPECT_EQ(0, wait_exit(pid)) {
			TH_LOG("flags %x", flags[i]);
		}
	}
	/* The same from out here. */
	EXPECT_LE(0, fetch(self->dev, SELF, self->efd, TFD, 0, 0));
}

/* The children of who has joined a container are in it. */
TEST_F(epoll_cr, containers_joined)
{
	static const struct {
		int flag;
		const char *name;
	} cases[] = {
		{ CLONE_NEWPID, "pid_for_children" }, { CLONE_NEWUSER, "user" },
	};
	unsigned int i;

	if (geteuid())
		SKIP(return, "needs root to make namespaces");
	ASSERT_EQ(0, add_in_flight(self->efd, 1, TFD, 0));
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		pid_t pid, joined;
		char path[64];
		int sock;

		pid = fork_synced(&sock);
		ASSERT_GE(pid, 0);
		if (!pid) {
			if (unshare(cases[i].flag))
				_exit(200);
			/*
			 * A pid namespace is there once it has a process,
			 * which does not see its parent.
			 */
			pid = fork();
			if (pid)
				_exit(wait_exit(pid));
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			sync_post(sock);
			sync_wait(sock);
			_exit(0);
		}
		EXPECT_TRUE(sync_wait(sock));
		snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid,
			 cases[i].name);
		joined = fork_bound();
		ASSERT_GE(joined, 0);
		if (!joined) {
			int ns = open(path, O_RDONLY);

			if (ns < 0 || setns(ns, cases[i].flag))
				_exit(201);
			joined = fork();
			if (joined)
				_exit(wait_exit(joined));
			_exit(fetch(self->dev, SELF, self->efd, TFD, 0, 0) ==
			      -EPERM ? 0 : 202);
		}
		EXPECT_EQ(0, wait_exit(joined)) {
			TH_LOG("joined by %s", cases[i].name);
		}
		EXPECT_EQ(0, sync_end(sock, pid));
	}
	EXPECT_LE(0, fetch(self->dev, SELF, self->efd, TFD, 0, 0));
}

/* A pidfd names a process of another pid namespace as well as any. */
TEST_F(epoll_cr, pid_namespace)
{
	struct epoll_cr_file info;
	struct epoll_cr_item item;
	int socks[2], pidfd, pipes[2];
	__u64 len;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to make a pid namespace");
	ASSERT_EQ(0, pipe2(pipes, O_CLOEXEC));
	ASSERT_EQ(0, fcntl(pipes[0], F_SETOWN, getpid()));
	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));
	if (unshare(CLONE_NEWPID))
		SKIP(return, "no pid namespaces: %s", strerror(errno));

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(socks[0]);
		/* The user of the owner is not mapped in this namespace. */
		if (describe(self->dev, SELF, (__u32 *)pipes, &info, 1, NULL, 0,
			     &len) || info.owner_pid)
			_exit(1);
		sync_post(socks[1]);
		sync_wait(socks[1]);
		_exit(0);
	}
	close(socks[1]);
	ASSERT_TRUE(sync_wait(socks[0]));
	pidfd = pidfd_of(pid, 0);
	ASSERT_GE(pidfd, 0);

	EXPECT_EQ(0, describe(self->dev, pidfd, (__u32 *)pipes, &info, 1, NULL,
			      0, &len));
	EXPECT_EQ(getpid(), info.owner_pid);
	EXPECT_EQ(0, snapshot(self->dev, pidfd, self->efd, &item, 1, &len));
	EXPECT_EQ(1, len);
	EXPECT_EQ(0, sync_end(socks[0], pid));
}

TEST_HARNESS_MAIN
