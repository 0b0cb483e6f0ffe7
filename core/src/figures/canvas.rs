//! A picture under construction: shapes by plotters, text by [`super::text`], saved whole or not at all.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::FigureError;
use super::text::{Align, TextFont};

/// The colour of text and axes.
pub(super) const INK: RGBColor = RGBColor(38, 38, 38);
/// The colour of less important text.
pub(super) const GREY: RGBColor = RGBColor(105, 105, 105);
/// The colour of grid lines.
pub(super) const GRID: RGBColor = RGBColor(226, 226, 226);

/// Sizes of text in pixels an em. At 300 dots an inch (2100 pixels are 178 mm, two columns of a journal) 34 pixels are
/// 8 points.
pub(super) mod size {
    pub(crate) const TITLE: f32 = 46.0;
    pub(crate) const LABEL: f32 = 38.0;
    pub(crate) const TICK: f32 = 34.0;
    pub(crate) const VALUE: f32 = 30.0;
    pub(crate) const NOTE: f32 = 28.0;
}

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) right: i32,
    pub(super) bottom: i32,
}

/// The picture. What lies outside of it is not drawn.
pub(super) struct Canvas<'a> {
    pub(super) font: TextFont,
    pub(super) width: i32,
    pub(super) height: i32,
    area: DrawingArea<BitMapBackend<'a>, Shift>,
    /// The first thing that could not be drawn, reported when the picture is saved.
    fault: Option<String>,
}

/// Draws a white picture of `width` × `height` pixels and saves it under `path` when it is complete.
pub(super) fn draw_picture(
    path: &Path,
    (width, height): (i32, i32),
    draw: impl FnOnce(&mut Canvas),
) -> Result<(), FigureError> {
    let fault = |message: String| FigureError {
        path: path.to_path_buf(),
        message,
    };
    let font = TextFont::load().ok_or_else(|| fault("the embedded font cannot be read".to_owned()))?;
    let file = tempfile::Builder::new()
        .prefix(".qbench-")
        .suffix(".png")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(path.parent().unwrap_or(Path::new(".")))
        .map_err(|error| fault(error.to_string()))?
        .into_temp_path();
    let image = file.to_path_buf();
    let area = BitMapBackend::new(&image, (width as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| fault(error.to_string()))?;
    let mut canvas = Canvas {
        font,
        width,
        height,
        area,
        fault: None,
    };
    draw(&mut canvas);
    if let Some(message) = canvas.fault {
        return Err(fault(message));
    }
    canvas.area.present().map_err(|error| fault(error.to_string()))?;
    drop(canvas.area);
    file.persist(path).map_err(|error| fault(error.error.to_string()))
}

impl Canvas<'_> {
    fn keep<E: std::fmt::Display>(&mut self, result: Result<(), E>) {
        if let (Err(error), None) = (result, &self.fault) {
            self.fault = Some(error.to_string());
        }
    }

    /// A filled rectangle.
    pub(super) fn fill(&mut self, area: Area, colour: RGBColor) {
        let corners = [(area.left, area.top), (area.right, area.bottom)];
        let result = self.area.draw(&Rectangle::new(corners, colour.filled()));
        self.keep(result);
    }

    /// A straight line, `width` pixels wide. Lines along an axis are sharp.
    pub(super) fn line(&mut self, from: (i32, i32), to: (i32, i32), colour: RGBColor, width: i32) {
        let (low, high) = (width / 2, (width - 1) / 2);
        if from.0 == to.0 || from.1 == to.1 {
            let (left, right) = (from.0.min(to.0), from.0.max(to.0));
            let (top, bottom) = (from.1.min(to.1), from.1.max(to.1));
            let (dx, dy) = if from.0 == to.0 {
                ((low, high), (0, 0))
            } else {
                ((0, 0), (low, high))
            };
            self.fill(
                Area {
                    left: left - dx.0,
                    top: top - dy.0,
                    right: right + dx.1,
                    bottom: bottom + dy.1,
                },
                colour,
            );
        } else {
            let result = self.area.draw(&PathElement::new(
                vec![from, to],
                colour.stroke_width(width as u32),
            ));
            self.keep(result);
        }
    }

    /// A horizontal dashed line.
    pub(super) fn dashed(&mut self, left: i32, right: i32, y: i32, colour: RGBColor, width: i32) {
        const DASH: i32 = 18;
        const GAP: i32 = 12;
        let mut x = left;
        while x < right {
            self.line((x, y), ((x + DASH).min(right), y), colour, width);
            x += DASH + GAP;
        }
    }

    /// A dashed line in any direction.
    pub(super) fn dashed_between(
        &mut self,
        (from, to): ((i32, i32), (i32, i32)),
        colour: RGBColor,
        width: i32,
    ) {
        const DASH: f64 = 18.0;
        const PERIOD: f64 = 30.0;
        let (across, down) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
        let length = across.hypot(down);
        let at = |along: f64| {
            let share = (along / length).min(1.0);
            (
                from.0 + (across * share).round() as i32,
                from.1 + (down * share).round() as i32,
            )
        };
        let mut along = 0.0;
        while along < length {
            self.line(at(along), at(along + DASH), colour, width);
            along += PERIOD;
        }
    }

    /// The outline of a rectangle, inside of it.
    pub(super) fn frame(&mut self, area: Area, colour: RGBColor, width: i32) {
        let Area {
            left,
            top,
            right,
            bottom,
        } = area;
        self.fill(
            Area {
                bottom: (top + width - 1).min(bottom),
                ..area
            },
            colour,
        );
        self.fill(
            Area {
                top: (bottom - width + 1).max(top),
                ..area
            },
            colour,
        );
        self.fill(
            Area {
                right: (left + width - 1).min(right),
                ..area
            },
            colour,
        );
        self.fill(
            Area {
                left: (right - width + 1).max(left),
                ..area
            },
            colour,
        );
    }

    /// A disc, its edge smoothed.
    pub(super) fn disc(&mut self, (x, y): (i32, i32), radius: f64, colour: RGBColor, opacity: f64) {
        let reach = radius.ceil() as i32 + 1;
        for dy in -reach..=reach {
            for dx in -reach..=reach {
                let distance = f64::from(dx * dx + dy * dy).sqrt();
                let coverage = (radius + 0.5 - distance).clamp(0.0, 1.0) * opacity;
                self.pixel(x + dx, y + dy, colour, coverage);
            }
        }
    }

    fn pixel(&mut self, x: i32, y: i32, colour: RGBColor, coverage: f64) {
        if coverage > 0.0 && (0..self.width).contains(&x) && (0..self.height).contains(&y) {
            let result = self.area.draw_pixel((x, y), &colour.mix(coverage));
            self.keep(result);
        }
    }

    /// One line of text.
    pub(super) fn text(
        &mut self,
        text: &str,
        (x, y): (i32, i32),
        size: f32,
        colour: RGBColor,
        (horizontal, vertical): (Align, Align),
    ) {
        let mut pixels = Vec::new();
        self.font
            .rasterise(text, size, horizontal, vertical, |dx, dy, coverage| {
                pixels.push((x + dx, y + dy, coverage));
            });
        for (x, y, coverage) in pixels {
            self.pixel(x, y, colour, f64::from(coverage));
        }
    }

    /// One line of text that reads upwards, its start and its alignment as if the page were turned.
    pub(super) fn text_upwards(
        &mut self,
        text: &str,
        (x, y): (i32, i32),
        size: f32,
        colour: RGBColor,
        (horizontal, vertical): (Align, Align),
    ) {
        let mut pixels = Vec::new();
        self.font
            .rasterise(text, size, horizontal, vertical, |dx, dy, coverage| {
                pixels.push((x + dy, y - dx, coverage));
            });
        for (x, y, coverage) in pixels {
            self.pixel(x, y, colour, f64::from(coverage));
        }
    }
}
