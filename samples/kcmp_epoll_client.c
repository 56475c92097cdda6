// SPDX-License-Identifier: GPL-2.0
/*
 * Which descriptor of which process does each target of an epoll set mean?
 *
 * fdinfo shows the number under which a target was added.  By now the number
 * may be closed or belong to another file, so the file itself is looked for,
 * with kcmp alone: KCMP_FILE sorts the descriptors of the given processes,
 * and KCMP_EPOLL_TFD, which has the same order, searches them for a target.
 *
 * The answers are those of one moment only if the processes hold still.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kcmp.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define LINK_EPOLL	"anon_inode:[eventpoll]"

/* What a cell is padded to at most: a longer one shifts its own line only. */
#define CELL_MAX	30

enum {
	COL_MARK, COL_PID, COL_EFD, COL_TFD, COL_TOFF, COL_EVENTS, COL_DATA,
	COL_SUGGESTS, COL_OWNER, COL_LINK, NR_COLS
};

/* A descriptor of one of the processes. */
struct desc {
	pid_t pid;
	int fd;
	char *link;
	size_t file;		/* index into files[] */
};

/* An open file: its descriptors are by_file[first] to by_file[first + nr - 1]. */
struct file {
	size_t first;
	size_t nr;
};

/* A line of an epoll set's fdinfo. */
struct target {
	unsigned int events;
	unsigned long long data;
	int tfd;
	unsigned int toff;	/* until toffs are given: the line's number */
};

struct row {
	const char *cell[NR_COLS];
	const char *note;	/* instead of the cells behind efd */
};

static bool quiet;

static struct desc *descs;	/* in the order of (pid, fd) */
static size_t nr_descs;
static struct desc **by_file;	/* in the order of KCMP_FILE, then of descs */
static struct file *files;
static size_t nr_files;

static struct row *rows;
static size_t nr_rows;

/* What others may have chosen must not drive the terminal, nor forge a line. */
static void make_printable(char *s)
{
	for (; *s; s++)
		if (iscntrl((unsigned char)*s) || (unsigned char)*s >= 0x80)
			*s = '?';
}

/* Makes room for one more element of @size bytes behind the first @nr. */
static void *grow(void *array, size_t nr, size_t size)
{
	/* Full at 0 and at each power of two. */
	if (!(nr & (nr - 1)))
		array = reallocarray(array, nr ? 2 * nr : 1, size);
	if (!array)
		err(1, "cannot hold %zu elements", nr + 1);

	return array;
}

static char *format(const char *fmt, ...)
{
	va_list args;
	char *s;

	va_start(args, fmt);
	if (vasprintf(&s, fmt, args) < 0)
		err(1, "vasprintf");
	va_end(args);

	return s;
}

/* Returns -1, 0 or 1 as @desc's file comes before, is or comes after the other. */
static int order_by_kcmp(const struct desc *desc, pid_t pid, int type, unsigned long idx2)
{
	static const int order[] = { 0, -1, 1 };
	unsigned long idx1 = desc->fd;
	long ret;

	ret = syscall(SYS_kcmp, desc->pid, pid, type, idx1, idx2);
	if (ret >= 0 && (size_t)ret < ARRAY_SIZE(order))
		return order[ret];
	if (ret >= 0)
		errx(1, "kcmp gave %ld, which is no order", ret);

	switch (errno) {
	case EPERM:
		errx(1, "no ptrace access to both pid %d and pid %d: be their owner or root",
		     desc->pid, pid);
	case ESRCH:
		errx(1, "pid %d or pid %d has gone meanwhile", desc->pid, pid);
	case EBADF:
		errx(1, "pid %d or pid %d closed a descriptor meanwhile: stop them first",
		     desc->pid, pid);
	case ENOENT:
		errx(1, "an epoll set of pid %d lost a target meanwhile: stop the processes first",
		     pid);
	default:
		err(1, "kcmp of pid %d and pid %d", desc->pid, pid);
	}
}

static void cannot_read(pid_t pid, const char *path)
{
	switch (errno) {
	case ENOENT:
	case ESRCH:
		errx(1, "pid %d does not exist, or has closed a descriptor meanwhile", pid);
	case EACCES:
	case EPERM:
		errx(1, "no ptrace access to pid %d: be its owner or root", pid);
	default:
		err(1, "%s", path);
	}
}

static int cmp_number(long long a, long long b)
{
	return (a > b) - (a < b);
}

static int cmp_place(const void *a, const void *b)
{
	const struct desc *x = a, *y = b;

	return cmp_number(x->pid, y->pid) ?: cmp_number(x->fd, y->fd);
}

static int cmp_file(const void *a, const void *b)
{
	const struct desc *x = *(struct desc *const *)a;
	const struct desc *y = *(struct desc *const *)b;

	return order_by_kcmp(x, y->pid, KCMP_FILE, y->fd) ?: cmp_place(x, y);
}

static int cmp_tfd(const void *a, const void *b)
{
	const struct target *x = a, *y = b;

	return cmp_number(x->tfd, y->tfd) ?: cmp_number(x->toff, y->toff);
}

/* For -q: toff may differ from boot to boot, data is the program's own. */
static int cmp_data(const void *a, const void *b)
{
	const struct target *x = a, *y = b;

	return cmp_number(x->tfd, y->tfd) ?:
	       (x->data > y->data) - (x->data < y->data) ?:
	       cmp_number(x->toff, y->toff);
}

static void read_descs(pid_t pid)
{
	char path[64], link[PATH_MAX];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir)
		cannot_read(pid, path);

	for (errno = 0; (entry = readdir(dir)); errno = 0) {
		ssize_t len;

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;

		len = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		if (len < 0 && errno == ENOENT)
			continue;	/* closed meanwhile */
		if (len < 0)
			cannot_read(pid, path);
		link[len] = '\0';
		make_printable(link);

		descs = grow(descs, nr_descs, sizeof(*descs));
		descs[nr_descs++] = (struct desc) {
			.pid = pid,
			.fd = atoi(entry->d_name),
			.link = format("%s", link),
		};
	}
	if (errno)
		cannot_read(pid, path);
	closedir(dir);
}

static void sort_descs(void)
{
	size_t i;

	if (!nr_descs)
		return;

	qsort(descs, nr_descs, sizeof(*descs), cmp_place);

	for (i = 0; i < nr_descs; i++) {
		by_file = grow(by_file, i, sizeof(struct desc *));
		by_file[i] = &descs[i];
	}
	qsort(by_file, nr_descs, sizeof(struct desc *), cmp_file);

	for (i = 0; i < nr_descs; i++) {
		struct desc *desc = by_file[i];

		if (!i || order_by_kcmp(by_file[i - 1], desc->pid, KCMP_FILE, desc->fd)) {
			files = grow(files, nr_files, sizeof(*files));
			files[nr_files++] = (struct file) { .first = i };
		}
		files[nr_files - 1].nr++;
		desc->file = nr_files - 1;
	}
}

static struct desc *find_desc(pid_t pid, int fd)
{
	struct desc key = { .pid = pid, .fd = fd };

	return bsearch(&key, descs, nr_descs, sizeof(*descs), cmp_place);
}

/* Finds the file that a target really is, by asking kcmp only. */
static struct file *find_file(const struct desc *efd, const struct target *target)
{
	struct kcmp_epoll_slot slot = {
		.efd = efd->fd,
		.tfd = target->tfd,
		.toff = target->toff,
	};
	size_t low = 0, high = nr_files;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int order = order_by_kcmp(by_file[files[mid].first], efd->pid,
					  KCMP_EPOLL_TFD, (unsigned long)&slot);

		if (!order)
			return &files[mid];
		if (order < 0)
			low = mid + 1;
		else
			high = mid;
	}

	return NULL;
}

static struct target *read_targets(const struct desc *efd, size_t *nr)
{
	struct target *targets = NULL;
	char path[64], *line = NULL;
	unsigned int toff = 0;
	size_t size = 0, i;
	FILE *fdinfo;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", efd->pid, efd->fd);
	fdinfo = fopen(path, "r");
	if (!fdinfo)
		cannot_read(efd->pid, path);

	*nr = 0;
	while (getline(&line, &size, fdinfo) >= 0) {
		struct target target = { .toff = *nr };

		if (sscanf(line, "tfd: %d events: %x data: %llx", &target.tfd,
			   &target.events, &target.data) != 3)
			continue;
		targets = grow(targets, *nr, sizeof(*targets));
		targets[(*nr)++] = target;
	}
	if (ferror(fdinfo))
		cannot_read(efd->pid, path);
	free(line);
	fclose(fdinfo);

	if (!*nr)
		return NULL;

	/* toff counts the lines with one number, wherever they stand. */
	qsort(targets, *nr, sizeof(*targets), cmp_tfd);
	for (i = 0; i < *nr; i++) {
		toff = i && targets[i].tfd == targets[i - 1].tfd ? toff + 1 : 0;
		targets[i].toff = toff;
	}

	return targets;
}

static struct row *add_row(const struct desc *efd)
{
	struct row *row;

	rows = grow(rows, nr_rows, sizeof(*rows));
	row = &rows[nr_rows++];
	*row = (struct row) {
		.cell[COL_MARK] = "",
		.cell[COL_PID] = format("%d", efd->pid),
		.cell[COL_EFD] = format("%d", efd->fd),
	};

	return row;
}

/* Returns whether the number means the target's file still. */
static bool show_target(const struct desc *efd, const struct target *target)
{
	const struct desc *number = find_desc(efd->pid, target->tfd);
	const struct file *file = find_file(efd, target);
	bool right = file && number && file == &files[number->file];
	struct row *row;
	size_t i;

	if (quiet) {
		printf("pid=%d efd=%d tfd=%d events=%#x data=%#llx number=%s owners=",
		       efd->pid, efd->fd, target->tfd, target->events, target->data,
		       right ? "right" : number ? "wrong" : "closed");
		for (i = 0; file && i < file->nr; i++)
			printf("%s%d:%d", i ? "," : "", by_file[file->first + i]->pid,
			       by_file[file->first + i]->fd);
		puts(file ? "" : "none");
		return right;
	}

	row = add_row(efd);
	row->cell[COL_MARK] = right ? "" : "!";
	row->cell[COL_TFD] = format("%d", target->tfd);
	row->cell[COL_TOFF] = format("%u", target->toff);
	row->cell[COL_EVENTS] = format("%#x", target->events);
	row->cell[COL_DATA] = format("%#llx", target->data);
	row->cell[COL_SUGGESTS] = number ? number->link : "closed";

	if (file) {
		const struct desc *owner = right ? number : by_file[file->first];

		if (file->nr > 1)
			row->cell[COL_OWNER] = format("pid %d fd %d and %zu more", owner->pid,
						      owner->fd, file->nr - 1);
		else
			row->cell[COL_OWNER] = format("pid %d fd %d", owner->pid, owner->fd);
		row->cell[COL_LINK] = owner->link;
	} else {
		row->cell[COL_OWNER] = "no descriptor of these processes";
	}

	return right;
}

/* One set with several descriptors is shown once, where it is seen first. */
static bool show_same(const struct desc *efd)
{
	const struct desc *first = by_file[files[efd->file].first];

	if (first == efd)
		return false;

	if (quiet)
		printf("pid=%d efd=%d same=%d:%d\n", efd->pid, efd->fd, first->pid, first->fd);
	else
		add_row(efd)->note = format("the same set as pid %d efd %d", first->pid, first->fd);

	return true;
}

static void show_empty(const struct desc *efd)
{
	if (quiet)
		printf("pid=%d efd=%d empty\n", efd->pid, efd->fd);
	else
		add_row(efd)->note = "no targets";
}

static void print_row(const struct row *row, const int *width)
{
	int behind = 0, col, len;

	/* Numbers stand right; blanks behind the others wait for a next cell. */
	for (col = 0; col < NR_COLS && row->cell[col]; col++) {
		printf("%*s", behind, "");
		if (col >= COL_PID && col <= COL_DATA) {
			behind = col < COL_DATA ? 1 : 2;
			printf("%*s", width[col], row->cell[col]);
		} else {
			len = printf("%s", row->cell[col]);
			behind = (len < width[col] ? width[col] - len : 0) + 2;
		}
	}
	if (row->note)
		printf("  %s", row->note);
	putchar('\n');
}

static void print_rows(void)
{
	const struct row head = {
		.cell = { "", "PID", "EFD", "TFD", "TOFF", "EVENTS", "DATA",
			  "fdinfo suggests", "really" },
	};
	int width[NR_COLS] = { 1 };
	size_t i;
	int col;

	for (col = COL_PID; col < NR_COLS; col++) {
		width[col] = head.cell[col] ? strlen(head.cell[col]) : 0;
		for (i = 0; i < nr_rows; i++) {
			int len = rows[i].cell[col] ? strlen(rows[i].cell[col]) : 0;

			if (len > width[col] && len <= CELL_MAX)
				width[col] = len;
		}
	}

	putchar('\n');
	print_row(&head, width);
	for (i = 0; i < nr_rows; i++)
		print_row(&rows[i], width);
}

static void print_processes(const pid_t *pids, int nr_pids)
{
	char path[64], comm[64];
	FILE *file;
	int i;

	for (i = 0; i < nr_pids; i++) {
		snprintf(path, sizeof(path), "/proc/%d/comm", pids[i]);
		file = fopen(path, "r");
		if (!file || !fgets(comm, sizeof(comm), file))
			cannot_read(pids[i], path);
		fclose(file);
		comm[strcspn(comm, "\n")] = '\0';
		make_printable(comm);
		printf("%spid %d: %s", i ? ", " : "", pids[i], comm);
	}
	putchar('\n');
}

static int cmp_pid(const void *a, const void *b)
{
	return cmp_number(*(const pid_t *)a, *(const pid_t *)b);
}

static int help(void)
{
	fputs("usage: kcmp_epoll_client [-q] PID...\n"
	      "Shows what the epoll sets of these processes watch.\n"
	      "  -q  one line of KEY=VALUE a target, for programs\n", stderr);

	return 2;
}

int main(int argc, char **argv)
{
	size_t nr_shown = 0, nr_misleading = 0, i, j, nr;
	pid_t *pids = NULL;
	int nr_pids = 0, nr_given = 0, opt, k;

	while ((opt = getopt(argc, argv, "q")) != -1) {
		if (opt != 'q')
			return help();
		quiet = true;
	}
	if (optind == argc)
		return help();

	for (; optind < argc; optind++) {
		char *end;
		long pid;

		errno = 0;
		pid = strtol(argv[optind], &end, 10);
		if (*end || pid < 1 || pid > INT_MAX || errno)
			return help();
		pids = grow(pids, nr_given, sizeof(*pids));
		pids[nr_given++] = pid;
	}

	/* One given twice would own everything twice. */
	qsort(pids, nr_given, sizeof(*pids), cmp_pid);
	for (k = 0; k < nr_given; k++)
		if (!k || pids[k] != pids[k - 1])
			pids[nr_pids++] = pids[k];

	for (k = 0; k < nr_pids; k++)
		read_descs(pids[k]);
	sort_descs();

	for (i = 0; i < nr_descs; i++) {
		const struct desc *efd = &descs[i];
		struct target *targets;

		if (strcmp(efd->link, LINK_EPOLL) || show_same(efd))
			continue;

		targets = read_targets(efd, &nr);
		if (!targets)
			show_empty(efd);
		else if (quiet)
			qsort(targets, nr, sizeof(*targets), cmp_data);

		for (j = 0; j < nr; j++)
			if (!show_target(efd, &targets[j]))
				nr_misleading++;
		nr_shown += nr;
		free(targets);
	}

	if (!quiet) {
		print_processes(pids, nr_pids);
		print_rows();
		printf("\n%zu targets, %zu (!) under a number that is closed or another file's\n",
		       nr_shown, nr_misleading);
	}
	if (fflush(stdout) || ferror(stdout))
		err(1, "stdout");

	return 0;
}
