/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Lets allocations, and accesses to memory of the caller, fail one after the
 * other. They are counted from 1, and include those of the calls that select
 * one.
 */
#ifndef _EPOLL_FAULT_H
#define _EPOLL_FAULT_H

#include "epoll-helpers.h"

#define DEBUGFS	"/sys/kernel/debug/"

/* Returns why there is no fault injection here, or NULL and the descriptor. */
static inline const char *cannot_fail(int *fail_nth)
{
	static const char *const kinds[] = {
		"failslab", "fail_page_alloc", "fail_usercopy",
	};
	/* Allocations that may sleep fail, too, and no message is logged. */
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
			/*
			 * Every kind has the first file, not every kind has the
			 * others.
			 */
			if (ret && (ret != -ENOENT || !j))
				return "cannot prepare all of " DEBUGFS "fail*";
		}
	}

	return NULL;
}

/* Let the @n-th fail; 0 stands for none. */
static inline void fail_at(int fail_nth, unsigned int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", n);

	/*
	 * The access of this call may be the one that fails. No other will
	 * then.
	 */
	while (pwrite(fail_nth, text, len, 0) != len)
		if (errno != EFAULT)
			abort();
}

/* Whether one has failed. From then on, none does. */
static inline bool has_failed(int fail_nth)
{
	char text[16] = "";
	/* The access of this call may be the one that fails. */
	bool met = pread(fail_nth, text, sizeof(text) - 1, 0) > 0 && !atoi(text);

	fail_at(fail_nth, 0);

	return met;
}

#endif /* _EPOLL_FAULT_H */
