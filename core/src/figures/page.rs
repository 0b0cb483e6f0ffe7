//! A figure: title, panels in rows, legend of the variants, notes.

use std::path::Path;

use plotters::style::RGBColor;

use super::FigureError;
use super::canvas::{Area, Canvas, GREY, INK, draw_picture, size};
use super::palette::tint;
use super::panel::Panel;
use super::scale::ScaleKind;
use super::text::{Align, TextFont, WORD_SEPARATORS};

/// The modes of an analysis with their colours.
#[derive(Clone, Debug)]
pub(super) struct Modes<'a> {
    pub(super) names: Vec<&'a str>,
    pub(super) colours: Vec<RGBColor>,
}

impl Modes<'_> {
    /// Those of the modes that satisfy a condition.
    pub(super) fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        let kept = self
            .names
            .iter()
            .zip(&self.colours)
            .filter(|(name, _)| keep(name));
        let (names, colours) = kept.map(|(&name, &colour)| (name, colour)).unzip();
        Self { names, colours }
    }
}

/// A figure of panels by mode.
#[derive(Clone, Debug)]
pub(super) struct Page<'a> {
    pub(super) title: String,
    pub(super) subtitle: String,
    pub(super) panels: Vec<Panel>,
    /// Panels in a row.
    pub(super) columns: usize,
    /// What the two variants of a mode are; empty when there is one.
    pub(super) variants: Vec<String>,
    pub(super) notes: String,
    pub(super) modes: &'a Modes<'a>,
}

/// Free space around everything.
pub(super) const BORDER: i32 = 40;
/// Beyond this many modes, panels are not put beside each other.
const MANY_MODES: i32 = 6;

impl Page<'_> {
    /// Draws the figure and saves it.
    pub(super) fn save(&self, path: &Path) -> Result<(), FigureError> {
        let slots = self.modes.names.len() as i32;
        // Panels with many modes are wide and stand below each other.
        let columns = if slots > MANY_MODES { 1 } else { self.columns };
        let rows = self.panels.len().div_ceil(columns) as i32;
        let (panel_width, row_height) = if columns == 1 {
            (
                1400.max(500 + 300 * slots.min(5) + 190 * (slots - 5).max(0)),
                1000,
            )
        } else {
            (
                1000.max(250 + if self.variants.is_empty() { 190 } else { 240 } * slots),
                if rows == 1 { 900 } else { 800 },
            )
        };
        let width = panel_width * columns as i32 + BORDER * (columns as i32 + 1);
        let fault = |message: &str| FigureError {
            path: path.to_path_buf(),
            message: message.to_owned(),
        };
        let font = TextFont::load().ok_or_else(|| fault("the embedded font cannot be read"))?;
        let heading = Heading::new(&font, &self.title, &self.subtitle, width);
        let legend = if self.variants.is_empty() { 0 } else { 70 };
        let points = self.panels.iter().any(|panel| panel.kind != ScaleKind::FromZero);
        let warning = if points {
            " Axes of points do not start at 0."
        } else {
            ""
        };
        let notes = wrap_notes(&font, &format!("{}{warning}", self.notes), width);
        let top = heading.height() + legend;
        let bottom = notes_height(&notes);
        let height = top + rows * row_height + bottom;
        draw_picture(path, (width, height), |canvas| {
            heading.draw(canvas);
            if !self.variants.is_empty() {
                self.draw_legend(canvas, heading.height());
            }
            for (place, panel) in self.panels.iter().enumerate() {
                let column = (place % columns) as i32;
                let row = (place / columns) as i32;
                let left = BORDER + column * (panel_width + BORDER);
                let top = top + row * row_height;
                let area = Area {
                    left,
                    top,
                    right: left + panel_width,
                    bottom: top + row_height - BORDER / 2,
                };
                panel.draw(canvas, area, &self.modes.names, &self.modes.colours);
            }
            draw_notes(canvas, &notes);
        })
    }

    fn draw_legend(&self, canvas: &mut Canvas, top: i32) {
        const SWATCH: i32 = 36;
        /// Space between the name of a variant and the next.
        const APART: i32 = 70;
        let grey = RGBColor(100, 100, 100);
        let points = self.panels.iter().all(|panel| panel.kind != ScaleKind::FromZero);
        let widths: Vec<i32> = self
            .variants
            .iter()
            .map(|name| canvas.font.width(name, size::TICK) as i32 + SWATCH + APART)
            .collect();
        let total = widths.iter().sum::<i32>() - APART;
        let mut left = (canvas.width - total) / 2;
        for (variant, (name, width)) in self.variants.iter().zip(&widths).enumerate() {
            let inner = if variant == 0 { grey } else { tint(grey) };
            let middle = top + 30;
            if points {
                canvas.disc((left + SWATCH / 2, middle), 15.0, grey, 1.0);
                canvas.disc((left + SWATCH / 2, middle), 10.0, inner, 1.0);
            } else {
                let swatch = Area {
                    left,
                    top: middle - SWATCH / 2,
                    right: left + SWATCH,
                    bottom: middle + SWATCH / 2,
                };
                canvas.fill(swatch, inner);
                canvas.frame(swatch, grey, 4);
            }
            canvas.text(
                name,
                (left + SWATCH + 16, middle),
                size::TICK,
                INK,
                (Align::Start, Align::Middle),
            );
            left += width;
        }
    }
}

/// Title and subtitle, in as many lines as they need.
pub(super) struct Heading {
    title: Vec<String>,
    subtitle: Vec<String>,
}

impl Heading {
    pub(super) fn new(font: &TextFont, title: &str, subtitle: &str, width: i32) -> Self {
        let room = (width - 2 * BORDER) as f32;
        Self {
            title: font.wrap(title, size::TITLE, room, WORD_SEPARATORS),
            subtitle: font.wrap(subtitle, size::NOTE, room, WORD_SEPARATORS),
        }
    }

    pub(super) fn height(&self) -> i32 {
        BORDER + self.title.len() as i32 * 60 + self.subtitle.len() as i32 * 38 + 24
    }

    pub(super) fn draw(&self, canvas: &mut Canvas) {
        let middle = canvas.width / 2;
        let mut y = BORDER;
        for line in &self.title {
            canvas.text(line, (middle, y), size::TITLE, INK, (Align::Middle, Align::Start));
            y += 60;
        }
        for line in &self.subtitle {
            canvas.text(line, (middle, y), size::NOTE, GREY, (Align::Middle, Align::Start));
            y += 38;
        }
    }
}

/// The notes in lines as wide as the picture.
pub(super) fn wrap_notes(font: &TextFont, notes: &str, width: i32) -> Vec<String> {
    font.wrap(notes, size::NOTE, (width - 2 * BORDER) as f32, WORD_SEPARATORS)
}

/// Pixels below the panels.
pub(super) fn notes_height(notes: &[String]) -> i32 {
    notes.len() as i32 * 38 + BORDER
}

pub(super) fn draw_notes(canvas: &mut Canvas, notes: &[String]) {
    let top = canvas.height - notes_height(notes);
    for (number, line) in notes.iter().enumerate() {
        let place = (BORDER, top + number as i32 * 38);
        canvas.text(line, place, size::NOTE, GREY, (Align::Start, Align::Start));
    }
}
