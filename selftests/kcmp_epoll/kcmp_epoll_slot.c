// SPDX-License-Identifier: GPL-2.0
/* The slot in memory, and which of many targets it names. */
#include <stdatomic.h>

#include "kcmp_epoll_fixture.h"

static int ask_at(int fd, unsigned long addr)
{
	return kcmp(getpid(), getpid(), KCMP_EPOLL_TFD, fd, addr);
}

/* A page that is followed by one that cannot be read. */
static char *map_page(int next_prot)
{
	long page = sysconf(_SC_PAGESIZE);
	char *addr = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (addr != MAP_FAILED && mprotect(addr + page, page, next_prot))
		return MAP_FAILED;

	return addr;
}

TEST_F(kcmp_epoll, no_memory)
{
	long page = sysconf(_SC_PAGESIZE);
	char *addr = map_page(PROT_NONE);

	ASSERT_NE(MAP_FAILED, addr);

	EXPECT_EQ(-EFAULT, ask_at(self->fd, (unsigned long)addr + page));
	ASSERT_EQ(0, munmap(addr, 2 * page));
	EXPECT_EQ(-EFAULT, ask_at(self->fd, (unsigned long)addr));
	EXPECT_EQ(-EFAULT, ask_at(self->fd, (unsigned long)addr + page));
}

TEST_F(kcmp_epoll, bad_addresses)
{
	const unsigned long addrs[] = {
		0, 1, 12,
		/*
		 * The last bytes of the address space, and a slot that would
		 * wrap around.
		 */
		~0UL, ~0UL - 11, ~0UL - 12,
#ifdef __x86_64__
		/* The end of user space, and just before it. */
		0x00007ffffffff000, 0x00007ffffffffff8, 0x00007ffffffffffc,
		/* Non-canonical addresses. */
		0x0000800000000000, 0x8000000000000000, 0xffff7fffffffffff,
		/* Kernel addresses: direct map, text, fixmap, vsyscall page. */
		0xffff800000000000, 0xffff888000000000, 0xffffffff81000000,
		0xffffffffff5ff000, 0xffffffffff600000,
#endif
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(addrs); i++) {
		EXPECT_EQ(-EFAULT, ask_at(self->fd, addrs[i])) {
			TH_LOG("address %#lx", addrs[i]);
		}
	}
}

TEST_F(kcmp_epoll, read_only)
{
	struct kcmp_epoll_slot *slot = (void *)map_page(PROT_NONE);

	ASSERT_NE(MAP_FAILED, slot);
	*slot = (struct kcmp_epoll_slot){ .efd = self->efd, .tfd = TFD };
	ASSERT_EQ(0, mprotect(slot, sysconf(_SC_PAGESIZE), PROT_READ));

	EXPECT_EQ(0, ask_at(self->fd, (unsigned long)slot));
	EXPECT_EQ(kcmp_file_self(self->other, self->fd),
		  ask_at(self->other, (unsigned long)slot));
}

/* A slot may start at any byte, as long as its last one can be read. */
TEST_F(kcmp_epoll, page_end)
{
	struct kcmp_epoll_slot slot = { .efd = self->efd, .tfd = TFD };
	const int prots[] = { PROT_NONE, PROT_READ };
	long page = sysconf(_SC_PAGESIZE);
	int i, beyond;

	for (i = 0; i < ARRAY_SIZE(prots); i++) {
		char *addr = map_page(PROT_READ | PROT_WRITE);

		ASSERT_NE(MAP_FAILED, addr);
		for (beyond = -8; beyond <= (int)sizeof(slot); beyond++) {
			char *at = addr + page - sizeof(slot) + beyond;
			bool whole = beyond <= 0 || prots[i] == PROT_READ;

			ASSERT_EQ(0, mprotect(addr + page, page,
					      PROT_READ | PROT_WRITE));
			memcpy(at, &slot, sizeof(slot));
			ASSERT_EQ(0, mprotect(addr + page, page, prots[i]));

			EXPECT_EQ(whole ? 0 : -EFAULT,
				  ask_at(self->fd, (unsigned long)at)) {
				TH_LOG("%d bytes beyond", beyond);
			}
		}

		/* The same with nothing mapped after it. */
		ASSERT_EQ(0, munmap(addr + page, page));
		memcpy(addr + page - sizeof(slot), &slot, sizeof(slot));
		EXPECT_EQ(0, ask_at(self->fd, (unsigned long)addr + page -
					      sizeof(slot)));
		EXPECT_EQ(-EFAULT, ask_at(self->fd, (unsigned long)addr + page -
						    sizeof(slot) + 1));
	}
}

/* The slot has 12 bytes and is not written to. */
TEST_F(kcmp_epoll, layout)
{
	__u32 words[4] = { self->efd, TFD, 0, 0xffffffff };
	__u32 before[4];

	EXPECT_EQ(12, sizeof(struct kcmp_epoll_slot));

	memcpy(before, words, sizeof(words));
	EXPECT_EQ(0, ask_at(self->fd, (unsigned long)words));
	words[3] = 0;
	EXPECT_EQ(0, ask_at(self->fd, (unsigned long)words));
	words[3] = before[3];
	EXPECT_EQ(0, memcmp(before, words, sizeof(words)));
}

/* A closed descriptor names the target, as long as the file is open. */
TEST_F(kcmp_epoll, closed_number)
{
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(NO_FD, dup_as(fds[0], NO_FD));
	ASSERT_EQ(0, epoll_add(self->efd, fds[0], EPOLLIN, 0));

	close(fds[0]);
	EXPECT_EQ(0, kcmp_tfd_self(NO_FD, self->efd, fds[0], 0));
	EXPECT_EQ(-EBADF, kcmp_tfd_self(fds[0], self->efd, fds[0], 0));
}

/* A descriptor that was reused names the target that was added by it. */
TEST_F(kcmp_epoll, reused_number)
{
	ASSERT_EQ(TFD, dup_as(self->other, TFD));

	EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));
	EXPECT_EQ(kcmp_file_self(self->other, self->fd),
		  kcmp_tfd_self(TFD, self->efd, TFD, 0));
	EXPECT_NE(0, kcmp_tfd_self(TFD, self->efd, TFD, 0));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(TFD, self->efd, TFD, 1));
}

/* Added again for another file, the descriptor names both targets. */
TEST_F(kcmp_epoll, number_added_twice)
{
	int targets[2], toff;

	ASSERT_EQ(TFD, dup_as(self->other, TFD));
	ASSERT_EQ(0, epoll_add(self->efd, TFD, EPOLLIN, 0));
	/* One pair of file and descriptor can be added only once. */
	ASSERT_EQ(-EEXIST, epoll_add(self->efd, TFD, EPOLLIN, 0));

	if (!kcmp_tfd_self(self->fd, self->efd, TFD, 0)) {
		targets[0] = self->fd;
		targets[1] = self->other;
	} else {
		targets[0] = self->other;
		targets[1] = self->fd;
	}

	for (toff = 0; toff < 2; toff++) {
		EXPECT_EQ(0, kcmp_tfd_self(targets[toff], self->efd, TFD,
					   toff));
		EXPECT_EQ(kcmp_file_self(targets[!toff], targets[toff]),
			  kcmp_tfd_self(targets[!toff], self->efd, TFD, toff));
	}
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, TFD, 2));
}

/* One file that was added by several descriptors is several targets. */
TEST_F(kcmp_epoll, duplicated_descriptor)
{
	int dup1 = fcntl(self->fd, F_DUPFD_CLOEXEC, TFD + 1);
	int dup2 = fcntl(self->fd, F_DUPFD_CLOEXEC, TFD + 2);

	ASSERT_GT(dup1, TFD);
	ASSERT_GT(dup2, TFD);
	ASSERT_EQ(0, epoll_add(self->efd, dup1, EPOLLIN, 0));
	ASSERT_EQ(0, epoll_add(self->efd, dup2, EPOLLIN, 0));

	EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, dup1, 0));
	EXPECT_EQ(0, kcmp_tfd_self(dup1, self->efd, dup2, 0));
	EXPECT_EQ(0, kcmp_tfd_self(dup2, self->efd, dup1, 0));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(dup1, self->efd, dup1, 1));
}

TEST_F(kcmp_epoll, removed_target)
{
	ASSERT_EQ(0, add_as(self->efd, self->other, TFD + 1, EPOLLIN, 0));

	ASSERT_EQ(0, del_as(self->efd, self->fd, TFD));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, self->efd, TFD, 0));
	EXPECT_EQ(0, kcmp_tfd_self(self->other, self->efd, TFD + 1, 0));

	ASSERT_EQ(0, add_as(self->efd, self->fd, TFD, EPOLLIN, 0));
	EXPECT_EQ(0, kcmp_tfd_self(self->fd, self->efd, TFD, 0));
}

/* A target goes with the last reference to its file, and not earlier. */
TEST_F(kcmp_epoll, last_close)
{
	int dup = fcntl(self->fd, F_DUPFD_CLOEXEC, TFD + 1);

	ASSERT_GT(dup, TFD);

	close(self->fd);
	EXPECT_EQ(0, kcmp_tfd_self(dup, self->efd, TFD, 0));
	close(dup);
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->other, self->efd, TFD, 0));
}

/* More than a handler walks through without releasing the mutex. */
#define NR_MANY		1100
#define NR_NEXT		300

static int cmp_fds(const void *a, const void *b)
{
	switch (kcmp_file_self(*(const int *)a, *(const int *)b)) {
	case 0:
		return 0;
	case 1:
		return -1;
	default:
		return 1;
	}
}

/* Find a target among files sorted by KCMP_FILE, as CRIU does. */
static int find_sorted(const int *fds, int nr, int efd, int tfd, int toff)
{
	int low = 0, high = nr;

	while (low < high) {
		int mid = (low + high) / 2;
		int ret = kcmp_tfd_self(fds[mid], efd, tfd, toff);

		if (!ret)
			return mid;
		if (ret == 1)
			low = mid + 1;
		else if (ret == 2)
			high = mid;
		else
			return ret;
	}

	return -ESRCH;
}

struct many {
	int efd;
	/* Files as they were added, and as toff counts them. */
	int fds[NR_MANY];
	int order[NR_MANY];
};

/* Add NR_MANY targets with one tfd, and some with neighbouring tfds. */
static int make_many(struct many *many)
{
	int ret, i;

	ret = allow_fds(NR_MANY + 1000);
	if (ret)
		return ret;

	many->efd = epoll_create1(EPOLL_CLOEXEC);
	if (many->efd < 0)
		return -errno;

	/* Leave the low descriptors to other users. */
	for (i = 0; i < NR_MANY; i++) {
		int fd = eventfd(0, EFD_CLOEXEC);

		if (fd < 0)
			return -errno;
		many->fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, 1000);
		close(fd);
		if (many->fds[i] < 0)
			return -errno;

		ret = add_as(many->efd, many->fds[i], TFD, EPOLLIN, 0);
		if (!ret && i < NR_NEXT)
			ret = add_as(many->efd, many->fds[i], TFD - 1, EPOLLIN, 0);
		if (!ret && i < NR_NEXT)
			ret = add_as(many->efd, many->fds[i], TFD + 1, EPOLLIN, 0);
		if (ret)
			return ret;
	}

	return 0;
}

/* Find the file of each target. Returns whether each was found exactly once. */
static bool order_many(struct many *many)
{
	static bool seen[NR_MANY];
	static int sorted[NR_MANY];
	int toff, i;

	memcpy(sorted, many->fds, sizeof(sorted));
	qsort(sorted, NR_MANY, sizeof(*sorted), cmp_fds);

	for (toff = 0; toff < NR_MANY; toff++) {
		i = find_sorted(sorted, NR_MANY, many->efd, TFD, toff);
		if (i < 0 || seen[i])
			return false;
		seen[i] = true;
		many->order[toff] = sorted[i];
	}

	return true;
}

TEST_F(kcmp_epoll, many_with_one_number)
{
	static struct many many;
	int ret;

	ret = make_many(&many);
	if (ret == -EPERM)
		SKIP(return, "needs root to open %d files", NR_MANY);
	ASSERT_EQ(0, ret);

	EXPECT_TRUE(order_many(&many));

	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, many.efd, TFD, NR_MANY));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, many.efd, TFD, NR_MANY + 1));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, many.efd, TFD, ~0U));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, many.efd, TFD - 1, NR_NEXT));
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(self->fd, many.efd, TFD + 1, NR_NEXT));
	EXPECT_LE(0, kcmp_tfd_self(self->fd, many.efd, TFD - 1, NR_NEXT - 1));
	EXPECT_LE(0, kcmp_tfd_self(self->fd, many.efd, TFD + 1, NR_NEXT - 1));
}

/* A thread that removes targets and adds them again, one at a time. */
struct churn {
	const struct many *many;
	int (*step)(const struct many *many, unsigned int i);
	pthread_t thread;
	atomic_bool stop;
	atomic_int ret;
	atomic_uint steps;
};

static void *churn_fn(void *data)
{
	struct churn *churn = data;

	while (!churn->stop && !churn->ret) {
		churn->ret = churn->step(churn->many, churn->steps);
		churn->steps++;
	}

	return NULL;
}

static int churn_start(struct churn *churn)
{
	return pthread_create(&churn->thread, NULL, churn_fn, churn);
}

/* Returns 0 if the thread did so at least as often as requested. */
static int churn_stop(struct churn *churn, unsigned int steps)
{
	while (churn->steps < steps && !churn->ret)
		sleep_ms(1);
	churn->stop = true;
	pthread_join(churn->thread, NULL);

	return churn->ret;
}

#define CHURN_MS	1000

static int churn_neighbours(const struct many *many, unsigned int i)
{
	int num = i & 1 ? TFD - 1 : TFD + 1;
	int fd = many->fds[i % NR_NEXT];
	int ret;

	ret = del_as(many->efd, fd, num);

	return ret ? : add_as(many->efd, fd, num, EPOLLIN, 0);
}

/* Changes of targets with other tfds have no effect. */
TEST_F(kcmp_epoll, many_with_changing_neighbours)
{
	static struct many many;
	struct churn churn = { .many = &many, .step = churn_neighbours };
	const int toffs[] = {
		0, 1, 254, 255, 256, 257, 511, 512, 513, 767, 768, 769, 1000,
		NR_MANY - 1,
	};
	long long end;
	int ret, i;

	ret = make_many(&many);
	if (ret == -EPERM)
		SKIP(return, "needs root to open %d files", NR_MANY);
	ASSERT_EQ(0, ret);
	ASSERT_TRUE(order_many(&many));

	ASSERT_EQ(0, churn_start(&churn));
	for (end = now_ms() + CHURN_MS; now_ms() < end;) {
		for (i = 0; i < ARRAY_SIZE(toffs); i++) {
			ASSERT_EQ(0, kcmp_tfd_self(many.order[toffs[i]],
						   many.efd, TFD, toffs[i]));
		}
		ASSERT_EQ(-ENOENT, kcmp_tfd_self(self->fd, many.efd, TFD,
						 NR_MANY));
	}
	EXPECT_EQ(0, churn_stop(&churn, 2 * NR_NEXT));
}

/* Targets at which a handler may have released the mutex, and resumes. */
static const int going[] = { 255, 256, 511, 512 };

static int churn_going(const struct many *many, unsigned int i)
{
	int fd = many->order[going[i % ARRAY_SIZE(going)]];
	int ret;

	ret = del_as(many->efd, fd, TFD);

	return ret ? : add_as(many->efd, fd, TFD, EPOLLIN, 0);
}

/*
 * Targets before those that come and go keep their toff. Those after them move
 * up by at most as many as may be missing while each is passed; none is counted
 * twice.
 */
TEST_F(kcmp_epoll, many_with_entries_going)
{
	static struct many many;
	struct churn churn = { .many = &many, .step = churn_going };
	const int before[] = { 0, 100, 253, 254 };
	const int behind[] = { 514, 600, 767, 768, 769, 1000 };
	const int nr_going = ARRAY_SIZE(going);
	long long end;
	int ret, i, j;

	ret = make_many(&many);
	if (ret == -EPERM)
		SKIP(return, "needs root to open %d files", NR_MANY);
	ASSERT_EQ(0, ret);
	ASSERT_TRUE(order_many(&many));

	ASSERT_EQ(0, churn_start(&churn));
	for (end = now_ms() + CHURN_MS; now_ms() < end;) {
		for (i = 0; i < ARRAY_SIZE(before); i++) {
			ASSERT_EQ(0, kcmp_tfd_self(many.order[before[i]],
						   many.efd, TFD, before[i]));
		}
		for (i = 0; i < ARRAY_SIZE(behind); i++) {
			for (j = -1; j <= nr_going + 1; j++) {
				ret = kcmp_tfd_self(many.order[behind[i] + j],
						    many.efd, TFD, behind[i]);
				ASSERT_GE(ret, 0);
				if (j < 0 || j > nr_going)
					ASSERT_NE(0, ret);
			}
		}
		ASSERT_EQ(-ENOENT, kcmp_tfd_self(self->fd, many.efd, TFD,
						 NR_MANY));
	}
	EXPECT_EQ(0, churn_stop(&churn, 2 * NR_NEXT));
	EXPECT_EQ(0, kcmp_tfd_self(many.order[600], many.efd, TFD, 600));
}

TEST_HARNESS_MAIN
