// SPDX-License-Identifier: GPL-2.0
/* How arguments are passed: sizes, flags, arrays, faults. */
#include <stddef.h>

#include "epoll_cr_fixture.h"

static const unsigned int cmds[] = {
	EPOLL_CR_SNAPSHOT, EPOLL_CR_FILES, EPOLL_CR_DESCRIBE, EPOLL_CR_FETCH,
	EPOLL_CR_RESTORE,
};

static const __u32 sizes[] = {
	sizeof(struct epoll_cr_snapshot), sizeof(struct epoll_cr_files),
	sizeof(struct epoll_cr_describe), sizeof(struct epoll_cr_fetch),
	sizeof(struct epoll_cr_restore),
};

/* The beginning of the struct of any call: its size, then its flags. */
struct any {
	__u32 words[2048];
};

TEST_F(epoll_cr, layouts)
{
	/* These never change, even if a struct grows. */
	EXPECT_EQ(32, EPOLL_CR_ITEM_SIZE_VER0);
	EXPECT_EQ(56, EPOLL_CR_SNAPSHOT_SIZE_VER0);
	EXPECT_EQ(16, EPOLL_CR_FD_SIZE_VER0);
	EXPECT_EQ(48, EPOLL_CR_FILES_SIZE_VER0);
	EXPECT_EQ(136, EPOLL_CR_FILE_SIZE_VER0);
	EXPECT_EQ(64, EPOLL_CR_DESCRIBE_SIZE_VER0);
	EXPECT_EQ(32, EPOLL_CR_FETCH_SIZE_VER0);
	EXPECT_EQ(24, EPOLL_CR_ADD_SIZE_VER0);
	EXPECT_EQ(40, EPOLL_CR_RESTORE_SIZE_VER0);

	EXPECT_EQ(32, sizeof(struct epoll_cr_item));
	EXPECT_EQ(56, sizeof(struct epoll_cr_snapshot));
	EXPECT_EQ(16, sizeof(struct epoll_cr_fd));
	EXPECT_EQ(48, sizeof(struct epoll_cr_files));
	EXPECT_EQ(136, sizeof(struct epoll_cr_file));
	EXPECT_EQ(64, sizeof(struct epoll_cr_describe));
	EXPECT_EQ(32, sizeof(struct epoll_cr_fetch));
	EXPECT_EQ(24, sizeof(struct epoll_cr_add));
	EXPECT_EQ(40, sizeof(struct epoll_cr_restore));
}

TEST_F(epoll_cr, no_such_call)
{
	struct any any = { .words = { sizeof(any) } };

	EXPECT_EQ(-ENOTTY, call(self->dev, _IO(EPOLL_CR_IOC_TYPE, 0x45), &any));
	EXPECT_EQ(-ENOTTY, call(self->dev, _IO(EPOLL_CR_IOC_TYPE, 0x3f), &any));
	EXPECT_EQ(-ENOTTY, call(self->dev,
				_IOC(_IOC_WRITE, EPOLL_CR_IOC_TYPE, 0x40, 56),
				&any));
	EXPECT_EQ(-ENOTTY, call(self->dev, FIONREAD, &any));
}

TEST_F(epoll_cr, size_of_struct)
{
	size_t page = sysconf(_SC_PAGESIZE);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		struct any any = {};

		/* Shorter than the first version. */
		any.words[0] = sizes[i] - 1;
		EXPECT_EQ(-EINVAL, call(self->dev, cmds[i], &any));
		any.words[0] = 0;
		EXPECT_EQ(-EINVAL, call(self->dev, cmds[i], &any));

		/* Longer, and not zero in the unknown part. */
		any.words[0] = page;
		any.words[page / 4 - 1] = 1;
		EXPECT_EQ(-E2BIG, call(self->dev, cmds[i], &any));
		any.words[page / 4 - 1] = 0;
		any.words[sizes[i] / 4] = 1 << 24;
		EXPECT_EQ(-E2BIG, call(self->dev, cmds[i], &any));
		any.words[0] = page + 1;
		any.words[sizes[i] / 4] = 0;
		EXPECT_EQ(-E2BIG, call(self->dev, cmds[i], &any));
		any.words[0] = -1;
		EXPECT_EQ(-E2BIG, call(self->dev, cmds[i], &any));

		/* An unknown flag. */
		any.words[0] = sizes[i];
		any.words[1] = 1;
		EXPECT_EQ(-EINVAL, call(self->dev, cmds[i], &any));
		any.words[1] = 1U << 31;
		EXPECT_EQ(-EINVAL, call(self->dev, cmds[i], &any));
	}
}

TEST_F(epoll_cr, fault_in_struct)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char *map = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned int i;

	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, mprotect(map + page, page, PROT_NONE));

	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		__u32 *last = (__u32 *)(map + page - 8);

		EXPECT_EQ(-EFAULT, call(self->dev, cmds[i], NULL));
		EXPECT_EQ(-EFAULT, call(self->dev, cmds[i], map + page));
		EXPECT_EQ(-EFAULT, call(self->dev, cmds[i], map + page - 2));
		last[0] = sizes[i];
		EXPECT_EQ(-EFAULT, call(self->dev, cmds[i], last));
		EXPECT_EQ(-EFAULT, call(self->dev, cmds[i], (void *)-4096UL));
	}
}

/* A longer struct with zeroes in the unknown part is the same call. */
TEST_F(epoll_cr, longer_struct)
{
	struct {
		struct epoll_cr_snapshot args;
		__u64 rest[3];
	} longer = {
		.args = {
			.size = sizeof(longer),
			.pidfd = SELF,
			.efd = self->efd,
			.item_size = sizeof(struct epoll_cr_item),
		},
	};

	ASSERT_EQ(0, epoll_add(self->efd, self->fd, EPOLLIN, 0));
	EXPECT_EQ(-ENOSPC, call(self->dev, EPOLL_CR_SNAPSHOT, &longer));
	EXPECT_EQ(1, longer.args.count);
	EXPECT_NE(0, longer.args.epoll_id);
}

/* Elements that are longer than the kernel knows are padded with zeroes. */
TEST_F(epoll_cr, longer_elements)
{
	struct {
		struct epoll_cr_item item;
		__u64 rest[9];
	} items[3];
	struct epoll_cr_snapshot args = {
		.size = sizeof(args),
		.pidfd = SELF,
		.efd = self->efd,
		.items = (unsigned long)items,
		.capacity = 3,
		.item_size = sizeof(items[0]),
	};
	unsigned int i, j;

	memset(items, 0xff, sizeof(items));
	ASSERT_EQ(0, epoll_add(self->efd, self->fd, EPOLLIN, 1));
	ASSERT_EQ(0, epoll_add(self->efd, self->other, EPOLLIN, 2));
	ASSERT_EQ(0, call(self->dev, EPOLL_CR_SNAPSHOT, &args));
	ASSERT_EQ(2, args.count);

	for (i = 0; i < 2; i++) {
		EXPECT_EQ(i ? self->other : self->fd, items[i].item.tfd);
		EXPECT_EQ(i + 1, items[i].item.data);
		for (j = 0; j < 9; j++)
			EXPECT_EQ(0, items[i].rest[j]);
	}
	EXPECT_EQ(-1, items[2].item.tfd);

	args.item_size = sizeof(struct epoll_cr_item) - 1;
	EXPECT_EQ(-EINVAL, call(self->dev, EPOLL_CR_SNAPSHOT, &args));
	args.item_size = 4097;
	EXPECT_EQ(-E2BIG, call(self->dev, EPOLL_CR_SNAPSHOT, &args));
	args.item_size = sizeof(items[0]);
	args.reserved = 1;
	EXPECT_EQ(-EINVAL, call(self->dev, EPOLL_CR_SNAPSHOT, &args));
}

TEST_F(epoll_cr, longer_elements_to_read)
{
	struct {
		struct epoll_cr_add add;
		__u64 rest[9];
	} items[2] = {
		{
			.add = {
				.fd = self->fd,
				.tfd = TFD,
				.events = ALWAYS | EPOLLIN,
			},
		},
		{
			.add = {
				.fd = self->fd,
				.tfd = TFD + 1,
				.events = ALWAYS | EPOLLIN,
			},
		},
	};
	struct epoll_cr_restore args = {
		.size = sizeof(args),
		.efd = self->efd,
		.items = (unsigned long)items,
		.count = 2,
		.item_size = sizeof(items[0]),
	};

	items[1].rest[8] = 1;
	EXPECT_EQ(-E2BIG, call(self->dev, EPOLL_CR_RESTORE, &args));
	EXPECT_EQ(1, args.bad);
	EXPECT_EQ(0, entries(self->dev, self->efd));
	/* The first bad element is reported. */
	items[0].add.events = EPOLLIN;
	EXPECT_EQ(-EINVAL, call(self->dev, EPOLL_CR_RESTORE, &args));
	EXPECT_EQ(0, args.bad);
	items[0].add.events = ALWAYS | EPOLLIN;
	items[0].rest[0] = 1;
	EXPECT_EQ(-E2BIG, call(self->dev, EPOLL_CR_RESTORE, &args));
	EXPECT_EQ(0, args.bad);
	items[0].rest[0] = 0;
	items[1].rest[8] = 0;
	EXPECT_EQ(0, call(self->dev, EPOLL_CR_RESTORE, &args));
	EXPECT_EQ(2, entries(self->dev, self->efd));
}

/* Writing the results faults, at the first element or in the middle. */
TEST_F(epoll_cr, fault_in_elements)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char *map = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	__u64 count;

	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, mprotect(map + page, page, PROT_NONE));
	ASSERT_EQ(0, epoll_add(self->efd, self->fd, EPOLLIN, 1));
	ASSERT_EQ(0, epoll_add(self->efd, self->other, EPOLLIN, 2));

	EXPECT_EQ(-EFAULT, snapshot(self->dev, SELF, self->efd,
				    (void *)(map + page), 2, &count));
	EXPECT_EQ(-EFAULT, snapshot(self->dev, SELF, self->efd,
				    (void *)(map + page - 32), 2, &count));
	EXPECT_EQ(-EFAULT, snapshot(self->dev, SELF, self->efd,
				    (void *)-64UL, 2, &count));
	EXPECT_EQ(0, snapshot(self->dev, SELF, self->efd,
			      (void *)(map + page - 64), 2, &count));
	EXPECT_EQ(2, count);

	EXPECT_EQ(-EFAULT, files(self->dev, SELF, (void *)(map + page - 16), 9,
				 &count, NULL));
	EXPECT_EQ(-EFAULT, files(self->dev, SELF, (void *)-64UL, 9, &count,
				 NULL));
}

TEST_F(epoll_cr, no_such_process)
{
	pid_t pid = fork();
	__u64 count;
	int pidfd;

	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(0);
	pidfd = pidfd_of(pid, 0);
	ASSERT_GE(pidfd, 0);
	/* A zombie process has no descriptors. */
	ASSERT_EQ(0, waitid(P_PID, pid, NULL, WEXITED | WNOWAIT));
	EXPECT_EQ(-ESRCH, files(self->dev, pidfd, NULL, 0, &count, NULL));
	EXPECT_EQ(-ESRCH, snapshot(self->dev, pidfd, self->efd, NULL, 0,
				   &count));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	EXPECT_EQ(-ESRCH, files(self->dev, pidfd, NULL, 0, &count, NULL));
	EXPECT_EQ(-ESRCH, snapshot(self->dev, pidfd, self->efd, NULL, 0,
				   &count));
	EXPECT_EQ(-ESRCH, fetch(self->dev, pidfd, self->efd, TFD, 0, 0));

	EXPECT_EQ(-EBADF, files(self->dev, NO_FD, NULL, 0, &count, NULL));
	EXPECT_EQ(-EBADF, files(self->dev, -1, NULL, 0, &count, NULL));
	EXPECT_EQ(-EBADF, files(self->dev, self->fd, NULL, 0, &count, NULL));
	EXPECT_EQ(-EBADF, files(self->dev, -10002, NULL, 0, &count, NULL));
}

/* An open device keeps the module loaded. */
TEST_F(epoll_cr, module_is_held)
{
	if (geteuid())
		SKIP(return, "needs root");

	EXPECT_EQ(-EAGAIN, try_unload(MODULE));
}

TEST_HARNESS_MAIN
