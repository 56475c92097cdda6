// SPDX-License-Identifier: GPL-2.0

//! What is written down: one JSON object a line, as documented in
//! `Documentation/benchmarks.rst`.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::stats::Summary;

#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Suite {
    /// Time of a query, by the number of targets; each target has its own descriptor
    // The alias is the name in older measurements.
    Query,
    /// Time of a query if all targets have the same descriptor
    OneNumber,
    /// How long one query keeps others from the epoll instance
    Hold,
    /// What epoll's own calls cost: run it on the patched and on the unpatched kernel
    Ops,
    /// Time to find the owner of every target
    Resolve,
    /// Time of `criu dump` and `criu restore`
    Criu,
    /// Time to get all targets of an epoll instance
    Iterate,
    /// Time to find the owners of the targets of a process's epoll instance, and to restore one
    Checkpoint,
    /// What lsepoll costs on this kernel as it is, beside lsfd and lsof
    Stock,
}

/// What was timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// One system call.
    Call,
    /// The longest wait for the epoll instance during one query: of the queries of a
    /// run the median, the 99th percentile, the maximum.
    WaitMedian,
    WaitP99,
    WaitMax,
    Add,
    Mod,
    Del,
    Wait,
    /// Every target of an instance, at the descriptor that it was added by or elsewhere.
    ResolveInPlace,
    ResolveMoved,
    Dump,
    CriuRestore,
    /// All of an instance, divided by how many there are.
    Target,
    /// All targets of a process's instance and which of its descriptors are for them,
    /// divided likewise.
    Checkpoint,
    /// All targets added to an empty instance, divided likewise.
    Restore,
    /// A whole command: of targets at the descriptors that they were added by, of those
    /// at others, and of those that nobody has.
    ListSame,
    ListMoved,
    ListOrphaned,
    /// One of an event loop, on average, while it is inspected.
    Iteration,
}

/// The kernel, or the interface, that was timed.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    C,
    Rust,
    KcmpFile,
    CtlMod,
    /// No query.
    Idle,
    /// The unpatched kernel, the patched one.
    Stock,
    Base,
    /// The handler in C of the unpatched kernel, and `KCMP_FILE` there.
    Mainline,
    MainlineFile,
    /// The BPF iterator.
    BpfIter,
    /// Reading `/proc/PID/fdinfo/EFD`.
    Fdinfo,
    /// One query for each target, to the module.
    Kcmp,
    /// The library, by BPF.
    Bpf,
    /// The device for checkpoints, for `what` it is there for.
    EpollCr,
    /// The same, with the open files described.
    #[serde(rename = "epoll_cr+describe")]
    EpollCrDescribe,
    /// CRIU with the series, without and with the device; and the latter for a process whose
    /// files are no targets.
    CriuSeries,
    CriuDevice,
    CriuUnwatched,
    /// As many `EPOLL_CTL_ADD`.
    CtlAdd,
    /// `lsepoll` as it is, and with kcmp(2).
    Lsepoll,
    LsepollKcmp,
    Lsfd,
    Lsof,
    /// Somebody who does not look keeps another processor busy.
    Busy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Ns,
}

/// Whose targets: each with a descriptor of its own, or all with the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    Distinct,
    OneNumber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// QEMU, emulating.
    Tcg,
    Kvm,
    /// User-mode Linux.
    Um,
    None,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcg => "QEMU TCG",
            Self::Kvm => "KVM",
            Self::Um => "User-mode Linux",
            Self::None => "no virtual machine",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub cpu: String,
    pub cpus: u32,
}

/// The machine and kernel of a measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    pub kernel: String,
    pub boot: u32,
    pub accelerator: Accelerator,
    pub machine: Machine,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    pub suite: Suite,
    pub what: What,
    pub variant: Variant,
    pub layout: Layout,
    pub targets: u32,
    /// How many of them were asked about, if not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<u32>,
    pub unit: Unit,
    pub median: f64,
    pub q1: f64,
    pub q3: f64,
    pub min: f64,
    pub max: f64,
    /// How many times a clock was read for all runs together.
    pub samples: u32,
    /// One value a round.
    pub runs: Vec<f64>,
    /// Build id of the module, if it was there.
    pub handler: Option<String>,
    pub kernel: String,
    pub boot: u32,
    pub accelerator: Accelerator,
    pub machine: Machine,
    pub date: Timestamp,
}

/// What no two measurements of a report have in common.
type Key = (Suite, What, Variant, Layout, u32, u32, Accelerator);

impl Measurement {
    fn key(&self) -> Key {
        (
            self.suite,
            self.what,
            self.variant,
            self.layout,
            self.targets,
            self.boot,
            self.accelerator,
        )
    }

    /// What the types do not say.
    fn check(&self) -> Result<()> {
        let Some(s) = Summary::of(&self.runs) else {
            bail!("it has no runs");
        };
        for (name, said, is) in [
            ("min", self.min, s.min),
            ("q1", self.q1, s.q1),
            ("median", self.median, s.median),
            ("q3", self.q3, s.q3),
            ("max", self.max, s.max),
        ] {
            // The text of a number may be off by its last digit.
            ensure!(
                (said - is).abs() <= 1e-9 * is.abs().max(1.0),
                "its {name} is {said}, but that of its runs is {is}"
            );
        }
        ensure!(self.targets > 0, "it is about no targets");
        if let Some(asked) = self.asked {
            ensure!(
                (1..self.targets).contains(&asked),
                "{asked} of {} targets were asked about, which is no sample",
                self.targets
            );
        }
        Ok(())
    }

    pub fn to_line(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    fn from_line(line: &str) -> Result<Self> {
        let m: Self = serde_json::from_str(line)?;
        m.check()?;
        Ok(m)
    }
}

/// The files of measurements that some paths stand for: a directory for those in
/// it whose names end in `.jsonl`.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let here = files.len();
        for entry in
            fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?
        {
            let file = entry?.path();
            if file.extension().is_some_and(|e| e == "jsonl") {
                files.push(file);
            }
        }
        ensure!(
            files.len() > here,
            "there are no measurements in {}: no file there is named *.jsonl",
            path.display()
        );
        files[here..].sort();
    }
    Ok(files)
}

/// Reads measurements, and refuses lines that are none, and duplicates.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Measurement>> {
    let mut all = Vec::new();
    let mut seen: HashMap<Key, String> = HashMap::new();
    for file in files(paths)? {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for (i, line) in text.lines().enumerate() {
            let place = place(&file, i);
            let m = Measurement::from_line(line)
                .with_context(|| format!("{place} is not a measurement"))?;
            if let Some(first) = seen.insert(m.key(), place.clone()) {
                bail!("{place} measures what {first} does: report on one run at a time");
            }
            all.push(m);
        }
    }
    ensure!(
        !all.is_empty(),
        "there are no measurements in what was given"
    );
    Ok(all)
}

fn place(file: &Path, index: usize) -> String {
    format!("{}, line {},", file.display(), index + 1)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use clap::ValueEnum;

    pub fn example() -> Measurement {
        Measurement {
            suite: Suite::Query,
            what: What::Call,
            variant: Variant::Rust,
            layout: Layout::Distinct,
            targets: 1000,
            asked: None,
            unit: Unit::Ns,
            median: 20.0,
            q1: 15.0,
            q3: 25.0,
            min: 10.0,
            max: 30.0,
            samples: 30,
            runs: vec![10.0, 30.0, 20.0],
            handler: Some("0123456789abcdef".into()),
            kernel: "7.3.4 #1 SMP".into(),
            boot: 0,
            accelerator: Accelerator::Tcg,
            machine: Machine {
                cpu: "A CPU".into(),
                cpus: 2,
            },
            date: "2026-11-21T14:00:00Z".parse().unwrap(),
        }
    }

    /// What `load` says to a file of these lines, with the directory's name left out.
    fn refusal(lines: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.jsonl"), lines).unwrap();
        let error = load(&[dir.path().to_path_buf()]).unwrap_err();
        format!("{error:#}").replace(&format!("{}/", dir.path().display()), "")
    }

    #[test]
    fn every_name_survives_the_round_trip() {
        for &variant in Variant::value_variants() {
            let m = Measurement {
                variant,
                handler: None,
                ..example()
            };
            assert_eq!(Measurement::from_line(&m.to_line().unwrap()).unwrap(), m);
        }
    }

    #[test]
    fn a_line_is_as_documented() {
        let m = Measurement {
            variant: Variant::EpollCrDescribe,
            ..example()
        };
        assert_eq!(
            m.to_line().unwrap(),
            r#"{"suite":"query","what":"call","variant":"epoll_cr+describe","layout":"distinct","targets":1000,"unit":"ns","median":20.0,"q1":15.0,"q3":25.0,"min":10.0,"max":30.0,"samples":30,"runs":[10.0,30.0,20.0],"handler":"0123456789abcdef","kernel":"7.3.4 #1 SMP","boot":0,"accelerator":"tcg","machine":{"cpu":"A CPU","cpus":2},"date":"2026-11-21T14:00:00Z"}"#
        );
    }

    #[test]
    fn a_sample_is_told_of() {
        let m = Measurement {
            asked: Some(100),
            ..example()
        };
        let line = m.to_line().unwrap();
        assert!(
            line.contains(r#""targets":1000,"asked":100,"unit""#),
            "{line}"
        );
        assert_eq!(Measurement::from_line(&line).unwrap(), m);
        for bad in ["0", "1000", "-1"] {
            let bad = line.replace("\"asked\":100", &format!("\"asked\":{bad}"));
            assert!(refusal(&bad).contains("line 1, is not a measurement"));
        }
    }

    #[test]
    fn a_file_is_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.jsonl");
        let other = Measurement {
            targets: 10,
            ..example()
        };
        fs::write(
            &file,
            format!(
                "{}\n{}\n",
                example().to_line().unwrap(),
                other.to_line().unwrap()
            ),
        )
        .unwrap();
        assert_eq!(load(&[file]).unwrap(), [example(), other]);
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        let good = example().to_line().unwrap();
        let said = refusal(&format!("{good}\nguest: TCG\n"));
        assert!(
            said.starts_with("a.jsonl, line 2, is not a measurement: "),
            "{said}"
        );
    }

    #[test]
    fn a_field_too_many_or_too_few_is_refused() {
        let good = example().to_line().unwrap();
        let said = refusal(&good.replace("\"boot\":0,", ""));
        assert!(
            said.contains("line 1, is not a measurement: missing field `boot`"),
            "{said}"
        );
        let said = refusal(&good.replace("\"boot\":0,", "\"boot\":0,\"mood\":0,"));
        assert!(said.contains("unknown field `mood`"), "{said}");
    }

    #[test]
    fn numbers_that_contradict_the_runs_are_refused() {
        let good = example().to_line().unwrap();
        let said = refusal(&good.replace("\"median\":20.0", "\"median\":2.0"));
        assert!(
            said.ends_with("its median is 2, but that of its runs is 20"),
            "{said}"
        );
        let said = refusal(&good.replace("[10.0,30.0,20.0]", "[]"));
        assert!(said.ends_with("it has no runs"), "{said}");
        let said = refusal(&good.replace("\"targets\":1000", "\"targets\":0"));
        assert!(said.ends_with("it is about no targets"), "{said}");
    }

    #[test]
    fn an_unknown_suite_and_a_bad_date_are_refused() {
        let good = example().to_line().unwrap();
        let said = refusal(&good.replace("\"query\"", "\"answer\""));
        assert!(said.contains("unknown variant `answer`"), "{said}");
        let said = refusal(&good.replace("2026-11-21T", "2026-11-41T"));
        assert!(said.contains("line 1, is not a measurement"), "{said}");
    }

    #[test]
    fn the_same_thing_twice_is_refused() {
        let good = example().to_line().unwrap();
        assert_eq!(
            refusal(&format!("{good}\n{good}\n")),
            "a.jsonl, line 2, measures what a.jsonl, line 1, does: report on one run at a time"
        );
    }

    #[test]
    fn nothing_is_refused() {
        assert!(refusal("").contains("there are no measurements"));
        let dir = tempfile::tempdir().unwrap();
        let said = load(&[dir.path().to_path_buf()]).unwrap_err().to_string();
        assert!(said.contains("no file there is named *.jsonl"), "{said}");
        let said = load(&[dir.path().join("absent")]).unwrap_err().to_string();
        assert!(said.starts_with("cannot read "), "{said}");
    }
}
