// SPDX-License-Identifier: GPL-2.0
/* The order of files in the answers, of toff, and of fdinfo. */
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#include "kcmp_epoll_fixture.h"

#define NR_FILES	48

static int open_some(int i)
{
	sigset_t none;
	int fds[2];

	switch (i % 6) {
	case 0:
		return eventfd(0, EFD_CLOEXEC);
	case 1:
		return epoll_create1(EPOLL_CLOEXEC);
	case 2:
		return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	case 3:
		sigemptyset(&none);
		return signalfd(-1, &none, SFD_CLOEXEC);
	case 4:
		return pipe2(fds, O_CLOEXEC) ? -1 : fds[i / 6 % 2];
	default:
		return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	}
}

/*
 * The answers about all pairs of files agree with KCMP_FILE, and are an order.
 */
TEST_F(kcmp_epoll, total_order)
{
	static int fds[NR_FILES], cmp[NR_FILES][NR_FILES];
	int i, j, k;

	for (i = 0; i < NR_FILES; i++) {
		fds[i] = open_some(i);
		ASSERT_GE(fds[i], 0);
		ASSERT_EQ(0, add_as(self->efd, fds[i], TFD + 1 + i, EPOLLIN, 0));
	}

	for (i = 0; i < NR_FILES; i++) {
		for (j = 0; j < NR_FILES; j++) {
			cmp[i][j] = kcmp_tfd_self(fds[i], self->efd,
						  TFD + 1 + j, 0);
			ASSERT_GE(cmp[i][j], 0);
			ASSERT_LE(cmp[i][j], 2);
			ASSERT_EQ(kcmp_file_self(fds[i], fds[j]), cmp[i][j]);
		}
	}

	for (i = 0; i < NR_FILES; i++) {
		ASSERT_EQ(0, cmp[i][i]);
		for (j = 0; j < i; j++) {
			ASSERT_NE(0, cmp[i][j]);
			ASSERT_EQ(3, cmp[i][j] + cmp[j][i]);
		}
	}

	for (i = 0; i < NR_FILES; i++) {
		for (j = 0; j < NR_FILES; j++) {
			for (k = 0; k < NR_FILES; k++) {
				if (cmp[i][j] != 1 || cmp[j][k] != 1)
					continue;
				ASSERT_EQ(1, cmp[i][k]);
			}
		}
	}
}

/* Files that epoll cannot watch are ordered among those that it can. */
TEST_F(kcmp_epoll, unwatchable_files)
{
	int fds[] = {
		open("/", O_RDONLY | O_DIRECTORY), open("/", O_PATH),
		open("/dev/null", O_RDWR), open("/proc/self/exe", O_RDONLY),
		memfd_create("kcmp_epoll", 0), self->efd,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(fds); i++) {
		int ret = kcmp_tfd_self(fds[i], self->efd, TFD, 0);

		ASSERT_GE(fds[i], 0);
		EXPECT_TRUE(ret == 1 || ret == 2);
		EXPECT_EQ(kcmp_file_self(fds[i], self->fd), ret);
	}
}

/* Another process gets the same answers. */
TEST_F(kcmp_epoll, same_for_all_callers)
{
	int cmp = kcmp_tfd_self(self->other, self->efd, TFD, 0);
	pid_t me = getpid(), pid;

	ASSERT_GT(cmp, 0);

	pid = fork_bound();
	ASSERT_GE(pid, 0);
	if (!pid) {
		EXPECT_EQ(cmp, kcmp_tfd(me, self->other, me, self->efd, TFD,
					0));
		EXPECT_EQ(cmp, kcmp_tfd_self(self->other, self->efd, TFD, 0));
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
}

/*
 * The index of the file that is target (@tfd, @toff); -1 if there is not
 * exactly one.
 */
static int which(const int *fds, int nr, int efd, int tfd, int toff)
{
	int i, found = -1;

	for (i = 0; i < nr; i++) {
		int ret = kcmp_tfd_self(fds[i], efd, tfd, toff);

		if (ret < 0 || ret > 2)
			return -1;
		if (ret)
			continue;
		if (found >= 0)
			return -1;
		found = i;
	}

	return found;
}

#define NR_SAME		40

/* toff names each target with one tfd once, always in the same order. */
TEST_F(kcmp_epoll, same_number)
{
	int efd = epoll_create1(EPOLL_CLOEXEC);
	int efd2 = epoll_create1(EPOLL_CLOEXEC);
	int fds[NR_SAME], order[NR_SAME];
	bool seen[NR_SAME] = {};
	int i, toff;

	ASSERT_GE(efd, 0);
	ASSERT_GE(efd2, 0);
	for (i = 0; i < NR_SAME; i++) {
		fds[i] = open_some(i);
		ASSERT_GE(fds[i], 0);
	}

	/* Targets with neighbouring tfds are not counted. */
	for (i = 0; i < NR_SAME; i++) {
		ASSERT_EQ(0, add_as(efd, fds[i], TFD, EPOLLIN, 0));
		ASSERT_EQ(0, add_as(efd, fds[i], TFD - 1 - i, EPOLLIN, 0));
		ASSERT_EQ(0, add_as(efd, fds[i], TFD + 1 + i, EPOLLIN, 0));
	}
	for (i = NR_SAME - 1; i >= 0; i--)
		ASSERT_EQ(0, add_as(efd2, fds[i], TFD, EPOLLIN, 0));

	for (toff = 0; toff < NR_SAME; toff++) {
		order[toff] = which(fds, NR_SAME, efd, TFD, toff);
		ASSERT_GE(order[toff], 0);
		EXPECT_FALSE(seen[order[toff]]);
		seen[order[toff]] = true;
	}
	for (i = 0; i < 3; i++)
		EXPECT_EQ(-ENOENT, kcmp_tfd_self(fds[0], efd, TFD, NR_SAME + i));

	/* The order depends neither on time nor on the order of adding. */
	for (toff = 0; toff < NR_SAME; toff++) {
		EXPECT_EQ(0, kcmp_tfd_self(fds[order[toff]], efd, TFD, toff));
		EXPECT_EQ(0, kcmp_tfd_self(fds[order[toff]], efd2, TFD, toff));
	}

	/* The targets after one that is removed move up. */
	ASSERT_EQ(0, del_as(efd, fds[order[NR_SAME / 2]], TFD));
	for (toff = 0; toff < NR_SAME - 1; toff++) {
		i = order[toff + (toff >= NR_SAME / 2)];
		EXPECT_EQ(0, kcmp_tfd_self(fds[i], efd, TFD, toff));
	}
	EXPECT_EQ(-ENOENT, kcmp_tfd_self(fds[0], efd, TFD, NR_SAME - 1));
}

struct fdinfo_line {
	int tfd;
	unsigned long long ino;
};

/* Read the targets that fdinfo shows. Returns how many there are. */
static int read_fdinfo(int efd, struct fdinfo_line *lines, int max)
{
	char path[64], line[256];
	int nr = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", efd);
	f = fopen(path, "re");
	if (!f)
		return -errno;

	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, "tfd:", 4))
			continue;
		if (nr == max ||
		    sscanf(line, "tfd: %d events: %*x data: %*x pos:%*d ino:%llx",
			   &lines[nr].tfd, &lines[nr].ino) != 2) {
			nr = -EINVAL;
			break;
		}
		nr++;
	}
	fclose(f);

	return nr;
}

/*
 * fdinfo is sorted by tfd, regardless of the order of files and of adding.
 */
TEST_F(kcmp_epoll, fdinfo_sorted)
{
	struct fdinfo_line lines[2 * NR_FILES + 1];
	int fds[NR_FILES], i, nr;

	for (i = 0; i < NR_FILES; i++) {
		fds[i] = open_some(i);
		ASSERT_GE(fds[i], 0);
	}
	/* 29 and 31 are coprime to NR_FILES, so this is a permutation. */
	for (i = 0; i < NR_FILES; i++) {
		ASSERT_EQ(0, add_as(self->efd, fds[i],
				    TFD + 1 + i * 29 % NR_FILES, EPOLLIN, 0));
		ASSERT_EQ(0, add_as(self->efd, fds[i],
				    TFD - 1 - i * 31 % NR_FILES, EPOLLIN, 0));
	}

	nr = read_fdinfo(self->efd, lines, ARRAY_SIZE(lines));
	ASSERT_EQ(2 * NR_FILES + 1, nr);
	for (i = 0; i < nr; i++) {
		ASSERT_EQ(TFD - NR_FILES + i, lines[i].tfd) {
			TH_LOG("line %d of %d", i, nr);
		}
	}
}

/* toff counts the targets with one tfd in the order of fdinfo. */
TEST_F(kcmp_epoll, fdinfo_and_toff)
{
	struct fdinfo_line lines[2 * NR_SAME];
	int efd = epoll_create1(EPOLL_CLOEXEC);
	int fds[NR_SAME], i, nr, toff = 0;
	struct stat st;

	ASSERT_GE(efd, 0);
	for (i = 0; i < NR_SAME; i++) {
		/* Unlike eventfds, each socket has an inode of its own. */
		fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		ASSERT_GE(fds[i], 0);
		ASSERT_EQ(0, add_as(efd, fds[i], TFD, EPOLLIN, 0));
		ASSERT_EQ(0, add_as(efd, fds[i], TFD + 1, EPOLLIN, 0));
	}

	nr = read_fdinfo(efd, lines, ARRAY_SIZE(lines));
	ASSERT_EQ(2 * NR_SAME, nr);
	for (i = 0; i < nr; i++) {
		int idx;

		if (lines[i].tfd != TFD)
			continue;

		idx = which(fds, NR_SAME, efd, TFD, toff++);
		ASSERT_GE(idx, 0);
		ASSERT_EQ(0, fstat(fds[idx], &st));
		EXPECT_EQ(st.st_ino, lines[i].ino);
	}
	EXPECT_EQ(NR_SAME, toff);
}

TEST_HARNESS_MAIN
