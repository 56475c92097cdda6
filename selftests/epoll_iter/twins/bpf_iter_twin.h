/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A module with a target for BPF iterators that shows one number, TWIN. Each
 * file that includes this is such a module: they have the same target, and the
 * same types in the same order, so their BTF ids are the same.
 */
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/seq_file.h>

struct bpf_iter__twin {
	__bpf_md_ptr(struct bpf_iter_meta *, meta);
	u64 number;
};

DEFINE_BPF_ITER_FUNC(twin, struct bpf_iter_meta *meta, u64 number)

static void *twin_start(struct seq_file *seq, loff_t *pos)
{
	return *pos ? NULL : SEQ_START_TOKEN;
}

static void *twin_next(struct seq_file *seq, void *v, loff_t *pos)
{
	++*pos;

	return NULL;
}

static void twin_stop(struct seq_file *seq, void *v)
{
}

static int twin_show(struct seq_file *seq, void *v)
{
	struct bpf_iter_meta meta = { .seq = seq };
	struct bpf_iter__twin ctx = { .number = TWIN };
	struct bpf_prog *prog;

	BTF_TYPE_EMIT(struct bpf_iter__twin);
	ctx.meta = &meta;
	prog = bpf_iter_get_info(&meta, false);

	return prog ? bpf_iter_run_prog(prog, &ctx) : 0;
}

static const struct seq_operations twin_seq_ops = {
	.start	= twin_start,
	.next	= twin_next,
	.stop	= twin_stop,
	.show	= twin_show,
};

static const struct bpf_iter_seq_info twin_seq_info = {
	.seq_ops = &twin_seq_ops,
};

static const struct bpf_iter_reg twin_reg = {
	.target		= "twin",
	.owner		= THIS_MODULE,
	.seq_info	= &twin_seq_info,
};

static int __init twin_init(void)
{
	return bpf_iter_reg_target(&twin_reg);
}
module_init(twin_init);

static void __exit twin_exit(void)
{
	bpf_iter_unreg_target(&twin_reg);
}
module_exit(twin_exit);

MODULE_DESCRIPTION("A BPF iterator target that another module has, too");
MODULE_LICENSE("GPL");
