// SPDX-License-Identifier: GPL-2.0
/*
 * A module that does what rootkits do, so that tests have something real to find: it answers a system call in the kernel's stead,
 * listens to the keyboard, sees packets first, is called when a function of the kernel begins and when a
 * program is run, prints the list of TCP sockets in the kernel's stead, and then takes itself off the list of modules and out of sysfs. It harms nothing, and
 * is never part of what is distributed: the test guest's recipe builds it.
 */
#include <linux/ftrace.h>
#include <linux/keyboard.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/notifier.h>
#include <linux/seq_file.h>
#include <linux/syscalls.h>
#include <linux/tracepoint.h>
#include <net/net_namespace.h>

typedef asmlinkage long (*call_t)(const struct pt_regs *);
typedef unsigned long (*lookup_t)(const char *);

static call_t original;

static asmlinkage long planted_mkdir(const struct pt_regs *regs)
{
	return original(regs);
}

static int planted_key(struct notifier_block *block, unsigned long action, void *data)
{
	return NOTIFY_OK;
}

static struct notifier_block keys = { .notifier_call = planted_key };

static unsigned int planted_packet(void *private, struct sk_buff *skb, const struct nf_hook_state *state)
{
	return NF_ACCEPT;
}

static struct nf_hook_ops packets = {
	.hook = planted_packet,
	.pf = NFPROTO_IPV4,
	.hooknum = NF_INET_LOCAL_IN,
	.priority = NF_IP_PRI_FIRST,
};

static void planted_trace(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *regs)
{
}

static struct ftrace_ops trace = { .func = planted_trace };

static void planted_probe(void *data)
{
}

static struct tracepoint *point;

static void find_point(struct tracepoint *one, void *name)
{
	if (!strcmp(one->name, name))
		point = one;
}

static int (*original_show)(struct seq_file *, void *);

static int planted_show(struct seq_file *file, void *entry)
{
	return original_show(file, entry);
}

/* The kernel's own way would refuse to lift the write protection. */
static void write_protection(bool on)
{
	unsigned long cr0 = read_cr0();

	cr0 = on ? cr0 | X86_CR0_WP : cr0 & ~X86_CR0_WP;
	asm volatile("mov %0, %%cr0" : "+r"(cr0) : : "memory");
}

static int __init planted_init(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	lookup_t lookup;
	struct seq_operations *list;
	unsigned long *calls;
	int failed = register_kprobe(&probe);

	if (failed)
		return failed;
	lookup = (lookup_t)probe.addr;
	unregister_kprobe(&probe);
	calls = (unsigned long *)lookup("sys_call_table");
	list = (struct seq_operations *)lookup("tcp6_seq_ops");
	for_each_kernel_tracepoint(find_point, "sched_process_exec");
	if (!calls || !list || !point)
		return -ENOENT;
	original = (call_t)calls[__NR_mkdir];
	failed = register_keyboard_notifier(&keys);
	if (failed)
		return failed;
	failed = nf_register_net_hook(&init_net, &packets);
	if (failed)
		return failed;
	failed = ftrace_set_filter_ip(&trace, lookup("do_rmdir"), 0, 0);
	if (!failed)
		failed = register_ftrace_function(&trace);
	if (!failed)
		failed = tracepoint_probe_register(point, planted_probe, NULL);
	if (failed)
		return failed;
	original_show = list->show;
	preempt_disable();
	write_protection(false);
	list->show = planted_show;
	calls[__NR_mkdir] = (unsigned long)planted_mkdir;
	write_protection(true);
	preempt_enable();
	list_del_init(&THIS_MODULE->list);
	kobject_del(&THIS_MODULE->mkobj.kobj);
	return 0;
}

module_init(planted_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("What rootkits do, for impound's tests");
