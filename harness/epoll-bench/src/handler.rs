// SPDX-License-Identifier: GPL-2.0

//! Switches between the handler in C and the module, if the kernel can have it.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::mem::take;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const MODULE: &str = "kcmp_epoll";
const LOADED: &str = "/sys/module/kcmp_epoll";
const ITERATOR: &str = "epoll_iter";
const CHECKPOINT: &str = "epoll_cr";

/// The module cannot be removed while it answers.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    C,
    Rust,
}

impl Handler {
    /// The order of a round. It changes, so that what goes up or down in the
    /// course of a run is not taken for a difference.
    pub fn order(round: u32) -> &'static [Self] {
        if round % 2 == 0 {
            &[Self::C, Self::Rust]
        } else {
            &[Self::Rust, Self::C]
        }
    }
}

/// Loads and unloads the module; leaves it as it was.
///
/// A shell that is started before there are instances runs modprobe: to start it
/// from here would copy, and close, a million descriptors each time.
#[derive(Debug)]
pub struct Switch {
    shell: Child,
    orders: ChildStdin,
    results: BufReader<ChildStdout>,
    was_loaded: bool,
    has_module: bool,
    /// Other modules that are here because of us.
    brought: Vec<&'static str>,
    build_id: String,
}

impl Switch {
    /// On a kernel without the series there is only the handler in C.
    pub fn new(has_module: bool) -> Result<Self> {
        let mut shell = Command::new("sh")
            .args([
                "-c",
                "while read -r words; do modprobe $words; echo $?; done",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a shell to run modprobe in")?;
        let orders = shell.stdin.take().context("the shell has no input")?;
        let results = shell.stdout.take().context("the shell has no output")?;
        let mut switch = Self {
            shell,
            orders,
            results: BufReader::new(results),
            was_loaded: is_loaded(),
            has_module,
            brought: Vec::new(),
            build_id: String::new(),
        };
        if has_module {
            switch.to(Handler::Rust)?;
            switch.build_id = build_id_of(MODULE)?;
        }
        Ok(switch)
    }

    /// Of the module.
    pub fn build_id(&self) -> &str {
        &self.build_id
    }

    pub fn has_module(&self) -> bool {
        self.has_module
    }

    /// Those that there are, in the order of a round.
    pub fn order(&self, round: u32) -> &'static [Handler] {
        if self.has_module {
            Handler::order(round)
        } else {
            &[Handler::C]
        }
    }

    /// Have the BPF iterator, until this is dropped. Returns its build id.
    pub fn iterator(&mut self) -> Result<String> {
        self.bring(ITERATOR)
    }

    /// Have the device for checkpoints, likewise.
    pub fn checkpoint(&mut self) -> Result<String> {
        self.bring(CHECKPOINT)
    }

    /// Be without that device.
    pub fn without_checkpoint(&mut self) -> Result<()> {
        if !Path::new("/sys/module").join(CHECKPOINT).exists() {
            return Ok(());
        }
        self.brought.retain(|&module| module != CHECKPOINT);
        self.modprobe(&format!("-r {CHECKPOINT}"))
    }

    fn bring(&mut self, module: &'static str) -> Result<String> {
        if !Path::new("/sys/module").join(module).exists() {
            self.modprobe(module)?;
            self.brought.push(module);
        }
        build_id_of(module)
    }

    pub fn to(&mut self, handler: Handler) -> Result<()> {
        match handler {
            Handler::Rust => {
                if !is_loaded() {
                    self.modprobe(MODULE)?;
                }
                if !is_loaded() {
                    bail!("modprobe says that it loaded {MODULE}, but it is not there");
                }
            }
            Handler::C => {
                let mut tries = 0;
                while is_loaded() {
                    match self.modprobe(&format!("-r {MODULE}")) {
                        Err(error) if tries == TRIES => return Err(error),
                        _ => tries += 1,
                    }
                    if is_loaded() {
                        sleep(PAUSE);
                    }
                }
            }
        }
        Ok(())
    }

    fn modprobe(&mut self, words: &str) -> Result<()> {
        writeln!(self.orders, "{words}").context("the shell that runs modprobe is gone")?;
        let mut status = String::new();
        self.results.read_line(&mut status)?;
        if status.trim() != "0" {
            bail!(
                "modprobe {words} failed (status {:?}): run this as root, on a kernel of this project",
                status.trim()
            );
        }
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let back = if self.was_loaded {
            Handler::Rust
        } else {
            Handler::C
        };
        if let Err(error) = self.to(back) {
            eprintln!("# the module is not as it was before: {error:#}");
        }
        for module in take(&mut self.brought) {
            // The iterator's programs go some time after the last descriptor.
            let mut tries = 0;
            while self.modprobe(&format!("-r {module}")).is_err() {
                tries += 1;
                if tries == TRIES {
                    eprintln!("# {module} is still loaded");
                    break;
                }
                sleep(PAUSE);
            }
        }
        // It waits for input, and has nothing to lose.
        if self.shell.kill().is_ok() {
            let _ = self.shell.wait();
        }
    }
}

fn is_loaded() -> bool {
    Path::new(LOADED).exists()
}

fn build_id_of(module: &str) -> Result<String> {
    let path = format!("/sys/module/{module}/notes/.note.gnu.build-id");
    let note = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    build_id(&note).with_context(|| format!("there is no build id in {path}"))
}

/// The build id in an ELF note, in hexadecimal.
fn build_id(note: &[u8]) -> Option<String> {
    let word = |at: usize| {
        let bytes = note.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?) as usize)
    };
    let (name, length) = (word(0)?, word(4)?);
    let start = 12 + name.next_multiple_of(4);
    let id = note.get(start..start + length)?;
    let mut text = String::new();
    for byte in id {
        write!(text, "{byte:02x}").ok()?;
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_id_is_found_behind_the_name() {
        let mut note = Vec::new();
        for word in [4u32, 3, 3] {
            note.extend(word.to_ne_bytes());
        }
        note.extend(b"GNU\0\x01\xab\xff");
        assert_eq!(build_id(&note).as_deref(), Some("01abff"));
        assert_eq!(build_id(&note[..note.len() - 1]), None);
        assert_eq!(build_id(&[]), None);
    }

    #[test]
    fn rounds_begin_with_one_and_the_other() {
        assert_eq!(Handler::order(0), [Handler::C, Handler::Rust]);
        assert_eq!(Handler::order(1), [Handler::Rust, Handler::C]);
        assert_eq!(Handler::order(2), Handler::order(0));
    }
}
