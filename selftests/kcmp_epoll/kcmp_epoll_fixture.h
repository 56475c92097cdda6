/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fixture that runs each test with the C handler and with the Rust module.
 */
#ifndef _KCMP_EPOLL_FIXTURE_H
#define _KCMP_EPOLL_FIXTURE_H

#include "kcmp_epoll.h"
#include "kselftest_harness.h"

FIXTURE(kcmp_epoll)
{
	/*
	 * An epoll instance with one target: the file of @fd, added as TFD,
	 * closed now.
	 */
	int efd;
	int fd;
	/* A file that is not in an epoll instance. */
	int other;
};

FIXTURE_VARIANT(kcmp_epoll)
{
	bool rust;
};

FIXTURE_VARIANT_ADD(kcmp_epoll, c) {
	.rust = false,
};

FIXTURE_VARIANT_ADD(kcmp_epoll, rust) {
	.rust = true,
};

FIXTURE_SETUP(kcmp_epoll)
{
	char why[128];

	if (!use_module(variant->rust, why, sizeof(why)))
		SKIP(return, "%s", why);

	self->efd = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_GE(self->efd, 0);
	self->fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	self->other = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(self->other, 0);
	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));
}

FIXTURE_TEARDOWN(kcmp_epoll)
{
	/* The handler must not have changed during the test. */
	EXPECT_EQ(variant->rust, module_loaded());
}

#endif /* _KCMP_EPOLL_FIXTURE_H */
