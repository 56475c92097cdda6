// SPDX-License-Identifier: GPL-2.0

//! What a dump leaves behind that a signal ends at any time: no image or a whole one.

mod child;

use child::{Stopped, dump};
use libc::{SIGINT, SIGKILL, SIGTERM, c_int};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// How often each signal is sent, at times that are spread over the dump.
const TIMES: u32 = 16;

/// The size of what is dumped: writing it takes most of the time.
const SIZE: usize = 8 << 20;

/// In the child that is to be dumped: a memfd without holes.
fn fill_memory() -> io::Result<()> {
    let block = [0x5au8; 4096];
    // SAFETY: the name ends with a zero, and the block is there during the calls.
    unsafe {
        let fd = libc::memfd_create(c"contents".as_ptr(), 0);
        for _ in 0..SIZE / block.len() {
            if libc::write(fd, block.as_ptr().cast(), block.len()) != block.len() as isize {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Lets openat(2) refuse `O_TMPFILE` in this process, as many file systems do.
fn refuse_unnamed_files() -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // O_TMPFILE has a bit of its own, and that of O_DIRECTORY.
    const UNNAMED: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    // The number of the call, and the lower half of its third argument, in seccomp_data.
    let third = if cfg!(target_endian = "big") { 36 } else { 32 };
    let mut steps = [
        step(LOAD, 0, 0, 0),
        step(EQUAL, libc::SYS_openat as u32, 0, 3),
        step(LOAD, third, 0, 0),
        step(SET, UNNAMED, 0, 1),
        step(
            RETURN,
            libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP as u32,
            0,
            0,
        ),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program is there during the calls, and has as many steps as it says.
    let ret = unsafe {
        match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
            0 => libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ),
            failed => failed,
        }
    };
    match ret {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets signals end this process. If the tests run in the background of a shell, SIGINT is
/// ignored.
fn expect_signals() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // SAFETY: no handler is installed, so that no code runs for the signal.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// How the dump writes its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// To a file without a name.
    Unnamed,
    /// To a file with another name.
    Named,
}

impl Way {
    fn dump(self, pid: u32, image: &Path) -> Command {
        let mut command = dump(pid, image);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec, these make system calls only.
        unsafe {
            command.pre_exec(expect_signals);
            if self == Self::Named {
                command.pre_exec(refuse_unnamed_files);
            }
        }
        command
    }
}

/// The files in a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn is_whole(image: &Path) -> bool {
    let mut show = Command::new(env!("CARGO_BIN_EXE_epollcr"));
    show.arg("show").arg(image).stdin(Stdio::null());
    show.output().unwrap().status.success()
}

/// Ends dumps by a signal. Each other one replaces an image.
fn interrupt(child: &Stopped, way: Way, signal: c_int) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let began = Instant::now();
    assert!(way.dump(child.id(), &image).status().unwrap().success());
    let took = began.elapsed();
    let whole = fs::metadata(&image).unwrap().len();
    assert_eq!(files(dir.path()), std::slice::from_ref(&image));

    let (mut none, mut old, mut new) = (0, 0, 0);
    for n in 0..TIMES {
        let over = n % 2 == 1;
        match over {
            true => fs::write(&image, "an old image").unwrap(),
            false => fs::remove_file(&image).unwrap_or_default(),
        }
        let mut running = way.dump(child.id(), &image).spawn().unwrap();
        std::thread::sleep(took * n / TIMES);
        // SAFETY: it takes integers. This is our child, which nobody has waited for.
        unsafe { libc::kill(running.id() as i32, signal) };
        let status = running.wait().unwrap();
        // It ends by the signal, or it says that it was interrupted, or it was faster.
        assert!(
            status.signal() == Some(signal) || matches!(status.code(), Some(0 | 1)),
            "{way:?}: {status}"
        );

        let mut left = files(dir.path());
        // The manual page says so.
        let may_leave = signal == SIGKILL && (over || way == Way::Named);
        left.retain(|file| {
            let name = file.file_name().unwrap().to_string_lossy();
            let stays = !(may_leave && name.starts_with(".epollcr-"));
            if !stays {
                fs::remove_file(file).unwrap();
            }
            stays
        });
        match &left[..] {
            [] => none += 1,
            [file] if *file == image => match fs::read(&image).unwrap() {
                bytes if over && bytes == b"an old image" => old += 1,
                bytes => {
                    assert_eq!(bytes.len() as u64, whole, "{way:?}: after {n}/{TIMES}");
                    assert!(is_whole(&image), "{way:?}: after {n}/{TIMES}");
                    new += 1;
                }
            },
            left => panic!("{way:?}: signal {signal}, {n}/{TIMES}: {left:?}"),
        }
        assert!(status.code() != Some(0) || is_whole(&image));
        assert!(!over || image.exists(), "the old image is gone");
    }
    println!(
        "{way:?}, signal {signal}, {took:?}: {none} without an image, {old} with an old one, \
         {new} with a new one"
    );
    assert!(new < TIMES, "no dump was interrupted");
}

/// Says that a test is skipped, past the capture of its output: see `scripts/lib/results`.
fn skip(why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}

fn interrupted(way: Way) {
    let child = Stopped::with(fill_memory);
    if !child.may_be_dumped() {
        return skip("this process may not dump its children");
    }
    if let Err(error) = way.dump(child.id(), Path::new("/dev/null/image")).status() {
        return skip(&format!("no seccomp filters here: {error}"));
    }
    for signal in [SIGINT, SIGTERM, SIGKILL] {
        interrupt(&child, way, signal);
    }
}

#[test]
fn a_file_without_a_name() {
    interrupted(Way::Unnamed);
}

#[test]
fn a_file_with_another_name() {
    interrupted(Way::Named);
}
