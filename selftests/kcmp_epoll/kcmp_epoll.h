/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of kcmp(KCMP_EPOLL_TFD) share. */
#ifndef _KCMP_EPOLL_H
#define _KCMP_EPOLL_H

#include <linux/kcmp.h>

#include "epoll-helpers.h"

/* Those who test another module say so before. */
#ifndef MODULE
#define MODULE		"kcmp_epoll"
#define MODULE_KO	"KCMP_EPOLL_KO"
#endif
#define MODULE_DIR	"/sys/module/" MODULE

/* The questions. */

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
