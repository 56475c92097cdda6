// SPDX-License-Identifier: GPL-2.0
//! Runs programs: processes that do what a plan says, step by step, and then stay as they
//! are, so that they can be queried.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use epoll_targets::proc::{Stat, State};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::model::{BASE, Kind, MAX_PROCESSES, Model, Op, Planned};
use crate::process;
use crate::sys;

/// The descriptor by which a worker talks to its controller, plus the worker's index.
const CONTROL: i32 = BASE / 2;
/// The socket pair over which workers pass descriptors.
const MAIL: [i32; 2] = [
    CONTROL + MAX_PROCESSES as i32,
    CONTROL + MAX_PROCESSES as i32 + 1,
];

/// The most that a step may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The processes of one program. Dropping this kills and reaps them.
#[derive(Debug)]
pub struct World {
    pids: Vec<Pid>,
}

impl World {
    pub fn pid(&self, process: usize) -> i32 {
        self.pids[process].as_raw_pid()
    }

    /// Runs the plan of a model.
    pub fn build(model: &Model) -> Result<World> {
        let plan = &model.plan;
        let mut controls = Vec::new();
        let mut worker_ends = Vec::new();
        for _ in 0..model.processes() {
            let [ours, theirs] = sys::socketpair()?;
            controls.push(ours);
            worker_ends.push(theirs);
        }
        let mail = sys::socketpair()?;

        let first = process::fork(|| {
            if take_places(&worker_ends, mail).is_err() {
                return 1;
            }
            work(0, plan)
        });
        for fd in worker_ends.into_iter().chain(mail) {
            sys::close(fd)?;
        }
        let mut world = World { pids: Vec::new() };
        let result = first.and_then(|first| {
            world.pids.push(first.leave());
            world.drive(plan, &controls)
        });
        for fd in controls {
            sys::close(fd)?;
        }
        result.map(|()| world)
    }

    fn drive(&mut self, plan: &[Planned], controls: &[i32]) -> Result<()> {
        let mut start = 0;
        while let Some(first) = plan.get(start) {
            // Consecutive steps of one process take one message.
            let len = plan[start..]
                .iter()
                .take_while(|planned| planned.process == first.process)
                .count();
            let forks = |planned: &Planned| matches!(planned.op, Op::Fork { .. } | Op::Exit);
            let len = plan[start..start + len]
                .iter()
                .position(forks)
                .map_or(len, |at| at + 1);
            let control = controls[first.process];
            let order = Message(start as i32, (start + len) as i32);
            sys::send(control, &order.to_bytes())?;

            let last = &plan[start + len - 1];
            if let Op::Exit = last.op {
                self.wait_exit(last.process)?;
            } else {
                let Message(done, value) =
                    receive(control).with_context(|| format!("after {last:?}"))?;
                if done != (start + len) as i32 {
                    let planned = plan[done as usize];
                    bail!("{planned:?}: the result is {value} instead");
                }
                if let Op::Fork { .. } = last.op {
                    self.pids.push(Pid::from_raw(value).context("no pid")?);
                }
            }
            start += len;
        }
        Ok(())
    }

    /// Waits for a process to exit. It is not reaped, so that its pid is not reused.
    fn wait_exit(&self, process: usize) -> Result<()> {
        process::wait_until("a process to exit", || {
            Stat::of(self.pid(process)).is_ok_and(|stat| stat.state == State::Zombie)
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for &pid in &self.pids {
            // A process that has exited ignores this.
            let _ = kill_process(pid, Signal::KILL);
        }
        // Parents first: their children become ours when they are reaped.
        for &pid in &self.pids {
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

/// From the controller: the first step to run, and the end of the range. From a worker:
/// the step that it got to, and the result of that step.
struct Message(i32, i32);

impl Message {
    fn to_bytes(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.0.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.1.to_ne_bytes());
        bytes
    }

    fn read(socket: i32) -> rustix::io::Result<Option<Message>> {
        let mut bytes = [0; 8];
        if sys::receive(socket, &mut bytes)? != bytes.len() {
            return Ok(None);
        }
        let word = |at: usize| {
            i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Ok(Some(Message(word(0), word(4))))
    }
}

fn receive(control: i32) -> Result<Message> {
    if !sys::readable(control, PATIENCE)? {
        bail!("a worker did not answer in time");
    }
    Message::read(control)?.context("a worker has ended")
}

/// Moves the sockets to their places, and closes all other descriptors but standard
/// streams.
fn take_places(worker_ends: &[i32], mail: [i32; 2]) -> rustix::io::Result<()> {
    // A socket may occupy the place of another: move all out of the way first.
    let away = 2 * BASE;
    let ends = worker_ends.iter().copied().zip(CONTROL..);
    let places: Vec<_> = ends.chain(mail.into_iter().zip(MAIL)).collect();
    let mut moved = Vec::new();
    for &(fd, place) in &places {
        moved.push((sys::dup_from(fd, away)?, place));
    }
    for (fd, place) in moved {
        sys::dup2(fd, place)?;
    }
    sys::close_range(3, CONTROL as u32 - 1)?;
    sys::close_range(MAIL[1] as u32 + 1, u32::MAX)?;
    Ok(())
}

/// Runs a worker: receives ranges of steps, and runs them.
fn work(me: usize, plan: &[Planned]) -> i32 {
    let mut me = me;
    loop {
        let control = CONTROL + me as i32;
        let Ok(Some(Message(start, end))) = Message::read(control) else {
            // The program has ended. It is killed after the queries.
            process::pause_forever();
        };
        let mut reply = Message(end, 0);
        for at in start..end {
            let Planned { op, expect, .. } = plan[at as usize];
            let result = match op {
                Op::Fork { child } => match fork() {
                    Ok(0) => {
                        me = child;
                        break;
                    }
                    other => {
                        reply.1 = sys::code(other);
                        other.map(|_| 0)
                    }
                },
                Op::Exit => return 0,
                op => run(op),
            };
            if result != expect {
                reply = Message(at, sys::code(result));
                break;
            }
        }
        if control != CONTROL + me as i32 {
            // A new process has no message to answer yet.
            continue;
        }
        if sys::send(control, &reply.to_bytes()).is_err() {
            return 1;
        }
    }
}

fn fork() -> rustix::io::Result<i32> {
    // SAFETY: workers have a single thread.
    let child = unsafe { sys::fork() }?;
    Ok(Pid::as_raw(child))
}

fn run(op: Op) -> rustix::io::Result<i32> {
    match op {
        Op::Create { kind, at } => {
            let fds = match kind {
                Kind::Eventfd => vec![sys::eventfd(0)?],
                Kind::Pipe => sys::pipe()?.to_vec(),
                Kind::Socketpair => sys::socketpair()?.to_vec(),
                Kind::Timerfd => vec![sys::timerfd()?],
                Kind::Signalfd => vec![sys::signalfd()?],
                Kind::Epoll => vec![sys::epoll_create()?],
            };
            for (fd, at) in fds.into_iter().zip(at) {
                sys::renumber(fd, at)?;
            }
            Ok(0)
        }
        Op::Dup { fd } => sys::dup_from(fd, BASE),
        Op::Dup2 { fd, to } => sys::dup2(fd, to),
        Op::Close { fd } => sys::close(fd),
        Op::Send { fd } => {
            sys::send_fd(MAIL[0], fd)?;
            Ok(0)
        }
        Op::Receive { at } => {
            sys::renumber(sys::receive_fd(MAIL[1])?, at)?;
            Ok(0)
        }
        Op::Ctl {
            efd,
            op,
            fd,
            events,
        } => {
            let events = if events == 0 {
                libc::EPOLLIN
            } else {
                libc::EPOLLET
            };
            sys::epoll_ctl(efd, op, fd, events as u32)
        }
        Op::Fork { .. } | Op::Exit => Err(Errno::NOSYS),
    }
}

/// Makes this process the parent of processes that a worker leaves behind.
pub fn adopt_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}
