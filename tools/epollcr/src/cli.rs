// SPDX-License-Identifier: GPL-2.0

//! The command line.

use clap::{Args as Arguments, Parser, Subcommand};
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

const ABOUT: &str = "\
Dump and restore the descriptors and epoll instances of a process.

An image names the open file description of each target of an epoll instance, even if \
the descriptor that the target was added by is closed or reused, or another process has \
the file, or none. A restore reproduces each target exactly: its descriptor, its events, \
whether a oneshot has fired, and whether an edge was reported.

The tool needs permission to attach to the process as with ptrace(2), which root usually \
has. The kernel module epoll_cr gives it access to targets that no process has a \
descriptor for; all others are found on any kernel.";

const AFTER: &str = "\
Exit status:
  0  success
  1  an error, or something cannot be restored: everything that cannot is listed
  2  invalid arguments
  126, 127  everything was restored, but COMMAND cannot be executed, or was not found

Examples:
  kill -STOP 1234; epollcr dump -p 1234 image
  epollcr show image
  epollcr restore image --stdio -- server --resume";

/// Dump and restore the descriptors and epoll instances of a process
#[derive(Debug, Parser)]
#[command(name = "epollcr", version, long_about = ABOUT, after_long_help = AFTER)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write an image of a stopped process
    Dump(Dump),
    /// Restore an image, and execute a command that inherits its descriptors
    Restore(Restore),
    /// Show the contents of an image
    Show(Show),
    /// Print a completion script for a shell
    Completions(Completions),
}

#[derive(Debug, Arguments)]
pub struct Dump {
    /// Process to dump; it must be stopped
    #[arg(short, long, value_name = "PID")]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: i32,

    /// Dump the process even if it is not stopped
    ///
    /// The image may then be inconsistent: the process need not have had all of its state
    /// at any one time. Descriptors that only some threads have may be missing. The image
    /// records this, and show and restore report it.
    #[arg(long)]
    pub running: bool,

    /// Do without /dev/epoll_cr
    ///
    /// This is the default if there is no such device, or the caller may not open it.
    /// WITHOUT THE DEVICE, in epollcr(1), says what is lost.
    #[arg(long)]
    pub no_device: bool,

    /// File to write the image to
    ///
    /// Only its owner can read it. It appears when the image is complete. An existing file
    /// is replaced only if it is a regular file.
    pub file: PathBuf,
}

#[derive(Debug, Arguments)]
pub struct Restore {
    /// Image to restore
    pub file: PathBuf,

    /// Use descriptor M of the caller for descriptor N of the image
    ///
    /// It replaces the open file description of N, at all its descriptors and in all epoll
    /// instances that it is a target of, so one descriptor is enough for each description.
    /// For an open file that has no descriptor, N is f and the index that show prints. The
    /// file of M is not changed: it keeps its position and its contents, and an epoll
    /// instance gets no targets.
    #[arg(long = "fd", value_name = "N=M")]
    pub given: Vec<Given>,

    /// Keep the standard input, output and error of the caller
    ///
    /// Descriptors 0, 1 and 2 replace those of the image, unless --fd names them. In the
    /// image, the three are often one open file description. Each is then replaced by its
    /// own; other descriptors and targets of that description get the first of the three,
    /// unless a target was added by another one of them.
    #[arg(long)]
    pub stdio: bool,

    /// Keep the close-on-exec flags, so that COMMAND does not inherit these descriptors
    ///
    /// The dumped process would have closed them. A target's file that has no descriptor in
    /// the image is kept open nevertheless. Without this option, no descriptor is
    /// close-on-exec; show prints which were.
    #[arg(long)]
    pub keep_cloexec: bool,

    /// List what cannot be restored, and do nothing
    ///
    /// Regular files are opened for that, FIFOs are not.
    #[arg(long)]
    pub dry_run: bool,

    /// Do without /dev/epoll_cr
    ///
    /// This is the default if there is no such device, or the caller may not open it.
    /// WITHOUT THE DEVICE, in epollcr(1), says what cannot be restored then.
    #[arg(long)]
    pub no_device: bool,

    /// Command to execute, and its arguments
    #[arg(last = true, required_unless_present = "dry_run")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Arguments)]
pub struct Show {
    /// Print one JSON object, which epollcr(1) describes
    #[arg(long)]
    pub json: bool,

    /// Image to show
    pub file: PathBuf,
}

#[derive(Debug, Arguments)]
pub struct Completions {
    /// Shell to print the script for
    pub shell: clap_complete::Shell,
}

/// An open file of the image.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// That of a descriptor.
    Descriptor(u32),
    /// That of an index.
    File(u32),
}

/// The value of `--fd`.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    pub which: Which,
    /// The descriptor of the caller.
    pub fd: RawFd,
}

impl FromStr for Given {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "expected N=M or fN=M, where N and M are numbers";
        let (which, fd) = text.split_once('=').ok_or(wrong)?;
        let number = |text: &str| text.parse::<i32>().ok().filter(|&n| n >= 0).ok_or(wrong);
        let which = match which.strip_prefix('f') {
            Some(file) => Which::File(number(file)?.unsigned_abs()),
            None => Which::Descriptor(number(which)?.unsigned_abs()),
        };
        Ok(Self {
            which,
            fd: number(fd)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap_mangen::Man;
    use std::iter;

    const PAGE: &str = include_str!("../epollcr.1");
    const BEGIN: &str = ".\\\" BEGIN OPTIONS: a test compares this with the command line.\n";
    const END: &str = ".\\\" END OPTIONS\n";

    /// The options of all commands, as a part of a manual page.
    fn options() -> String {
        let mut command = Args::command();
        command.build();
        let mut page = String::new();
        let subs = command.get_subcommands();
        let subs = subs.filter(|sub| sub.get_name() != "help");
        for command in iter::once(&command).chain(subs) {
            let mut section = Vec::new();
            let man = Man::new(command.clone());
            man.render_options_section(&mut section).unwrap();
            let section = String::from_utf8(section).unwrap();
            // What precedes the section is at the top of the page.
            let (_, section) = section.split_once(".SH OPTIONS\n").unwrap();
            let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
            // Breaks beside an empty line have no effect, and mandoc warns of them.
            let section = section.replace(".br\n\n.br\n", "\n");
            page += &format!(".SS Options of {name}\n{section}");
        }
        page
    }

    /// With `EPOLLCR_UPDATE_MANUAL` in the environment, makes it so.
    #[test]
    fn the_manual_page_has_the_options() {
        let (before, rest) = PAGE.split_once(BEGIN).unwrap();
        let (found, after) = rest.split_once(END).unwrap();
        let options = options();
        if std::env::var_os("EPOLLCR_UPDATE_MANUAL").is_some() {
            let page = [before, BEGIN, &options, END, after].concat();
            std::fs::write("epollcr.1", page).unwrap();
            return;
        }
        assert!(found == options, "it should have:\n{options}");
    }

    #[test]
    fn the_manual_page_names_everything() {
        let command = Args::command();
        command.clone().debug_assert();
        let (synopsis, rest) = PAGE.split_once(".SH DESCRIPTION").unwrap();
        for sub in command.get_subcommands() {
            let name = sub.get_name();
            assert!(synopsis.contains(&format!(".B epollcr {name}")), "{name}");
            assert!(rest.contains(&format!(".SS epollcr {name}\n")), "{name}");
            for arg in sub.get_arguments().filter_map(|arg| arg.get_long()) {
                let option = format!("\\-\\-{}", arg.replace('-', "\\-"));
                assert!(rest.contains(&option), "{option}");
                assert!(synopsis.contains(&option) || arg == "pid", "{option}");
            }
        }
    }
}
