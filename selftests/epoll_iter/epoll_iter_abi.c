// SPDX-License-Identifier: GPL-2.0
/* Which descriptors a link is created for, what it shows, and what it keeps. */
#include "epoll_iter.h"
#include "epoll_iter.skel.h"
#include "epoll_iter_ext.skel.h"
#include "epoll_iter_named.skel.h"

#define BPFFS	"/tmp/epoll_iter_bpffs"

FIXTURE(epoll_iter)
{
	struct epoll_iter *skel;
	int efd;
	int fd;
};

FIXTURE_SETUP(epoll_iter)
{
	char why[128];

	if (!have_module(why, sizeof(why)))
		SKIP(return, "%s", why);

	self->efd = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_GE(self->efd, 0);
	self->fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, TFD));

	self->skel = epoll_iter__open_and_load();
	ASSERT_NE(NULL, self->skel);
}

FIXTURE_TEARDOWN(epoll_iter)
{
	epoll_iter__destroy(self->skel);
	EXPECT_EQ(0, end_module());
}

/* One target, then the end. */
static int is_right(int iter)
{
	struct record *r = NULL;
	ssize_t nr = read_records(iter, 65536, &r);
	int ret;

	if (nr >= 0)
		nr = check_pass(r, nr);
	ret = nr < 0 ? nr : nr == 1 && r[0].fd == TFD && r[0].data == TFD;
	free(r);

	return ret;
}

TEST_F(epoll_iter, not_open)
{
	EXPECT_EQ(-EBADF, attach(self->skel->progs.records, NO_FD));
	EXPECT_EQ(-EBADF, attach(self->skel->progs.records, -1));
}

/* An O_PATH descriptor counts as open, as for kcmp(). */
TEST_F(epoll_iter, path_only)
{
	int fd = open("/tmp", O_PATH | O_CLOEXEC);

	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EOPNOTSUPP, attach(self->skel->progs.records, fd));
}

TEST_F(epoll_iter, not_epoll)
{
	int fds[2];

	EXPECT_EQ(-EOPNOTSUPP, attach(self->skel->progs.records, self->fd));
	ASSERT_EQ(0, pipe(fds));
	EXPECT_EQ(-EOPNOTSUPP, attach(self->skel->progs.records, fds[0]));
	EXPECT_EQ(-EOPNOTSUPP, attach(self->skel->progs.sleepable_records,
				      fds[1]));
}

/* No descriptor does not mean descriptor 0, and descriptor 0 is refused. */
TEST_F(epoll_iter, no_info)
{
	int prog = bpf_program__fd(self->skel->progs.records);

	ASSERT_EQ(0, dup2(self->efd, 0));
	EXPECT_EQ(-EBADF, bpf_link_create(prog, 0, BPF_TRACE_ITER, NULL));
	EXPECT_EQ(-EBADF, attach(self->skel->progs.records, 0));
}

TEST_F(epoll_iter, length_of_info)
{
	struct {
		union bpf_iter_link_info info;
		__u32 more[2];
	} longer = { .info.epoll.epoll_fd = self->efd };
	LIBBPF_OPTS(bpf_link_create_opts, opts, .iter_info = &longer.info);
	int prog = bpf_program__fd(self->skel->progs.records), ret;

	EXPECT_EQ(-EINVAL, bpf_link_create(prog, 0, BPF_TRACE_ITER, &opts));

	/* The size of all that is known. */
	opts.iter_info_len = sizeof(__u32);
	ret = bpf_link_create(prog, 0, BPF_TRACE_ITER, &opts);
	EXPECT_GE(ret, 0);
	/* A longer struct with zeroes in the rest, as of a newer program. */
	opts.iter_info_len = sizeof(longer);
	ret = bpf_link_create(prog, 0, BPF_TRACE_ITER, &opts);
	EXPECT_GE(ret, 0);
	longer.more[1] = 1;
	EXPECT_EQ(-E2BIG, bpf_link_create(prog, 0, BPF_TRACE_ITER, &opts));

	opts.iter_info = NULL;
	EXPECT_EQ(-EINVAL, bpf_link_create(prog, 0, BPF_TRACE_ITER, &opts));
	opts.iter_info = (void *)1;
	EXPECT_EQ(-EFAULT, bpf_link_create(prog, 0, BPF_TRACE_ITER, &opts));
}

/* Failed attempts leak neither a file nor the module. */
TEST_F(epoll_iter, failures_keep_nothing)
{
	struct pollfd pfd = { .events = POLLIN };
	int refs = module_refs(), fds[2], i;

	ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
	for (i = 0; i < 100; i++) {
		ASSERT_EQ(-EOPNOTSUPP, attach(self->skel->progs.records, fds[1]));
		ASSERT_EQ(-EBADF, attach(self->skel->progs.records, NO_FD));
	}
	EXPECT_EQ(refs, module_refs());

	ASSERT_EQ(0, close(fds[1]));
	pfd.fd = fds[0];
	EXPECT_EQ(1, poll(&pfd, 1, PATIENCE_MS));
	EXPECT_EQ(POLLHUP, pfd.revents);
}

/* The smallest program for our target, with the BTF ids of a loaded one. */
static int load_least(int btf, __u32 btf_id)
{
	/* r0 = 0; exit */
	struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	LIBBPF_OPTS(bpf_prog_load_opts, opts,
		    .expected_attach_type = BPF_TRACE_ITER,
		    .attach_btf_obj_fd = btf, .attach_btf_id = btf_id);

	return bpf_prog_load(BPF_PROG_TYPE_TRACING, "least", "GPL", insns,
			     ARRAY_SIZE(insns), &opts);
}

/* Loading such programs takes CAP_BPF and CAP_PERFMON. */
TEST_F(epoll_iter, unprivileged)
{
	struct bpf_prog_info info = {};
	__u32 len = sizeof(info);
	int btf, prog;
	pid_t pid;

	ASSERT_EQ(0, bpf_prog_get_info_by_fd(bpf_program__fd(self->skel->progs.records),
					     &info, &len));
	btf = bpf_btf_get_fd_by_id(info.attach_btf_obj_id);
	ASSERT_GE(btf, 0);
	prog = load_least(btf, info.attach_btf_id);
	EXPECT_GE(prog, 0);
	close(prog);

	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (become(UID_A))
			_exit(1);
		prog = load_least(btf, info.attach_btf_id);
		_exit(prog < 0 ? -prog : 0);
	}
	EXPECT_EQ(EPERM, wait_exit(pid));
}

TEST_F(epoll_iter, link_says_which_set)
{
	int other = epoll_create1(EPOLL_CLOEXEC), link, other_link;
	int again = dup(self->efd);
	char target[16] = "";
	struct bpf_link_info info = {
		.iter.target_name = (unsigned long)target,
		.iter.target_name_len = sizeof(target),
	};
	__u32 len = sizeof(info);

	ASSERT_GE(other, 0);
	ASSERT_GE(again, 0);
	link = attach(self->skel->progs.records, again);
	ASSERT_GE(link, 0);
	other_link = attach(self->skel->progs.records, other);
	ASSERT_GE(other_link, 0);

	ASSERT_LT(0, fdinfo_of(self->efd, "\nepoll-id:"));
	EXPECT_EQ(fdinfo_of(self->efd, "\nepoll-id:"),
		  fdinfo_of(again, "\nepoll-id:"));
	EXPECT_NE(fdinfo_of(self->efd, "\nepoll-id:"),
		  fdinfo_of(other, "\nepoll-id:"));
	EXPECT_EQ(fdinfo_of(self->efd, "\nepoll-id:"),
		  fdinfo_of(link, "\nepoll-id:\t"));
	EXPECT_EQ(fdinfo_of(other, "\nepoll-id:"),
		  fdinfo_of(other_link, "\nepoll-id:\t"));

	ASSERT_EQ(0, bpf_link_get_info_by_fd(link, &info, &len));
	EXPECT_EQ(BPF_LINK_TYPE_ITER, info.type);
	EXPECT_STREQ("epoll", target);
	EXPECT_EQ(fdinfo_of(self->efd, "\nepoll-id:"), info.iter.epoll.epoll_id);

	/* The buffer for the name is optional. */
	memset(&info, 0, sizeof(info));
	len = sizeof(info);
	ASSERT_EQ(0, bpf_link_get_info_by_fd(other_link, &info, &len));
	EXPECT_EQ(sizeof("epoll"), info.iter.target_name_len);
	EXPECT_EQ(fdinfo_of(other, "\nepoll-id:"), info.iter.epoll.epoll_id);
}

static long long id_of_new_set(void)
{
	int efd = epoll_create1(EPOLL_CLOEXEC);
	long long id = fdinfo_of(efd, "\nepoll-id:");

	close(efd);

	return id;
}

/* Ids are not given again. */
TEST_F(epoll_iter, ids_are_new)
{
	long long ids[100];
	int i, j;

	for (i = 0; i < 100; i++) {
		ids[i] = id_of_new_set();
		ASSERT_GT(ids[i], 0);
		for (j = 0; j < i; j++)
			ASSERT_NE(ids[j], ids[i]);
	}
}

static int run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);

	return sched_setaffinity(0, sizeof(set), &set) ? -errno : 0;
}

/* Nor do they count: each processor has a range of its own. */
TEST_F(epoll_iter, ids_do_not_count)
{
	/* COOKIE_LOCAL_BATCH in the kernel */
	const long long range = 4096;
	long long ids[2];
	int cpu;

	for (cpu = 0; cpu < 2; cpu++) {
		if (run_on(cpu))
			SKIP(return, "needs two processors");
		ids[cpu] = id_of_new_set();
		ASSERT_GT(ids[cpu], 0);
	}
	EXPECT_NE((ids[0] - 1) / range, (ids[1] - 1) / range);
}

/* A link has the instance as such, not its descriptor. */
TEST_F(epoll_iter, set_is_closed)
{
	long long id = fdinfo_of(self->efd, "\nepoll-id:");
	int link, iter, later;

	link = attach(self->skel->progs.records, self->efd);
	ASSERT_GE(link, 0);
	iter = bpf_iter_create(link);
	ASSERT_GE(iter, 0);
	close(self->efd);
	/* That descriptor refers to another file now. */
	ASSERT_EQ(self->efd, dup2(self->fd, self->efd));

	EXPECT_EQ(1, is_right(iter));
	later = bpf_iter_create(link);
	ASSERT_GE(later, 0);
	EXPECT_EQ(1, is_right(later));
	close(later);
	EXPECT_EQ(id, fdinfo_of(link, "\nepoll-id:\t"));

	/* An iterator does not need the link. */
	later = bpf_iter_create(link);
	ASSERT_GE(later, 0);
	close(link);
	EXPECT_EQ(1, is_right(later));
}

/* Closing the target's last descriptor removes it, though there is a link. */
TEST_F(epoll_iter, target_is_closed)
{
	struct record *r;
	int link, iter;
	ssize_t nr;

	link = attach(self->skel->progs.records, self->efd);
	ASSERT_GE(link, 0);
	close(self->fd);
	iter = bpf_iter_create(link);
	ASSERT_GE(iter, 0);
	nr = read_records(iter, 4096, &r);
	ASSERT_EQ(1, nr);
	EXPECT_EQ(0, check_pass(r, nr));
}

TEST_F(epoll_iter, update)
{
	LIBBPF_OPTS(bpf_link_update_opts, opts);
	int records = bpf_program__fd(self->skel->progs.records);
	int text = bpf_program__fd(self->skel->progs.text);
	int other = bpf_program__fd(self->skel->progs.other_target);
	int link, before, after;
	char *bytes;
	ssize_t len;

	link = attach(self->skel->progs.records, self->efd);
	ASSERT_GE(link, 0);
	before = bpf_iter_create(link);
	ASSERT_GE(before, 0);

	opts.old_prog_fd = text;
	opts.flags = BPF_F_REPLACE;
	EXPECT_EQ(-EPERM, bpf_link_update(link, text, &opts));
	opts.old_prog_fd = records;
	EXPECT_EQ(-EINVAL, bpf_link_update(link, other, &opts));
	ASSERT_EQ(0, bpf_link_update(link, text, &opts));

	after = bpf_iter_create(link);
	ASSERT_GE(after, 0);
	/* What is open stays as it is. */
	EXPECT_EQ(1, is_right(before));
	len = read_all(after, 4096, &bytes);
	ASSERT_GT(len, 0);
	bytes[len - 1] = '\0';
	EXPECT_STREQ("0: tfd 702 events 19 data 2be\nend", bytes);
}

/* -EAGAIN: the module is in use, as modprobe -r says. */

TEST_F(epoll_iter, program_keeps_module)
{
	EXPECT_LT(0, module_refs());
	EXPECT_EQ(-EAGAIN, try_unload(MODULE));

	epoll_iter__destroy(self->skel);
	self->skel = NULL;
	EXPECT_EQ(0, unload(MODULE));
	EXPECT_EQ(0, module_load());
}

TEST_F(epoll_iter, link_keeps_module)
{
	int link = attach(self->skel->progs.records, self->efd), iter;

	ASSERT_GE(link, 0);
	epoll_iter__destroy(self->skel);
	self->skel = NULL;
	sleep_ms(A_WHILE_MS);
	EXPECT_EQ(-EAGAIN, try_unload(MODULE));

	/* And it still works. */
	iter = bpf_iter_create(link);
	ASSERT_GE(iter, 0);
	EXPECT_EQ(1, is_right(iter));
	close(iter);

	close(link);
	EXPECT_EQ(0, unload(MODULE));
	EXPECT_EQ(0, module_load());
}

TEST_F(epoll_iter, iterator_keeps_module)
{
	int iter = open_iter(self->skel->progs.records, self->efd);
	struct record r;

	ASSERT_GE(iter, 0);
	epoll_iter__destroy(self->skel);
	self->skel = NULL;
	sleep_ms(A_WHILE_MS);
	EXPECT_EQ(-EAGAIN, try_unload(MODULE));
	ASSERT_EQ(sizeof(r), read(iter, &r, sizeof(r)));
	EXPECT_EQ(TFD, r.fd);
	EXPECT_EQ(-EAGAIN, try_unload(MODULE));
	ASSERT_EQ(sizeof(r), read(iter, &r, sizeof(r)));
	EXPECT_EQ(1, r.end);
	EXPECT_EQ(0, read(iter, &r, sizeof(r)));
	EXPECT_EQ(-EAGAIN, try_unload(MODULE));

	close(iter);
	EXPECT_EQ(0, unload(MODULE));
	EXPECT_EQ(0, module_load());
}

/* Opening a pinned link creates an iterator. */
TEST_F(epoll_iter, pin_keeps_module)
{
	int link = attach(self->skel->progs.records, self->efd), iter;

	ASSERT_GE(link, 0);
	ASSERT_FALSE(mkdir(BPFFS, 0700) && errno != EEXIST);
	ASSERT_EQ(0, mount("bpf", BPFFS, "bpf", 0, NULL));
	ASSERT_EQ(0, bpf_obj_pin(link, BPFFS "/set"));
	close(link);
	epoll_iter__destroy(self->skel);
	self->skel = NULL;
	sleep_ms(A_WHILE_MS);
	EXPECT_EQ(-EAGAIN, try_unload(MODULE));

	iter = open(BPFFS "/set", O_RDONLY | O_CLOEXEC);
	ASSERT_GE(iter, 0);
	EXPECT_EQ(1, is_right(iter));
	close(iter);

	EXPECT_EQ(0, unlink(BPFFS "/set"));
	EXPECT_EQ(0, unload(MODULE));
	EXPECT_EQ(0, module_load());
	EXPECT_EQ(0, umount(BPFFS));
	rmdir(BPFFS);
}

/*
 * A program for a target has a function that is named as what programs for it
 * attach to. One that replaces that function is not taken for one of them, and the
 * target is found afterwards.
 */
TEST_F(epoll_iter, function_named_as_a_target)
{
	struct epoll_iter_named *named = epoll_iter_named__open_and_load();
	struct epoll_iter_ext *ext = epoll_iter_ext__open();
	int prog, link;

	ASSERT_NE(NULL, named);
	ASSERT_NE(NULL, ext);
	prog = bpf_program__fd(named->progs.named);
	ASSERT_EQ(0, bpf_program__set_attach_target(ext->progs.replace, prog,
						    "bpf_iter_task"));
	EXPECT_EQ(-EINVAL, epoll_iter_ext__load(ext));
	link = bpf_link_create(prog, 0, BPF_TRACE_ITER, NULL);
	EXPECT_GE(link, 0);
	close(link);
	epoll_iter_ext__destroy(ext);
	epoll_iter_named__destroy(named);
}

/* Without the module there is nothing of that name, nor did it leave anything. */
TEST_F(epoll_iter, absent)
{
	struct epoll_iter *skel;

	epoll_iter__destroy(self->skel);
	self->skel = NULL;
	ASSERT_EQ(0, unload(MODULE));

	skel = epoll_iter__open();
	ASSERT_NE(NULL, skel);
	EXPECT_EQ(-ESRCH, epoll_iter__load(skel));
	epoll_iter__destroy(skel);

	ASSERT_EQ(0, module_load());
	self->skel = epoll_iter__open_and_load();
	ASSERT_NE(NULL, self->skel);
	EXPECT_EQ(1, is_right(open_iter(self->skel->progs.records, self->efd)));
}

/* Loads and unloads the module, with and without a user in between. */
TEST_F_TIMEOUT(epoll_iter, reload, LONG_TIMEOUT)
{
	const char *text = getenv("KCMP_EPOLL_RELOADS");
	/* Fewer than without programs to load. */
	int i, link, iter, nr = 5 + (text ? atoi(text) / 20 : 0);

	for (i = 0; i < nr; i++) {
		link = attach(self->skel->progs.records, self->efd);
		ASSERT_GE(link, 0);
		ASSERT_EQ(-EAGAIN, try_unload(MODULE));
		if (i & 1) {
			iter = bpf_iter_create(link);
			ASSERT_GE(iter, 0);
			ASSERT_EQ(1, is_right(iter));
			close(iter);
		}
		close(link);
		epoll_iter__destroy(self->skel);
		self->skel = NULL;
		ASSERT_EQ(0, unload(MODULE));
		ASSERT_EQ(0, module_load());
		self->skel = epoll_iter__open_and_load();
		ASSERT_NE(NULL, self->skel);
	}
}

TEST_HARNESS_MAIN
