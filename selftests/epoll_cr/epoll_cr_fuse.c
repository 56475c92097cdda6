// SPDX-License-Identifier: GPL-2.0
/*
 * A file that another program polls for us, a FUSE server: it sees what it is
 * asked, and answers when it chooses.
 */
#include <linux/fuse.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/uio.h>

#include "epoll_cr_fixture.h"

/* The events that drivers check before they add a waiter, without bands. */
#define LOOKED_AT	(EPOLLIN | EPOLLPRI | EPOLLOUT | ALWAYS | EPOLLRDNORM | \
			 EPOLLWRNORM | EPOLLRDHUP)

/* Each test is a process of its own. */
static struct {
	int fd;
	/* It reads requests, and does not answer poll requests. */
	bool silent;
	unsigned int requests;
	unsigned int polls;
	/* The events and the number of the last poll request. */
	__u32 events;
	__u64 poll;
} server;

static int answer(__u64 unique, int error, const void *body, size_t len)
{
	struct fuse_out_header head = {
		.len = sizeof(head) + len,
		.error = error,
		.unique = unique,
	};
	struct iovec parts[] = {
		{ .iov_base = &head, .iov_len = sizeof(head) },
		{ .iov_base = (void *)body, .iov_len = len },
	};

	return writev(server.fd, parts, len ? 2 : 1) < 0 ? -errno : 0;
}

static int answer_poll(void)
{
	struct fuse_poll_out out = { .revents = EPOLLOUT };

	return answer(server.poll, 0, &out, sizeof(out));
}

/* The root is a regular file, and all that is done with it is open and poll. */
static int serve_one(const struct fuse_in_header *head)
{
	const struct fuse_poll_in *poll = (const void *)(head + 1);
	struct fuse_init_out init = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_write = FUSE_MIN_READ_BUFFER / 2,
	};
	/* The close at exit would wait for a thread that has ended. */
	struct fuse_open_out open = { .fh = 1, .open_flags = FOPEN_NOFLUSH };
	bool silent = __atomic_load_n(&server.silent, __ATOMIC_ACQUIRE);

	if (head->opcode == FUSE_POLL) {
		server.events = poll->events;
		server.poll = head->unique;
		__atomic_add_fetch(&server.polls, 1, __ATOMIC_RELEASE);
	}
	__atomic_add_fetch(&server.requests, 1, __ATOMIC_RELEASE);

	switch (head->opcode) {
	case FUSE_INIT:
		return answer(head->unique, 0, &init, sizeof(init));
	case FUSE_OPEN:
		return answer(head->unique, 0, &open, sizeof(open));
	case FUSE_POLL:
		return silent ? 0 : answer_poll();
	case FUSE_RELEASE:
		return answer(head->unique, 0, NULL, 0);
	case FUSE_INTERRUPT:
	case FUSE_FORGET:
		/* These requests need no answer. */
		return 0;
	default:
		return answer(head->unique, -EOPNOTSUPP, NULL, 0);
	}
}

static void *serve(void *unused)
{
	union {
		struct fuse_in_header head;
		char room[2 * FUSE_MIN_READ_BUFFER];
	} in;

	while (read(server.fd, &in, sizeof(in)) > 0 && !serve_one(&in.head))
		;
	/* Nobody should wait for an answer that does not come. */
	close(server.fd);

	return NULL;
}

static unsigned int count(const unsigned int *of)
{
	return __atomic_load_n(of, __ATOMIC_ACQUIRE);
}

/*
 * Open a file of the server, which is unmounted afterwards. -ENODEV: FUSE
 * cannot be used here.
 */
static int server_start(void)
{
	char path[] = "/tmp/epoll_cr_fuse.XXXXXX", options[64];
	pthread_t thread;
	int fd;

	server.fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (server.fd < 0)
		return errno == ENOENT ? -ENODEV : -errno;
	if (unshare(CLONE_NEWNS))
		return errno == EPERM ? -ENODEV : -errno;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -errno;
	fd = mkstemp(path);
	if (fd < 0)
		return -errno;
	close(fd);

	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=100000,user_id=0,group_id=0", server.fd);
	fd = -1;
	if (!mount("epoll_cr", path, "fuse.epoll_cr", MS_NODEV | MS_NOSUID,
		   options)) {
		errno = pthread_create(&thread, NULL, serve, NULL);
		if (!errno)
			fd = open(path, O_RDWR | O_CLOEXEC);
		if (umount2(path, MNT_DETACH))
			fd = -1;
	}
	if (fd < 0)
		fd = -errno;
	unlink(path);

	return fd;
}

/*
 * A oneshot target that has fired may be armed for other events later, without
 * being registered for more then.
 */
TEST_F(epoll_cr, fired_oneshot_is_registered_for_more)
{
	struct epoll_event ev = { .events = EPOLLONESHOT };
	struct epoll_cr_add add = {
		.tfd = TFD,
		.events = EPOLLONESHOT,
	};
	__u64 bad;
	int file;

	file = server_start();
	if (file == -ENODEV)
		SKIP(return, "needs FUSE, and root to mount it");
	ASSERT_GE(file, 0);

	/* In contrast to one that is added without events. */
	ASSERT_EQ(0, epoll_ctl(self->efd, EPOLL_CTL_ADD, file, &ev));
	ASSERT_EQ(1, count(&server.polls));
	EXPECT_EQ(ALWAYS, server.events & LOOKED_AT);

	add.fd = file;
	ASSERT_EQ(0, restore(self->dev, self->efd, &add, 1, &bad));
	ASSERT_EQ(2, count(&server.polls));
	EXPECT_EQ(LOOKED_AT, server.events & LOOKED_AT);

	/* A target that is armed is registered for its own events. */
	add.tfd++;
	add.events = EPOLLIN | EPOLLONESHOT | ALWAYS;
	ASSERT_EQ(0, restore(self->dev, self->efd, &add, 1, &bad));
	ASSERT_EQ(3, count(&server.polls));
	EXPECT_EQ(EPOLLIN | ALWAYS, server.events & LOOKED_AT);
}

/* So a server that does not answer delays nobody who inspects the target. */
TEST_F(epoll_cr, nobody_is_asked_by_who_looks)
{
	struct epoll_cr_file info = {};
	struct epoll_cr_item entry;
	struct epoll_cr_fd fds[64];
	unsigned int requests;
	__u64 nr, len;
	char path[64];
	__u32 fd;
	int file, copy;

	file = server_start();
	if (file == -ENODEV)
		SKIP(return, "needs FUSE, and root to mount it");
	ASSERT_GE(file, 0);

	ASSERT_EQ(0, add_as(self->efd, file, TFD, EPOLLIN, 5));
	requests = count(&server.requests);

	ASSERT_EQ(0, snapshot(self->dev, SELF, self->efd, &entry, 1, &nr));
	EXPECT_EQ(1, nr);
	EXPECT_EQ(5, entry.data);
	ASSERT_EQ(0, files(self->dev, SELF, fds, 64, &nr, NULL));
	fd = file;
	ASSERT_EQ(0, describe(self->dev, SELF, &fd, &info, 1, path,
			      sizeof(path), &len));
	EXPECT_EQ(entry.file, info.file);
	EXPECT_TRUE(info.mask & EPOLL_CR_FILE_STAT);
	EXPECT_EQ(S_IFREG, info.mode & S_IFMT);
	EXPECT_EQ(1, info.nlink);
	copy = fetch(self->dev, SELF, self->efd, TFD, 0, 0);
	ASSERT_GE(copy, 0);
	EXPECT_EQ(entry.file, identity(self->dev, copy));

	EXPECT_EQ(requests, count(&server.requests));
}

/*
 * Adding a target waits for the server, as by epoll_ctl(2). If it is killed,
 * nothing was added.
 */
TEST_F(epoll_cr, killed_while_a_file_is_asked)
{
	struct epoll_cr_add adds[] = {
		{ .fd = self->fd, .tfd = TFD, .events = EPOLLIN | ALWAYS },
		{ .tfd = TFD, .events = EPOLLIN | ALWAYS },
		{ .fd = self->other, .tfd = TFD, .events = EPOLLIN | ALWAYS },
	};
	long long end = now_ms() + PATIENCE_MS;
	__u64 bad;
	pid_t pid;
	int file;

	file = server_start();
	if (file == -ENODEV)
		SKIP(return, "needs FUSE, and root to mount it");
	ASSERT_GE(file, 0);
	adds[1].fd = file;

	__atomic_store_n(&server.silent, true, __ATOMIC_RELEASE);
	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		close(server.fd);
		restore(self->dev, self->efd, adds, 3, &bad);
		_exit(0);
	}
	while (!count(&server.polls) && now_ms() < end)
		sleep_ms(1);
	ASSERT_EQ(1, count(&server.polls));

	ASSERT_EQ(0, kill(pid, SIGKILL));
	__atomic_store_n(&server.silent, false, __ATOMIC_RELEASE);
	ASSERT_EQ(0, answer_poll());
	EXPECT_EQ(-SIGKILL, wait_exit(pid));
	EXPECT_EQ(0, entries(self->dev, self->efd));
}

TEST_HARNESS_MAIN
