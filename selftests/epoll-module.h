/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Load and unload the module under test. Before it includes this, a file
 * defines MODULE as its name, and MODULE_KO as the environment variable that
 * may name a file to load in place of the one that modprobe finds.
 */
#ifndef _EPOLL_MODULE_H
#define _EPOLL_MODULE_H

#include <sys/syscall.h>
#include <sys/wait.h>

#include "epoll-helpers.h"

#define MODULE_DIR	"/sys/module/" MODULE

static inline bool module_loaded(void)
{
	return !access(MODULE_DIR, F_OK);
}

/* The module's reference count. */
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

	/* Without a time limit: KUnit suites may run first. */
	if (waitpid(pid, &status, 0) != pid)
		return -errno;

	return status ? -ENOENT : 0;
}

/* One attempt. -EAGAIN: the module is in use. */
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
 * that is not possible.
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

#endif /* _EPOLL_MODULE_H */
