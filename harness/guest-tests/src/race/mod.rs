// SPDX-License-Identifier: GPL-2.0
//! Races: the target of a query, or the caller, changes at the worst moment.

pub mod exec;
mod false_equality;
mod kcmp_file;
mod killable;
mod preempted;
mod reload;
mod teardown;

use crate::tap::Case;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("race/false_equality", false_equality::run),
        Case::new("race/false_equality_preempted", false_equality::preempted),
        Case::new("race/kcmp_file", kcmp_file::run),
        Case::new("race/killable", killable::run),
        Case::new("race/teardown", teardown::run),
        Case::new("race/reload", reload::run),
        Case::new("race/exec", exec::run),
    ]
}
