// SPDX-License-Identifier: GPL-2.0

//! What the charts are made of: axes, lines with markers, legends.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::text::thousands;
use crate::stats::Summary;

const SIZE: (u32, u32) = (960, 600);
const TITLE: i32 = 16;
/// Where a legend begins: its left side, and the middle of its first row.
const LEGEND: Pixel = (104, 62);
const LEGEND_ROW: i32 = 22;
/// The margin on the right.
const RIGHT: i32 = 36;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const QUIET: RGBColor = RGBColor(110, 110, 110);

/// Colours that people who are colour-blind can tell apart (Okabe and Ito's).
pub const ORANGE: RGBColor = RGBColor(213, 94, 0);
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
pub const GREEN: RGBColor = RGBColor(0, 158, 115);
pub const PURPLE: RGBColor = RGBColor(204, 121, 167);
pub const GREY: RGBColor = RGBColor(120, 120, 120);

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Pixel = (i32, i32);

/// Also told apart without their colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    None,
}

/// How something is drawn, and its name.
#[derive(Debug, Clone)]
pub struct Look {
    pub name: String,
    pub colour: RGBColor,
    pub marker: Marker,
    pub dashed: bool,
}

impl Look {
    pub fn new(name: &str, colour: RGBColor, marker: Marker) -> Self {
        Self {
            name: name.into(),
            colour,
            marker,
            dashed: false,
        }
    }

    pub fn dashed(self) -> Self {
        Self {
            dashed: true,
            ..self
        }
    }
}

/// Medians with quartiles, by the number of targets.
#[derive(Debug, Clone)]
pub struct Line {
    pub look: Look,
    pub points: Vec<(f64, Summary)>,
}

/// Write a chart: what it says above, when and where it was measured below.
pub fn figure(
    file: &Path,
    title: &str,
    caption: &str,
    draw: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<()> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        label(&area, title, (20, TITLE), 20, INK, HPos::Left)?;
        // Whatever is long is small.
        let size = if caption.chars().count() > 130 {
            11
        } else {
            13
        };
        label(
            &area,
            caption,
            (20, SIZE.1 as i32 - 24),
            size,
            QUIET,
            HPos::Left,
        )?;
        draw(&area)?;
        area.present()?;
    }
    let text = format!("<!-- SPDX-License-Identifier: GPL-2.0 -->\n{svg}");
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Text whose top is at this place.
pub fn label(
    area: &Area<'_>,
    text: &str,
    at: Pixel,
    size: i32,
    colour: RGBColor,
    side: HPos,
) -> Result<()> {
    let style = (FONT, size)
        .into_font()
        .color(&colour)
        .pos(Pos::new(side, VPos::Top));
    Ok(area.draw(&Text::new(text.to_string(), at, style))?)
}

pub fn marker(area: &Area<'_>, at: Pixel, look: &Look, hollow: bool) -> Result<()> {
    let (x, y) = at;
    let corners: &[Pixel] = match look.marker {
        Marker::None => return Ok(()),
        Marker::Circle => {
            let style = ShapeStyle::from(&look.colour);
            if hollow {
                area.draw(&Circle::new(at, 4, WHITE.filled()))?;
                area.draw(&Circle::new(at, 4, style.stroke_width(2)))?;
            } else {
                area.draw(&Circle::new(at, 5, style.filled()))?;
            }
            return Ok(());
        }
        Marker::Square => &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
        Marker::Triangle => &[(0, -6), (5, 4), (-5, 4)],
        Marker::Diamond => &[(0, -6), (6, 0), (0, 6), (-6, 0)],
    };
    let mut corners: Vec<Pixel> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
    let inside = if hollow { WHITE } else { look.colour };
    area.draw(&Polygon::new(corners.clone(), inside.filled()))?;
    corners.push(corners[0]);
    area.draw(&PathElement::new(corners, look.colour.stroke_width(2)))?;
    Ok(())
}

/// From the first quartile to the third. Not plotters' `ErrorBar`, which draws a marker of
/// its own, and needs a chart where `kinds()` has only pixels.
pub fn whisker(area: &Area<'_>, from: Pixel, to: Pixel, colour: RGBColor) -> Result<()> {
    let (x, style) = (from.0, colour.stroke_width(1));
    area.draw(&PathElement::new([from, to], style))?;
    for y in [from.1, to.1] {
        area.draw(&PathElement::new([(x - 4, y), (x + 4, y)], style))?;
    }
    Ok(())
}

/// A horizontal stroke.
pub fn stroke(area: &Area<'_>, (x, y): Pixel, half: i32, colour: RGBColor) -> Result<()> {
    Ok(area.draw(&PathElement::new(
        [(x - half, y), (x + half, y)],
        colour.stroke_width(3),
    ))?)
}

/// A dashed line, of a chart or in its legend, which plotters' `DashedLineSeries` is not
/// for.
pub fn dashed(area: &Area<'_>, points: Vec<Pixel>, colour: RGBColor) -> Result<()> {
    let style = colour.stroke_width(2);
    Ok(area.draw(&DashedPathElement::new(points, 6, 4, style))?)
}

/// What stands for it in a legend, and its name.
fn entry(area: &Area<'_>, (x, middle): Pixel, look: &Look) -> Result<()> {
    let line = [(x, middle), (x + 32, middle)];
    if look.dashed {
        dashed(area, line.to_vec(), look.colour)?;
    } else {
        area.draw(&PathElement::new(line, look.colour.stroke_width(2)))?;
    }
    marker(area, (x + 16, middle), look, false)?;
    label(area, &look.name, (x + 42, middle - 6), 15, INK, HPos::Left)
}

/// How wide that is, about.
fn entry_width(look: &Look) -> i32 {
    42 + (look.name.chars().count() as f64 * 7.7) as i32
}

/// Where the entries of a legend are: in rows between the title and the chart,
/// so that it covers no data.
fn legend_places(looks: &[&Look]) -> Vec<Pixel> {
    let (mut x, mut middle) = (LEGEND.0, LEGEND.1);
    looks
        .iter()
        .map(|look| {
            let width = entry_width(look);
            if x > LEGEND.0 && x + width > SIZE.0 as i32 - RIGHT {
                (x, middle) = (LEGEND.0, middle + LEGEND_ROW);
            }
            let place = (x, middle);
            x += width + 26;
            place
        })
        .collect()
}

/// Draws the legend, and returns the area below it.
fn legend<'a>(area: &Area<'a>, looks: &[&Look]) -> Result<Area<'a>> {
    let places = legend_places(looks);
    for (place, look) in places.iter().zip(looks) {
        entry(area, *place, look)?;
    }
    let bottom = places.last().map_or(LEGEND.1, |place| place.1);
    Ok(area.margin(bottom + 22, 40, 12, RIGHT))
}

/// The decades that hold all values, a bit more on either side, and what is
/// marked among them: powers of ten, and if these are few, 2 and 5 of them.
fn log_axis(values: impl Iterator<Item = f64>) -> Option<(f64, f64, Vec<f64>)> {
    let values: Vec<f64> = values.filter(|v| *v > 0.0).collect();
    let s = Summary::of(&values)?;
    let (low, high) = (s.min / 1.4, s.max * 1.4);
    let few = high / low < 300.0;
    let marks = (low.log10().floor() as i32..=high.log10().ceil() as i32)
        .flat_map(|power| {
            let steps: &[f64] = if few { &[1.0, 2.0, 5.0] } else { &[1.0] };
            steps.iter().map(move |step| step * 10f64.powi(power))
        })
        .filter(|mark| (low..=high).contains(mark))
        .collect();
    Some((low, high, marks))
}

/// A time at a mark of an axis.
pub fn tick(ns: f64) -> String {
    let (value, unit) = match ns {
        a if a < 999.5 => (ns, "ns"),
        a if a < 999_500.0 => (ns / 1e3, "µs"),
        a if a < 999_500_000.0 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    if value < 9.95 && (value - value.round()).abs() > 0.01 {
        format!("{value:.1} {unit}")
    } else {
        format!("{} {unit}", thousands(value))
    }
}

/// Lines of times by numbers of targets, both axes logarithmic.
pub fn log_log(area: &Area<'_>, x: &str, y: &str, lines: &[Line]) -> Result<()> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let times = points().flat_map(|(_, s)| [s.q1, s.median, s.q3]);
    let (bottom, top, y_marks) = log_axis(times).context("there is nothing to draw")?;
    let (left, right, _) = log_axis(points().map(|p| p.0)).context("there is nothing to draw")?;
    let mut x_marks: Vec<f64> = points().map(|p| p.0).collect();
    x_marks.sort_by(f64::total_cmp);
    x_marks.dedup();

    let looks: Vec<&Look> = lines.iter().map(|line| &line.look).collect();
    let plot = legend(area, &looks)?;
    let mut chart = ChartBuilder::on(&plot)
        .x_label_area_size(52)
        .y_label_area_size(84)
        .build_cartesian_2d(
            (left..right).log_scale().with_key_points(x_marks),
            (bottom..top).log_scale().with_key_points(y_marks),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .axis_style(QUIET)
        .x_desc(x)
        .y_desc(y)
        .axis_desc_style((FONT, 16).into_font().color(&INK))
        .label_style((FONT, 14).into_font().color(&INK))
        .x_label_formatter(&|v| thousands(*v))
        .y_label_formatter(&|v| tick(*v))
        .draw()?;

    for line in lines {
        let pixels: Vec<Pixel> = line
            .points
            .iter()
            .map(|(x, s)| chart.backend_coord(&(*x, s.median)))
            .collect();
        if line.look.dashed {
            dashed(area, pixels.clone(), line.look.colour)?;
        } else {
            let style = line.look.colour.stroke_width(2);
            chart.draw_series(LineSeries::new(
                line.points.iter().map(|(x, s)| (*x, s.median)),
                style,
            ))?;
        }
        for ((x, s), pixel) in line.points.iter().zip(pixels) {
            let end = |ns: f64| chart.backend_coord(&(*x, ns.max(bottom)));
            if line.look.marker != Marker::None {
                whisker(area, end(s.q1), end(s.q3), line.look.colour)?;
            }
            marker(area, pixel, &line.look, false)?;
        }
    }
    Ok(())
}

/// A place on a chart of kinds, as pixels.
pub type ToPixel<'a> = dyn Fn(f64, f64) -> Pixel + 'a;

/// The vertical axis of a chart of kinds.
pub enum Axis<'a> {
    Log,
    Linear {
        from: f64,
        to: f64,
        format: &'a dyn Fn(f64) -> String,
    },
}

/// Kinds side by side, at 0.5, 1.5 and so on; `draw` fills in what there is.
pub fn kinds(
    area: &Area<'_>,
    names: &[String],
    looks: &[&Look],
    y: &str,
    axis: &Axis<'_>,
    values: &[f64],
    draw: impl FnOnce(&Area<'_>, &ToPixel<'_>) -> Result<()>,
) -> Result<()> {
    let right = names.len() as f64;
    let plot = legend(area, looks)?;
    let mut builder = ChartBuilder::on(&plot);
    builder.x_label_area_size(58).y_label_area_size(84);
    match axis {
        Axis::Log => {
            let (bottom, top, marks) =
                log_axis(values.iter().copied()).context("there is nothing to draw")?;
            let mut chart = builder
                .build_cartesian_2d(0.0..right, (bottom..top).log_scale().with_key_points(marks))?;
            mesh(&mut chart, y, &tick)?;
            let to_pixel = |x, y: f64| chart.backend_coord(&(x, y));
            kind_names(area, names, &|x| to_pixel(x, bottom))?;
            draw(area, &to_pixel)
        }
        Axis::Linear { from, to, format } => {
            let mut chart = builder.build_cartesian_2d(0.0..right, *from..*to)?;
            mesh(&mut chart, y, format)?;
            let to_pixel = |x, y: f64| chart.backend_coord(&(x, y));
            kind_names(area, names, &|x| to_pixel(x, *from))?;
            draw(area, &to_pixel)
        }
    }
}

fn mesh<Y>(
    chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<RangedCoordf64, Y>>,
    y: &str,
    format: &dyn Fn(f64) -> String,
) -> Result<()>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .axis_style(QUIET)
        .y_desc(y)
        .axis_desc_style((FONT, 16).into_font().color(&INK))
        .label_style((FONT, 14).into_font().color(&INK))
        .y_label_formatter(&|v| format(*v))
        .draw()?;
    Ok(())
}

/// Below the axis; a name may have two lines.
fn kind_names(area: &Area<'_>, names: &[String], place: &dyn Fn(f64) -> Pixel) -> Result<()> {
    for (kind, name) in names.iter().enumerate() {
        let (x, y) = place(kind as f64 + 0.5);
        for (row, line) in name.lines().enumerate() {
            label(
                area,
                line,
                (x, y + 12 + 20 * row as i32),
                15,
                INK,
                HPos::Center,
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_an_axis_are_round() {
        let (low, high, marks) = log_axis([1000.0, 30e6].into_iter()).unwrap();
        assert!(low < 1000.0 && high > 30e6);
        assert_eq!(marks, [1e3, 1e4, 1e5, 1e6, 1e7]);
        let (_, _, marks) = log_axis([1e9, 8e9].into_iter()).unwrap();
        assert_eq!(marks, [1e9, 2e9, 5e9, 1e10]);
        assert!(log_axis([0.0, -1.0].into_iter()).is_none());
    }

    #[test]
    fn a_legend_wraps_before_the_right_side() {
        let look = |name: &str| Look::new(name, BLUE, Marker::Circle);
        let looks = [look(&"x".repeat(60)), look(&"y".repeat(60)), look("z")];
        let looks: Vec<&Look> = looks.iter().collect();
        let places = legend_places(&looks);
        assert_eq!(places[..2], [LEGEND, (LEGEND.0, LEGEND.1 + LEGEND_ROW)]);
        assert_eq!(places[2].1, places[1].1);
        for (look, (x, _)) in looks.iter().zip(places) {
            assert!(x + entry_width(look) <= SIZE.0 as i32 - RIGHT);
        }
    }

    #[test]
    fn ticks_have_no_needless_digits() {
        for (ns, text) in [
            (1.0, "1 ns"),
            (500.0, "500 ns"),
            (1e3, "1 µs"),
            (2.5e3, "2.5 µs"),
            (1e5, "100 µs"),
            (1e6, "1 ms"),
            (5e10, "50 s"),
        ] {
            assert_eq!(tick(ns), text);
        }
    }
}
