// SPDX-License-Identifier: GPL-2.0

//! Resolving, checkpoint and restore.

use super::{Table, cell, compared, time, times};
use crate::record::{Layout, Variant, What};
use crate::report::Results;
use crate::report::compare::ratio as by;
use crate::report::goals::{self, Count, at_least, at_most};
use crate::report::text::{fine_ratio, ratio, thousands};

pub fn resolve(results: &Results) -> Table {
    let mut table = Table::new(
        "Time to find the owners of all targets of an epoll instance",
        &[
            "targets",
            "C",
            "Rust",
            "BPF",
            "Rust / C",
            "BPF / Rust",
            "descriptors",
        ],
    );
    for (what, where_from) in [
        (What::ResolveInPlace, "at the descriptors of the targets"),
        (What::ResolveMoved, "elsewhere"),
    ] {
        for targets in results.sizes(what, Layout::Distinct) {
            let find = |variant| results.find(what, variant, Layout::Distinct, targets);
            table.rows.push(vec![
                thousands(f64::from(targets)),
                time(find(Variant::C)),
                time(find(Variant::Rust)),
                time(find(Variant::Bpf)),
                compared(by(find(Variant::Rust), find(Variant::C)), ratio),
                compared(by(find(Variant::Bpf), find(Variant::Rust)), ratio),
                where_from.into(),
            ]);
        }
    }
    table
}

pub fn criu(results: &Results, what: What, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        match what {
            What::CriuRestore => "Time of criu restore",
            _ => "Time of criu dump",
        },
        &[
            "targets",
            "mainline",
            "C",
            "Rust",
            "with the series",
            "and the device",
            "and no targets",
            "Rust / C",
            "mainline / device",
            "device / no targets",
            "with 50,000 targets: at most 1.10 of no targets; a dump a tenth of mainline",
        ],
    );
    for targets in results.sizes(what, Layout::Distinct) {
        let find = |variant| results.find(what, variant, Layout::Distinct, targets);
        let device = find(Variant::CriuDevice);
        let faster = times(find(Variant::Mainline), device);
        let beyond = by(device, find(Variant::CriuUnwatched));
        let mut words = Vec::new();
        if targets == goals::CRIU_TARGETS {
            if let Some(s) = &beyond {
                words.push(verdicts.note(at_most(goals::CRIU_BEYOND, s)).to_string());
            }
            if let (Some(s), What::Dump) = (&faster, what) {
                let verdict = verdicts.note(at_least(goals::CRIU_FASTER, s));
                words.push(format!("next to mainline: {verdict}"));
            }
        }
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(find(Variant::Mainline)),
            time(find(Variant::C)),
            time(find(Variant::Rust)),
            time(find(Variant::CriuSeries)),
            time(device),
            time(find(Variant::CriuUnwatched)),
            compared(by(find(Variant::Rust), find(Variant::C)), ratio),
            compared(faster, ratio),
            compared(beyond, ratio),
            words.join("; "),
        ]);
    }
    table
}

pub fn checkpoint(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time to see all targets of a process's epoll instance and its descriptors for them, for each target",
        &[
            "targets",
            "epoll_cr",
            "described",
            "fdinfo",
            "kcmp, C",
            "C asked about",
            "kcmp, Rust",
            "fdinfo / epoll_cr",
            "fdinfo / described",
            "C / epoll_cr",
            "Rust / epoll_cr",
            "at 100,000: fdinfo at least 1.00 for both, C at least 1.00",
        ],
    );
    let what = What::Checkpoint;
    for targets in results.sizes(what, Layout::Distinct) {
        let find = |variant| results.find(what, variant, Layout::Distinct, targets);
        let (device, fdinfo) = (find(Variant::EpollCr), find(Variant::Fdinfo));
        let (by_fdinfo, by_c) = (by(fdinfo, device), by(find(Variant::C), device));
        let described = by(fdinfo, find(Variant::EpollCrDescribe));
        let mut words = Vec::new();
        if targets == goals::CHECKPOINT_TARGETS {
            for (name, limit, s) in [
                ("fdinfo", goals::CHECKPOINT_FDINFO, by_fdinfo),
                ("described", goals::CHECKPOINT_FDINFO, described),
                ("C", goals::CHECKPOINT_C, by_c),
            ] {
                if let Some(s) = s {
                    let verdict = verdicts.note(at_least(limit, &s));
                    words.push(format!("{name}: {verdict}"));
                }
            }
        }
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(device),
            time(find(Variant::EpollCrDescribe)),
            time(fdinfo),
            time(find(Variant::C)),
            cell(find(Variant::C), |m| {
                m.asked
                    .map_or_else(|| "all".into(), |asked| thousands(f64::from(asked)))
            }),
            time(find(Variant::Rust)),
            compared(by_fdinfo, ratio),
            compared(described, ratio),
            compared(by_c, ratio),
            compared(by(find(Variant::Rust), device), ratio),
            words.join("; "),
        ]);
    }
    table
}

pub fn restore(results: &Results, verdicts: &mut Count) -> Table {
    let mut table = Table::new(
        "Time to restore an epoll instance, for each target",
        &[
            "targets",
            "epoll_cr",
            "EPOLL_CTL_ADD",
            "epoll_cr / EPOLL_CTL_ADD",
            "at 100,000 at most 1.20",
        ],
    );
    let what = What::Restore;
    for targets in results.sizes(what, Layout::Distinct) {
        let find = |variant| results.find(what, variant, Layout::Distinct, targets);
        let by_calls = by(find(Variant::EpollCr), find(Variant::CtlAdd));
        let mut words = String::new();
        if let (Some(s), goals::CHECKPOINT_TARGETS) = (by_calls, targets) {
            words = verdicts.note(at_most(goals::RESTORE, &s)).to_string();
        }
        table.rows.push(vec![
            thousands(f64::from(targets)),
            time(find(Variant::EpollCr)),
            time(find(Variant::CtlAdd)),
            compared(by_calls, fine_ratio),
            words,
        ]);
    }
    table
}
