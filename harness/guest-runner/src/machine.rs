// SPDX-License-Identifier: GPL-2.0

//! The machine that the guest runs on: QEMU or User-mode Linux.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};

use crate::args::Run;

/// The end of a QEMU's command line that is of one accelerator.
///
/// No page tables of five levels: `identify_cpu()` clears the features of the
/// boot CPU for a moment, `pgtable_l5_enabled()` among them, by which KASAN tells
/// what is memory. An interrupt in that moment, which a busy host makes likely,
/// ends in a report of a wild access.
///
/// The emulator takes a turn for each element of a string instruction, and yet says
/// that those for bytes are fast. Without that, the kernel copies and clears by words.
pub fn accel(kvm: bool) -> [&'static str; 4] {
    if kvm {
        ["-accel", "kvm", "-cpu", "host,la57=off"]
    } else {
        let cpu = "max,la57=off,erms=off,fsrm=off,fsrs=off,fsrc=off,fzrm=off";
        ["-accel", "tcg,thread=multi", "-cpu", cpu]
    }
}

/// What the guest's first process is told, through the kernel, which hands
/// parameters that it does not know on as environment variables.
fn for_init(run: &Run, command: &Path, mark: &str) -> Vec<String> {
    let top = run.top.display();
    vec![
        format!("init={top}/scripts/guest/init"),
        format!("VM_TOP={top}"),
        format!("VM_OUT={}", run.out.display()),
        format!("VM_COMMAND={}", command.display()),
        format!("VM_MARK={mark}"),
    ]
}

/// QEMU, with its console and the command's channel in these files.
pub fn qemu(
    run: &Run,
    kvm: bool,
    command: &Path,
    mark: &str,
    console: &Path,
    channel: &Path,
) -> Command {
    let mut append = vec![
        // On a busy host the check that timer interrupts come in time fails,
        // and the kernel with it.
        "no_timer_check".to_owned(),
        "console=ttyS0 earlyprintk=serial panic=-1 oops=panic loglevel=7".to_owned(),
        "root=/dev/root rootfstype=9p ro".to_owned(),
        "rootflags=trans=virtio,version=9p2000.L,msize=262144,cache=loose".to_owned(),
    ];
    append.extend(for_init(run, command, mark));
    append.push(run.append.clone());

    let mut qemu = Command::new(&run.qemu);
    qemu.args(accel(kvm))
        .args(["-smp", &run.smp.unwrap_or(2).to_string()])
        .args(["-m", &run.memory.to_string()])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-fsdev")
        .arg("local,id=root,path=/,security_model=none,readonly=on,multidevs=remap")
        .args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=/dev/root"])
        .args(["-device", "virtio-serial-pci"])
        .args(["-device", "virtconsole,chardev=channel"])
        .args([OsStr::new("-chardev"), &file_chardev("channel", channel)])
        .args([OsStr::new("-chardev"), &file_chardev("console", console)])
        .args(["-serial", "chardev:console"])
        .args([OsStr::new("-kernel"), run.kernel.as_os_str()])
        .args(["-append", &append.join(" ")])
        .stdin(Stdio::null())
        // Standard output is the command's.
        .stdout(io::stderr());
    if let Some(initrd) = &run.initrd {
        qemu.arg("-initrd").arg(initrd);
    }
    qemu
}

/// The console and the channel are files: a file takes all that is written to
/// it, whereas a virtio console drops what a pipe does not take at once. It is
/// appended to, as the console's may begin with a line of ours.
fn file_chardev(id: &str, path: &Path) -> OsString {
    let mut s = OsString::from(format!("file,id={id},path="));
    // In QEMU's options a comma is written as two.
    s.push(path.display().to_string().replace(',', ",,"));
    s.push(",append=on");
    s
}

/// User-mode Linux. Its consoles are descriptors that it inherits: 0 is the
/// channel, `tty1`, which the guest's first process is told by `VM_CHANNEL`, 1
/// is what the kernel says, and 2 what it says before it has a console. It
/// complains that epoll does not take files, and goes on.
pub fn uml(run: &Run, command: &Path, mark: &str, console: File, channel: File) -> Result<Command> {
    let mut uml = Command::new(&run.kernel);
    uml.arg(format!("mem={}M", run.memory));
    if let Some(n) = run.smp {
        uml.arg(format!("ncpus={n}"));
    }
    uml.args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"])
        .args([
            "stderr=1",
            "noreboot",
            "panic=-1",
            "oops=panic",
            "loglevel=7",
        ])
        .args(["con=null", "ssl=null", "con0=null,fd:1", "con1=null,fd:0"])
        .arg("VM_CHANNEL=tty1")
        // Its sockets would otherwise go to the home directory.
        .arg(format!("uml_dir={}/", uml_dir(run).display()))
        .args(for_init(run, command, mark))
        .args(run.append.split_whitespace());
    if std::env::var_os("TMPDIR").is_none() {
        // Its memory is a file there. In containers /dev/shm, its own choice,
        // is often smaller than that, which shows as SIGBUS.
        uml.env("TMPDIR", "/tmp");
    }
    let stderr = console.try_clone().context("console.log")?;
    uml.stdin(channel).stdout(console).stderr(stderr);
    Ok(uml)
}

/// Where a User-mode Linux keeps its sockets.
pub fn uml_dir(run: &Run) -> PathBuf {
    run.dir.join("uml")
}

/// A running machine. It ends when this is dropped, and when we are killed.
#[derive(Debug)]
pub struct Machine {
    command: Command,
    child: Child,
}

impl Machine {
    pub fn start(mut command: Command) -> Result<Self> {
        let parent = rustix::process::getpid();
        let die_with_parent = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have ended before.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        };
        // SAFETY: Between fork and exec the closure makes two system calls and
        // an error without a payload. It takes no lock and allocates nothing.
        unsafe { command.pre_exec(die_with_parent) };
        // A terminal's signals are for us to handle, and a User-mode Linux is
        // many processes.
        command.process_group(0);
        let child = spawn(&mut command)?;
        Ok(Self { command, child })
    }

    /// Ends it and starts it anew.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.child = spawn(&mut self.command)?;
        Ok(())
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Ends it, if it has not ended.
    pub fn kill(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It is not reaped yet, so that the group is still its own.
            let group = Pid::from_child(&self.child);
            if rustix::process::kill_process_group(group, Signal::KILL).is_ok() {
                // Nothing can be done if it fails, and nothing depends on it.
                let _ = self.child.wait();
            }
        }
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a process ended, in words.
pub fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("died of signal {signal}"),
        (_, Some(code)) => format!("ended with status {code}"),
        (None, None) => status.to_string(),
    }
}
