/* SPDX-License-Identifier: GPL-2.0 */
/* What a file tells of itself, by the definitions of kernel.h. */
#ifndef FILE_H
#define FILE_H

/* Whether a file has one reference, so that it is released when that is dropped. */
static __always_inline bool is_last(const struct file *file)
{
	const struct file___ref *by_ref = (const void *)file;

	if (bpf_core_field_exists(by_ref->f_ref))
		return BPF_CORE_READ(by_ref, f_ref.refcnt.counter) == 0;
	return BPF_CORE_READ(file, f_count.counter) == 1;
}

#endif /* FILE_H */
