// SPDX-License-Identifier: GPL-2.0

//! A chart of each suite.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::Results;
use super::compare::beyond;
use super::goals;
use super::plot::{
    Area, Axis, BLUE, GREEN, GREY, Line, Look, Marker, ORANGE, PURPLE, ToPixel, dashed, figure,
    kinds, label, log_log, marker, stroke, tick, whisker,
};
use super::table::OPS;
use super::text::{duration, thousands};
use crate::record::{Accelerator, Layout, Suite, Variant, What};
use crate::stats::Summary;

const TARGETS: &str = "targets of the epoll instance";

type Chart = fn(&Results, &Path) -> Result<bool>;

/// The charts of these results for which there is something to draw.
pub fn draw(results: &Results, dir: &Path) -> Result<Vec<PathBuf>> {
    let charts: &[(&str, Chart)] = match results.suite {
        Suite::Query if results.accelerator == Accelerator::Um => &[("query", inside)],
        Suite::Query => &[("query", query)],
        Suite::OneNumber => &[("one-number", one_number)],
        Suite::Hold => &[("hold", hold)],
        Suite::Ops => &[("ops", ops)],
        Suite::Resolve => &[("resolve", resolve)],
        Suite::Criu => &[("criu", criu)],
        Suite::Iterate => &[("iterate", iterate)],
        Suite::Checkpoint => &[("checkpoint", checkpoint), ("restore", restore)],
        // Of two sizes, a table says more.
        Suite::Stock => &[],
    };
    let accelerator = match results.accelerator {
        Accelerator::Tcg => "tcg",
        Accelerator::Kvm => "kvm",
        Accelerator::Um => "um",
        Accelerator::None => "none",
    };
    let mut files = Vec::new();
    for (name, chart) in charts {
        let file = dir.join(format!("{name}-{accelerator}.svg"));
        if chart(results, &file)? {
            files.push(file);
        }
    }
    Ok(files)
}

fn c() -> Look {
    Look::new("C handler", ORANGE, Marker::Square)
}

fn rust() -> Look {
    Look::new("Rust module", BLUE, Marker::Circle)
}

fn bpf() -> Look {
    Look::new("BPF, no queries", GREEN, Marker::Diamond)
}

/// The points of a line, by the number of targets.
fn points(sizes: Vec<u32>, of: impl Fn(u32) -> Option<Summary>) -> Vec<(f64, Summary)> {
    sizes
        .into_iter()
        .filter_map(|targets| {
            let s = of(targets)?;
            // A difference within the noise may be negative, and has no logarithm.
            (s.median > 0.0).then(|| (f64::from(targets), s))
        })
        .collect()
}

/// The measurements of a variant.
fn line(results: &Results, what: What, variant: Variant, layout: Layout, look: Look) -> Line {
    let of = |targets| Some(results.find(what, variant, layout, targets)?.into());
    Line {
        look,
        points: points(results.sizes(what, layout), of),
    }
}

fn lines(results: &Results, file: &Path, title: &str, y: &str, lines: Vec<Line>) -> Result<bool> {
    let lines: Vec<Line> = lines
        .into_iter()
        .filter(|line| !line.points.is_empty())
        .collect();
    if lines.is_empty() {
        return Ok(false);
    }
    figure(file, title, &results.caption(), |area| {
        log_log(area, TARGETS, y, &lines)
    })?;
    Ok(true)
}

fn query(results: &Results, file: &Path) -> Result<bool> {
    let of = |variant, look| line(results, What::Call, variant, Layout::Distinct, look);
    let floor = of(
        Variant::KcmpFile,
        Look::new("KCMP_FILE, the floor", GREY, Marker::Triangle),
    );
    let modify = of(
        Variant::CtlMod,
        Look::new("EPOLL_CTL_MOD", GREEN, Marker::Diamond),
    );
    let sum = |(a, b): (&(f64, Summary), &(f64, Summary))| {
        let (a, b) = (a, b.1);
        let sum = a.1.median + b.median;
        (a.0, Summary::of(&[sum]))
    };
    let goal = Line {
        look: Look::new("goal: KCMP_FILE + EPOLL_CTL_MOD", PURPLE, Marker::None).dashed(),
        points: floor
            .points
            .iter()
            .zip(&modify.points)
            .map(sum)
            .filter_map(|(x, s)| Some((x, s?)))
            .collect(),
    };
    lines(
        results,
        file,
        "Time of a query, by the number of targets",
        "time of one call",
        vec![
            of(
                Variant::Mainline,
                Look::new(
                    "C handler of mainline, in a boot of its own",
                    ORANGE,
                    Marker::None,
                )
                .dashed(),
            ),
            of(Variant::C, c()),
            of(Variant::Rust, rust()),
            goal,
            modify,
            floor,
        ],
    )
}

fn inside(results: &Results, file: &Path) -> Result<bool> {
    let (what, layout) = (What::Call, Layout::Distinct);
    let of = |variant, look| Line {
        look,
        points: points(results.sizes(what, layout), |targets| {
            let find = |variant| results.find(what, variant, layout, targets);
            beyond(find(variant), find(Variant::KcmpFile))
        }),
    };
    lines(
        results,
        file,
        "Time of a query inside the kernel: beyond that of KCMP_FILE",
        "time of one call, less KCMP_FILE",
        vec![of(Variant::C, c()), of(Variant::Rust, rust())],
    )
}

fn one_number(results: &Results, file: &Path) -> Result<bool> {
    let of = |variant, look| line(results, What::Call, variant, Layout::OneNumber, look);
    lines(
        results,
        file,
        "Time of a query if all targets have the same descriptor",
        "time of one call",
        vec![of(Variant::C, c()), of(Variant::Rust, rust())],
    )
}

fn resolve(results: &Results, file: &Path) -> Result<bool> {
    let of = |what, variant, look| line(results, what, variant, Layout::Distinct, look);
    let called = |look: Look, name: &str| Look {
        name: format!("{}, {name}", look.name),
        ..look
    };
    let (here, there) = ("descriptors in place", "descriptors moved");
    let triangle = |look: Look| Look {
        marker: Marker::Triangle,
        ..look.dashed()
    };
    lines(
        results,
        file,
        "Time to find the owners of all targets of an epoll instance",
        "time for the instance",
        vec![
            of(What::ResolveMoved, Variant::C, called(triangle(c()), there)),
            of(What::ResolveInPlace, Variant::C, called(c(), here)),
            of(
                What::ResolveMoved,
                Variant::Rust,
                called(triangle(rust()), there),
            ),
            of(What::ResolveInPlace, Variant::Rust, called(rust(), here)),
            of(
                What::ResolveMoved,
                Variant::Bpf,
                called(triangle(bpf()), there),
            ),
            of(What::ResolveInPlace, Variant::Bpf, called(bpf(), here)),
        ],
    )
}

fn iterate(results: &Results, file: &Path) -> Result<bool> {
    let of = |variant, look| line(results, What::Target, variant, Layout::Distinct, look);
    let fdinfo = of(
        Variant::Fdinfo,
        Look::new("reading fdinfo", ORANGE, Marker::Square),
    );
    let goal = Line {
        look: Look::new("goal: a fifth of fdinfo", PURPLE, Marker::None).dashed(),
        points: fdinfo
            .points
            .iter()
            .filter_map(|(x, s)| Some((*x, Summary::of(&[s.median / goals::FDINFO])?)))
            .collect(),
    };
    lines(
        results,
        file,
        "Time to get all targets of an epoll instance, for each of them",
        "time for one target",
        vec![
            of(
                Variant::Kcmp,
                Look::new("one kcmp, answered by the module", GREY, Marker::Triangle),
            ),
            fdinfo,
            goal,
            of(
                Variant::BpfIter,
                Look::new("BPF iterator", BLUE, Marker::Circle),
            ),
        ],
    )
}

/// So many times another line, where that is a goal.
fn goal_of_checkpoints(line: &Line, look: Look, times: f64) -> Line {
    let points = line
        .points
        .iter()
        .filter(|(x, _)| *x == f64::from(goals::CHECKPOINT_TARGETS))
        .filter_map(|(x, s)| Some((*x, Summary::of(&[s.median * times])?)))
        .collect();
    Line { look, points }
}

fn checkpoint(results: &Results, file: &Path) -> Result<bool> {
    let what = What::Checkpoint;
    let of = |variant, look| line(results, what, variant, Layout::Distinct, look);
    // From which size on not all were asked about.
    let sampled = results
        .all
        .iter()
        .filter(|m| (m.what, m.variant) == (what, Variant::C) && m.asked.is_some())
        .map(|m| m.targets)
        .min();
    let kcmp = |look: Look, note: String| Look {
        name: format!("fdinfo and a kcmp each, {}{note}", look.name),
        ..look
    };
    let note = sampled.map_or_else(String::new, |targets| {
        format!(" (a sample from {})", thousands(f64::from(targets)))
    });
    let c = of(Variant::C, kcmp(c(), note));
    let rust = of(Variant::Rust, kcmp(rust(), String::new()));
    let look = Look::new("goal: a thousandth of C", PURPLE, Marker::Circle);
    let goal = goal_of_checkpoints(&c, look, 1.0 / goals::CHECKPOINT_C);
    lines(
        results,
        file,
        "Time to see all targets of a process's epoll instance and its descriptors for them, for each of them",
        "time for one target",
        vec![
            c,
            rust,
            of(
                Variant::Fdinfo,
                Look::new("reading fdinfo alone", GREY, Marker::Triangle),
            ),
            of(
                Variant::EpollCrDescribe,
                Look::new("epoll_cr, files described", GREEN, Marker::Diamond).dashed(),
            ),
            of(
                Variant::EpollCr,
                Look::new("epoll_cr", GREEN, Marker::Diamond),
            ),
            goal,
        ],
    )
}

fn restore(results: &Results, file: &Path) -> Result<bool> {
    let of = |variant, look| line(results, What::Restore, variant, Layout::Distinct, look);
    let calls = of(
        Variant::CtlAdd,
        Look::new("EPOLL_CTL_ADD each", GREY, Marker::Triangle),
    );
    let look = Look::new("goal: 1.2 times EPOLL_CTL_ADD", PURPLE, Marker::Circle);
    let goal = goal_of_checkpoints(&calls, look, goals::RESTORE);
    lines(
        results,
        file,
        "Time to restore an epoll instance, divided by the number of targets",
        "time for one target",
        vec![
            calls,
            of(
                Variant::EpollCr,
                Look::new("epoll_cr, all in one call", GREEN, Marker::Diamond),
            ),
            goal,
        ],
    )
}

/// Every run as a point, their median as a stroke, next to idle runs.
fn hold(results: &Results, file: &Path) -> Result<bool> {
    let looks = [
        (Variant::Idle, Look::new("no query", GREY, Marker::Triangle)),
        (Variant::Rust, rust()),
        (Variant::C, c()),
    ];
    let mut instances = Vec::new();
    for (layout, name) in [
        (Layout::Distinct, "each a descriptor of its own"),
        (Layout::OneNumber, "all with one descriptor"),
    ] {
        for targets in results.sizes(What::WaitMedian, layout) {
            let name = format!("{} targets,\n{name}", thousands(f64::from(targets)));
            instances.push((layout, targets, name));
        }
    }
    if instances.is_empty() {
        return Ok(false);
    }
    let names: Vec<String> = instances.iter().map(|(_, _, name)| name.clone()).collect();
    let values: Vec<f64> = results
        .all
        .iter()
        .filter(|m| looks.iter().any(|(variant, _)| *variant == m.variant))
        .flat_map(|m| m.runs.iter().copied())
        .collect();
    let draw = |area: &Area<'_>, at: &ToPixel<'_>| -> Result<()> {
        for (kind, (layout, targets, _)) in instances.iter().enumerate() {
            for (place, (variant, look)) in looks.iter().enumerate() {
                for (what, dx, hollow) in [
                    (What::WaitMedian, -0.05, false),
                    (What::WaitMax, 0.05, true),
                ] {
                    let Some(m) = results.find(what, *variant, *layout, *targets) else {
                        continue;
                    };
                    let x = kind as f64 + 0.2 + 0.3 * place as f64 + dx;
                    for &run in &m.runs {
                        marker(area, at(x, run), look, hollow)?;
                    }
                    stroke(area, at(x, m.median), 14, BLACK)?;
                }
            }
            // The goal: so much over the idle median.
            if let Some(m) = results.find(What::WaitMedian, Variant::Idle, *layout, *targets) {
                let y = m.median + goals::HOLD;
                let (from, to) = (at(kind as f64 + 0.08, y), at(kind as f64 + 0.92, y));
                dashed(area, vec![from, to], PURPLE)?;
            }
        }
        Ok(())
    };
    let goal = Look::new("goal: 100 µs over the idle median", PURPLE, Marker::None).dashed();
    let all_looks = [&looks[0].1, &looks[1].1, &looks[2].1, &goal];
    figure(
        file,
        "The longest wait for the epoll instance during one query: median (filled) and maximum (hollow) of a run's queries",
        &results.caption(),
        |area| {
            kinds(
                area,
                &names,
                &all_looks,
                "longest wait of an EPOLL_CTL_MOD",
                &Axis::Log,
                &values,
                draw,
            )
        },
    )?;
    Ok(true)
}

/// A look for each number of targets that epoll's own calls were measured with.
fn ops_looks(results: &Results) -> Vec<(u32, Look)> {
    let looks = [
        (GREEN, Marker::Triangle),
        (BLUE, Marker::Circle),
        (ORANGE, Marker::Square),
    ];
    let mut sizes: Vec<u32> = OPS
        .iter()
        .flat_map(|(what, _)| results.sizes(*what, Layout::Distinct))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
        .into_iter()
        .zip(looks)
        .map(|(targets, (colour, marker))| {
            let name = match targets {
                1 => "1 target".into(),
                _ => format!("{} targets", thousands(f64::from(targets))),
            };
            (targets, Look::new(&name, colour, marker))
        })
        .collect()
}

/// Each pair of boots a point, their median a stroke.
fn ops(results: &Results, file: &Path) -> Result<bool> {
    let looks = ops_looks(results);
    let ratios: Vec<f64> = OPS
        .iter()
        .flat_map(|(what, _)| {
            looks
                .iter()
                .flat_map(|(targets, _)| results.of_boots(*what, *targets))
        })
        .collect();
    let Some(all) = Summary::of(&ratios) else {
        return Ok(false);
    };
    let half = [all.max - 1.0, 1.0 - all.min, 0.05]
        .into_iter()
        .fold(0.0, f64::max)
        * 1.15;
    let names: Vec<String> = OPS.iter().map(|(_, name)| name.to_string()).collect();
    let draw = |area: &Area<'_>, at: &ToPixel<'_>| -> Result<()> {
        let right = OPS.len() as f64;
        let band = [at(0.0, *goals::OPS.end()), at(right, *goals::OPS.start())];
        area.draw(&Rectangle::new(band, PURPLE.mix(0.25).filled()))?;
        area.draw(&PathElement::new(
            [at(0.0, 1.0), at(right, 1.0)],
            BLACK.mix(0.5),
        ))?;
        for (kind, (what, _)) in OPS.iter().enumerate() {
            for (place, (targets, look)) in looks.iter().enumerate() {
                let ratios = results.of_boots(*what, *targets);
                let Some(s) = Summary::of(&ratios) else {
                    continue;
                };
                let x = kind as f64 + 0.22 + 0.28 * place as f64;
                for &ratio in &ratios {
                    marker(area, at(x - 0.05, ratio), look, true)?;
                }
                whisker(area, at(x + 0.05, s.q1), at(x + 0.05, s.q3), look.colour)?;
                marker(area, at(x + 0.05, s.median), look, false)?;
            }
        }
        Ok(())
    };
    let goal = Look::new("goal: 0.98 to 1.02", PURPLE, Marker::None);
    let mut all_looks: Vec<&Look> = looks.iter().map(|(_, look)| look).collect();
    all_looks.push(&goal);
    let axis = Axis::Linear {
        from: 1.0 - half,
        to: 1.0 + half,
        format: &|v| format!("{v:.2}"),
    };
    figure(
        file,
        "Epoll's own calls, patched kernel next to unpatched: pairs of boots (hollow), their median and quartiles",
        &results.caption(),
        |area| {
            let y = "time, patched / unpatched";
            kinds(area, &names, &all_looks, y, &axis, &ratios, draw)
        },
    )?;
    Ok(true)
}

/// Bars with the time on top.
fn criu(results: &Results, file: &Path) -> Result<bool> {
    let sizes = results.sizes(What::Dump, Layout::Distinct);
    let bars = |variant| {
        results
            .all
            .iter()
            .filter(move |m| m.what == What::Dump && m.variant == variant)
    };
    let looks: Vec<_> = [
        (Variant::C, c()),
        (Variant::Rust, rust()),
        (
            Variant::CriuSeries,
            Look::new("C handler, with the series", PURPLE, Marker::Square),
        ),
        (
            Variant::CriuDevice,
            Look::new("the series and the device", GREEN, Marker::Diamond),
        ),
        (
            Variant::CriuUnwatched,
            Look::new("no targets", GREY, Marker::Triangle),
        ),
    ]
    .into_iter()
    .filter(|&(variant, _)| bars(variant).next().is_some())
    .collect();
    let highest = looks
        .iter()
        .flat_map(|&(variant, _)| bars(variant))
        .map(|m| m.max)
        .fold(0.0, f64::max);
    if sizes.is_empty() || highest <= 0.0 {
        return Ok(false);
    }
    let names: Vec<String> = sizes
        .iter()
        .map(|&targets| format!("{} targets", thousands(f64::from(targets))))
        .collect();
    let draw = |area: &Area<'_>, at: &ToPixel<'_>| -> Result<()> {
        for (kind, &targets) in sizes.iter().enumerate() {
            for (place, (variant, look)) in looks.iter().enumerate() {
                let found = results.find(What::Dump, *variant, Layout::Distinct, targets);
                let Some(m) = found else { continue };
                let step = 0.72 / looks.len() as f64;
                let x = kind as f64 + 0.14 + step * (place as f64 + 0.5);
                let half = step * 0.42;
                let bar = [at(x - half, m.median), at(x + half, 0.0)];
                area.draw(&Rectangle::new(bar, look.colour.mix(0.85).filled()))?;
                whisker(area, at(x, m.min), at(x, m.max), BLACK)?;
                let (x, y) = at(x, m.max);
                label(
                    area,
                    &duration(m.median),
                    (x, y - 24),
                    15,
                    look.colour,
                    HPos::Center,
                )?;
            }
        }
        Ok(())
    };
    let axis = Axis::Linear {
        from: 0.0,
        to: highest * 1.12,
        format: &|v| if v == 0.0 { "0 s".into() } else { tick(v) },
    };
    figure(
        file,
        "Time of criu dump, by the number of targets: median, least and most",
        &results.caption(),
        |area| {
            let looks: Vec<_> = looks.iter().map(|(_, look)| look).collect();
            kinds(area, &names, &looks, "time of one dump", &axis, &[], draw)
        },
    )?;
    Ok(true)
}
