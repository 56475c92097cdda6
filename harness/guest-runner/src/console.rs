// SPDX-License-Identifier: GPL-2.0

//! The guest's console, watched for what the kernel says when something is
//! wrong with it.

use std::collections::VecDeque;

use regex_lite::Regex;

use crate::lines::Lines;

const LINES_BEFORE: usize = 10;
const LINES_AFTER: usize = 40;

const TROUBLE: &[&str] = &[
    // It stops, or should have.
    "Kernel panic",
    "Oops",
    r"\bBUG:",
    "kernel BUG at",
    "WARNING:",
    "general protection fault",
    "[Uu]nable to handle",
    "rust_kernel: panicked",
    // Sanitizers and checks of memory.
    "KASAN",
    "KCSAN",
    "KFENCE",
    "KMSAN",
    "UBSAN",
    "CFI failure",
    "refcount_t:",
    "list_(add|del) corruption",
    r"\bBUG \S+ \((Not t|T)ainted", // of SLUB
    "Slab corruption",
    // Leaks, and a detector that has given up.
    "kmemleak: [1-9]",
    "unreferenced object 0x",
    "kmemleak: (Cannot allocate a kmemleak_object|Memory pool empty|Failed to create)",
    // Locking.
    "possible (circular|recursive) locking",
    "possible irq lock inversion",
    "suspicious RCU usage",
    "inconsistent lock state",
    "trying to register non-static key",
    "turning off the locking correctness validator",
    "scheduling while atomic",
    "sleeping function called",
    // Lockups.
    "INFO: task .* blocked",
    "rcu.*stall",
    "soft lockup",
    "hard LOCKUP",
    "workqueue lockup",
    // Others that print no BUG or WARNING.
    "nobody cared",
    "sysfs: cannot create duplicate",
];

/// Lines that repeat our own parameters to the kernel.
const COMMAND_LINE: &str = r"ommand line: |nknown kernel command line parameters";

/// Looks for trouble in the lines of a console.
#[derive(Debug)]
pub struct Console {
    lines: Lines,
    watch: Watch,
}

#[derive(Debug)]
struct Watch {
    trouble: Regex,
    ours: Regex,
    ignore: Vec<Regex>,
    ignored: usize,
    /// The last lines.
    before: VecDeque<Vec<u8>>,
    /// From some lines before the trouble on.
    report: Vec<Vec<u8>>,
    /// How many lines of the report are still to come.
    after: usize,
}

impl Console {
    /// Trouble that matches any of `ignore` is none.
    pub fn new(ignore: &[Regex]) -> Self {
        let regex = |r: &str| Regex::new(r).expect("the patterns are well-formed");
        Self {
            lines: Lines::default(),
            watch: Watch {
                trouble: regex(&TROUBLE.join("|")),
                ours: regex(COMMAND_LINE),
                ignore: ignore.to_vec(),
                ignored: 0,
                before: VecDeque::with_capacity(LINES_BEFORE),
                report: Vec::new(),
                after: LINES_AFTER,
            },
        }
    }

    pub fn feed(&mut self, data: &[u8]) {
        self.lines.feed(data, |line| self.watch.line(line));
    }

    /// Looks at a last line that has no end, too.
    pub fn finish(&mut self) {
        self.lines.finish(|line| self.watch.line(line));
    }

    /// The lines around the first trouble, if there is any.
    pub fn trouble(&self) -> Option<&[Vec<u8>]> {
        (!self.watch.report.is_empty()).then_some(&*self.watch.report)
    }

    /// Whether all lines that are wanted of the trouble are there.
    pub fn complete(&self) -> bool {
        self.watch.after == 0
    }

    /// The last lines.
    pub fn end(&self) -> impl Iterator<Item = &[u8]> {
        self.watch.before.iter().map(Vec::as_slice)
    }

    /// How many lines would have been trouble, but were to be ignored.
    pub fn ignored(&self) -> usize {
        self.watch.ignored
    }
}

impl Watch {
    fn line(&mut self, line: &[u8]) {
        if !self.report.is_empty() {
            if self.after > 0 {
                self.report.push(line.to_vec());
                self.after -= 1;
            }
        } else if self.is_trouble(&String::from_utf8_lossy(line)) {
            self.report.extend(self.before.iter().cloned());
            self.report.push(line.to_vec());
        }
        if self.before.len() == LINES_BEFORE {
            self.before.pop_front();
        }
        self.before.push_back(line.to_vec());
    }

    fn is_trouble(&mut self, line: &str) -> bool {
        if !self.trouble.is_match(line) || self.ours.is_match(line) {
            return false;
        }
        let ignored = self.ignore.iter().any(|regex| regex.is_match(line));
        self.ignored += usize::from(ignored);
        !ignored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(text: &str, ignore: &[&str]) -> Console {
        let ignore: Vec<_> = ignore.iter().map(|r| Regex::new(r).unwrap()).collect();
        let mut console = Console::new(&ignore);
        console.feed(text.as_bytes());
        console.finish();
        console
    }

    #[test]
    fn trouble_is_found() {
        let samples = [
            "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs",
            "[    1.0] Oops: general protection fault, maybe for address 0x0: 0000 [#1] SMP",
            "[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "[    1.0] kernel BUG at fs/eventpoll.c:1!",
            "[    1.0] WARNING: fs/eventpoll.c:1 at f+0x1/0x2, CPU#0: a/1",
            "[    1.0] WARNING: possible circular locking dependency detected",
            "[    1.0] general protection fault: 0000",
            "Unable to handle kernel paging request at virtual address 0",
            "[    1.0] rust_kernel: panicked at rust/kernel/x.rs:1:1:",
            "[    1.0] BUG: KASAN: slab-use-after-free in f+0x1/0x2",
            "[    1.0] BUG: KCSAN: data-race in f / g",
            "[    1.0] BUG: KFENCE: use-after-free read in f",
            "[    1.0] KMSAN: uninit-value in f",
            "[    1.0] UBSAN: array-index-out-of-bounds in a.c:1:1",
            "[    1.0] CFI failure at f+0x1/0x2",
            "[    1.0] refcount_t: underflow; use-after-free.",
            "[    1.0] list_del corruption. prev->next should be 0",
            "[    1.0] list_add corruption. next->prev should be prev",
            "[    1.0] BUG kmalloc-64 (Not tainted): Right Redzone overwritten",
            "[    1.0] BUG epi (Tainted: G    B   ): Poison overwritten",
            "[    1.0] Slab corruption (Not tainted): a start=0, len=1",
            "[    1.0] kmemleak: 1 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "[    1.0] kmemleak: 23 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "[    1.0] kmemleak: unreferenced object 0xffff888000000000 (size 8):",
            "[    1.0] kmemleak: Cannot allocate a kmemleak_object structure",
            "[    1.0] kmemleak: Memory pool empty, consider increasing CONFIG_X",
            "[    1.0] possible recursive locking detected",
            "[    1.0] WARNING: possible irq lock inversion dependency detected",
            "[    1.0] WARNING: suspicious RCU usage",
            "[    1.0] inconsistent lock state",
            "[    1.0] INFO: trying to register non-static key.",
            "[    1.0] turning off the locking correctness validator.",
            "[    1.0] BUG: scheduling while atomic: a/1/0x00000002",
            "[    1.0] BUG: sleeping function called from invalid context at a.c:1",
            "[    1.0] INFO: task kcmp:1 blocked for more than 122 seconds.",
            "[    1.0] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[    1.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[    1.0] INFO: rcu_tasks detected stalls on tasks:",
            "[    1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [a:1]",
            "[    1.0] watchdog: Watchdog detected hard LOCKUP on cpu 0",
            "[    1.0] BUG: workqueue lockup - pool cpus=0 node=0 stuck for 31s!",
            "[    1.0] irq 9: nobody cared (try booting with the \"irqpoll\" option)",
            "[    1.0] sysfs: cannot create duplicate filename '/a'",
        ];
        for sample in samples {
            let console = watch(sample, &[]);
            assert_eq!(console.trouble(), Some(&[sample.as_bytes().to_vec()][..]));
        }
        // None is there for nothing.
        for pattern in TROUBLE {
            let regex = Regex::new(pattern).unwrap();
            assert!(
                samples.iter().any(|s| regex.is_match(s)),
                "no sample of {pattern}"
            );
        }
    }

    #[test]
    fn what_a_healthy_kernel_says_is_no_trouble() {
        for sample in [
            "[    0.0] Command line: console=ttyS0 oops=panic rcupdate.rcu_cpu_stall_timeout=9",
            "[    0.0] Kernel command line: VM_COMMAND=/log/KASAN/command",
            "[    0.0] Unknown kernel command line parameters \"VM_TOP=/KASAN\", will be passed",
            "[    0.0] kasan: KernelAddressSanitizer initialized (generic)",
            "[    0.0] kcsan: enabled early",
            "[    0.0] kmemleak: Kernel memory leak detector initialized (mem pool available: 1)",
            "[    0.0] kmemleak: Automatic memory scanning thread started",
            "[    0.0] kmemleak: Cannot allocate a scan area, scanning the full object",
            "[    0.0] **   NOTICE NOTICE NOTICE NOTICE NOTICE NOTICE NOTICE    **",
            "[    0.0] Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar",
            "[    0.0] ODEBUG: selftest passed",
            "[    0.0] DEBUG: all is well",
            "[    0.0] FAULT_INJECTION: forcing a failure.",
            "[    0.0] reboot: Power down",
        ] {
            assert!(watch(sample, &[]).trouble().is_none(), "{sample}");
        }
    }

    #[test]
    fn what_is_to_be_ignored_is() {
        let text = "BUG: KCSAN: data-race in a / b\nx\nBUG: KCSAN: data-race in c / d\n";
        let console = watch(text, &["in a / b$", "in d"]);
        assert_eq!(console.ignored(), 1);
        assert_eq!(
            console.trouble().unwrap().last().unwrap(),
            b"BUG: KCSAN: data-race in c / d"
        );
        let console = watch(text, &["in a / b$", "in c"]);
        assert_eq!(console.ignored(), 2);
        assert!(console.trouble().is_none());
    }

    #[test]
    fn the_report_has_lines_around() {
        let text: String = (0..100)
            .map(|n| match n {
                30 => "30 WARNING: \n".to_owned(),
                50 => "50 Oops\n".to_owned(),
                n => format!("{n}\n"),
            })
            .collect();
        let console = watch(&text, &[]);
        let report = console.trouble().unwrap();
        assert_eq!(report.len(), LINES_BEFORE + 1 + LINES_AFTER);
        assert_eq!(report[0], b"20");
        assert_eq!(report[LINES_BEFORE], b"30 WARNING: ");
        assert_eq!(report.last().unwrap(), b"70");
        assert!(console.complete());
        assert_eq!(console.end().next().unwrap(), b"90");
        assert_eq!(console.end().count(), LINES_BEFORE);

        let console = watch("1\nBUG: \n2\n", &[]);
        assert_eq!(console.trouble().unwrap().len(), 3);
        assert!(!console.complete());
    }

    #[test]
    fn trouble_in_a_line_cut_off() {
        let mut console = Console::new(&[]);
        console.feed(b"Kernel pa");
        console.feed(b"nic - not");
        assert!(console.trouble().is_none());
        console.finish();
        assert_eq!(console.trouble().unwrap(), [b"Kernel panic - not"]);
    }
}
