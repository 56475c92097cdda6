/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Processes beside the test: take turns with them, and see what they sleep in.
 */
#ifndef _EPOLL_PROCESS_H
#define _EPOLL_PROCESS_H

#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "epoll-helpers.h"

/* Users without access to each other's processes, or to those of root. */
#define UID_A		65534
#define UID_B		65533

/* As fork(), but the child dies with its parent. */
static inline pid_t fork_bound(void)
{
	pid_t parent = getpid();
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
	}

	return pid;
}

/*
 * Returns the exit status of @pid, minus the signal that killed it, or -ETIME.
 */
static inline int wait_exit(pid_t pid)
{
	long long end = now_ms() + PATIENCE_MS;
	int status;

	/* To waitpid(), the -1 of a failed fork() would mean any child. */
	if (pid < 0)
		return -ECHILD;

	do {
		pid_t ret = waitpid(pid, &status, WNOHANG);

		if (ret < 0)
			return -errno;
		if (ret)
			return WIFEXITED(status) ? WEXITSTATUS(status) :
						   -WTERMSIG(status);
		sleep_ms(1);
	} while (now_ms() < end);

	return -ETIME;
}

/*
 * A child and its parent take turns over a socket pair, of which each closes
 * the end of the other. If one dies, the other one notices.
 */
static inline bool sync_post(int sock)
{
	return send(sock, "", 1, MSG_NOSIGNAL) == 1;
}

static inline bool sync_wait(int sock)
{
	char c;

	return recv(sock, &c, 1, 0) == 1;
}

static inline pid_t fork_synced(int *sock)
{
	int socks[2];
	pid_t pid;

	*sock = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks))
		return -1;

	pid = fork_bound();
	*sock = socks[!pid];
	close(socks[!!pid]);

	return pid;
}

/* The end, on the parent's side: let the child finish, and see how it ended. */
static inline int sync_end(int sock, pid_t pid)
{
	close(sock);

	return wait_exit(pid);
}

/* A handler for a signal that is to arrive and to do nothing. */
static inline void ignore_signal(int sig)
{
}

/* Become an ordinary user, whose processes may inspect this one. */
static inline int become(uid_t id)
{
	if (setgroups(0, NULL) || setresgid(id, id, id) ||
	    setresuid(id, id, id) || prctl(PR_SET_DUMPABLE, 1))
		return -errno;

	return prctl(PR_SET_PDEATHSIG, SIGKILL) ? -errno : 0;
}

static inline int send_fd(int sock, int fd)
{
	char buf[CMSG_SPACE(sizeof(fd))] = {};
	struct iovec iov = { .iov_base = "", .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = buf,
		.msg_controllen = sizeof(buf),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));

	return sendmsg(sock, &msg, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

static inline int receive_fd(int sock, int flags)
{
	char buf[CMSG_SPACE(sizeof(int))] = {};
	char c;
	struct iovec iov = { .iov_base = &c, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = buf,
		.msg_controllen = sizeof(buf),
	};
	struct cmsghdr *cmsg;
	int fd;

	if (recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC) != 1)
		return -errno;

	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS)
		return -ENOMSG;
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));

	return fd;
}

/* Read a task's file in /proc, as much as fits into @buf. */
static inline bool proc_read(pid_t pid, const char *name, char *buf, size_t len)
{
	char path[64];
	ssize_t ret;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;

	ret = read(fd, buf, len - 1);
	close(fd);
	if (ret < 0)
		return false;

	buf[ret] = '\0';
	return true;
}

/* The number after @key in the fdinfo of a descriptor of ours. */
static inline long long fdinfo_of(int fd, const char *key)
{
	char name[32], buf[4096], *at;

	snprintf(name, sizeof(name), "fdinfo/%d", fd);
	if (!proc_read(getpid(), name, buf, sizeof(buf)))
		return -errno;

	at = strstr(buf, key);

	return at ? strtoll(at + strlen(key), NULL, 10) : -ENOENT;
}

/*
 * Whether the task sleeps in that system call, woken at most by a fatal signal.
 */
static inline bool asleep_in(pid_t tid, int nr)
{
	char buf[2048];

	return proc_read(tid, "status", buf, sizeof(buf)) &&
	       strstr(buf, "\nState:\tD") &&
	       proc_read(tid, "syscall", buf, sizeof(buf)) &&
	       buf[0] >= '0' && buf[0] <= '9' && atoi(buf) == nr;
}

static inline bool wait_asleep_in(pid_t tid, int nr)
{
	long long end = now_ms() + PATIENCE_MS;

	do {
		if (asleep_in(tid, nr))
			return true;
		sleep_ms(1);
	} while (now_ms() < end);

	return false;
}

#endif /* _EPOLL_PROCESS_H */
