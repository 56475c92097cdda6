/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of kcmp(KCMP_EPOLL_TFD) share. */
#ifndef _KCMP_EPOLL_H
#define _KCMP_EPOLL_H

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/kcmp.h>
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
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Those who test another module say so before. */
#ifndef MODULE
#define MODULE		"kcmp_epoll"
#define MODULE_KO	"KCMP_EPOLL_KO"
#endif
#define MODULE_DIR	"/sys/module/" MODULE

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

static inline long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* The questions. Errors come back as negative errnos. */

static inline int kcmp(pid_t pid1, pid_t pid2, int type, unsigned long idx1,
		       unsigned long idx2)
{
	long ret = syscall(__NR_kcmp, pid1, pid2, type, idx1, idx2);

	return ret < 0 ? -errno : ret;
}

static inline int kcmp_tfd(pid_t pid1, unsigned long idx1, pid_t pid2,
			   __u32 efd, __u32 tfd, __u32 toff)
{
	struct kcmp_epoll_slot slot = { .efd = efd, .tfd = tfd, .toff = toff };

	return kcmp(pid1, pid2, KCMP_EPOLL_TFD, idx1, (unsigned long)&slot);
}

static inline int kcmp_tfd_self(unsigned long idx1, __u32 efd, __u32 tfd,
				__u32 toff)
{
	return kcmp_tfd(getpid(), idx1, getpid(), efd, tfd, toff);
}

static inline int kcmp_file_self(int fd1, int fd2)
{
	return kcmp(getpid(), getpid(), KCMP_FILE, fd1, fd2);
}

/* The sets. */

static inline int epoll_add(int efd, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };

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
static inline int add_as(int efd, int fd, int num)
{
	int ret = dup_as(fd, num);

	if (ret < 0)
		return ret;

	ret = epoll_add(efd, num);
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

/* A pid that nobody has. */
static inline pid_t unused_pid(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	if (pid < 0 || waitpid(pid, NULL, 0) != pid)
		return -1;

	return pid;
}

/* The exit status of @pid, minus the signal that killed it, or -ETIME. */
static inline int wait_exit(pid_t pid)
{
	long long end = now_ms() + PATIENCE_MS;
	int status;

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

/* Become an ordinary user whose processes may be looked at by that user. */
static inline int become(uid_t id)
{
	if (setgroups(0, NULL) || setresgid(id, id, id) ||
	    setresuid(id, id, id) || prctl(PR_SET_DUMPABLE, 1))
		return -errno;

	return prctl(PR_SET_PDEATHSIG, SIGKILL) ? -errno : 0;
}

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

/* Whether @pid sleeps inside kcmp, deaf to signals that do not kill. */
static inline bool in_kcmp(pid_t pid)
{
	char buf[1024];

	return proc_read(pid, "status", buf, sizeof(buf)) &&
	       strstr(buf, "\nState:\tD") &&
	       proc_read(pid, "syscall", buf, sizeof(buf)) &&
	       buf[0] >= '0' && buf[0] <= '9' && atoi(buf) == __NR_kcmp;
}

static inline bool wait_in_kcmp(pid_t pid)
{
	long long end = now_ms() + PATIENCE_MS;

	do {
		if (in_kcmp(pid))
			return true;
		sleep_ms(1);
	} while (now_ms() < end);

	return false;
}

/*
 * Holding a set: a thread collects an event into a page that is not there, and
 * nobody provides it, so the kernel keeps the set's mutex until it is.
 */
struct held_set {
	pthread_t thread;
	struct epoll_event *page;
	size_t size;
	int efd;
	int uffd;
};

static inline void *held_set_collect(void *data)
{
	struct held_set *held = data;

	return (void *)(long)epoll_wait(held->efd, held->page, 1, -1);
}

/*
 * The set must have a ready target. Returns 0, -EOPNOTSUPP if faults of the
 * kernel cannot be withheld here, or another negative errno.
 */
static inline int hold_set(struct held_set *held, int efd)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct pollfd pfd = { .events = POLLIN };
	struct uffd_msg msg;

	held->efd = efd;
	held->size = sysconf(_SC_PAGESIZE);
	held->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (held->uffd < 0)
		return -EOPNOTSUPP;

	held->page = mmap(NULL, held->size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (held->page == MAP_FAILED)
		return -ENOMEM;

	reg.range.start = (unsigned long)held->page;
	reg.range.len = held->size;
	if (ioctl(held->uffd, UFFDIO_API, &api) ||
	    ioctl(held->uffd, UFFDIO_REGISTER, &reg))
		return -EIO;
	if (pthread_create(&held->thread, NULL, held_set_collect, held))
		return -EAGAIN;

	pfd.fd = held->uffd;
	if (poll(&pfd, 1, PATIENCE_MS) != 1)
		return -ETIME;
	if (read(held->uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.event != UFFD_EVENT_PAGEFAULT)
		return -EIO;

	return 0;
}

/* Returns how many events the holder has got, which is to be 1. */
static inline long release_set(struct held_set *held)
{
	struct uffdio_zeropage zero = {
		.range = {
			.start = (unsigned long)held->page,
			.len = held->size,
		},
	};
	void *ret;

	if (ioctl(held->uffd, UFFDIO_ZEROPAGE, &zero))
		return -errno;
	if (pthread_join(held->thread, &ret))
		return -ECHILD;

	close(held->uffd);
	munmap(held->page, held->size);

	return (long)ret;
}

/* Who answers: the module if it is loaded, else the kernel's C handler. */

static inline bool module_loaded(void)
{
	return !access(MODULE_DIR, F_OK);
}

/* References to the module, or a negative errno. */
static inline int module_refs(void)
{
	char buf[16] = "";
	ssize_t ret;
	int fd = open(MODULE_DIR "/refcnt", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;

	ret = read(fd, buf, sizeof(buf) - 1);
	close(fd);

	return ret > 0 ? atoi(buf) : -EIO;
}

static inline int module_load(void)
{
	const char *path = getenv(MODULE_KO);
	int fd, ret, status;
	pid_t pid;

	if (path && *path) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		ret = syscall(__NR_finit_module, fd, "", 0) ? -errno : 0;
		close(fd);
		return ret;
	}

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
	if (waitpid(pid, &status, 0) != pid)
		return -errno;

	return status ? -ENOENT : 0;
}

/* One try. -EAGAIN: a call is being answered. */
static inline int module_try_unload(void)
{
	return syscall(__NR_delete_module, MODULE, O_NONBLOCK) ? -errno : 0;
}

static inline int module_unload(void)
{
	long long end = now_ms() + PATIENCE_MS;
	int ret;

	do {
		ret = module_try_unload();
		if (ret != -EAGAIN)
			return ret;
		usleep(100);
	} while (now_ms() < end);

	return ret;
}

/*
 * Let the wanted handler answer from now on. Returns false and the reason if
 * that cannot be had.
 */
static inline bool use_handler(bool rust, char *why, size_t len)
{
	int ret;

	if (access("/sys/module", F_OK)) {
		snprintf(why, len, "cannot tell who answers: no /sys/module");
		return false;
	}
	if (module_loaded() == rust)
		return true;
	if (geteuid()) {
		snprintf(why, len, "needs root to %s " MODULE,
			 rust ? "load" : "unload");
		return false;
	}

	ret = rust ? module_load() : module_unload();
	if (!ret && module_loaded() != rust)
		ret = -EIO;
	if (ret)
		snprintf(why, len, "cannot %s " MODULE ": %s",
			 rust ? "load" : "unload", strerror(-ret));

	return !ret;
}

#endif /* _KCMP_EPOLL_H */
