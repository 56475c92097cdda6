// SPDX-License-Identifier: GPL-2.0
/*
 * Which descriptor of which process does each target of the epoll sets of some
 * processes mean?
 *
 * As kcmp_epoll_client does with kcmp, but with two BPF iterators, joined by
 * open file in the kernel: see epoll_owners.bpf.c. The iterator over an epoll
 * set takes a descriptor of the set, which has to be ours, so pidfd_getfd()
 * makes one. The kfuncs bpf_iter_epoll_new() and so on need none, but lock the
 * set for each target, and what their program finds has to go through a map of
 * a size that nobody knows before. An iterator has read().
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "epoll_owners.h"
#include "epoll_owners.skel.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD	O_EXCL
#endif

#define PROC_MAX	4096

static int pids[PROC_MAX];
static size_t nr_pids;

static bool has_pid(int pid)
{
	for (size_t i = 0; i < nr_pids; i++)
		if (pids[i] == pid)
			return true;
	return false;
}

static void add_pid(int pid)
{
	if (has_pid(pid))
		return;
	if (nr_pids == PROC_MAX)
		errx(1, "that is more than %d processes", PROC_MAX);
	pids[nr_pids++] = pid;
}

static int parent_of(int pid)
{
	char path[64], stat[512], *end;
	int parent = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	/* The second field is a name, and can have anything in it. */
	if (fgets(stat, sizeof(stat), f)) {
		end = strrchr(stat, ')');
		if (end && sscanf(end + 1, " %*c %d", &parent) != 1)
			parent = 0;
	}
	fclose(f);
	return parent;
}

/* Adds the children of the processes, and theirs. */
static void add_children(void)
{
	struct dirent *entry;
	size_t before;
	DIR *proc;

	do {
		before = nr_pids;
		proc = opendir("/proc");
		if (!proc)
			err(1, "/proc");
		while ((entry = readdir(proc))) {
			int pid = atoi(entry->d_name);

			if (pid > 0 && has_pid(parent_of(pid)))
				add_pid(pid);
		}
		closedir(proc);
	} while (nr_pids > before);
}

/* How many open files there are in the system. */
static unsigned int count_files(void)
{
	unsigned int files = 0;
	FILE *f = fopen("/proc/sys/fs/file-nr", "r");

	if (!f || fscanf(f, "%u", &files) != 1)
		err(1, "/proc/sys/fs/file-nr");
	fclose(f);
	return files;
}

/* Runs an iterator, and returns what it can be read from. */
static int run(struct bpf_program *prog, union bpf_iter_link_info *info)
{
	LIBBPF_OPTS(bpf_iter_attach_opts, opts,
		    .link_info = info, .link_info_len = sizeof(*info));
	struct bpf_link *link = bpf_program__attach_iter(prog, &opts);
	int fd;

	if (!link)
		return -1;
	fd = bpf_iter_create(bpf_link__fd(link));
	/* What is open keeps the link. */
	bpf_link__destroy(link);
	return fd;
}

static ssize_t read_some(int fd, void *buf, size_t size)
{
	ssize_t n;

	do {
		n = read(fd, buf, size);
	} while (n < 0 && (errno == EINTR || errno == EAGAIN));
	return n;
}

/* The epoll sets of the processes; *nr of them. */
static struct epoll_set *find_sets(struct epoll_owners_bpf *skel, size_t *nr)
{
	static struct epoll_set buf[4096];
	struct epoll_set *sets = NULL;

	*nr = 0;
	for (size_t i = 0; i < nr_pids; i++) {
		union bpf_iter_link_info info = { .task.pid = pids[i] };
		int fd = run(skel->progs.list_descriptors, &info);
		ssize_t n;

		if (fd < 0)
			err(1, "cannot list the descriptors of %d", pids[i]);
		/* The kernel writes whole records, and less than there is room for. */
		while ((n = read_some(fd, buf, sizeof(buf))) > 0) {
			sets = realloc(sets, *nr * sizeof(*sets) + n);
			if (!sets)
				err(1, "epoll sets");
			memcpy(sets + *nr, buf, n);
			*nr += n / sizeof(*sets);
		}
		if (n < 0)
			err(1, "cannot list the descriptors of %d", pids[i]);
		close(fd);
	}
	if (skel->bss->overflow)
		errx(1, "more files were opened meanwhile than there was room for");
	return sets;
}

/* The descriptor of another process, as ours. */
static int get_fd(int tid, int fd)
{
	int pidfd = syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
	int copy;

	if (pidfd < 0)
		return -1;
	copy = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	close(pidfd);
	return copy;
}

static int show_targets(struct epoll_owners_bpf *skel, const struct epoll_set *set)
{
	union bpf_iter_link_info info = {};
	static char buf[1 << 16];
	int efd, fd;
	ssize_t n;

	efd = get_fd(set->pid, set->efd);
	if (efd < 0)
		return -1;
	skel->bss->set_pid = set->pid;
	skel->bss->set_efd = set->efd;
	info.epoll.epoll_fd = efd;
	fd = run(skel->progs.list_targets, &info);
	close(efd);
	if (fd < 0)
		return -1;
	while ((n = read_some(fd, buf, sizeof(buf))) > 0)
		fwrite(buf, 1, n, stdout);
	close(fd);
	return n;
}

int main(int argc, char **argv)
{
	struct epoll_owners_bpf *skel;
	struct epoll_set *sets;
	bool children = false;
	int opt, status = 0;
	size_t nr;

	while ((opt = getopt(argc, argv, "c")) != -1) {
		if (opt != 'c')
			goto usage;
		children = true;
	}
	if (optind == argc)
		goto usage;
	for (; optind < argc; optind++) {
		int pid = atoi(argv[optind]);

		if (pid <= 0)
			goto usage;
		if (kill(pid, 0) && errno == ESRCH) {
			warn("process %d", pid);
			status = 1;
			continue;
		}
		add_pid(pid);
	}
	if (children)
		add_children();

	skel = epoll_owners_bpf__open();
	if (!skel)
		err(1, "cannot open the BPF programs");
	bpf_map__set_max_entries(skel->maps.owners, 2 * count_files() + 4096);
	if (epoll_owners_bpf__load(skel))
		err(1, "cannot load the BPF programs (root? module epoll_iter?)");

	sets = find_sets(skel, &nr);
	printf("%7s %5s %7s %8s %16s %7s:%-7s %s\n",
	       "PID", "EFD", "TFD", "EVENTS", "DATA", "OWNER", "FD", "FILE");
	for (size_t i = 0; i < nr; i++) {
		if (!show_targets(skel, &sets[i]))
			continue;
		warn("epoll set %d of %d", sets[i].efd, sets[i].pid);
		status = 1;
	}
	free(sets);
	epoll_owners_bpf__destroy(skel);
	if (ferror(stdout) | fclose(stdout))
		err(1, "standard output");
	return status;

usage:
	fprintf(stderr,
		"usage: epoll_owners [-c] PID...\n"
		"Shows the targets of the epoll sets of the processes, and which of the\n"
		"processes' descriptors have them; with -c, those of their children, too.\n");
	return 2;
}
