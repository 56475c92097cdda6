// SPDX-License-Identifier: GPL-2.0
//! A caller that waits for a held set dies by SIGKILL, except in mainline.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Options;
use crate::handler::{self, Handler};
use crate::held::HeldSet;
use crate::process::{self, sleeps_in_kcmp, wait_in_kcmp};
use crate::sys::{self, Slot};
use crate::tap::note;

const SOON: Duration = Duration::from_secs(20);
/// Long enough for what must not happen.
const A_WHILE: Duration = Duration::from_millis(300);

pub fn run(_: &Options) -> Result<()> {
    let fixed = handler::is_fixed()?;
    for &handler in Handler::present() {
        let _answering = handler.answers()?;
        with(handler, fixed).with_context(|| format!("{handler}"))?;
    }
    Ok(())
}

fn with(handler: Handler, killable: bool) -> Result<()> {
    let efd = sys::epoll_create()?;
    let fd = sys::eventfd(1)?;
    sys::epoll_add(efd, fd)?;
    let me = sys::getpid();
    let slot = Slot::new(efd, fd, 0);
    let [begin, end] = sys::pipe()?;

    // It is forked before there is a thread, and makes its query when the pipe has no
    // writer.
    let mut caller = process::fork(|| {
        if sys::close(end).is_err() || sys::readable(begin, SOON) != Ok(true) {
            return 100;
        }
        sys::code(sys::epoll_tfd(me, fd, me, slot))
    })?;
    let held = HeldSet::hold(efd, None)?;
    sys::close(end)?;
    wait_in_kcmp(caller.pid(), caller.pid())?;

    let killed = Instant::now();
    caller.kill();
    let dead = |status: Option<ExitStatus>| {
        status.and_then(|status| status.signal()) == Some(libc::SIGKILL)
    };
    if killable {
        ensure!(dead(caller.wait(SOON)?), "the caller does not die");
        note(format!(
            "{handler}: dead after {:.1} ms, while the mutex was held",
            ms(killed)
        ));
        held.release()?;
    } else {
        ensure!(caller.wait(A_WHILE)?.is_none(), "the caller did not wait");
        ensure!(
            sleeps_in_kcmp(caller.pid(), caller.pid()),
            "the caller is not in kcmp"
        );
        held.release()?;
        ensure!(dead(caller.wait(SOON)?), "the caller does not die");
        note(format!(
            "{handler}: alive until the mutex was released, {:.1} ms",
            ms(killed)
        ));
    }
    ensure!(
        sys::epoll_tfd(me, fd, me, slot) == Ok(sys::EQUAL),
        "the epoll instance has changed"
    );
    for fd in [efd, fd, begin] {
        sys::close(fd)?;
    }
    Ok(())
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
