// SPDX-License-Identifier: GPL-2.0
/* Two modules with the same target are told apart. */
#include "epoll_iter.h"
#include "epoll_iter_twin.skel.h"

#include <bpf/btf.h>

#define NR_TWINS	2

static const char *const names[NR_TWINS] = {
	"bpf_iter_twin_1", "bpf_iter_twin_2",
};

FIXTURE(twins)
{
	struct epoll_iter_twin *skel;
};

/* A lookup by ids alone finds the one that was loaded first. */
FIXTURE_VARIANT(twins)
{
	int first;
};

FIXTURE_VARIANT_ADD(twins, one_first) {
	.first = 0,
};

FIXTURE_VARIANT_ADD(twins, two_first) {
	.first = 1,
};

static int load(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "twins/%s.ko", name);

	return load_file(path);
}

FIXTURE_SETUP(twins)
{
	int i, ret;

	libbpf_set_print(NULL);
	if (geteuid())
		SKIP(return, "needs root");
	for (i = 0; i < NR_TWINS; i++) {
		ret = load(names[i ^ variant->first]);
		if (ret == -ENOENT)
			SKIP(return, "twins/ was not built");
		ASSERT_EQ(0, ret);
	}
	self->skel = epoll_iter_twin__open();
	ASSERT_NE(NULL, self->skel);
	bpf_program__set_autoload(self->skel->progs.one, true);
	bpf_program__set_autoload(self->skel->progs.two, true);
	ASSERT_EQ(0, epoll_iter_twin__load(self->skel));
}

FIXTURE_TEARDOWN(twins)
{
	int i;

	epoll_iter_twin__destroy(self->skel);
	close_range(STDERR_FILENO + 1, ~0U, 0);
	for (i = 0; i < NR_TWINS; i++)
		EXPECT_EQ(0, unload(names[i]));
}

static __u32 id_of_target(const char *name)
{
	struct btf *vmlinux = btf__load_vmlinux_btf();
	struct btf *btf = btf__load_module_btf(name, vmlinux);
	int id = btf ? btf__find_by_name_kind(btf, "bpf_iter_twin",
					      BTF_KIND_FUNC) : 0;

	btf__free(btf);
	btf__free(vmlinux);

	return id > 0 ? id : 0;
}

/* The number that the target shows, or a negative errno. */
static long long number(int link)
{
	int iter = bpf_iter_create(link);
	__u64 number;
	ssize_t len;

	if (iter < 0)
		return iter;
	len = read(iter, &number, sizeof(number));
	close(iter);

	return len == sizeof(number) ? number : -EIO;
}

TEST_F(twins, told_apart)
{
	int one = bpf_program__fd(self->skel->progs.one);
	int two = bpf_program__fd(self->skel->progs.two);
	int links[NR_TWINS];

	/* Otherwise there is nothing to tell apart. */
	ASSERT_NE(0, id_of_target(names[0]));
	ASSERT_EQ(id_of_target(names[0]), id_of_target(names[1]));

	links[0] = bpf_link_create(one, 0, BPF_TRACE_ITER, NULL);
	ASSERT_GE(links[0], 0);
	links[1] = bpf_link_create(two, 0, BPF_TRACE_ITER, NULL);
	ASSERT_GE(links[1], 0);
	EXPECT_EQ(1, number(links[0]));
	EXPECT_EQ(2, number(links[1]));

	/* Nor does a link for one accept a program for the other. */
	EXPECT_EQ(-EINVAL, bpf_link_update(links[0], two, NULL));
	EXPECT_EQ(-EINVAL, bpf_link_update(links[1], one, NULL));
	EXPECT_EQ(0, bpf_link_update(links[0], one, NULL));
	EXPECT_EQ(1, number(links[0]));
}

/* Each program keeps its own module, and not the other one. */
TEST_F(twins, kept_apart)
{
	int i, fds[NR_TWINS];

	for (i = 0; i < NR_TWINS; i++)
		EXPECT_EQ(-EAGAIN, try_unload(names[i]));

	fds[0] = dup(bpf_program__fd(self->skel->progs.one));
	fds[1] = dup(bpf_program__fd(self->skel->progs.two));
	epoll_iter_twin__destroy(self->skel);
	self->skel = NULL;

	close(fds[variant->first]);
	EXPECT_EQ(0, unload(names[variant->first]));
	EXPECT_EQ(-EAGAIN, try_unload(names[!variant->first]));
	EXPECT_EQ(0, load(names[variant->first]));
}

TEST_HARNESS_MAIN
