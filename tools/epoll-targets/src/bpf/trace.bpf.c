// SPDX-License-Identifier: GPL-2.0
/*
 * Watches how targets get into interest lists, and which closing of a descriptor
 * leaves them there.
 *
 * A target is known by its instance, its file and its tfd. It is remembered, with the
 * descriptor table in which its tfd refers to its file, from EPOLL_CTL_ADD to
 * EPOLL_CTL_DEL or the last close of the file. If a system call is about to close the
 * tfd in that table, and the file has other references, the target may be left
 * behind. Whether it was, the reader of the events finds out later, with the iterators
 * below: the call may fail, other processes may close the file as well, or another
 * process may have the instance and the file, by the same descriptor.
 *
 * The programs are attached to the functions of the system calls, so that others are
 * not slowed down. Where that cannot be done, they use the tracepoints that all calls
 * pass. What io_uring closes passes neither.
 *
 * Addresses identify what is remembered. They are not shown to users.
 */

#include "trace.h"

char LICENSE[] SEC("license") = "GPL";

#include "trace_calls.h"
#include "trace_visit.h"
