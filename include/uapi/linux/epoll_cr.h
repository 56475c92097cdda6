/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_EPOLL_CR_H
#define _UAPI_LINUX_EPOLL_CR_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * DOC: /dev/epoll_cr
 *
 * Provides programs that checkpoint and restore processes with information
 * about descriptors and epoll instances that no other interface offers.
 *
 * The argument of each ioctl is a pointer to a struct that begins with its size
 * as known to the caller. If the kernel knows a shorter struct, the rest has to
 * be zero; if it knows a longer one, it takes the missing part as zero. The same
 * holds for the elements of arrays, the size of which is a member of the struct:
 * of elements that are read, the unknown rest has to be zero; of elements that
 * are written, the unknown rest is set to zero. Members marked 'out' are written
 * even if a call fails, unless it fails before all arguments have been read.
 * Their previous values are ignored. All layouts are the same for 32-bit and
 * 64-bit programs.
 *
 * These errors are common to all calls:
 *
 * ENOTTY: unknown ioctl.
 * EINVAL: a size is smaller than that of the first version of the struct
 *	(EPOLL_CR_*_SIZE_VER0), or an unknown flag is set.
 * E2BIG: a size is larger than a page, or an unknown rest is not zero.
 * EFAULT: memory of the caller cannot be read or written.
 * EINTR: the caller has been killed.
 * ENOMEM: no memory for a buffer, the size of which does not depend on the
 *	number of elements.
 *
 * Some calls inspect another process. It is specified by a pidfd, PIDFD_SELF or
 * PIDFD_SELF_THREAD. A pidfd that was opened with PIDFD_THREAD specifies that
 * thread. These errors are common to such calls:
 *
 * EBADF: the pidfd is not open, or not a pidfd.
 * ESRCH: the process does not exist any more, or is exiting.
 * EPERM: the caller may not attach to the process (PTRACE_MODE_ATTACH_REALCREDS),
 *	as for pidfd_getfd(2).
 *
 * The last two are checked again every few elements, so they can occur in the
 * middle of a call.
 *
 * An identity is a number that identifies an open file description. It is never
 * 0. All calls on one open file description of the device, by any task, return
 * the same identity for the same file and different identities for different
 * files. Another open file description of the device returns other identities.
 * After the last reference to a file is gone, its identity may be reused, so
 * compare only identities of files that existed at the same time, which holds if
 * the processes were stopped. Identities of descriptor tables are unrelated to
 * those of files.
 */

#define EPOLL_CR_IOC_TYPE	0xEC

/* an enum so that bindgen can evaluate them */
enum {
	EPOLL_CR_SNAPSHOT	= _IO(EPOLL_CR_IOC_TYPE, 0x40),
	EPOLL_CR_FILES		= _IO(EPOLL_CR_IOC_TYPE, 0x41),
	EPOLL_CR_DESCRIBE	= _IO(EPOLL_CR_IOC_TYPE, 0x42),
	EPOLL_CR_FETCH		= _IO(EPOLL_CR_IOC_TYPE, 0x43),
	EPOLL_CR_RESTORE	= _IO(EPOLL_CR_IOC_TYPE, 0x44),
};

/**
 * struct epoll_cr_item - a target of an epoll instance, for EPOLL_CR_SNAPSHOT
 * @tfd: descriptor that the file was added under
 * @toff: number of targets of this descriptor before this one, as in
 *	struct kcmp_epoll_slot
 * @events: events and flags, as last added or modified. EPOLLERR and EPOLLHUP
 *	are always included, except that only flags are left of an EPOLLONESHOT
 *	target that has fired.
 * @flags: EPOLL_CR_ITEM_*
 * @data: user data, as last added or modified
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
 * The target is on the ready list: the next epoll_wait(2) polls its file, and
 * returns the target if one of @events is pending.
 */
#define EPOLL_CR_ITEM_READY	0x01

/**
 * struct epoll_cr_snapshot - argument of EPOLL_CR_SNAPSHOT
 * @size: sizeof(struct epoll_cr_snapshot)
 * @flags: must be 0
 * @pidfd: process
 * @efd: descriptor of the process for an epoll instance
 * @items: array of struct epoll_cr_item, written
 * @capacity: number of elements that @items has room for
 * @count: out: number of targets of the instance
 * @epoll_id: out: id of the instance, as 'epoll-id' in /proc/PID/fdinfo/EFD
 * @item_size: sizeof(struct epoll_cr_item)
 * @reserved: must be 0
 *
 * Returns the targets of an epoll instance, ordered by @tfd, then by @toff.
 * Unless all processes that use the instance are stopped, targets can be added
 * and removed meanwhile. A target that is present throughout is returned exactly
 * once, others at most once.
 *
 * Return: 0, or
 *
 * ENOSPC: @items has no room for @count targets. Those that fit have been
 *	written. Call again with more room; the instance has not been changed.
 * EBADF: @efd is not open.
 * EOPNOTSUPP: @efd does not refer to an epoll instance.
 * ESTALE: @efd has been closed meanwhile, or refers to another instance.
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

/**
 * struct epoll_cr_fd - an open descriptor, for EPOLL_CR_FILES
 * @fd: descriptor
 * @flags: EPOLL_CR_FD_*
 * @file: identity of the file
 */
struct epoll_cr_fd {
	__u32 fd;
	__u32 flags;
	__u64 file;
};

#define EPOLL_CR_FD_SIZE_VER0	16	/* of the first version */

#define EPOLL_CR_FD_CLOEXEC	0x01	/* closed by execve(2) */
#define EPOLL_CR_FD_EPOLL	0x02	/* refers to an epoll instance */

/**
 * struct epoll_cr_files - argument of EPOLL_CR_FILES
 * @size: sizeof(struct epoll_cr_files)
 * @flags: must be 0
 * @pidfd: process
 * @fd_size: sizeof(struct epoll_cr_fd)
 * @fds: array of struct epoll_cr_fd, written
 * @capacity: number of elements that @fds has room for
 * @count: out: number of open descriptors
 * @table: out: identity of the descriptor table. It is the same for tasks that
 *	share a table (CLONE_FILES, as threads do). It cannot be compared with
 *	the identity of a file.
 *
 * Returns all open descriptors in ascending order, including those with O_PATH.
 * If descriptors are opened and closed meanwhile, each that is open throughout
 * is returned exactly once.
 *
 * Return: 0, or
 *
 * ENOSPC: @fds has no room for @count descriptors. Those that fit have been
 *	written. Call again with more room.
 * ESTALE: the process has switched to another table (execve(2), unshare(2)).
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

/**
 * struct epoll_cr_file - an open file, for EPOLL_CR_DESCRIBE
 * @fd: the requested descriptor
 * @mask: EPOLL_CR_FILE_*: optional members that are valid; others are 0
 * @file: identity of the file, or 0 if the descriptor is not open
 * @pos: file position, as in fdinfo
 * @epoll_id: id of the epoll instance, or 0 if the file is not an epoll file
 * @mode: file type and permissions, as in struct stat
 * @f_flags: file status flags, as returned by F_GETFL, and O_PATH. Never
 *	contains O_CLOEXEC.
 * @uid: real user ID of the opener. This and the other IDs are in the user
 *	namespace of the caller, see @f_cred of struct file in the kernel.
 * @gid: real group ID of the opener
 * @euid: effective user ID of the opener
 * @egid: effective group ID of the opener
 * @fsuid: filesystem user ID of the opener
 * @fsgid: filesystem group ID of the opener
 * @owner_type: F_OWNER_*, if @owner_pid is not 0
 * @owner_pid: recipient of SIGIO, in the pid namespace of the caller; 0 if there
 *	is none, or if it is not visible there
 * @owner_uid: real user ID of the task that has set @owner_pid
 * @owner_euid: effective user ID of the task that has set @owner_pid
 * @owner_signal: signal to send instead of SIGIO (F_SETSIG), or 0
 * @nlink: number of hard links
 * @dev_major: device that contains the inode
 * @dev_minor: device that contains the inode
 * @rdev_major: device that the file represents, if it is a device file
 * @rdev_minor: device that the file represents, if it is a device file
 * @ino: inode number
 * @length: length of a regular file, as st_size in struct stat
 * @path_offset: offset of the path in @paths
 * @path_len: length of the path, without the NUL that follows it
 * @reserved: 0
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

/* @nlink, @dev_*, @rdev_*, @ino, @length: reported by the filesystem */
#define EPOLL_CR_FILE_STAT	0x01
/*
 * @path_offset, @path_len: the target of the link in /proc/PID/fd, as the caller
 * sees it, without ' (deleted)'. Not set if @paths has no room for the path, or
 * if the target of the link, including a NUL, is longer than PATH_MAX. The flags
 * below are valid in either case.
 */
#define EPOLL_CR_FILE_PATH	0x02
/* the path is a name that does not resolve, as 'pipe:[1]' or 'anon_inode:[eventfd]' */
#define EPOLL_CR_FILE_NAME	0x04
/* the file has been unlinked, so that the path does not resolve to it any more */
#define EPOLL_CR_FILE_UNLINKED	0x08
/* the file is outside of the root directory of the caller */
#define EPOLL_CR_FILE_UNREACHABLE 0x10

/**
 * struct epoll_cr_describe - argument of EPOLL_CR_DESCRIBE
 * @size: sizeof(struct epoll_cr_describe)
 * @flags: must be 0
 * @pidfd: process
 * @file_size: sizeof(struct epoll_cr_file)
 * @fds: array of __u32: descriptors to describe, each in 0..INT_MAX
 * @files: array of struct epoll_cr_file, written, one element for each of @fds
 * @count: number of elements of both arrays
 * @paths: memory for paths, written, or 0 to omit them
 * @paths_size: number of bytes that @paths has room for
 * @paths_len: out: total length of all paths, each including a NUL
 *
 * Describes the open files that descriptors refer to. Each descriptor is looked
 * up under the access check; the attributes are read afterwards, as after
 * pidfd_getfd(2). As with that, if the process closes a file meanwhile, the file
 * is released when the call returns.
 *
 * Descriptors for which EPOLL_CR_FILES has returned the same identity refer to
 * the same file. It is sufficient to describe one of them, and to check that the
 * identity is still the same.
 *
 * A descriptor that is not open is not an error: its @file is 0.
 *
 * Return: 0, or
 *
 * ENOSPC: @paths is not 0, and smaller than @paths_len bytes. Everything except
 *	the paths that did not fit has been written. Such a path has a
 *	@path_len, but EPOLL_CR_FILE_PATH is not set.
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

/**
 * struct epoll_cr_fetch - argument of EPOLL_CR_FETCH
 * @size: sizeof(struct epoll_cr_fetch)
 * @flags: must be 0
 * @pidfd: process
 * @efd: descriptor of the process for an epoll instance
 * @tfd: descriptor that the target was added under
 * @toff: number of targets of this descriptor to skip, as in
 *	struct epoll_cr_item
 * @file: required identity of the file, or 0 for any
 *
 * Opens a close-on-exec descriptor of the caller for the file of a target, as
 * pidfd_getfd(2) does for a file that has a descriptor.
 *
 * An epoll instance can be passed to another process without the files that it
 * watches. So permission to attach to the process, which may be the caller
 * itself, is only sufficient for files that the process has open, under any
 * descriptor. For others, the caller needs CAP_CHECKPOINT_RESTORE or
 * CAP_SYS_PTRACE in the initial user namespace, and must be in the initial pid
 * namespace. As the opener may not exist any more, security modules check
 * access to the process and to the file, but not to the opener.
 *
 * Return: the descriptor, or
 *
 * EBADF: @efd is not open.
 * EOPNOTSUPP: @efd does not refer to an epoll instance.
 * ENOENT: there is no such target, or the last reference to its file is gone, or
 *	the file is a unix socket that is referred to only by messages that
 *	nobody can receive.
 * ESTALE: the identity of the file is not @file, or @efd has been closed
 *	meanwhile, or refers to another instance.
 * EPERM: also: the process does not have the file open, see above.
 * EMFILE: the caller has reached the limit on open descriptors.
 *
 * or the error of a security module that denies receiving the file.
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

/**
 * struct epoll_cr_add - a target to add, for EPOLL_CR_RESTORE
 * @fd: descriptor of the caller for the file
 * @tfd: descriptor to add the file under, below /proc/sys/fs/nr_open. It need
 *	not be open.
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
 * struct epoll_cr_restore - argument of EPOLL_CR_RESTORE
 * @size: sizeof(struct epoll_cr_restore)
 * @flags: must be 0
 * @efd: descriptor of the caller for the epoll instance
 * @item_size: sizeof(struct epoll_cr_add)
 * @items: array of struct epoll_cr_add
 * @count: number of elements of @items
 * @bad: out: index of the element that has caused the error. Of errors that can
 *	be detected before anything is added, this is the first. @count if the
 *	error was not caused by an element, as for EFAULT, EINTR and ENOMEM.
 *
 * Adds targets in the state that EPOLL_CR_SNAPSHOT has returned, either all of
 * them or none. Other targets of the instance are not changed.
 *
 * A target with EPOLL_CR_ITEM_READY is returned by the next epoll_wait(2) if one
 * of its events is pending. A target without it, and with EPOLLET or
 * EPOLLEXCLUSIVE, is not returned for events that are pending already, since
 * these have been reported before, or to another instance. If new events may
 * have occurred since the file was created for the restored process, set the
 * flag: an additional wakeup is harmless. For other targets, the flag makes no
 * difference.
 *
 * If @events contains only flags, including EPOLLONESHOT, the target has fired:
 * it is not returned until it is modified.
 *
 * All targets are checked before any is added, and @bad is the first that has
 * been refused. Some errors can only be detected when a target is added: a
 * duplicate in @items (EEXIST, @bad is the second), ELOOP, EINVAL for too many
 * paths, ENOMEM and EINTR. In this case, the targets added so far are removed
 * again; a program that waits for the instance may notice that they existed for
 * a moment. If the caller is killed, and another program holds the instance,
 * those that are left stay. Changes that other programs make to the instance
 * meanwhile are kept, except those to targets that are removed again.
 *
 * Return: 0, or
 *
 * E2BIG: also: the unknown rest of an element is not zero.
 * EBADF: @efd or @fd is not open, or was opened with O_PATH.
 * EOPNOTSUPP: @efd does not refer to an epoll instance.
 * EMFILE: @tfd is not below the hard limit of the caller on open descriptors
 *	(RLIMIT_NOFILE), who has no CAP_SYS_RESOURCE.
 * EINVAL: an unknown flag of a target is set; @tfd is negative, or not below
 *	/proc/sys/fs/nr_open; no target can have @events: they lack EPOLLERR or
 *	EPOLLHUP without being those of a target that has fired, or contain
 *	EPOLLEXCLUSIVE and an event that epoll_ctl(2) does not allow with it;
 *	@fd refers to the instance itself; or adding @fd would create too many
 *	paths.
 * EPERM: the file cannot be polled; or EPOLLWAKEUP is set without
 *	CAP_BLOCK_SUSPEND, or on a system that does not suspend.
 * EEXIST: the instance has a target for this file and descriptor.
 * ELOOP: instances would contain each other or be nested too deeply.
 * ENOSPC: /proc/sys/fs/epoll/max_user_watches would be exceeded. @bad is @count,
 *	unless another program has reached the limit first.
 * EOVERFLOW: this call has been made too often (2^32 - 1 times) for the
 *	instance, with a @count that is not 0.
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

#endif /* _UAPI_LINUX_EPOLL_CR_H */
