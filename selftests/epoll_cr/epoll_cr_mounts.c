// SPDX-License-Identifier: GPL-2.0
/*
 * Paths of files that have a name instead of one, unless they were opened where
 * they are mounted, as namespaces can be.
 */
#include <sys/mount.h>

#include "epoll_cr_fixture.h"

#define NAME	"/tmp/epoll_cr_mounted"

/*
 * What the device says about a file of a process: the mask, or a negative errno.
 * Another path than NAME is -EBADMSG.
 */
static int mask_of(int dev, int pidfd, __u32 fd)
{
	struct epoll_cr_file file;
	char paths[4096];
	__u64 len;
	int ret = describe(dev, pidfd, &fd, &file, 1, paths, sizeof(paths), &len);

	if (ret)
		return ret;
	if (!(file.mask & EPOLL_CR_FILE_PATH))
		return -ENODATA;

	return strcmp(paths + file.path_offset, NAME) ? -EBADMSG : (int)file.mask;
}

/* Opens a namespace where it is mounted, in a mount namespace of its own. */
static int open_mounted(void)
{
	int fd;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -errno;
	fd = open(NAME, O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	close(fd);
	if (mount("/proc/self/ns/uts", NAME, NULL, MS_BIND, NULL))
		return -errno;
	fd = open(NAME, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

FIXTURE(mounts)
{
	int dev;
};

FIXTURE_SETUP(mounts)
{
	self->dev = device_load();
	if (self->dev == -ENOENT)
		SKIP(return, "no " DEVICE);
	if (geteuid())
		SKIP(return, "needs root to mount");
	ASSERT_GE(self->dev, 0);
	if (access("/proc/self/ns/uts", F_OK))
		SKIP(return, "no namespaces");
}

FIXTURE_TEARDOWN(mounts)
{
	umount(NAME);
	unlink(NAME);
}

TEST_F(mounts, of_the_caller)
{
	int fd = open_mounted();

	ASSERT_GE(fd, 0);
	EXPECT_EQ(EPOLL_CR_FILE_STAT | EPOLL_CR_FILE_PATH, mask_of(self->dev, SELF, fd));
	close(fd);
}

/* It has a path, which the caller cannot reach. */
TEST_F(mounts, of_another_mount_namespace)
{
	int pidfd, sock;
	pid_t pid;

	pid = fork_synced(&sock);
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (dup2(open_mounted(), NO_FD) < 0 || !sync_post(sock))
			_exit(1);
		sync_wait(sock);
		_exit(0);
	}
	ASSERT_TRUE(sync_wait(sock));
	pidfd = pidfd_of(pid, 0);
	ASSERT_GE(pidfd, 0);

	EXPECT_EQ(EPOLL_CR_FILE_STAT | EPOLL_CR_FILE_PATH |
		  EPOLL_CR_FILE_UNREACHABLE, mask_of(self->dev, pidfd, NO_FD));
	EXPECT_EQ(0, sync_end(sock, pid));
	close(pidfd);
}

TEST_F(mounts, outside_of_root)
{
	int fd = open_mounted();
	pid_t pid;

	ASSERT_GE(fd, 0);
	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (chroot("/dev"))
			_exit(1);
		_exit(mask_of(self->dev, SELF, fd) ==
		      (EPOLL_CR_FILE_STAT | EPOLL_CR_FILE_PATH |
		       EPOLL_CR_FILE_UNREACHABLE) ? 0 : 2);
	}
	EXPECT_EQ(0, wait_exit(pid));
	close(fd);
}

TEST_HARNESS_MAIN
