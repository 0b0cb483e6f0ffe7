//! Speed against memory: a point a mode.

use std::path::Path;

use plotters::style::WHITE;

use super::FigureError;
use super::canvas::{Area, Canvas, GREY, GRID, INK, draw_picture, size};
use super::page::{BORDER, Heading, Modes, draw_notes, notes_height, wrap_notes};
use super::scale::{Scale, ScaleKind};
use super::text::{Align, NAME_SEPARATORS, TextFont};
use crate::analysis::{ModeRows, TimedCell};
use crate::statistics::{Interval, Summary, mean_interval};

/// A value with the ends of its error bar.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) value: f64,
    pub(super) range: Option<(f64, f64)>,
}

/// One mode of the figure.
#[derive(Clone, Debug)]
pub(super) struct TradeoffPoint {
    pub(super) mode: usize,
    /// Peak memory in GB.
    pub(super) memory: Place,
    /// Tokens per second.
    pub(super) speed: Place,
    /// The rows behind the means, memory and speed.
    pub(super) rows: Vec<(f64, f64)>,
}

/// A point a mode of `groups`. With the cells of all modes, typical rates with their intervals and memory with Student's; else means and deviations.
pub(super) fn points(groups: &[ModeRows], timed: Option<&[&TimedCell]>) -> Vec<TradeoffPoint> {
    let with_deviation = |summary: Summary| Place {
        value: summary.mean,
        range: summary.std.map(|std| (summary.mean - std, summary.mean + std)),
    };
    let with_interval = |value: f64, interval: Option<Interval>| Place {
        value,
        range: interval.map(|interval| (interval.low, interval.high)),
    };
    let point = |(mode, group): (usize, &ModeRows)| {
        let rows: Vec<(f64, f64)> = group
            .rows
            .iter()
            .filter_map(|row| row.peak_vram_GB.zip(row.tokens_per_s))
            .collect();
        let (memory, speed): (Vec<f64>, Vec<f64>) = rows.iter().copied().unzip();
        Some(TradeoffPoint {
            mode,
            memory: match timed {
                Some(_) => with_interval(Summary::of(&memory)?.mean, mean_interval(&memory)),
                None => with_deviation(Summary::of(&memory)?),
            },
            speed: match timed.and_then(|cells| cells.get(mode)) {
                Some(cell) => {
                    let (rate, interval) = cell.tokens_per_second();
                    with_interval(rate, interval)
                }
                None => with_deviation(Summary::of(&speed)?),
            },
            rows,
        })
    };
    groups.iter().enumerate().filter_map(point).collect()
}

/// Draws peak memory against tokens per second and saves the picture.
pub(super) fn save(
    path: &Path,
    (title, subtitle, notes): (&str, &str, &str),
    points: &[TradeoffPoint],
    modes: &Modes,
) -> Result<(), FigureError> {
    const WIDTH: i32 = 2000;
    const PLOT_HEIGHT: i32 = 1000;
    /// Room for the names of the modes, right of the plot.
    const LEGEND: i32 = 440;
    let fault = |message: &str| FigureError {
        path: path.to_path_buf(),
        message: message.to_owned(),
    };
    let font = TextFont::load().ok_or_else(|| fault("the embedded font cannot be read"))?;
    let heading = Heading::new(&font, title, subtitle, WIDTH);
    let speeds = all_values(points, |point| point.speed, |row| row.1);
    let memories = all_values(points, |point| point.memory, |row| row.0);
    let (speed_kind, memory_kind) = (kind(&speeds), kind(&memories));
    let zoomed = match (speed_kind == ScaleKind::Zoomed, memory_kind == ScaleKind::Zoomed) {
        (true, true) => " The axes do not start at 0.",
        (true, false) => " The axis of throughput does not start at 0.",
        (false, true) => " The axis of memory does not start at 0.",
        (false, false) => "",
    };
    let notes = wrap_notes(&font, &format!("{notes}{zoomed}"), WIDTH);
    let names: Vec<Vec<String>> = points
        .iter()
        .map(|point| modes.names.get(point.mode).copied().unwrap_or_default())
        .map(|name| font.wrap(name, size::TICK, (LEGEND - 70) as f32, NAME_SEPARATORS))
        .collect();
    let legend_height: i32 = names.iter().map(|lines| lines.len() as i32 * 42 + 24).sum();
    let height = heading.height() + PLOT_HEIGHT.max(legend_height) + notes_height(&notes);
    draw_picture(path, (WIDTH, height), |canvas| {
        heading.draw(canvas);
        let bottom = height - notes_height(&notes) - 140;
        let mut plot = Area {
            left: 0,
            top: heading.height() + 10,
            right: WIDTH - BORDER - LEGEND,
            bottom,
        };
        let vertical = Scale::covering(speed_kind, &speeds, (plot.bottom, plot.top), 60);
        let widths = vertical
            .ticks()
            .into_iter()
            .map(|(_, label)| canvas.font.width(&label, size::TICK) as i32);
        plot.left = BORDER + 90 + widths.max().unwrap_or(0);
        let horizontal = Scale::covering(memory_kind, &memories, (plot.left, plot.right), 80);
        draw_axes(canvas, plot, &horizontal, &vertical);
        for pair in front(points).windows(2) {
            let [from, to] = [pair[0], pair[1]].map(|point| {
                (
                    horizontal.pixel(point.memory.value),
                    vertical.pixel(point.speed.value),
                )
            });
            canvas.dashed_between((from, to), GREY, 4);
        }
        let mut places: Vec<(i32, i32)> = Vec::new();
        for point in points {
            let place = (
                horizontal.pixel(point.memory.value),
                vertical.pixel(point.speed.value),
            );
            // A point over earlier ones is smaller, so that all stay visible.
            let close =
                |earlier: &&(i32, i32)| (earlier.0 - place.0).abs() + (earlier.1 - place.1).abs() < 24;
            let radius = (20 - 6 * places.iter().filter(close).count() as i32).max(6);
            places.push(place);
            draw_point(canvas, point, place, radius, &horizontal, &vertical, modes);
        }
        let mut y = plot.top + 10;
        for (point, lines) in points.iter().zip(&names) {
            let x = plot.right + 50;
            if let Some(&colour) = modes.colours.get(point.mode) {
                canvas.disc((x, y + 13), 15.0, colour, 1.0);
            }
            for line in lines {
                canvas.text(line, (x + 32, y), size::TICK, INK, (Align::Start, Align::Start));
                y += 42;
            }
            y += 24;
        }
        draw_notes(canvas, &notes);
    })
}

/// The points of which no other has at most the memory and at least the speed, by memory (V. Pareto's front). Of equal
/// points one is on it.
fn front(points: &[TradeoffPoint]) -> Vec<&TradeoffPoint> {
    let mut sorted: Vec<&TradeoffPoint> = points.iter().collect();
    sorted.sort_by(|one, other| {
        let memory = one.memory.value.total_cmp(&other.memory.value);
        memory.then(other.speed.value.total_cmp(&one.speed.value))
    });
    let mut fastest = f64::NEG_INFINITY;
    sorted.retain(|point| {
        let beats = point.speed.value > fastest;
        fastest = fastest.max(point.speed.value);
        beats
    });
    sorted
}

fn all_values(
    points: &[TradeoffPoint],
    place: fn(&TradeoffPoint) -> Place,
    row: fn(&(f64, f64)) -> f64,
) -> Vec<f64> {
    let errors = points.iter().flat_map(|point| {
        let Place { value, range } = place(point);
        let (low, high) = range.unwrap_or((value, value));
        [low, value, high]
    });
    errors
        .chain(points.iter().flat_map(|point| point.rows.iter().map(row)))
        .collect()
}

/// From zero when the values reach far down anyway.
fn kind(values: &[f64]) -> ScaleKind {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    if low < 0.5 * high {
        ScaleKind::FromZero
    } else {
        ScaleKind::Zoomed
    }
}

fn draw_axes(canvas: &mut Canvas, plot: Area, horizontal: &Scale, vertical: &Scale) {
    for (value, label) in vertical.ticks() {
        let y = vertical.pixel(value);
        canvas.line((plot.left, y), (plot.right, y), GRID, 2);
        canvas.text(
            &label,
            (plot.left - 14, y),
            size::TICK,
            INK,
            (Align::End, Align::Middle),
        );
    }
    for (value, label) in horizontal.ticks() {
        let x = horizontal.pixel(value);
        canvas.line((x, plot.top), (x, plot.bottom), GRID, 2);
        canvas.text(
            &label,
            (x, plot.bottom + 20),
            size::TICK,
            INK,
            (Align::Middle, Align::Start),
        );
    }
    canvas.line((plot.left, plot.top), (plot.left, plot.bottom), INK, 3);
    canvas.line((plot.left, plot.bottom), (plot.right, plot.bottom), INK, 3);
    let middle = (i32::midpoint(plot.left, plot.right), plot.bottom + 80);
    canvas.text(
        "Peak memory (GB)",
        middle,
        size::LABEL,
        INK,
        (Align::Middle, Align::Start),
    );
    let middle = (BORDER, i32::midpoint(plot.top, plot.bottom));
    canvas.text_upwards(
        "Throughput (tokens/s)",
        middle,
        size::LABEL,
        INK,
        (Align::Middle, Align::Start),
    );
}

fn draw_point(
    canvas: &mut Canvas,
    point: &TradeoffPoint,
    (x, y): (i32, i32),
    radius: i32,
    horizontal: &Scale,
    vertical: &Scale,
    modes: &Modes,
) {
    const CAP: i32 = 12;
    let Some(&colour) = modes.colours.get(point.mode) else {
        return;
    };
    if point.rows.len() > 1 {
        for &(memory, speed) in &point.rows {
            canvas.disc(
                (horizontal.pixel(memory), vertical.pixel(speed)),
                8.0,
                colour,
                0.35,
            );
        }
    }
    // Error bars that the point would cover are not drawn.
    let reaches = |from: i32, to: i32| (from - to).abs() > 2 * radius + 8;
    if let Some((low, high)) = point.speed.range {
        let ends = [vertical.pixel(low), vertical.pixel(high)];
        if reaches(ends[0], ends[1]) {
            canvas.line((x, ends[0]), (x, ends[1]), colour, 4);
            for end in ends {
                canvas.line((x - CAP, end), (x + CAP, end), colour, 4);
            }
        }
    }
    if let Some((low, high)) = point.memory.range {
        let ends = [horizontal.pixel(low), horizontal.pixel(high)];
        if reaches(ends[0], ends[1]) {
            canvas.line((ends[0], y), (ends[1], y), colour, 4);
            for end in ends {
                canvas.line((end, y - CAP), (end, y + CAP), colour, 4);
            }
        }
    }
    canvas.disc((x, y), f64::from(radius) + 3.0, WHITE, 1.0);
    canvas.disc((x, y), f64::from(radius), colour, 1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_no_other_point_beats() {
        let point = |mode, memory, speed| TradeoffPoint {
            mode,
            memory: Place {
                value: memory,
                range: None,
            },
            speed: Place {
                value: speed,
                range: None,
            },
            rows: Vec::new(),
        };
        let points = [
            point(0, 4.0, 90.0),
            point(1, 1.0, 50.0),
            point(2, 2.0, 40.0),
            point(3, 2.0, 70.0),
            point(4, 5.0, 90.0),
            point(5, 1.0, 50.0),
        ];
        let modes: Vec<usize> = front(&points).iter().map(|point| point.mode).collect();
        assert_eq!(modes, [1, 3, 0]);
        assert!(front(&[]).is_empty());
    }
}
