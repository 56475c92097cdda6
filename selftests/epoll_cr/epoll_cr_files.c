// SPDX-License-Identifier: GPL-2.0
/* EPOLL_CR_FILES and EPOLL_CR_DESCRIBE: descriptors and their files. */
#include <dirent.h>
#include <sys/mount.h>

#include "epoll_cr_fixture.h"

#define ROOM	5000

static struct epoll_cr_fd fds[ROOM];

static struct epoll_cr_fd *find(__u64 count, __u32 fd)
{
	__u64 i;

	for (i = 0; i < count; i++)
		if (fds[i].fd == fd)
			return &fds[i];

	return NULL;
}

/* The same descriptors as in /proc/self/fd, except the one that reads it. */
TEST_F(epoll_cr, all_descriptors)
{
	struct dirent *entry;
	__u64 count, seen = 0, i;
	DIR *dir;

	ASSERT_EQ(TFD, dup2(self->fd, TFD));
	ASSERT_EQ(0, allow_fds(200000));
	/* The table is large and mostly empty. */
	ASSERT_EQ(150000, dup2(self->fd, 150000));

	dir = opendir("/proc/self/fd");
	ASSERT_NE(NULL, dir);
	ASSERT_EQ(0, files(self->dev, SELF, fds, ROOM, &count, NULL));
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		EXPECT_NE(NULL, find(count, atoi(entry->d_name)));
		seen++;
	}
	EXPECT_EQ(seen, count);
	closedir(dir);

	for (i = 1; i < count; i++)
		EXPECT_LT(fds[i - 1].fd, fds[i].fd);
	EXPECT_EQ(150000, fds[count - 1].fd);
}

TEST_F(epoll_cr, flags_and_identities)
{
	int dup = fcntl(self->fd, F_DUPFD, 0);
	int path = open("/", O_PATH | O_CLOEXEC);
	__u64 count;

	ASSERT_EQ(0, files(self->dev, SELF, fds, ROOM, &count, NULL));
	ASSERT_NE(NULL, find(count, dup));
	ASSERT_NE(NULL, find(count, self->fd));
	ASSERT_NE(NULL, find(count, self->efd));
	ASSERT_NE(NULL, find(count, self->other));
	ASSERT_NE(NULL, find(count, path));

	EXPECT_EQ(0, find(count, dup)->flags);
	EXPECT_EQ(EPOLL_CR_FD_CLOEXEC, find(count, self->fd)->flags);
	EXPECT_EQ(EPOLL_CR_FD_CLOEXEC | EPOLL_CR_FD_EPOLL,
		  find(count, self->efd)->flags);
	EXPECT_EQ(find(count, dup)->file, find(count, self->fd)->file);
	EXPECT_NE(find(count, self->other)->file, find(count, self->fd)->file);
	EXPECT_NE(0, find(count, path)->file);
}

TEST_F(epoll_cr, too_small_for_descriptors)
{
	__u64 all, count;
	int i;

	for (i = 0; i < 300; i++)
		ASSERT_EQ(1000 + i, dup2(self->fd, 1000 + i));
	ASSERT_EQ(0, files(self->dev, SELF, fds, ROOM, &all, NULL));
	ASSERT_GT(all, 300);

	EXPECT_EQ(-ENOSPC, files(self->dev, SELF, NULL, 0, &count, NULL));
	EXPECT_EQ(all, count);
	memset(fds, 0xff, sizeof(fds));
	EXPECT_EQ(-ENOSPC, files(self->dev, SELF, fds, all - 1, &count, NULL));
	EXPECT_EQ(all, count);
	EXPECT_EQ(1298, fds[all - 2].fd);
	EXPECT_EQ(-1, fds[all - 1].fd);
	EXPECT_EQ(0, files(self->dev, SELF, fds, all, &count, NULL));
	EXPECT_EQ(1299, fds[all - 1].fd);
}

static void *thread_fn(void *data)
{
	int *sock = data;
	pid_t tid = gettid();

	if (sock[1])
		unshare(CLONE_FILES);
	send(sock[0], &tid, sizeof(tid), 0);
	sync_wait(sock[0]);

	return NULL;
}

/* Tasks that share a table are told from tasks that have the same files. */
TEST_F(epoll_cr, tables)
{
	__u64 mine, theirs, count;
	pthread_t thread;
	int own, pidfd, sock, socks[2];
	pid_t pid, tid;

	ASSERT_EQ(0, files(self->dev, SELF, fds, ROOM, &count, &mine));
	EXPECT_NE(0, mine);
	ASSERT_EQ(0, files(self->dev, PIDFD_SELF_THREAD_GROUP, fds, ROOM,
			   &count, &theirs));
	EXPECT_EQ(mine, theirs);

	for (own = 0; own < 2; own++) {
		int arg[2];

		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks));
		arg[0] = socks[1];
		arg[1] = own;
		ASSERT_EQ(0, pthread_create(&thread, NULL, thread_fn, arg));
		ASSERT_EQ(sizeof(tid), recv(socks[0], &tid, sizeof(tid), 0));
		pidfd = pidfd_of(tid, PIDFD_THREAD);
		ASSERT_GE(pidfd, 0);
		EXPECT_EQ(0, files(self->dev, pidfd, fds, ROOM, &count,
				   &theirs));
		EXPECT_EQ(!own, mine == theirs);
		ASSERT_TRUE(sync_post(socks[0]));
		ASSERT_EQ(0, pthread_join(thread, NULL));
	}

	pid = fork_synced(&sock);
	ASSERT_GE(pid, 0);
	if (!pid) {
		sync_wait(sock);
		_exit(0);
	}
	pidfd = pidfd_of(pid, 0);
	ASSERT_GE(pidfd, 0);
	EXPECT_EQ(0, files(self->dev, pidfd, fds, ROOM, &count, &theirs));
	EXPECT_NE(mine, theirs);
	ASSERT_NE(NULL, find(count, self->fd));
	EXPECT_EQ(identity(self->dev, self->fd), find(count, self->fd)->file);
	EXPECT_EQ(0, sync_end(sock, pid));

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks));
	pid = syscall(__NR_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	ASSERT_GE(pid, 0);
	if (!pid) {
		sync_wait(socks[1]);
		_exit(0);
	}
	pidfd = pidfd_of(pid, 0);
	ASSERT_GE(pidfd, 0);
	EXPECT_EQ(0, files(self->dev, pidfd, fds, ROOM, &count, &theirs));
	EXPECT_EQ(mine, theirs);
	ASSERT_TRUE(sync_post(socks[0]));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
}

/*
 * A thread whose table is being listed gets another table when the first
 * descriptors are written.
 */
struct leaver {
	struct served served;
	int sock;
};

static void *leaver_fn(void *data)
{
	struct leaver *leaver = data;
	pid_t tid = gettid();

	send(leaver->sock, &tid, sizeof(tid), 0);
	if (served_wait(&leaver->served) || unshare(CLONE_FILES) ||
	    served_fill(&leaver->served, 0, NULL))
		return NULL;
	/* The thread must not end before everything is read. */
	sync_wait(leaver->sock);

	return data;
}

TEST_F(epoll_cr, table_is_replaced)
{
	struct leaver leaver;
	int i, pidfd, socks[2];
	pthread_t thread;
	__u64 count;
	void *done;
	pid_t tid;

	if (geteuid())
		SKIP(return, "needs root to serve page faults of the kernel");
	for (i = 0; i < 300; i++)
		ASSERT_EQ(1000 + i, dup2(self->fd, 1000 + i));
	ASSERT_EQ(0, served_init(&leaver.served, 2));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks));
	leaver.sock = socks[1];
	ASSERT_EQ(0, pthread_create(&thread, NULL, leaver_fn, &leaver));
	ASSERT_EQ(sizeof(tid), recv(socks[0], &tid, sizeof(tid), 0));
	pidfd = pidfd_of(tid, PIDFD_THREAD);
	ASSERT_GE(pidfd, 0);

	EXPECT_EQ(-ESTALE, files(self->dev, pidfd, (void *)leaver.served.map,
				 400, &count, NULL));
	EXPECT_LT(0, count);
	EXPECT_GT(300, count);
	ASSERT_TRUE(sync_post(socks[0]));
	ASSERT_EQ(0, pthread_join(thread, &done));
	EXPECT_EQ(&leaver, done);
}

/* A process dies when the first of its descriptors are written. */
struct killer {
	struct served served;
	pid_t pid;
};

static void *killer_fn(void *data)
{
	struct killer *killer = data;

	if (served_wait(&killer->served) || kill(killer->pid, SIGKILL) ||
	    waitid(P_PID, killer->pid, NULL, WEXITED | WNOWAIT) ||
	    served_fill(&killer->served, 0, NULL))
		return NULL;

	return data;
}

TEST_F(epoll_cr, process_dies)
{
	struct killer killer;
	pthread_t thread;
	int i, pidfd, sock;
	__u64 count;
	void *done;

	if (geteuid())
		SKIP(return, "needs root to serve page faults of the kernel");
	for (i = 0; i < 300; i++)
		ASSERT_EQ(1000 + i, dup2(self->fd, 1000 + i));
	killer.pid = fork_synced(&sock);
	ASSERT_GE(killer.pid, 0);
	if (!killer.pid) {
		sync_wait(sock);
		_exit(0);
	}
	pidfd = pidfd_of(killer.pid, 0);
	ASSERT_GE(pidfd, 0);
	ASSERT_EQ(0, served_init(&killer.served, 2));
	ASSERT_EQ(0, pthread_create(&thread, NULL, killer_fn, &killer));

	EXPECT_EQ(-ESRCH, files(self->dev, pidfd, (void *)killer.served.map,
				400, &count, NULL));
	ASSERT_EQ(0, pthread_join(thread, &done));
	EXPECT_EQ(&killer, done);
	EXPECT_EQ(-SIGKILL, sync_end(sock, killer.pid));
}

/* Whether stat(2) agrees with the description of the device. */
static bool same_stat(const struct epoll_cr_file *file, int fd)
{
	struct stat st;

	return !fstat(fd, &st) && (file->mask & EPOLL_CR_FILE_STAT) &&
	       file->mode == st.st_mode && file->ino == st.st_ino &&
	       file->nlink == st.st_nlink && file->length == st.st_size &&
	       makedev(file->dev_major, file->dev_minor) == st.st_dev &&
	       makedev(file->rdev_major, file->rdev_minor) == st.st_rdev;
}

TEST_F(epoll_cr, regular_file)
{
	char name[] = "/tmp/epoll_cr.XXXXXX (deleted)";
	struct epoll_cr_file file;
	char paths[4096];
	__u32 fd;
	__u64 len;

	fd = mkostemps(name, strlen(" (deleted)"), O_APPEND | O_CLOEXEC);
	ASSERT_GE((int)fd, 0);
	ASSERT_EQ(5, write(fd, "12345", 5));
	ASSERT_EQ(3, lseek(fd, 3, SEEK_SET));
	ASSERT_EQ(0, describe(self->dev, SELF, &fd, &file, 1, paths,
			      sizeof(paths), &len));
	EXPECT_EQ(fd, file.fd);
	EXPECT_EQ(3, file.pos);
	EXPECT_EQ(fcntl(fd, F_GETFL), file.f_flags);
	EXPECT_TRUE(same_stat(&file, fd));
	EXPECT_EQ(0, file.epoll_id);
	EXPECT_EQ(getuid(), file.uid);
	EXPECT_EQ(getegid(), file.egid);
	EXPECT_EQ(0, file.owner_pid);
	EXPECT_EQ(EPOLL_CR_FILE_STAT | EPOLL_CR_FILE_PATH, file.mask);
	EXPECT_STREQ(name, paths + file.path_offset);
	EXPECT_EQ(strlen(name), file.path_len);
	EXPECT_EQ(strlen(name) + 1, len);

	ASSERT_EQ(0, unlink(name));
	ASSERT_EQ(0, describe(self->dev, SELF, &fd, &file, 1, paths,
			      sizeof(paths), &len));
	EXPECT_EQ(EPOLL_CR_FILE_STAT | EPOLL_CR_FILE_PATH |
		  EPOLL_CR_FILE_UNLINKED, file.mask);
	EXPECT_STREQ(name, paths + file.path_offset);
	EXPECT_EQ(0, file.nlink);
}

/* What has never been linked has a name, and ' (deleted)' is not a part of that. */
TEST_F(epoll_cr, memory_files)
{
	static const char *const names[] = { "", "plain", "it is (deleted)" };
	struct epoll_cr_file file;
	char paths[4096], name[64];
	unsigned int i;
	__u32 fd;
	__u64 len;

	for (i = 0; i < ARRAY_SIZE(names); i++) {
		fd = memfd_create(names[i], MFD_CLOEXEC);
		ASSERT_GE((int)fd, 0);
		ASSERT_EQ(0, describe(self->dev, SELF, &fd, &file, 1, paths,
				      sizeof(paths), &len));
		snprintf(name, sizeof(name), "/memfd:%s", names[i]);
		EXPECT_EQ(EPOLL_CR_FILE_STAT | EPOLL_CR_FILE_PATH |
			  EPOLL_CR_FILE_NAME, file.mask);
		EXPECT_STREQ(name, paths + file.path_offset);
		EXPECT_EQ(strlen(name), file.path_len);
		close(fd);
	}
}

/* A namespace has a name, and a path where it is mounted. */
TEST_F(epoll_cr, mounted_namespace)
{
	static const char name[] = "/tmp/epoll_cr_namespace";
	struct epoll_cr_file file;
	char paths[4096];
	__u32 fd;
	__u64 len;

	if (geteuid())
		SKIP(return, "needs root to mount");
	fd = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
	if ((int)fd < 0)
		SKIP(return, "no namespaces");
	ASSERT_EQ(0, describe(self->dev, SELF, &fd, &file, 1, paths,
			      sizeof(paths), &len));
	EXPECT_TRUE(file.mask & EPOLL_CR_FILE_NAME);
	EXPECT_EQ(0, strncmp("uts:[", paths + file.path_offset, 5));
	close(fd);

	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	fd = open(name, O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_GE((int)fd, 0);
	close(fd);
	ASSERT_EQ(0, mount("/proc/self/ns/uts", name, NULL, MS_BIND, NULL));
	fd = open(name, O_RDONLY | O_CLOEXEC);
	ASSERT_GE((int)fd, 0);
	ASSERT_EQ(0, describe(self->dev, SELF, &fd, &file, 1, paths,
			      sizeof(paths), &len));
	EXPECT_EQ(EPOLL_CR_FILE_STAT | EPOLL_CR_FILE_PATH, file.mask);
	EXPECT_STREQ(name, paths + file.path_offset);
	close(fd);
	EXPECT_EQ(0, umount(name));
	EXPECT_EQ(0, unlink(name));
}

/* Each file with who opened it, whoever has opened the one before. */
TEST_F(epoll_cr, openers)
{
	struct epoll_cr_file info[5];
	int sock, theirs, i;
	__u32 list[5];
	__u64 len;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to change its user");
	pid = fork_synced(&sock);
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(become(UID_A) || send_fd(sock, eventfd(0, EFD_CLOEXEC)) ||
		      sync_wait(sock));
	theirs = receive_fd(sock, MSG_CMSG_CLOEXEC);
	ASSERT_GE(theirs, 0);
	EXPECT_EQ(0, sync_end(sock, pid));

	list[0] = self->fd;
	list[1] = theirs;
	list[2] = self->other;
	list[3] = NO_FD;
	list[4] = theirs;
	ASSERT_EQ(0, describe(self->dev, SELF, list, info, 5, NULL, 0, &len));
	for (i = 0; i < 5; i++) {
		uid_t uid = list[i] == theirs ? UID_A : getuid();
		gid_t gid = list[i] == theirs ? UID_A : getgid();

		EXPECT_EQ(list[i], info[i].fd);
		if (list[i] == NO_FD)
			continue;
		EXPECT_EQ(uid, info[i].uid);
		EXPECT_EQ(uid, info[i].euid);
		EXPECT_EQ(uid, info[i].fsuid);
		EXPECT_EQ(gid, info[i].gid);
		EXPECT_EQ(gid, info[i].egid);
		EXPECT_EQ(gid, info[i].fsgid);
	}
}

TEST_F(epoll_cr, kinds_of_files)
{
	struct epoll_cr_file info[6];
	char paths[4096];
	int pipes[2], socks[2], null, dir;
	__u32 list[6];
	__u64 len;

	ASSERT_EQ(0, pipe2(pipes, O_CLOEXEC | O_NONBLOCK));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	dir = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	list[0] = pipes[1];
	list[1] = socks[0];
	list[2] = null;
	list[3] = dir;
	list[4] = self->efd;
	list[5] = NO_FD;
	ASSERT_EQ(0, describe(self->dev, SELF, list, info, 6, paths,
			      sizeof(paths), &len));

	EXPECT_TRUE(S_ISFIFO(info[0].mode));
	EXPECT_TRUE(same_stat(&info[0], pipes[1]));
	EXPECT_EQ(O_WRONLY | O_NONBLOCK, info[0].f_flags);
	EXPECT_TRUE(info[0].mask & EPOLL_CR_FILE_NAME);
	EXPECT_EQ(0, strncmp("pipe:[", paths + info[0].path_offset, 6));

	EXPECT_TRUE(S_ISSOCK(info[1].mode));
	EXPECT_TRUE(info[1].mask & EPOLL_CR_FILE_NAME);

	EXPECT_TRUE(S_ISCHR(info[2].mode));
	EXPECT_TRUE(same_stat(&info[2], null));
	EXPECT_FALSE(info[2].mask & EPOLL_CR_FILE_NAME);
	EXPECT_STREQ("/dev/null", paths + info[2].path_offset);

	EXPECT_TRUE(S_ISDIR(info[3].mode));
	EXPECT_TRUE(info[3].f_flags & O_PATH);
	EXPECT_STREQ("/proc", paths + info[3].path_offset);

	EXPECT_NE(0, info[4].epoll_id);
	EXPECT_STREQ("anon_inode:[eventpoll]", paths + info[4].path_offset);

	EXPECT_EQ(NO_FD, info[5].fd);
	EXPECT_EQ(0, info[5].file);
	EXPECT_EQ(0, info[5].mask);
}

TEST_F(epoll_cr, owner)
{
	struct f_owner_ex owner = { .type = F_OWNER_TID, .pid = gettid() };
	struct epoll_cr_file info;
	int pipes[2];
	__u64 len;

	ASSERT_EQ(0, pipe2(pipes, O_CLOEXEC));
	ASSERT_EQ(0, fcntl(pipes[0], F_SETOWN_EX, &owner));
	ASSERT_EQ(0, fcntl(pipes[0], F_SETSIG, SIGUSR1));
	ASSERT_EQ(0, describe(self->dev, SELF, (__u32 *)pipes, &info, 1, NULL,
			      0, &len));
	EXPECT_EQ(F_OWNER_TID, info.owner_type);
	EXPECT_EQ(gettid(), info.owner_pid);
	EXPECT_EQ(SIGUSR1, info.owner_signal);
	EXPECT_EQ(getuid(), info.owner_uid);
	EXPECT_EQ(geteuid(), info.owner_euid);

	ASSERT_EQ(0, fcntl(pipes[0], F_SETOWN, -getpgrp()));
	ASSERT_EQ(0, describe(self->dev, SELF, (__u32 *)pipes, &info, 1, NULL,
			      0, &len));
	EXPECT_EQ(F_OWNER_PGRP, info.owner_type);
	EXPECT_EQ(getpgrp(), info.owner_pid);

	ASSERT_EQ(0, fcntl(pipes[0], F_SETOWN, getpid()));
	ASSERT_EQ(0, describe(self->dev, SELF, (__u32 *)pipes, &info, 1, NULL,
			      0, &len));
	EXPECT_EQ(F_OWNER_PID, info.owner_type);
	EXPECT_EQ(getpid(), info.owner_pid);
}

TEST_F(epoll_cr, paths_that_do_not_fit)
{
	struct epoll_cr_file info[2];
	char paths[64];
	__u32 list[2];
	__u64 len;

	list[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	list[1] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	memset(paths, 'x', sizeof(paths));

	/* A buffer for one path less a byte; for one; for both. */
	EXPECT_EQ(-ENOSPC, describe(self->dev, SELF, list, info, 2, paths, 9,
				    &len));
	EXPECT_EQ(20, len);
	EXPECT_EQ(EPOLL_CR_FILE_STAT, info[0].mask);
	EXPECT_EQ(9, info[0].path_len);
	EXPECT_EQ('x', paths[0]);

	EXPECT_EQ(-ENOSPC, describe(self->dev, SELF, list, info, 2, paths, 19,
				    &len));
	EXPECT_EQ(20, len);
	EXPECT_STREQ("/dev/null", paths);
	EXPECT_EQ('x', paths[10]);
	EXPECT_EQ(EPOLL_CR_FILE_STAT | EPOLL_CR_FILE_PATH, info[0].mask);
	EXPECT_EQ(EPOLL_CR_FILE_STAT, info[1].mask);

	EXPECT_EQ(0, describe(self->dev, SELF, list, info, 2, paths, 20, &len));
	EXPECT_STREQ("/dev/zero", paths + info[1].path_offset);
	EXPECT_EQ('x', paths[20]);

	/* Without a buffer for paths. */
	EXPECT_EQ(0, describe(self->dev, SELF, list, info, 2, NULL, 0, &len));
	EXPECT_EQ(20, len);
}

TEST_F(epoll_cr, no_such_number)
{
	struct epoll_cr_file info;
	__u32 fd = 1U << 31;
	__u64 len;

	EXPECT_EQ(-EINVAL, describe(self->dev, SELF, &fd, &info, 1, NULL, 0,
				    &len));
	fd--;
	EXPECT_EQ(0, describe(self->dev, SELF, &fd, &info, 1, NULL, 0, &len));
	EXPECT_EQ(0, info.file);
	EXPECT_EQ(0, describe(self->dev, SELF, NULL, NULL, 0, NULL, 0, &len));
}

/* A path outside of the caller's root is marked. */
TEST_F(epoll_cr, outside_of_root)
{
	struct epoll_cr_file info;
	int proc = open("/proc", O_PATH | O_CLOEXEC);
	int dir = open("/dev", O_PATH | O_CLOEXEC);
	__u64 len;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to change its root");

	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (fchdir(dir) || chroot("."))
			_exit(2);
		if (describe(self->dev, SELF, (__u32 *)&proc, &info, 1, NULL, 0,
			     &len) || !(info.mask & EPOLL_CR_FILE_UNREACHABLE))
			_exit(3);
		if (describe(self->dev, SELF, (__u32 *)&dir, &info, 1, NULL, 0,
			     &len) || (info.mask & EPOLL_CR_FILE_UNREACHABLE))
			_exit(4);
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
}

TEST_HARNESS_MAIN
