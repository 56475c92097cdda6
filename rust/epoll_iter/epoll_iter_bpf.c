// SPDX-License-Identifier: GPL-2.0
/*
 * The C half of epoll_iter: the types that BPF programs see and the functions
 * that they call, which BPF has to find in the BTF of the module. The functions
 * are implemented in Rust.
 */
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/build_bug.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/string.h>

/* fs/eventpoll.h */
#include "eventpoll.h"
#include "epoll_iter_bpf.h"

/* The iterator target. Rust runs programs with these arguments. */

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
 * bpf_iter_epoll_new - begin to iterate over the epitems of an epoll instance
 * @it: the iterator
 * @task: a task that has the instance open
 * @efd: a descriptor of the instance in that task
 *
 * Programs have to call bpf_iter_epoll_destroy() on @it even if this fails.
 *
 * Return: 0, -EBADF if @efd is not open, -EOPNOTSUPP if it does not refer to an
 * epoll instance, or -ENOMEM.
 */
__bpf_kfunc int bpf_iter_epoll_new(struct bpf_iter_epoll *it,
				   struct task_struct *task, int efd)
{
	return epoll_items_new(it, task, efd);
}

/**
 * bpf_iter_epoll_next - get the next epitem
 * @it: the iterator
 *
 * This waits for the mutex of the instance until the current task is killed. In
 * a kernel thread, as which the callbacks of a struct bpf_wq run, it does not
 * wait.
 *
 * Return: a copy of the epitem, valid until the next call for @it, with the
 * address of the watched file, which is pinned as long. NULL at the end, and on
 * errors, see bpf_iter_epoll_status().
 */
__bpf_kfunc union bpf_epoll_item *
bpf_iter_epoll_next(struct bpf_iter_epoll *it)
{
	return epoll_items_next(it);
}

/**
 * bpf_iter_epoll_status - get the error that has ended an iteration, if any
 * @it__iter: the iterator
 *
 * Return: 0 if there was no error, the return value of bpf_iter_epoll_new(), or
 * -EINTR if the current task has been killed before the end, or -EAGAIN if it is
 * a kernel thread and the mutex was taken.
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
 * The kfuncs wait for the mutex of an instance. In a program that runs with that
 * mutex held, as those for our own target or for tracing epoll do, they would
 * wait for themselves. So they are restricted to programs that are known to run
 * without any lock. That includes callbacks that such a program starts, which may
 * run in a kernel thread.
 *
 * The filter is called for kfuncs of this module only, so it ignores the id.
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
	 * The verifier calls this when it collects calls, before the target is
	 * known, and again when it verifies each of them.
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
