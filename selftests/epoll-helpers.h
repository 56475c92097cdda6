/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of kcmp(KCMP_EPOLL_TFD), of the BPF iterator for epoll sets and
 * of /dev/epoll_cr share. Errors come back as negative errnos.
 */
#ifndef _EPOLL_HELPERS_H
#define _EPOLL_HELPERS_H

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest.h"

/* Numbers that nothing else uses: add_as() makes sure that they are free. */
#define TFD		702
#define NO_FD		901

/* Ids without rights over each other's processes or over root's. */
#define UID_A		65534
#define UID_B		65533

/* What must happen has happened by then, or it is not going to. */
#define PATIENCE_MS	20000
/* What must not happen has had time to. */
#define A_WHILE_MS	200

static inline void sleep_ms(unsigned int ms)
{
	usleep(ms * 1000);
}

static inline long long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static inline long long now_ms(void)
{
	return now_ns() / 1000000;
}

/* The sets. */

static inline int epoll_add(int efd, int fd, __u32 events, __u64 data)
{
	struct epoll_event ev = { .events = events, .data.u64 = data };

	return epoll_ctl(efd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

/* Make @num another number of the file behind @fd. It must not be in use. */
static inline int dup_as(int fd, int num)
{
	if (fcntl(num, F_GETFD) >= 0)
		return -EEXIST;

	return dup2(fd, num) < 0 ? -errno : num;
}

/* Add the file behind @fd as number @num, which is closed again. */
static inline int add_as(int efd, int fd, int num, __u32 events, __u64 data)
{
	int ret = dup_as(fd, num);

	if (ret < 0)
		return ret;

	ret = epoll_add(efd, num, events, data);
	close(num);

	return ret;
}

/* Remove what was added as number @num for the file behind @fd. */
static inline int del_as(int efd, int fd, int num)
{
	int ret = dup_as(fd, num);

	if (ret < 0)
		return ret;

	ret = epoll_ctl(efd, EPOLL_CTL_DEL, num, NULL) ? -errno : 0;
	close(num);

	return ret;
}

static inline int allow_fds(rlim_t nr)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim))
		return -errno;
	if (lim.rlim_cur >= nr)
		return 0;

	lim.rlim_cur = nr;
	if (lim.rlim_max < nr)
		lim.rlim_max = nr;

	return setrlimit(RLIMIT_NOFILE, &lim) ? -errno : 0;
}

/* The other processes. */

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

/* The exit status of @pid, minus the signal that killed it, or -ETIME. */
static inline int wait_exit(pid_t pid)
{
	long long end = now_ms() + PATIENCE_MS;
	int status;

	/* What fork() returns if it fails is any child to waitpid(). */
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
 * A process that was forked off and its parent take turns over a socket pair,
 * of which each closes the other's end. If one dies, the other sees it.
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

/* The parent's side of the end: let the other go and see how it ended. */
static inline int sync_end(int sock, pid_t pid)
{
	close(sock);

	return wait_exit(pid);
}

/* For a signal that is to arrive, and to do nothing. */
static inline void ignore_signal(int sig)
{
}

/* Become an ordinary user whose processes may be looked at by that user. */
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

/* What the kernel tells, and is told. */

/* The number that a file begins with. */
static inline long read_number(const char *path)
{
	char buf[32] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t ret;

	if (fd < 0)
		return -errno;

	ret = read(fd, buf, sizeof(buf) - 1);
	close(fd);

	return ret > 0 ? atol(buf) : -EIO;
}

static inline int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;

	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);

	return ret;
}

/* A task's file in /proc, as long as @buf has room for. */
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

/* The number behind @key in what the kernel tells of our descriptor. */
static inline long long fdinfo_of(int fd, const char *key)
{
	char name[32], buf[4096], *at;

	snprintf(name, sizeof(name), "fdinfo/%d", fd);
	if (!proc_read(getpid(), name, buf, sizeof(buf)))
		return -errno;

	at = strstr(buf, key);

	return at ? strtoll(at + strlen(key), NULL, 10) : -ENOENT;
}

/* Whether the task sleeps in that system call, deaf to what does not kill. */
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

/*
 * Modules. Who includes this says before which one is tested, as MODULE, and as
 * MODULE_KO the variable that may say which file to load in place of modprobe's.
 */

#define MODULE_DIR	"/sys/module/" MODULE

static inline bool module_loaded(void)
{
	return !access(MODULE_DIR, F_OK);
}

/* References to the module. */
static inline long module_refs(void)
{
	return read_number(MODULE_DIR "/refcnt");
}

static inline int load_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;

	ret = syscall(__NR_finit_module, fd, "", 0) ? -errno : 0;
	close(fd);

	return ret;
}

static inline int module_load(void)
{
	const char *path = getenv(MODULE_KO);
	int status;
	pid_t pid;

	if (path && *path)
		return load_file(path);

	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		int null = open("/dev/null", O_WRONLY);

		dup2(null, STDERR_FILENO);
		execlp("modprobe", "modprobe", MODULE, NULL);
		execl("/sbin/modprobe", "modprobe", MODULE, NULL);
		_exit(1);
	}

	/* As long as it takes: it may be that suites of tests run first. */
	if (waitpid(pid, &status, 0) != pid)
		return -errno;

	return status ? -ENOENT : 0;
}

/* One try. -EAGAIN: somebody needs it. */
static inline int try_unload(const char *name)
{
	return syscall(__NR_delete_module, name, O_NONBLOCK) ? -errno : 0;
}

static inline int unload(const char *name)
{
	long long end = now_ms() + PATIENCE_MS;
	int ret;

	do {
		ret = try_unload(name);
		if (ret != -EAGAIN)
			return ret;
		usleep(100);
	} while (now_ms() < end);

	return ret;
}

/*
 * Have the module loaded from now on, or not. Returns false and the reason if
 * that cannot be had.
 */
static inline bool use_module(bool use, char *why, size_t len)
{
	int ret;

	if (access("/sys/module", F_OK)) {
		snprintf(why, len, "cannot see modules: no /sys/module");
		return false;
	}
	if (module_loaded() == use)
		return true;
	if (geteuid()) {
		snprintf(why, len, "needs root to %s " MODULE,
			 use ? "load" : "unload");
		return false;
	}

	ret = use ? module_load() : unload(MODULE);
	if (!ret && module_loaded() != use)
		ret = -EIO;
	if (ret)
		snprintf(why, len, "cannot %s " MODULE ": %s",
			 use ? "load" : "unload", strerror(-ret));

	return !ret;
}

/*
 * Memory whose pages are not there until the test fills them, so that what
 * accesses them can be met in the middle. It may be that of another process.
 */
struct served {
	int uffd, memfd;
	char *map;
	size_t page, pages;
};

/* -EOPNOTSUPP if faults of the kernel cannot be withheld here. */
static inline int served_init(struct served *served, size_t pages)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_MISSING_SHMEM,
	};
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	served->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (served->uffd < 0)
		return -EOPNOTSUPP;

	served->page = sysconf(_SC_PAGESIZE);
	served->pages = pages;
	served->memfd = memfd_create("served", MFD_CLOEXEC);
	if (served->memfd < 0 ||
	    ftruncate(served->memfd, pages * served->page))
		return -errno;
	served->map = mmap(NULL, pages * served->page, PROT_READ | PROT_WRITE,
			   MAP_SHARED, served->memfd, 0);
	if (served->map == MAP_FAILED)
		return -errno;

	reg.range.start = (unsigned long)served->map;
	reg.range.len = pages * served->page;

	return ioctl(served->uffd, UFFDIO_API, &api) ||
	       ioctl(served->uffd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

/* Wait until somebody waits for a page. Returns its number. */
static inline long served_wait(struct served *served)
{
	struct pollfd pfd = { .fd = served->uffd, .events = POLLIN };
	struct uffd_msg msg;

	if (poll(&pfd, 1, PATIENCE_MS) != 1)
		return -ETIME;
	if (read(served->uffd, &msg, sizeof(msg)) != sizeof(msg))
		return -errno;
	if (msg.event != UFFD_EVENT_PAGEFAULT)
		return -ENOMSG;

	return (msg.arg.pagefault.address - (unsigned long)served->map) /
	       served->page;
}

/* Let those go on who wait for a page, which is empty if there is no @data. */
static inline int served_fill(struct served *served, size_t nr,
			      const void *data)
{
	struct uffdio_copy copy = {
		.dst = (unsigned long)served->map + nr * served->page,
		.src = (unsigned long)data,
		.len = served->page,
	};
	struct uffdio_zeropage zero = { .range = { copy.dst, copy.len } };

	return (data ? ioctl(served->uffd, UFFDIO_COPY, &copy) :
		       ioctl(served->uffd, UFFDIO_ZEROPAGE, &zero)) ? -errno : 0;
}

/*
 * Holding a set: a thread collects an event into a page that is not there, so the
 * kernel keeps the set's mutex until it is.
 */
struct held_set {
	pthread_t thread;
	struct served served;
	int efd;
};

static inline void *held_set_collect(void *data)
{
	struct held_set *held = data;

	return (void *)(long)epoll_wait(held->efd, (void *)held->served.map, 1,
					-1);
}

/* The set must have a ready target. Returns as served_init() does. */
static inline int hold_set(struct held_set *held, int efd)
{
	int ret = served_init(&held->served, 1);

	if (ret)
		return ret;

	held->efd = efd;
	if (pthread_create(&held->thread, NULL, held_set_collect, held))
		return -EAGAIN;

	return served_wait(&held->served);
}

/* Returns how many events the holder has got, which is to be 1. */
static inline long release_set(struct held_set *held)
{
	int err = served_fill(&held->served, 0, NULL);
	void *ret;

	if (err)
		return err;
	if (pthread_join(held->thread, &ret))
		return -ECHILD;

	return (long)ret;
}

/*
 * Allocations, and accesses to memory of the caller, that fail one after the
 * other. All that this thread does counts, from 1, as does what says so.
 */

#define DEBUGFS	"/sys/kernel/debug/"

/* Returns why there are no such failures here, or NULL and the descriptor. */
static inline const char *cannot_fail(int *fail_nth)
{
	static const char *const kinds[] = {
		"failslab", "fail_page_alloc", "fail_usercopy",
	};
	/* Those that may wait fail too, and nothing is said about it. */
	static const char *const knobs[][2] = {
		{ "verbose", "0" }, { "ignore-gfp-wait", "N" },
		{ "cache-filter", "N" }, { "ignore-gfp-highmem", "N" },
		{ "min-order", "0" },
	};
	unsigned int i, j;
	char path[128];

	*fail_nth = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (*fail_nth < 0)
		return "this kernel cannot let allocations fail";
	if (geteuid())
		return "needs root";

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		for (j = 0; j < ARRAY_SIZE(knobs); j++) {
			int ret;

			snprintf(path, sizeof(path), DEBUGFS "%s/%s", kinds[i],
				 knobs[j][0]);
			ret = write_file(path, knobs[j][1]);
			/* All have the first one, not all have the others. */
			if (ret && (ret != -ENOENT || !j))
				return "cannot prepare all of " DEBUGFS "fail*";
		}
	}

	return NULL;
}

/* Let the one of that number fail; 0: none. */
static inline void fail_at(int fail_nth, unsigned int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", n);

	/* It may be the access of this call that fails, and no other will. */
	while (pwrite(fail_nth, text, len, 0) != len)
		if (errno != EFAULT)
			abort();
}

/* Whether it has failed. From then on, none does. */
static inline bool has_failed(int fail_nth)
{
	char text[16] = "";
	/* What was not met by then may be the access of this call. */
	bool met = pread(fail_nth, text, sizeof(text) - 1, 0) > 0 && !atoi(text);

	fail_at(fail_nth, 0);

	return met;
}

#endif /* _EPOLL_HELPERS_H */
