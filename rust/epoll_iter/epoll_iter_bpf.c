// SPDX-License-Identifier: GPL-2.0
/*
 * The part of epoll_iter that has to be C, since BTF is made of it: what BPF
 * programs see, and the functions that they call. All that is done is done in
 * Rust.
 */
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/build_bug.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/string.h>

/* that of fs/ */
#include "eventpoll.h"
#include "epoll_iter_bpf.h"

/* The iterator target. The arguments are those that Rust runs programs with. */

struct bpf_iter__epoll {
	__bpf_md_ptr(struct bpf_iter_meta *, meta);
	__bpf_md_ptr(struct eventpoll *, ep);
	__bpf_md_ptr(struct epitem *, epi);
};

DEFINE_BPF_ITER_FUNC(epoll, struct bpf_iter_meta *meta, struct eventpoll *ep,
		     struct epitem *epi__nullable)

/* The open-coded iterator */

static_assert(offsetof(union bpf_epoll_item, data) == 0 &&
	      offsetof(union bpf_epoll_item, file) == 8 &&
	      offsetof(union bpf_epoll_item, fd) == 8 + sizeof(void *) &&
	      offsetof(union bpf_epoll_item, events) == 12 + sizeof(void *));

__bpf_kfunc_start_defs();

/**
 * bpf_iter_epoll_new - begin to iterate over the entries of an epoll set
 * @it: the iterator
 * @task: a task that has the set
 * @efd: a descriptor of the set, in that task's table
 *
 * What it returns, @it has to be ended by bpf_iter_epoll_destroy().
 *
 * Return: 0, -EBADF if @efd is not open, -EOPNOTSUPP if it is not an epoll set,
 * or -ENOMEM.
 */
__bpf_kfunc int bpf_iter_epoll_new(struct bpf_iter_epoll *it,
				   struct task_struct *task, int efd)
{
	return epoll_items_new(it, task, efd);
}

/**
 * bpf_iter_epoll_next - get the next entry
 * @it: the iterator
 *
 * It does not sleep, and waits no longer than a moment for the mutex of the set.
 *
 * Return: a copy of the entry, which is there until the next call for @it, and
 * the address of the file that it watches, which is kept as long. NULL if there
 * are no more, and on errors, see bpf_iter_epoll_status().
 */
__bpf_kfunc union bpf_epoll_item *
bpf_iter_epoll_next(struct bpf_iter_epoll *it)
{
	return epoll_items_next(it);
}

/**
 * bpf_iter_epoll_status - tell whether an iteration is complete
 * @it__iter: the iterator
 *
 * Return: 0, what bpf_iter_epoll_new() has returned, or what has ended the
 * iteration before its time: -EBUSY if somebody held the mutex of the set for
 * more than a millisecond, or -EINTR if the current task was killed.
 */
__bpf_kfunc int bpf_iter_epoll_status(struct bpf_iter_epoll *it__iter)
{
	return epoll_items_status(it__iter);
}

/**
 * bpf_iter_epoll_destroy - end an iteration
 * @it: the iterator
 */
__bpf_kfunc void bpf_iter_epoll_destroy(struct bpf_iter_epoll *it)
{
	epoll_items_destroy(it);
}

__bpf_kfunc_end_defs();

BTF_KFUNCS_START(epoll_iter_kfunc_ids)
BTF_ID_FLAGS(func, bpf_iter_epoll_new, KF_ITER_NEW | KF_SLEEPABLE | KF_PERFMON)
BTF_ID_FLAGS(func, bpf_iter_epoll_next, KF_ITER_NEXT | KF_RET_NULL | KF_SLEEPABLE)
BTF_ID_FLAGS(func, bpf_iter_epoll_status)
BTF_ID_FLAGS(func, bpf_iter_epoll_destroy, KF_ITER_DESTROY | KF_SLEEPABLE)
BTF_KFUNCS_END(epoll_iter_kfunc_ids)

/*
 * They never wait long for the mutex of a set. A program that is run while that
 * mutex is held would only ever see its time be up: one for our own target, one
 * that traces a function of epoll. So they are for programs of which it is known
 * that they are run with no lock held.
 *
 * It is only asked about functions of this module, so it does not look which one
 * it is.
 */
static int epoll_iter_kfunc_filter(const struct bpf_prog *prog, u32 kfunc_id)
{
	static const char * const targets[] = { "bpf_iter_task", "bpf_iter_task_file" };

	if (prog->type == BPF_PROG_TYPE_SYSCALL)
		return 0;

	if (prog->type != BPF_PROG_TYPE_TRACING ||
	    prog->expected_attach_type != BPF_TRACE_ITER)
		return -EACCES;

	/*
	 * The verifier asks when it looks for calls, before it knows the target,
	 * and again when it comes to each of them.
	 */
	if (!prog->aux->attach_func_name)
		return 0;

	/* A target of a module may have any name. */
	if (prog->aux->mod ||
	    match_string(targets, ARRAY_SIZE(targets), prog->aux->attach_func_name) < 0)
		return -EACCES;

	return 0;
}

static const struct btf_kfunc_id_set epoll_iter_kfunc_set = {
	.owner = THIS_MODULE,
	.set = &epoll_iter_kfunc_ids,
	.filter = epoll_iter_kfunc_filter,
};

int epoll_iter_register_kfuncs(void)
{
	BTF_TYPE_EMIT(struct bpf_iter__epoll);

	return register_btf_kfunc_id_set(BPF_PROG_TYPE_SYSCALL, &epoll_iter_kfunc_set) ?:
	       register_btf_kfunc_id_set(BPF_PROG_TYPE_TRACING, &epoll_iter_kfunc_set);
}
