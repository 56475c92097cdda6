// SPDX-License-Identifier: GPL-2.0

//! The second look at the instances.

use super::ByKcmp;
use crate::fdinfo::Target;
use crate::resolve::task::Task;
use crate::resolve::{Owner, Resolved};
use std::io;

impl ByKcmp<'_> {
    /// Reads the instances again. Keeps what was found for targets that are still
    /// there, and resolves those that are new.
    pub(super) fn look_again(&mut self, tasks: Vec<Task>) -> io::Result<Vec<Vec<Resolved>>> {
        let mut before: Vec<Vec<Task>> = self.instances.iter().map(|_| Vec::new()).collect();
        for task in tasks {
            before[task.instance].push(task);
        }
        let mut resolved: Vec<Vec<Resolved>> = Vec::new();
        let mut new = Vec::new();
        let mut places = Vec::new();
        // Otherwise another search does not find more.
        let sees_all = self.sees_all();
        for (instance, before) in before.into_iter().enumerate() {
            resolved.push(Vec::new());
            if self.instances[instance].gone.is_some() {
                continue;
            }
            let Some(now) = self.read_instance(instance) else {
                continue;
            };
            for (place, (target, found)) in matched(before, now).into_iter().enumerate() {
                let changed = found.is_none();
                let is_known = |task: &Task| task.owner != Some(Owner::Unknown);
                if let Some(found) = found.filter(|task| is_known(task) || !sees_all) {
                    resolved[instance].push(Task { target, ..found }.done(false));
                } else {
                    // Replaced once it is resolved.
                    resolved[instance].push(Task::new(instance, target).done(changed));
                    places.push((instance, place, changed));
                    new.push(Task::new(instance, target));
                }
            }
        }
        if !new.is_empty() {
            self.work(&mut new)?;
        }
        for ((instance, place, changed), task) in places.into_iter().zip(new) {
            resolved[instance][place] = task.done(changed);
        }
        Ok(resolved)
    }
}

/// Assigns what was found before to the targets that are there now.
///
/// If the targets of one tfd changed, any of them may be another one.
fn matched(mut before: Vec<Task>, now: Vec<Target>) -> Vec<(Target, Option<Task>)> {
    let key = |target: &Target| (target.tfd, target.toff);
    let identity = |target: &Target| (target.inode, target.data);
    before.sort_unstable_by_key(|task| key(&task.target));
    let mut order: Vec<usize> = (0..now.len()).collect();
    order.sort_unstable_by_key(|&index| key(&now[index]));

    let mut found: Vec<_> = now.iter().map(|_| None).collect();
    let mut before = &mut before[..];
    for group in order.chunk_by(|&a, &b| now[a].tfd == now[b].tfd) {
        let tfd = now[group[0]].tfd;
        before = {
            let start = before.partition_point(|task| task.target.tfd < tfd);
            &mut before[start..]
        };
        let end = before.partition_point(|task| task.target.tfd == tfd);
        let tasks = &mut before[..end];
        let old = tasks.iter().map(|task| identity(&task.target));
        if !old.eq(group.iter().map(|&index| identity(&now[index]))) {
            continue;
        }
        for (task, &index) in tasks.iter_mut().zip(group) {
            let task = std::mem::replace(task, Task::new(task.instance, task.target));
            found[index] = task.owner.is_some().then_some(task);
        }
    }
    now.into_iter().zip(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::Descriptor;
    use crate::fdinfo::{Events, Inode};
    use crate::resolve::TfdState;
    use std::os::fd::RawFd;

    fn target(tfd: RawFd, toff: u32, ino: u64) -> Target {
        Target {
            tfd,
            toff,
            events: Events(1),
            data: 0,
            pos: Some(0),
            inode: Some(Inode {
                ino,
                major: 0,
                minor: 8,
            }),
        }
    }

    #[test]
    fn what_was_found_is_kept_unless_others_of_the_number_have_changed() {
        let tasks = [(5, 0, 50), (5, 1, 51), (3, 0, 30), (7, 0, 70)];
        let before = tasks.map(|(tfd, toff, ino)| Task {
            owner: Some(Owner::Tfd(Descriptor {
                pid: ino as i32,
                fd: tfd,
            })),
            tfd_state: TfdState::Target,
            ..Task::new(0, target(tfd, toff, ino))
        });
        let kept = |now: &[(RawFd, u32, u64)]| {
            let now = now.iter().map(|&(tfd, toff, ino)| target(tfd, toff, ino));
            let before = before.each_ref().map(|task| Task {
                instance: 0,
                target: task.target,
                owner: task.owner.clone(),
                tfd_state: task.tfd_state.clone(),
                owners_total: None,
                stale_at: Vec::new(),
            });
            matched(before.into(), now.collect())
                .into_iter()
                .map(|(target, found)| {
                    found.map(|task| {
                        let (pid, fd) = (target.inode.unwrap().ino as i32, target.tfd);
                        assert_eq!(task.owner, Some(Owner::Tfd(Descriptor { pid, fd })));
                        assert_eq!(task.tfd_state, TfdState::Target);
                    })
                })
                .map(|found| found.is_some())
                .collect::<Vec<_>>()
        };
        // All are there, in another order.
        let all = [(3, 0, 30), (5, 0, 50), (5, 1, 51), (7, 0, 70)];
        assert_eq!(kept(&all), [true; 4]);
        // One of two is gone, either may be.
        assert_eq!(kept(&[(3, 0, 30), (5, 0, 51)]), [true, false]);
        // One is new, one was replaced.
        assert_eq!(
            kept(&[(3, 0, 30), (4, 0, 40), (7, 0, 71)]),
            [true, false, false]
        );
        assert_eq!(kept(&[(7, 0, 70), (7, 1, 71)]), [false, false]);
        assert_eq!(kept(&[]), [false; 0]);
    }
}
