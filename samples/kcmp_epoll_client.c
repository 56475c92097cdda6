// SPDX-License-Identifier: GPL-2.0
/*
 * Which descriptors of some processes are the targets of their epoll instances?
 *
 * fdinfo shows the descriptor that a target was added by.  It may be closed
 * by now, or refer to another file.  KCMP_EPOLL_TFD compares the file of a
 * descriptor with that of the target, so this tries all descriptors.  lsepoll
 * needs fewer queries: it searches in the order that kcmp gives.
 *
 * The processes must not change meanwhile.  Each target is one line:
 *
 *	pid=58 efd=4 tfd=702 events=0x19 data=0x3 number=closed owners=60:8
 */
#include <ctype.h>
#include <dirent.h>
#include <err.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kcmp.h>

#define MAX	4096

static struct desc {
	int pid;
	int fd;
	bool epoll;
} descs[MAX];

static int nr_descs;

static bool equal(const struct desc *desc, int pid, int type, unsigned long idx2)
{
	long ret = syscall(SYS_kcmp, desc->pid, pid, type, (unsigned long)desc->fd, idx2);

	if (ret < 0)
		err(1, "kcmp of descriptor %d of pid %d", desc->fd, desc->pid);
	return !ret;
}

static void read_descs(int pid)
{
	char path[64], link[64];
	struct dirent *entry;
	ssize_t len;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir)
		err(1, "%s", path);
	while ((entry = readdir(dir))) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		if (nr_descs == MAX)
			errx(1, "more than %d descriptors", MAX);
		len = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		link[len < 0 ? 0 : len] = '\0';
		descs[nr_descs++] = (struct desc) {
			.pid = pid,
			.fd = atoi(entry->d_name),
			.epoll = !strcmp(link, "anon_inode:[eventpoll]"),
		};
	}
	closedir(dir);
}

static void show_target(const struct desc *efd, int tfd, int toff, const char *what)
{
	struct kcmp_epoll_slot slot = { .efd = efd->fd, .tfd = tfd, .toff = toff };
	const char *number = "closed";
	bool is[MAX], any = false;
	int i;

	for (i = 0; i < nr_descs; i++) {
		is[i] = equal(&descs[i], efd->pid, KCMP_EPOLL_TFD, (unsigned long)&slot);
		if (descs[i].pid == efd->pid && descs[i].fd == tfd)
			number = is[i] ? "right" : "wrong";
	}

	printf("pid=%d efd=%d tfd=%d %s number=%s owners=", efd->pid, efd->fd, tfd, what, number);
	for (i = 0; i < nr_descs; i++) {
		if (!is[i])
			continue;
		printf("%s%d:%d", any ? "," : "", descs[i].pid, descs[i].fd);
		any = true;
	}
	puts(any ? "" : "none");
}

static void show_instance(const struct desc *efd)
{
	int tfds[MAX], nr = 0, toff, i;
	char line[256], what[64];
	unsigned long long data;
	unsigned int events;
	FILE *fdinfo;

	/* One epoll instance with several descriptors is shown once. */
	for (i = 0; &descs[i] < efd; i++) {
		if (!equal(&descs[i], efd->pid, KCMP_FILE, efd->fd))
			continue;
		printf("pid=%d efd=%d same=%d:%d\n", efd->pid, efd->fd, descs[i].pid, descs[i].fd);
		return;
	}

	snprintf(line, sizeof(line), "/proc/%d/fdinfo/%d", efd->pid, efd->fd);
	fdinfo = fopen(line, "r");
	if (!fdinfo)
		err(1, "%s", line);
	while (fgets(line, sizeof(line), fdinfo) && nr < MAX) {
		if (sscanf(line, "tfd: %d events: %x data: %llx", &tfds[nr], &events, &data) != 3)
			continue;
		/* toff counts the targets with one tfd, in the order of fdinfo. */
		for (i = 0, toff = 0; i < nr; i++)
			toff += tfds[i] == tfds[nr];
		snprintf(what, sizeof(what), "events=%#x data=%#llx", events, data);
		show_target(efd, tfds[nr++], toff, what);
	}
	fclose(fdinfo);
}

int main(int argc, char **argv)
{
	int i;

	if (argc < 2)
		errx(2, "usage: kcmp_epoll_client PID...");
	for (i = 1; i < argc; i++)
		read_descs(atoi(argv[i]));
	for (i = 0; i < nr_descs; i++)
		if (descs[i].epoll)
			show_instance(&descs[i]);
	if (fflush(stdout))
		err(1, "standard output");
	return 0;
}
