//! Charts of two axes: points, lines and error bars, with a legend shared by all charts of a figure.

use std::path::Path;

use plotters::style::{RGBColor, WHITE};

use super::FigureError;
use super::canvas::{Area, Canvas, GREY, GRID, INK, draw_picture, size};
use super::page::{BORDER, Heading, draw_notes, notes_height, wrap_notes};
use super::scale::{Scale, ScaleKind};
use super::text::{Align, NAME_SEPARATORS, TextFont};

/// A point of a series.
#[derive(Clone, Debug, Default)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// Ends of the error bars.
    pub(super) x_range: Option<(f64, f64)>,
    pub(super) y_range: Option<(f64, f64)>,
    /// Drawn as a ring.
    pub(super) hollow: bool,
}

/// Points of one colour.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) colour: RGBColor,
    pub(super) points: Vec<Point>,
    /// Whether a line joins the points in their order.
    pub(super) line: bool,
    /// Radius of the points in pixels; 0 draws none.
    pub(super) radius: f64,
}

/// What the places on the x axis are.
#[derive(Clone, Debug)]
pub(super) enum Places {
    Numbers(ScaleKind),
    /// Names at 0, 1, 2 ...
    Names(Vec<String>),
}

/// A chart.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x_axis: String,
    pub(super) y_axis: String,
    pub(super) places: Places,
    pub(super) y_kind: ScaleKind,
    pub(super) series: Vec<Series>,
}

/// Charts in rows, the legend beside them.
#[derive(Clone, Debug)]
pub(super) struct ChartPage {
    pub(super) title: String,
    pub(super) subtitle: String,
    pub(super) charts: Vec<Chart>,
    pub(super) columns: usize,
    pub(super) legend: Vec<(String, RGBColor)>,
    pub(super) notes: String,
}

const CHART_WIDTH: i32 = 1050;
const CHART_HEIGHT: i32 = 900;
const LEGEND: i32 = 460;
const GAP: i32 = 14;
/// Height of a line of tick labels.
const LINE: i32 = 42;

impl ChartPage {
    /// Whether there is a point in any chart.
    pub(super) fn is_empty(&self) -> bool {
        let mut series = self.charts.iter().flat_map(|chart| &chart.series);
        series.all(|series| series.points.is_empty())
    }

    /// Draws the page and saves it under `path`.
    pub(super) fn save(&self, path: &Path) -> Result<(), FigureError> {
        let fault = |message: &str| FigureError {
            path: path.to_path_buf(),
            message: message.to_owned(),
        };
        let font = TextFont::load().ok_or_else(|| fault("the embedded font cannot be read"))?;
        let columns = self.columns.clamp(1, self.charts.len().max(1));
        let rows = self.charts.len().div_ceil(columns) as i32;
        let width = columns as i32 * CHART_WIDTH + LEGEND + BORDER;
        let heading = Heading::new(&font, &self.title, &self.subtitle, width);
        let notes = wrap_notes(&font, &self.notes, width);
        let names: Vec<Vec<String>> = self
            .legend
            .iter()
            .map(|(name, _)| font.wrap(name, size::TICK, (LEGEND - 70) as f32, NAME_SEPARATORS))
            .collect();
        let legend_height: i32 = names.iter().map(|lines| lines.len() as i32 * LINE + 16).sum();
        let body = (rows * CHART_HEIGHT).max(legend_height + 2 * BORDER);
        let height = heading.height() + body + notes_height(&notes);
        draw_picture(path, (width, height), |canvas| {
            heading.draw(canvas);
            for (place, chart) in self.charts.iter().enumerate() {
                let left = BORDER + (place % columns) as i32 * CHART_WIDTH;
                let top = heading.height() + (place / columns) as i32 * CHART_HEIGHT;
                chart.draw(
                    canvas,
                    Area {
                        left,
                        top,
                        right: left + CHART_WIDTH - BORDER,
                        bottom: top + CHART_HEIGHT - BORDER,
                    },
                );
            }
            let mut y = heading.height() + 2 * BORDER;
            let x = width - LEGEND + 10;
            for ((_, colour), lines) in self.legend.iter().zip(&names) {
                canvas.disc((x, y + 13), 15.0, *colour, 1.0);
                for line in lines {
                    canvas.text(line, (x + 32, y), size::TICK, INK, (Align::Start, Align::Start));
                    y += LINE;
                }
                y += 16;
            }
            draw_notes(canvas, &notes);
        })
    }
}

impl Chart {
    fn values(&self, value: fn(&Point) -> f64, range: fn(&Point) -> Option<(f64, f64)>) -> Vec<f64> {
        let points = self.series.iter().flat_map(|series| &series.points);
        points
            .flat_map(|point| {
                let ends = range(point).map_or([value(point); 2], |(low, high)| [low, high]);
                [value(point), ends[0], ends[1]]
            })
            .collect()
    }

    fn draw(&self, canvas: &mut Canvas, outer: Area) {
        let names = match &self.places {
            Places::Names(names) => names.as_slice(),
            Places::Numbers(_) => &[],
        };
        let xs = self.values(|point| point.x, |point| point.x_range);
        let ys = self.values(|point| point.y, |point| point.y_range);
        let top = outer.top + if self.title.is_empty() { GAP } else { 70 };
        let probe = Scale::covering(self.y_kind, &ys, (outer.bottom - 180, top), 40);
        let widths = probe
            .ticks()
            .into_iter()
            .map(|(_, label)| canvas.font.width(&label, size::TICK) as i32);
        let left = outer.left + 60 + widths.max().unwrap_or(0).max(60) + 2 * GAP;
        let slot = (outer.right - left) / names.len().max(1) as i32;
        let upwards = names
            .iter()
            .any(|name| canvas.font.width(name, size::TICK) as i32 > slot - GAP);
        let label_height = if upwards {
            let widest = names
                .iter()
                .map(|name| canvas.font.width(name, size::TICK) as i32);
            widest.max().unwrap_or(0)
        } else {
            LINE
        };
        let plot = Area {
            left,
            top,
            right: outer.right,
            bottom: outer.bottom - label_height - LINE - 3 * GAP,
        };
        let vertical = Scale::covering(self.y_kind, &ys, (plot.bottom, plot.top), 40);
        let horizontal = match &self.places {
            Places::Numbers(kind) => Scale::covering(*kind, &xs, (plot.left, plot.right), 60),
            Places::Names(_) => Scale::slots(names.len(), (plot.left, plot.right)),
        };
        canvas.text(
            &self.title,
            (i32::midpoint(plot.left, plot.right), outer.top + GAP),
            size::LABEL,
            INK,
            (Align::Middle, Align::Start),
        );
        self.draw_axes(canvas, (outer, plot), &horizontal, &vertical, upwards);
        for series in &self.series {
            series.draw(canvas, &horizontal, &vertical, plot);
        }
    }

    fn draw_axes(
        &self,
        canvas: &mut Canvas,
        (outer, plot): (Area, Area),
        horizontal: &Scale,
        vertical: &Scale,
        upwards: bool,
    ) {
        for (value, label) in vertical.ticks() {
            let y = vertical.pixel(value);
            canvas.line((plot.left, y), (plot.right, y), GRID, 2);
            canvas.text(
                &label,
                (plot.left - GAP, y),
                size::TICK,
                INK,
                (Align::End, Align::Middle),
            );
        }
        let ticks = match &self.places {
            Places::Numbers(_) => horizontal.ticks(),
            Places::Names(names) => (0..names.len())
                .map(|place| (place as f64, names[place].clone()))
                .collect(),
        };
        for (value, label) in ticks {
            let x = horizontal.pixel(value);
            if matches!(self.places, Places::Numbers(_)) {
                canvas.line((x, plot.top), (x, plot.bottom), GRID, 2);
            }
            if upwards {
                canvas.text_upwards(
                    &label,
                    (x, plot.bottom + GAP),
                    size::TICK,
                    INK,
                    (Align::End, Align::Middle),
                );
            } else {
                canvas.text(
                    &label,
                    (x, plot.bottom + GAP),
                    size::TICK,
                    INK,
                    (Align::Middle, Align::Start),
                );
            }
        }
        canvas.line((plot.left, plot.top), (plot.left, plot.bottom), INK, 3);
        canvas.line((plot.left, plot.bottom), (plot.right, plot.bottom), INK, 3);
        let below = (i32::midpoint(plot.left, plot.right), outer.bottom);
        canvas.text(&self.x_axis, below, size::LABEL, INK, (Align::Middle, Align::End));
        let beside = (outer.left, i32::midpoint(plot.top, plot.bottom));
        canvas.text_upwards(
            &self.y_axis,
            beside,
            size::LABEL,
            INK,
            (Align::Middle, Align::Start),
        );
    }
}

impl Series {
    fn draw(&self, canvas: &mut Canvas, horizontal: &Scale, vertical: &Scale, plot: Area) {
        let place = |point: &Point| (horizontal.pixel(point.x), vertical.pixel(point.y));
        if self.line {
            for pair in self.points.windows(2) {
                canvas.line(place(&pair[0]), place(&pair[1]), self.colour, 5);
            }
        }
        let cap = 12;
        for point in &self.points {
            let (x, y) = place(point);
            // Error bars that the point would cover are not drawn.
            let reaches = |from: i32, to: i32| f64::from((from - to).abs()) > 2.0 * self.radius + 8.0;
            if let Some((low, high)) = point.y_range {
                let ends = [vertical.pixel(low), vertical.pixel(high)];
                if reaches(ends[0], ends[1]) {
                    canvas.line((x, ends[0]), (x, ends[1]), self.colour, 4);
                    for end in ends {
                        canvas.line((x - cap, end), (x + cap, end), self.colour, 4);
                    }
                }
            }
            if let Some((low, high)) = point.x_range {
                let ends = [horizontal.pixel(low), horizontal.pixel(high)];
                if reaches(ends[0], ends[1]) {
                    canvas.line((ends[0], y), (ends[1], y), self.colour, 4);
                    for end in ends {
                        canvas.line((end, y - cap), (end, y + cap), self.colour, 4);
                    }
                }
            }
            if self.radius > 0.0 && (plot.left..=plot.right).contains(&x) {
                canvas.disc((x, y), self.radius + 2.0, WHITE, 1.0);
                canvas.disc((x, y), self.radius, self.colour, 1.0);
                if point.hollow {
                    canvas.disc((x, y), self.radius - 5.0, WHITE, 1.0);
                }
            }
        }
    }
}

/// The grey of lines that are no mode's.
pub(super) const NEUTRAL: RGBColor = GREY;
