// SPDX-License-Identifier: GPL-2.0
/*
 * Three processes whose epoll instances watch files by misleading descriptors.
 *
 * Prints "ready PID PID PID" and does nothing until its stdin ends.  With -t it
 * first prints the right output of "kcmp_epoll_client PID PID PID", in any order:
 * it knows the targets, because it added them itself.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

/* The descriptor that three pipes are added by. */
#define TFD		702

/* A descriptor of one of the processes; pid 0 is none. */
struct owner {
	pid_t pid;
	int fd;
};

/* The right output about a target, or about an efd if number is NULL. */
struct truth {
	int efd;
	int tfd;
	unsigned int data;
	const char *number;
	struct owner owner[2];
};

static int check(int ret, const char *what)
{
	if (ret < 0)
		err(1, "%s", what);

	return ret;
}

/* Runs @setup in a child with that name, and returns when it is done. */
static pid_t spawn(const char *name, void (*setup)(const int *fds), const int *fds)
{
	pid_t parent = getpid(), pid;
	int done[2];
	char c = 0;

	check(pipe(done), "pipe");
	pid = check(fork(), "fork");
	if (!pid) {
		check(prctl(PR_SET_PDEATHSIG, SIGKILL), "PR_SET_PDEATHSIG");
		if (getppid() != parent)
			_exit(1);
		check(prctl(PR_SET_NAME, name), "PR_SET_NAME");
		close(done[0]);
		/* Away from the descriptors that @setup may close or use. */
		done[0] = check(fcntl(done[1], F_DUPFD, TFD + 1), "F_DUPFD");
		close(done[1]);

		setup(fds);

		check(write(done[0], &c, 1), "write");
		close(done[0]);
		for (;;)
			pause();
	}

	close(done[1]);
	if (check(read(done[0], &c, 1), "read") != 1)
		errx(1, "%s did not get ready", name);
	/* The child closes its end of the pipe last. */
	if (check(read(done[0], &c, 1), "read"))
		errx(1, "%s said too much", name);
	close(done[0]);

	return pid;
}

/* Sends a descriptor; the message says which one it is here. */
static void send_fd(int sock, int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(fd))];
		struct cmsghdr align;
	} control = {};
	struct iovec iov = { .iov_base = &fd, .iov_len = sizeof(fd) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));

	check(sendmsg(sock, &msg, 0), "sendmsg");
}

static int receive_fd(int sock, int *sender_fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { .iov_base = sender_fd, .iov_len = sizeof(*sender_fd) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	struct cmsghdr *cmsg;
	int fd;

	check(recvmsg(sock, &msg, 0), "recvmsg");
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS)
		errx(1, "no descriptor in the message");
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));

	return fd;
}

/* Opens a file, sends it and keeps it. */
static void sender(const int *sock)
{
	int fd = check(open("/proc/self/mounts", O_RDONLY), "/proc/self/mounts");

	send_fd(sock[1], fd);
	close(sock[0]);
	close(sock[1]);
}

/* Closes all inherited descriptors except the three at @keep. */
static void worker(const int *keep)
{
	int fd;

	for (fd = STDERR_FILENO + 1; fd <= TFD; fd++)
		if (fd != keep[0] && fd != keep[1] && fd != keep[2])
			close(fd);
}

static void watch(int efd, int fd, unsigned int data)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = data };

	check(epoll_ctl(efd, EPOLL_CTL_ADD, fd, &event), "EPOLL_CTL_ADD");
}

static int read_end(void)
{
	int fds[2];

	check(pipe(fds), "pipe");

	/* The write end stays open: a pipe without a writer is always ready. */
	return fds[0];
}

static int cmp_owner(const void *a, const void *b)
{
	const struct owner *x = a, *y = b;

	return x->pid - y->pid ?: x->fd - y->fd;
}

static void print_truth(pid_t pid, const struct truth *truth)
{
	struct owner owner[2] = { truth->owner[0], truth->owner[1] };

	if (!truth->number) {
		printf("pid=%d efd=%d same=%d:%d\n", pid, truth->efd, owner->pid, owner->fd);
		return;
	}

	/* epoll adds the events that it always reports. */
	printf("pid=%d efd=%d tfd=%d events=%#x data=%#x number=%s owners=", pid, truth->efd,
	       truth->tfd, EPOLLIN | EPOLLERR | EPOLLHUP, truth->data, truth->number);
	if (!owner[0].pid) {
		puts("none");
	} else if (!owner[1].pid) {
		printf("%d:%d\n", owner[0].pid, owner[0].fd);
	} else {
		qsort(owner, 2, sizeof(*owner), cmp_owner);
		printf("%d:%d,%d:%d\n", owner[0].pid, owner[0].fd, owner[1].pid, owner[1].fd);
	}
}

/* The files and processes of the demo. */
struct demo {
	int set, outer, inner, moved;	/* epoll instances; moved is the true inner */
	int plain, pipes[3], received, timer, event;
	int sent;			/* the sender's descriptor for received */
	pid_t sender, worker;
};

/* Gets a file from another process, which keeps it. */
static void receive_from_sender(struct demo *d)
{
	int sock[2];

	check(socketpair(AF_UNIX, SOCK_STREAM, 0, sock), "socketpair");
	d->sender = spawn("demo-sender", sender, sock);
	d->received = receive_fd(sock[0], &d->sent);
	close(sock[0]);
	close(sock[1]);
}

/* Adds three files by one descriptor, which is closed afterwards. */
static void watch_pipes(struct demo *d)
{
	int mail[2];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(d->pipes); i++) {
		d->pipes[i] = read_end();
		check(dup2(d->pipes[i], TFD), "dup2");
		watch(d->set, TFD, 2 + i);
		close(TFD);
	}

	/* The third one stays in a message that is never received. */
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, mail), "socketpair");
	send_fd(mail[0], d->pipes[2]);
	close(d->pipes[2]);
}

static void set_up(struct demo *d)
{
	int other;

	receive_from_sender(d);
	d->set = check(epoll_create1(0), "epoll_create1");
	d->outer = check(epoll_create1(0), "epoll_create1");
	d->inner = check(epoll_create1(0), "epoll_create1");

	/* The simple case: the descriptor still refers to the file. */
	d->plain = read_end();
	watch(d->set, d->plain, 1);

	watch_pipes(d);

	/* The descriptor of the received file is reused for another one. */
	watch(d->outer, d->received, 5);
	other = check(open("/dev/null", O_RDONLY), "/dev/null");
	check(dup2(other, d->received), "dup2");
	close(other);

	/* So is that of the nested instance, for another instance. */
	d->timer = check(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd_create");
	watch(d->inner, d->timer, 8);
	watch(d->outer, d->inner, 6);
	d->moved = check(fcntl(d->inner, F_DUPFD, d->inner), "F_DUPFD");
	check(dup2(d->set, d->inner), "dup2");

	/* The child inherits all files, and is then the only one to have two. */
	d->event = check(eventfd(0, 0), "eventfd");
	watch(d->outer, d->event, 7);
	d->worker = spawn("demo-worker", worker, (int[]){ d->pipes[0], d->pipes[1], d->event });
	close(d->pipes[1]);
	close(d->event);
}

static void tell(const struct demo *d)
{
	pid_t me = getpid();
	const struct truth truth[] = {
		{ d->set, d->plain, 1, "right", { { me, d->plain } } },
		{ d->set, TFD, 2, "closed", { { me, d->pipes[0] }, { d->worker, d->pipes[0] } } },
		{ d->set, TFD, 3, "closed", { { d->worker, d->pipes[1] } } },
		{ d->set, TFD, 4, "closed", { } },
		{ d->outer, d->received, 5, "wrong", { { d->sender, d->sent } } },
		{ d->outer, d->inner, 6, "wrong", { { me, d->moved } } },
		{ d->outer, d->event, 7, "closed", { { d->worker, d->event } } },
		{ d->moved, d->timer, 8, "right", { { me, d->timer } } },
		{ d->inner, 0, 0, NULL, { { me, d->set } } },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(truth); i++)
		print_truth(me, &truth[i]);
}

int main(int argc, char **argv)
{
	struct demo demo = {};
	bool truth = false;
	int opt;
	char c;

	while ((opt = getopt(argc, argv, "t")) != -1) {
		if (opt != 't')
			goto usage;
		truth = true;
	}
	if (optind != argc)
		goto usage;

	check(prctl(PR_SET_NAME, "demo-server"), "PR_SET_NAME");
	set_up(&demo);
	if (truth)
		tell(&demo);
	printf("ready %d %d %d\n", getpid(), demo.sender, demo.worker);
	if (fflush(stdout))
		err(1, "stdout");

	while (read(STDIN_FILENO, &c, 1) > 0)
		;

	kill(demo.sender, SIGKILL);
	kill(demo.worker, SIGKILL);
	while (wait(NULL) > 0)
		;

	return 0;

usage:
	fputs("usage: epoll_demo [-t]\n"
	      "Sets up epoll instances to look at and keeps still until stdin ends.\n"
	      "  -t  first print the answers that kcmp_epoll_client has to give\n", stderr);

	return 2;
}
