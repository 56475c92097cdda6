/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of the BPF iterator over epoll instances share. */
#ifndef _EPOLL_ITER_H
#define _EPOLL_ITER_H

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mount.h>

#define MODULE		"epoll_iter"
#define MODULE_KO	"EPOLL_ITER_KO"

#include "epoll-helpers.h"
#include "epoll-hold.h"
#include "epoll-module.h"
#include "epoll-process.h"
#include "epoll_iter_record.h"
#include "kselftest_harness.h"

/*
 * Each test loads and unloads a module and programs, and so waits for grace
 * periods: seconds on a busy machine with a debug kernel.
 */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	120
#define LONG_TIMEOUT		600

/* Load the module, or return why it cannot be loaded. */
static inline bool have_module(char *why, size_t len)
{
	libbpf_set_print(NULL);
	if (geteuid()) {
		snprintf(why, len, "needs root");
		return false;
	}
	if (access("/sys/kernel/btf/vmlinux", R_OK)) {
		snprintf(why, len, "this kernel has no BTF");
		return false;
	}

	return use_module(true, why, len);
}

/*
 * After a test, nothing but its descriptors uses the module, which can be
 * unloaded once they are closed.
 */
static inline int end_module(void)
{
	close_range(STDERR_FILENO + 1, ~0U, 0);

	return module_loaded() ? unload(MODULE) : -ENOENT;
}

/*
 * Creates a link for the epoll instance @efd. Returns a descriptor or -errno.
 */
static inline int attach(struct bpf_program *prog, int efd)
{
	union bpf_iter_link_info info = { .epoll.epoll_fd = efd };
	struct bpf_link_create_opts opts = {
		.sz = sizeof(opts),
		.iter_info = &info,
		.iter_info_len = sizeof(info),
	};

	return bpf_link_create(bpf_program__fd(prog), 0, BPF_TRACE_ITER, &opts);
}

/* Creates an iterator, and closes its link. */
static inline int open_iter(struct bpf_program *prog, int efd)
{
	int iter, link = attach(prog, efd);

	if (link < 0)
		return link;

	iter = bpf_iter_create(link);
	close(link);

	return iter;
}

/* Reads until the end, @step bytes at a time. The caller frees the result. */
static inline ssize_t read_all(int fd, size_t step, char **bytes)
{
	size_t size = 0, len = 0;
	ssize_t ret;

	*bytes = NULL;
	do {
		if (size - len < step) {
			char *more;

			size = 2 * size + step;
			more = realloc(*bytes, size);
			if (!more)
				return -ENOMEM;
			*bytes = more;
		}
		ret = read(fd, *bytes + len, step);
		if (ret < 0)
			return -errno;
		len += ret;
	} while (ret);

	return len;
}

/*
 * The records of a pass that reads @step bytes at a time; the caller frees
 * them. Returns how many there are, with that of the end, or a negative errno.
 */
static inline ssize_t read_records(int fd, size_t step, struct record **records)
{
	ssize_t ret = read_all(fd, step, (char **)records);

	if (ret < 0)
		return ret;

	return ret % sizeof(**records) ? -EBADMSG : ret / sizeof(**records);
}

/*
 * Checks what holds for each pass: the numbers of records have no gaps; keys
 * ascend, so that no target is shown twice; the last record, and no other, is
 * that of the end. It is not counted: it has the number of the last target,
 * unless one more target existed when that was shown. Returns how many targets
 * there are, or -1 - the index of the record that is wrong.
 */
static inline ssize_t check_pass(const struct record *r, ssize_t nr)
{
	ssize_t i;

	if (nr < 1)
		return -1;

	for (i = 0; i < nr; i++) {
		if ((r[i].seq_num != i && !(r[i].end && r[i].seq_num + 1 == i)) ||
		    r[i].session_id != r[0].session_id || !r[i].ep ||
		    r[i].ep != r[0].ep ||
		    r[i].end != (i == nr - 1))
			return -1 - i;
		if (r[i].end)
			break;
		if (!r[i].file || !r[i].same_ep)
			return -1 - i;
		if (i && (r[i].fd < r[i - 1].fd ||
			  (r[i].fd == r[i - 1].fd &&
			   r[i].file <= r[i - 1].file)))
			return -1 - i;
	}

	return nr - 1;
}

/*
 * A whole pass over @efd. Returns as check_pass(), or -errno, which is lower.
 */
static inline ssize_t pass(struct bpf_program *prog, int efd, size_t step,
			   struct record **records)
{
	int iter = open_iter(prog, efd);
	ssize_t nr;

	*records = NULL;
	if (iter < 0)
		return iter;

	nr = read_records(iter, step, records);
	close(iter);

	return nr < 0 ? nr : check_pass(*records, nr);
}

/*
 * Adds @nr new files with data from @data on: by descriptors from @num on if
 * @step is 1, or all by @num if it is 0. They stay open as other descriptors,
 * which are stored to @fds.
 */
static inline int add_files(int efd, int *fds, int nr, int num, int step,
			    __u64 data)
{
	int i, ret;

	for (i = 0; i < nr; i++) {
		fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (fds[i] < 0)
			return -errno;
		ret = add_as(efd, fds[i], num + i * step, EPOLLIN, data + i);
		if (ret)
			return ret;
	}

	return 0;
}

static inline void close_files(const int *fds, int nr)
{
	while (nr--)
		close(fds[nr]);
}

#endif /* _EPOLL_ITER_H */
