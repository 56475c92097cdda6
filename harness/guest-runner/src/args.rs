// SPDX-License-Identifier: GPL-2.0

//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use regex_lite::Regex;

pub const QEMU: &str = "qemu-system-x86_64";

/// Run a command in a guest with this root file system as its own.
///
/// The command's output goes to standard output, and its status is ours. 125 is
/// trouble in the guest's kernel; 124 that it is not known how the command ended.
#[derive(Debug, Parser)]
#[command(name = "guest-runner", args_override_self = true)]
pub struct Args {
    /// Tell by the exit status whether a guest with KERNEL starts under KVM
    /// here, and keep the answer in OUT
    #[arg(long, num_args = 2, value_names = ["KERNEL", "OUT"], exclusive = true)]
    pub kvm: Vec<PathBuf>,

    /// Look for trouble in what a kernel has written to its console, elsewhere,
    /// and print what is around the first sign of it
    #[arg(long, value_name = "FILE", exclusive = true)]
    pub console: Option<PathBuf>,

    #[command(flatten)]
    pub run: Option<Run>,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Run {
    /// Stop the guest after this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub deadline: Duration,

    /// Stop the guest if it says nothing for this many seconds; 0 is never
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub silence: Duration,

    /// Start the guest again, once, if it has not said anything this many
    /// seconds after it was started; 0 is never
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub boot_silence: Duration,

    /// Further parameters for the guest's kernel
    #[arg(
        long,
        value_name = "PARAMETERS",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub append: String,

    /// How many processors the guest has: 2, or what a User-mode Linux has by
    /// itself
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub smp: Option<u32>,

    /// How much memory it has
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..))]
    pub memory: u32,

    /// A line of the console that matches is no trouble; can be repeated
    #[arg(long, value_name = "REGEX", action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub ignore: Vec<Regex>,

    /// Say every 30 seconds, or as often as this says, how far it is, on
    /// standard error, if standard output is no terminal
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30",
        value_parser = seconds
    )]
    pub progress: Option<Duration>,

    /// What runs the guest
    #[arg(long, value_enum, default_value_t = Accel::Auto, conflicts_with = "uml")]
    pub accel: Accel,

    /// KERNEL is a User-mode Linux
    #[arg(long)]
    pub uml: bool,

    /// An initramfs, for a kernel that cannot mount its root without one
    #[arg(long, value_name = "FILE", conflicts_with = "uml")]
    pub initrd: Option<PathBuf>,

    /// The guest's kernel
    pub kernel: PathBuf,
    /// The checkout
    pub top: PathBuf,
    /// The cache directory
    pub out: PathBuf,
    /// Where the logs go
    pub dir: PathBuf,
    /// The command to run, by a shell
    pub command: String,

    /// The QEMU to use
    #[arg(long, value_name = "PATH", default_value = QEMU, hide = true)]
    pub qemu: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM if a guest really starts under it
    Auto,
    Kvm,
    Tcg,
}

fn seconds(s: &str) -> Result<Duration, String> {
    let seconds: f64 = s.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}
