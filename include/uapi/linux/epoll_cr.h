/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_EPOLL_CR_H
#define _UAPI_LINUX_EPOLL_CR_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * DOC: /dev/epoll_cr
 *
 * What programs that checkpoint and restore processes need to know of
 * descriptors and epoll sets, and cannot do with them otherwise. See
 * Documentation/epoll_cr.rst for how the calls go together.
 *
 * Each ioctl takes a pointer to a struct that begins with its size as the
 * caller knows it. A kernel that knows a shorter one refuses a rest that is not
 * zero, one that knows a longer one takes the rest for zero. The same holds for
 * the elements of the arrays that the structs point to: their size is in the
 * struct, of those that are read the kernel refuses an unknown rest that is not
 * zero, of those that it writes it sets an unknown rest to zero. Members that
 * are marked 'out' are written, also if a call fails, unless it fails before
 * all arguments are read; what they were before is not looked at. All layouts
 * are the same for 32-bit and 64-bit programs.
 *
 * These are common to all calls:
 *
 * ENOTTY: there is no such ioctl.
 * EINVAL: a size is shorter than in the first version of the struct
 *	(EPOLL_CR_*_SIZE_VER0), or a flag is unknown.
 * E2BIG: a size is larger than a page, or an unknown rest is not zero.
 * EFAULT: some memory of the caller cannot be read or written.
 * EINTR: the caller was killed.
 * ENOMEM: no memory for a buffer, the size of which does not depend on how
 *	many elements there are.
 *
 * These are common to the calls that look at another process. It is named by
 * a pidfd, or PIDFD_SELF or PIDFD_SELF_THREAD; one that was opened with
 * PIDFD_THREAD names that thread.
 *
 * EBADF: the pidfd is not open, or not a pidfd.
 * ESRCH: the process is gone, or is exiting.
 * EPERM: the caller may not attach to the process (PTRACE_MODE_ATTACH_REALCREDS),
 *	as for pidfd_getfd(2).
 *
 * Both are looked at anew every few elements, so they can happen in the middle
 * of a call.
 *
 * An identity is a number that says which open file something is. All calls on
 * one opening of the device, by whichever task, give the same file the same
 * identity, and different files different ones. Another opening gives others.
 * It is never 0. When a file is closed for good, one that is opened later may
 * be given its identity: compare only what was there at the same time, which
 * is so if the processes were stopped. Identities of descriptor tables are
 * numbers of another kind, and say nothing beside those of files.
 */

#define EPOLL_CR_IOC_TYPE	0xEC

/**
 * struct epoll_cr_item - an entry of an epoll set, as EPOLL_CR_SNAPSHOT shows it
 * @tfd: number of the descriptor that the file was added by
 * @toff: how many entries with this number are before this one, as in
 *	struct kcmp_epoll_slot
 * @events: events that are waited for, with flags, as last added or modified.
 *	EPOLLERR and EPOLLHUP are always among them, except that nothing but
 *	flags is left of an EPOLLONESHOT entry that has fired.
 * @flags: EPOLL_CR_ITEM_*
 * @data: as last added or modified
 * @file: identity of the file
 */
struct epoll_cr_item {
	__s32 tfd;
	__u32 toff;
	__u32 events;
	__u32 flags;
	__u64 data;
	__u64 file;
};

#define EPOLL_CR_ITEM_SIZE_VER0	32	/* of the first version */

/*
 * The entry is on the list of those that are ready: the next epoll_wait(2) asks
 * its file, and returns the entry if one of @events is there.
 */
#define EPOLL_CR_ITEM_READY	0x01

/**
 * struct epoll_cr_snapshot - ioctl(EPOLL_CR_SNAPSHOT)
 * @size: sizeof(struct epoll_cr_snapshot)
 * @flags: must be 0
 * @pidfd: process
 * @efd: descriptor of the process for an epoll set
 * @items: array of struct epoll_cr_item, written
 * @capacity: how many elements @items has room for
 * @count: out: how many entries the set has
 * @epoll_id: out: number of the set, as 'epoll-id' in /proc/PID/fdinfo/EFD
 * @item_size: sizeof(struct epoll_cr_item)
 * @reserved: must be 0
 *
 * Shows all entries of a set, ordered by number, then by @toff. Entries can
 * come and go meanwhile unless those who have the set are stopped: each entry
 * that is there throughout is shown exactly once, others once or not at all.
 *
 * Return: 0, or
 *
 * ENOSPC: @items is too small for @count entries. What it has room for has
 *	been written. The set is as it was: make room and call again.
 * EBADF: @efd is not open.
 * EOPNOTSUPP: @efd is not an epoll file.
 * ESTALE: @efd was closed meanwhile, or refers to another set by now.
 */
struct epoll_cr_snapshot {
	__u32 size;
	__u32 flags;
	__s32 pidfd;
	__u32 efd;
	__aligned_u64 items;
	__u64 capacity;
	__u64 count;
	__u64 epoll_id;
	__u32 item_size;
	__u32 reserved;
};

#define EPOLL_CR_SNAPSHOT_SIZE_VER0	56	/* of the first version */

#define EPOLL_CR_SNAPSHOT	_IO(EPOLL_CR_IOC_TYPE, 0x40)

/**
 * struct epoll_cr_fd - a descriptor, as EPOLL_CR_FILES shows it
 * @fd: number of the descriptor
 * @flags: EPOLL_CR_FD_*
 * @file: identity of the file
 */
struct epoll_cr_fd {
	__u32 fd;
	__u32 flags;
	__u64 file;
};

#define EPOLL_CR_FD_SIZE_VER0	16	/* of the first version */

#define EPOLL_CR_FD_CLOEXEC	0x01	/* is closed by execve(2) */
#define EPOLL_CR_FD_EPOLL	0x02	/* is an epoll set */

/**
 * struct epoll_cr_files - ioctl(EPOLL_CR_FILES)
 * @size: sizeof(struct epoll_cr_files)
 * @flags: must be 0
 * @pidfd: process
 * @fd_size: sizeof(struct epoll_cr_fd)
 * @fds: array of struct epoll_cr_fd, written
 * @capacity: how many elements @fds has room for
 * @count: out: how many descriptors are open
 * @table: out: identity of the descriptor table. It is the same for tasks that
 *	share one (CLONE_FILES, as threads do). It is not to be compared with
 *	that of a file.
 *
 * Shows all open descriptors, ordered by number, those with O_PATH included.
 * If some are opened and closed meanwhile, then each that is open throughout is
 * shown exactly once.
 *
 * Return: 0, or
 *
 * ENOSPC: @fds is too small for @count descriptors. What it has room for has
 *	been written. Make room and call again.
 * ESTALE: the process has another table by now (execve(2), unshare(2)).
 */
struct epoll_cr_files {
	__u32 size;
	__u32 flags;
	__s32 pidfd;
	__u32 fd_size;
	__aligned_u64 fds;
	__u64 capacity;
	__u64 count;
	__u64 table;
};

#define EPOLL_CR_FILES_SIZE_VER0	48	/* of the first version */

#define EPOLL_CR_FILES		_IO(EPOLL_CR_IOC_TYPE, 0x41)

/**
 * struct epoll_cr_file - an open file, as EPOLL_CR_DESCRIBE shows it
 * @fd: the descriptor that was asked for
 * @mask: EPOLL_CR_FILE_*: what else is valid; members that are not are 0
 * @file: identity of the file, or 0 if the descriptor is not open
 * @pos: position, as in fdinfo
 * @epoll_id: number of the epoll set, 0 if it is none
 * @mode: type and permissions of the inode, as in struct stat
 * @f_flags: O_*, as F_GETFL returns them, and O_PATH, but never O_CLOEXEC
 * @uid: real user of who opened the file, as is the rest in the namespace of
 *	the caller, see @f_cred of struct file in the kernel
 * @gid: real group
 * @euid: effective user
 * @egid: effective group
 * @fsuid: user for permissions
 * @fsgid: group for permissions
 * @owner_type: F_OWNER_*, if @owner_pid is not 0
 * @owner_pid: whom SIGIO is sent to, in the pid namespace of the caller; 0 if
 *	nobody, or nobody that the caller can see
 * @owner_uid: real user of who set that
 * @owner_euid: effective user of who set that
 * @owner_signal: what is sent instead of SIGIO (F_SETSIG), or 0
 * @nlink: links of the inode, as in struct stat
 * @dev_major: device of the inode
 * @dev_minor: device of the inode
 * @rdev_major: the device that it is, if it is one
 * @rdev_minor: the device that it is, if it is one
 * @ino: number of the inode
 * @length: length of a regular file, as st_size in struct stat
 * @path_offset: where in @paths the path begins
 * @path_len: its length, without the NUL that follows it
 */
struct epoll_cr_file {
	__u32 fd;
	__u32 mask;
	__u64 file;
	__u64 pos;
	__u64 epoll_id;
	__u32 mode;
	__u32 f_flags;
	__u32 uid;
	__u32 gid;
	__u32 euid;
	__u32 egid;
	__u32 fsuid;
	__u32 fsgid;
	__u32 owner_type;
	__u32 owner_pid;
	__u32 owner_uid;
	__u32 owner_euid;
	__u32 owner_signal;
	__u32 nlink;
	__u32 dev_major;
	__u32 dev_minor;
	__u32 rdev_major;
	__u32 rdev_minor;
	__u64 ino;
	__u64 length;
	__u64 path_offset;
	__u32 path_len;
	__u32 reserved;
};

#define EPOLL_CR_FILE_SIZE_VER0	136	/* of the first version */

/* @nlink, @dev_*, @rdev_*, @ino, @length: the file system told */
#define EPOLL_CR_FILE_STAT	0x01
/*
 * @path_offset, @path_len: what the link in /proc/PID/fd shows, as the caller
 * sees it, without ' (deleted)'. It is missing if there was no room for it in
 * @paths, or if all that the link shows, and a NUL, is longer than PATH_MAX. The
 * flags below are there in either case.
 */
#define EPOLL_CR_FILE_PATH	0x02
/* the path is a name that leads nowhere, as 'pipe:[1]' or 'anon_inode:[eventfd]' */
#define EPOLL_CR_FILE_NAME	0x04
/* the path does not lead to the file any more: it was unlinked there */
#define EPOLL_CR_FILE_UNLINKED	0x08
/* the path begins outside of the caller's root, and leads nowhere for it */
#define EPOLL_CR_FILE_UNREACHABLE 0x10

/**
 * struct epoll_cr_describe - ioctl(EPOLL_CR_DESCRIBE)
 * @size: sizeof(struct epoll_cr_describe)
 * @flags: must be 0
 * @pidfd: process
 * @file_size: sizeof(struct epoll_cr_file)
 * @fds: array of __u32: the descriptors to describe, each in 0..INT_MAX
 * @files: array of struct epoll_cr_file, written, for each of @fds in its place
 * @count: how many elements both have
 * @paths: memory for the paths, written, or 0 if they are not wanted
 * @paths_size: how many bytes @paths has room for
 * @paths_len: out: how many bytes all paths take, with a NUL behind each
 *
 * Describes open files by one descriptor for each. It is looked at what the
 * process has as this number then, with permission to do so; what that file is
 * like is read right after, as who got it by pidfd_getfd(2) would. As with that,
 * a file that everybody else closes meanwhile is released when the call ends.
 *
 * Those that EPOLL_CR_FILES has shown with the same identity are the same file,
 * so that it is enough to ask for one of them, and look whether the identity is
 * still the same.
 *
 * A descriptor that is not open is no error: its @file is 0.
 *
 * Return: 0, or
 *
 * ENOSPC: @paths is not 0, and too small for @paths_len bytes. All but the
 *	paths that did not fit any more has been written; such a path has a
 *	@path_len, but not EPOLL_CR_FILE_PATH.
 * EINVAL: also: one of @fds is larger than INT_MAX.
 */
struct epoll_cr_describe {
	__u32 size;
	__u32 flags;
	__s32 pidfd;
	__u32 file_size;
	__aligned_u64 fds;
	__aligned_u64 files;
	__u64 count;
	__aligned_u64 paths;
	__u64 paths_size;
	__u64 paths_len;
};

#define EPOLL_CR_DESCRIBE_SIZE_VER0	64	/* of the first version */

#define EPOLL_CR_DESCRIBE	_IO(EPOLL_CR_IOC_TYPE, 0x42)

/**
 * struct epoll_cr_fetch - ioctl(EPOLL_CR_FETCH)
 * @size: sizeof(struct epoll_cr_fetch)
 * @flags: must be 0
 * @pidfd: process
 * @efd: descriptor of the process for an epoll set
 * @tfd: number of the entry
 * @toff: which of the entries with this number, as in struct epoll_cr_item
 * @file: identity that the file must have, or 0 for any
 *
 * Opens a descriptor of the caller, close-on-exec, for the file that an entry
 * is about, as pidfd_getfd(2) does for one that has a descriptor.
 *
 * A set can be handed on without what it watches. So to be allowed to attach to
 * the process, which may be the caller itself, is not enough: it must have
 * opened the file itself since it was created, executed a program or last had
 * its credentials changed, if only for equal ones (so has each thread by
 * itself: what counts is the one that @pidfd names); or the caller must have
 * CAP_SYS_PTRACE in the user namespace of whoever opened it. As that one may be
 * gone, security modules are asked about @pidfd and about the file, not about
 * the opener.
 *
 * Return: the descriptor, or
 *
 * EBADF: @efd is not open.
 * EOPNOTSUPP: @efd is not an epoll file.
 * ENOENT: there is no such entry, or its file is just being closed for good, or
 *	a unix socket that is only in messages which nobody can receive.
 * ESTALE: it is about another file than @file, or @efd was closed meanwhile, or
 *	refers to another set by now.
 * EPERM: also: somebody else opened the file, see above.
 * EMFILE: the caller may not open more descriptors.
 *
 * and what a security module returns when a file is received.
 */
struct epoll_cr_fetch {
	__u32 size;
	__u32 flags;
	__s32 pidfd;
	__u32 efd;
	__s32 tfd;
	__u32 toff;
	__u64 file;
};

#define EPOLL_CR_FETCH_SIZE_VER0	32	/* of the first version */

#define EPOLL_CR_FETCH		_IO(EPOLL_CR_IOC_TYPE, 0x43)

/**
 * struct epoll_cr_add - an entry for EPOLL_CR_RESTORE to add
 * @fd: descriptor of the caller for the file
 * @tfd: number that the file is added under, 0..INT_MAX, which is not looked up
 * @events: as in struct epoll_cr_item
 * @flags: EPOLL_CR_ITEM_*, as in struct epoll_cr_item
 * @data: as in struct epoll_cr_item
 */
struct epoll_cr_add {
	__s32 fd;
	__s32 tfd;
	__u32 events;
	__u32 flags;
	__u64 data;
};

#define EPOLL_CR_ADD_SIZE_VER0	24	/* of the first version */

/**
 * struct epoll_cr_restore - ioctl(EPOLL_CR_RESTORE)
 * @size: sizeof(struct epoll_cr_restore)
 * @flags: must be 0
 * @efd: descriptor of the caller for the epoll set
 * @item_size: sizeof(struct epoll_cr_add)
 * @items: array of struct epoll_cr_add
 * @count: how many elements @items has
 * @bad: out: index of the entry that the call failed because of, which is the
 *	first of those that can be seen before any is added; @count if it is
 *	none of them, as for EFAULT, EINTR and ENOMEM
 *
 * Adds entries as they were when EPOLL_CR_SNAPSHOT was called: all of them, or
 * none. Other entries of the set stay as they are.
 *
 * One that has EPOLL_CR_ITEM_READY is returned by the next epoll_wait(2), if
 * one of its events is there. One that has not, and has EPOLLET or
 * EPOLLEXCLUSIVE, is not returned for what is there already, but for what comes:
 * that was reported before, or to another set. If something can have come for
 * the file since it was made for the process that is restored, set the flag: to
 * return an entry for nothing is harmless. Without both that makes no difference.
 *
 * Nothing but flags in @events, with EPOLLONESHOT among them, is an entry that
 * has fired: it is not returned until it is modified.
 *
 * First all entries are looked at, and nothing is added if one is refused: @bad
 * is the first such. What can only be seen as they are added is seen then, and
 * what was added is removed again: that an entry is twice in @items (EEXIST,
 * @bad is the second), ELOOP, EINVAL for too many paths, ENOMEM and EINTR.
 * Those who wait for the set can see that an entry was there for a moment then.
 * What others add, delete or modify meanwhile stays as they have left it, but for
 * what they have done to an entry that is removed again.
 *
 * Return: 0, or
 *
 * E2BIG: also: the unknown rest of an element is not zero.
 * EBADF: @efd or @fd is not open, or has O_PATH.
 * EOPNOTSUPP: @efd is not an epoll file.
 * EINVAL: a flag of an entry is unknown; @tfd is negative; @events are such
 *	as no entry has: neither both of EPOLLERR and EPOLLHUP, nor of an entry
 *	that has fired; EPOLLEXCLUSIVE with what epoll_ctl(2) refuses beside it;
 *	@fd is the set itself; adding it makes too many paths.
 * EPERM: the file cannot be polled; EPOLLWAKEUP without CAP_BLOCK_SUSPEND, or
 *	on a system that does not suspend.
 * EEXIST: the set has an entry for this file and number.
 * ELOOP: sets would contain each other, or be nested too deep.
 * ENOSPC: /proc/sys/fs/epoll/max_user_watches would be exceeded. @bad is
 *	@count, unless it was another program that came first.
 * EOVERFLOW: this call was made on the set too many times (2^32 - 1) with a
 *	@count that is not 0.
 */
struct epoll_cr_restore {
	__u32 size;
	__u32 flags;
	__s32 efd;
	__u32 item_size;
	__aligned_u64 items;
	__u64 count;
	__u64 bad;
};

#define EPOLL_CR_RESTORE_SIZE_VER0	40	/* of the first version */

#define EPOLL_CR_RESTORE	_IO(EPOLL_CR_IOC_TYPE, 0x44)

#endif /* _UAPI_LINUX_EPOLL_CR_H */
