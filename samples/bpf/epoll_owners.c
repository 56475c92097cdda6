// SPDX-License-Identifier: GPL-2.0
/*
 * Which descriptors of some processes are the targets of their epoll instances?
 *
 * kcmp_epoll_client asks kcmp; this program joins two BPF iterators by open file, in
 * the kernel: see epoll_owners.bpf.c.  The iterator over an epoll instance takes
 * a descriptor of our own, so pidfd_getfd() makes one.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "epoll_owners.h"
#include "epoll_owners.skel.h"

static struct epoll_instance instances[4096];
static size_t nr_instances;

/* Creates an iterator, and returns a stream to read it from. */
static int run(struct bpf_program *prog, union bpf_iter_link_info *info)
{
	LIBBPF_OPTS(bpf_iter_attach_opts, opts,
		    .link_info = info, .link_info_len = sizeof(*info));
	struct bpf_link *link = bpf_program__attach_iter(prog, &opts);
	int fd;

	if (!link)
		return -1;
	fd = bpf_iter_create(bpf_link__fd(link));
	/* The open iterator keeps the link. */
	bpf_link__destroy(link);
	return fd;
}

/* Records the descriptors of a process, and its epoll instances. */
static void list_descriptors(struct epoll_owners_bpf *skel, int pid)
{
	union bpf_iter_link_info info = { .task.pid = pid };
	int fd = run(skel->progs.list_descriptors, &info);
	ssize_t n;

	if (fd < 0)
		err(1, "cannot list the descriptors of %d", pid);
	/* The kernel writes whole records. */
	while ((n = read(fd, instances + nr_instances,
			 sizeof(instances) - nr_instances * sizeof(*instances))) > 0)
		nr_instances += n / sizeof(*instances);
	if (n < 0)
		err(1, "cannot list the descriptors of %d", pid);
	close(fd);
}

/* Duplicates a descriptor of another process. */
static int get_fd(int pid, int fd)
{
	int pidfd = syscall(SYS_pidfd_open, pid, 0);
	int copy;

	if (pidfd < 0)
		return -1;
	copy = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	close(pidfd);
	return copy;
}

static int show_targets(struct epoll_owners_bpf *skel,
			const struct epoll_instance *instance)
{
	union bpf_iter_link_info info = {};
	static char buf[1 << 16];
	int efd, fd;
	ssize_t n;

	efd = get_fd(instance->pid, instance->efd);
	if (efd < 0)
		return -1;
	skel->bss->instance_pid = instance->pid;
	skel->bss->instance_efd = instance->efd;
	info.epoll.epoll_fd = efd;
	fd = run(skel->progs.list_targets, &info);
	close(efd);
	if (fd < 0)
		return -1;
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		fwrite(buf, 1, n, stdout);
	close(fd);
	return n;
}

int main(int argc, char **argv)
{
	struct epoll_owners_bpf *skel;
	int status = 0, i;

	if (argc < 2)
		errx(2, "usage: epoll_owners PID...");
	skel = epoll_owners_bpf__open_and_load();
	if (!skel)
		err(1, "cannot load the BPF programs (root? module epoll_iter?)");

	for (i = 1; i < argc; i++) {
		if (kill(atoi(argv[i]), 0) && errno == ESRCH) {
			warn("process %s", argv[i]);
			status = 1;
			continue;
		}
		list_descriptors(skel, atoi(argv[i]));
	}
	if (skel->bss->overflow)
		errx(1, "there are more open files than the map has room for");

	printf("%7s %5s %7s %8s %16s %7s:%-7s %s\n",
	       "PID", "EFD", "TFD", "EVENTS", "DATA", "OWNER", "FD", "FILE");
	for (i = 0; i < (int)nr_instances; i++) {
		if (!show_targets(skel, &instances[i]))
			continue;
		warn("epoll instance %d of %d", instances[i].efd, instances[i].pid);
		status = 1;
	}
	epoll_owners_bpf__destroy(skel);
	if (ferror(stdout) | fclose(stdout))
		err(1, "standard output");
	return status;
}
