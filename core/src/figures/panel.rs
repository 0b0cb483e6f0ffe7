//! A panel of values by mode: bars where the axis starts at 0, points where it does not.

use plotters::style::{RGBColor, WHITE};

use super::canvas::{Area, Canvas, GREY, GRID, INK, size};
use super::palette::tint;
use super::scale::{Scale, ScaleKind, value_label};
use super::text::{Align, NAME_SEPARATORS, TextFont};

/// One value of a mode.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    /// Place of the mode.
    pub(super) mode: usize,
    /// 0 is drawn in the mode's colour, 1 (beside it) in its tint.
    pub(super) variant: usize,
    pub(super) value: f64,
    /// Ends of the error bar.
    pub(super) range: Option<(f64, f64)>,
    /// A value beyond the error bar, drawn as a short line.
    pub(super) extreme: Option<f64>,
}

/// A panel; `marks` may lack modes, which are then marked `n/a`.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) axis: String,
    pub(super) kind: ScaleKind,
    /// Significant digits of the labels at the values.
    pub(super) digits: usize,
    pub(super) variants: usize,
    pub(super) marks: Vec<Mark>,
    /// A dashed line across the panel, with its label.
    pub(super) reference: Option<(f64, String)>,
    /// The largest value that the metric can have; no tick is beyond it.
    pub(super) limit: f64,
}

/// How the labels at the values are set, the same throughout a panel.
#[derive(Clone, Copy)]
struct ValueText {
    size: f32,
    upwards: bool,
}

/// Radius of a point.
const RADIUS: f64 = 15.0;
/// Widest bar.
const WIDEST: i32 = 190;
/// Free space around labels.
const GAP: i32 = 14;

impl Panel {
    /// Draws the panel into `outer`, all its labels included.
    pub(super) fn draw(&self, canvas: &mut Canvas, outer: Area, modes: &[&str], colours: &[RGBColor]) {
        let line = |size: f32| (size * 1.25) as i32;
        let top = outer.top
            + if self.title.is_empty() {
                GAP
            } else {
                line(size::LABEL) + 2 * GAP
            };
        let values = self.values();

        // The width of the tick labels decides where the axis is, hence how wide a mode's slot is, hence how many
        // lines its name takes, hence how high the plot is.
        let margin_of = |text: ValueText, canvas: &Canvas| self.label_margin(canvas, text);
        let probe = Scale::covering(self.kind, &values, (outer.bottom - 4 * line(size::TICK), top), 60);
        let tick_width = |scale: &Scale, canvas: &Canvas| {
            let widths = scale
                .ticks()
                .into_iter()
                .map(|(_, label)| canvas.font.width(&label, size::TICK) as i32);
            widths.max().unwrap_or(0)
        };
        let left = outer.left + line(size::LABEL) + tick_width(&probe, canvas).max(60) + 3 * GAP;
        let slot = (outer.right - left) / modes.len().max(1) as i32;
        let (name_size, names) = wrap_names(&canvas.font, modes, slot - GAP);
        let name_lines = names.iter().map(Vec::len).max().unwrap_or(1) as i32;
        let bottom = outer.bottom - name_lines * line(name_size) - 2 * GAP;
        let plot = Area {
            left,
            top,
            right: outer.right,
            bottom,
        };
        let value_text = self.value_text(canvas, slot);
        let scale = Scale::covering(self.kind, &values, (bottom, top), margin_of(value_text, canvas));

        if !self.title.is_empty() {
            let centre = (i32::midpoint(plot.left, plot.right), outer.top + GAP);
            canvas.text(
                &self.title,
                centre,
                size::LABEL,
                INK,
                (Align::Middle, Align::Start),
            );
        }
        self.draw_axes(canvas, plot, &scale, outer.left);
        for (place, lines) in names.iter().enumerate() {
            let x = left + slot * place as i32 + slot / 2;
            for (number, text) in lines.iter().enumerate() {
                let y = bottom + 2 * GAP + number as i32 * line(name_size);
                canvas.text(text, (x, y), name_size, INK, (Align::Middle, Align::Start));
            }
        }
        for (mode, &colour) in colours.iter().enumerate().take(modes.len()) {
            for variant in 0..self.variants {
                let width = self.mark_width(slot);
                let middle = left + slot * mode as i32 + slot / 2;
                let x = middle + width * (2 * variant as i32 + 1 - self.variants as i32) / 2;
                let mut marks = self.marks.iter();
                if let Some(mark) = marks.find(|mark| mark.mode == mode && mark.variant == variant) {
                    self.draw_mark(canvas, mark, (x, width), plot, &scale, colour, value_text);
                } else {
                    let place = (x, bottom - GAP);
                    canvas.text("n/a", place, size::VALUE, GREY, (Align::Middle, Align::End));
                }
            }
        }
        let base = if self.kind == ScaleKind::FromZero {
            scale.pixel(0.0)
        } else {
            bottom
        };
        canvas.line((plot.left, base), (plot.right, base), INK, 3);
    }

    fn values(&self) -> Vec<f64> {
        let marks = self.marks.iter();
        let all = marks.flat_map(|mark| {
            let range = mark.range.into_iter().flat_map(|(low, high)| [low, high]);
            range.chain([mark.value]).chain(mark.extreme)
        });
        all.chain(self.reference.iter().map(|(value, _)| *value))
            .collect()
    }

    /// Distance between the two marks of a mode, of which a bar takes nine tenths.
    fn mark_width(&self, slot: i32) -> i32 {
        (slot * 4 / 5 / self.variants.max(1) as i32).min(WIDEST)
    }

    fn label(&self, mark: &Mark) -> String {
        value_label(mark.value, self.digits)
    }

    /// The widest label fits its slot at full size, or at three quarters, or else all read upwards.
    fn value_text(&self, canvas: &Canvas, slot: i32) -> ValueText {
        let room = if self.variants > 1 {
            self.mark_width(slot) - GAP / 2
        } else {
            slot - GAP
        };
        let widest = self.widest_label(canvas, size::VALUE);
        let fits = |size: f32| widest * size / size::VALUE <= room as f32;
        let smaller = size::VALUE * 0.8;
        if fits(size::VALUE) {
            ValueText {
                size: size::VALUE,
                upwards: false,
            }
        } else if fits(smaller) {
            ValueText {
                size: smaller,
                upwards: false,
            }
        } else {
            ValueText {
                size: size::VALUE,
                upwards: true,
            }
        }
    }

    fn widest_label(&self, canvas: &Canvas, size: f32) -> f32 {
        self.marks
            .iter()
            .map(|mark| canvas.font.width(&self.label(mark), size))
            .fold(0.0, f32::max)
    }

    /// Pixels that the label of the highest value needs above it.
    fn label_margin(&self, canvas: &Canvas, text: ValueText) -> i32 {
        let height = if text.upwards {
            self.widest_label(canvas, text.size)
        } else {
            text.size
        };
        height as i32 + 2 * GAP + RADIUS as i32
    }

    fn draw_axes(&self, canvas: &mut Canvas, plot: Area, scale: &Scale, outer_left: i32) {
        let ticks = scale
            .ticks()
            .into_iter()
            .filter(|(value, _)| *value <= self.limit);
        for (value, label) in ticks {
            let y = scale.pixel(value);
            canvas.line((plot.left, y), (plot.right, y), GRID, 2);
            canvas.text(
                &label,
                (plot.left - GAP, y),
                size::TICK,
                INK,
                (Align::End, Align::Middle),
            );
        }
        canvas.line((plot.left, plot.top), (plot.left, plot.bottom), INK, 3);
        let middle = i32::midpoint(plot.top, plot.bottom);
        let place = (outer_left, middle);
        canvas.text_upwards(&self.axis, place, size::LABEL, INK, (Align::Middle, Align::Start));
        if let Some((value, label)) = &self.reference {
            let y = scale.pixel(*value);
            canvas.dashed(plot.left, plot.right, y, GREY, 4);
            // At the end where no point lies on it.
            let distance = |mode| {
                let of_mode = self.marks.iter().filter(|mark| mark.mode == mode);
                of_mode.map(|mark| (scale.pixel(mark.value) - y).abs()).min()
            };
            let last = self.marks.iter().map(|mark| mark.mode).max().unwrap_or_default();
            let (x, align) = if distance(0) > distance(last) {
                (plot.left + GAP, Align::Start)
            } else {
                (plot.right, Align::End)
            };
            canvas.text(label, (x, y + GAP), size::NOTE, GREY, (align, Align::Start));
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "where and how one mark is drawn; a struct would only rename them"
    )]
    fn draw_mark(
        &self,
        canvas: &mut Canvas,
        mark: &Mark,
        (x, width): (i32, i32),
        plot: Area,
        scale: &Scale,
        colour: RGBColor,
        text: ValueText,
    ) {
        let y = scale.pixel(mark.value);
        let label = self.label(mark);
        if mark.value.is_infinite() || (self.kind == ScaleKind::Logarithmic && mark.value <= 0.0) {
            // No place on this axis: the label stands at the end where the value would be.
            let top = plot.top + text.size as i32 + GAP;
            draw_label(
                canvas,
                &label,
                (x, if mark.value > 0.0 { top } else { plot.bottom }),
                text,
            );
            return;
        }
        // Pixels that the mark covers, error bar included: labels keep clear of them.
        let (mut top, mut bottom) = (y, y);
        if self.kind == ScaleKind::FromZero {
            let (left, right) = (x - width * 9 / 20, x + width * 9 / 20);
            let base = scale.pixel(0.0);
            let bar = Area {
                left,
                top: y.min(base),
                right,
                bottom: y.max(base),
            };
            canvas.fill(bar, if mark.variant == 0 { colour } else { tint(colour) });
            canvas.frame(bar, colour, 4);
        } else {
            canvas.disc((x, y), RADIUS, colour, 1.0);
            if mark.variant == 1 {
                canvas.disc((x, y), RADIUS - 5.0, tint(colour), 1.0);
            }
            (top, bottom) = (y - RADIUS as i32, y + RADIUS as i32);
        }
        let range = mark
            .range
            .map(|(low, high)| (scale.pixel(low), scale.pixel(high)));
        // A bar shorter than its own ends are thick would only blot the mark.
        if let Some((low, high)) = range.filter(|(low, high)| low - high > 6) {
            // Error bars on bars are drawn in ink, those of points in the point's colour.
            let (ink, cap) = if self.kind == ScaleKind::FromZero {
                (INK, 14)
            } else {
                (colour, 18)
            };
            canvas.line((x, low), (x, high), ink, 5);
            canvas.line((x - cap, low), (x + cap, low), ink, 5);
            canvas.line((x - cap, high), (x + cap, high), ink, 5);
            (top, bottom) = (top.min(high), bottom.max(low));
        }
        if let Some(extreme) = mark.extreme {
            let extreme = scale.pixel(extreme);
            canvas.line((x - 9, extreme), (x + 9, extreme), colour, 5);
            // Above this line the label would not be read as that of the point.
            let beside = RADIUS as i32 + GAP / 2;
            let fits = x + beside + canvas.font.width(&label, text.size) as i32 <= plot.right;
            let (place, align) = if fits {
                (x + beside, Align::Start)
            } else {
                (x - beside, Align::End)
            };
            canvas.text(&label, (place, y), text.size, INK, (align, Align::Middle));
        } else if self.kind == ScaleKind::FromZero && mark.value < 0.0 {
            let place = (x, bottom + GAP);
            if text.upwards {
                canvas.text_upwards(&label, place, text.size, INK, (Align::End, Align::Middle));
            } else {
                canvas.text(&label, place, text.size, INK, (Align::Middle, Align::Start));
            }
        } else {
            draw_label(canvas, &label, (x, top), text);
        }
    }
}

/// Draws a label above a place.
fn draw_label(canvas: &mut Canvas, label: &str, (x, y): (i32, i32), text: ValueText) {
    let place = (x, y - GAP);
    if text.upwards {
        canvas.text_upwards(label, place, text.size, INK, (Align::Start, Align::Middle));
        return;
    }
    // Grid lines must not run through the digits.
    let half = canvas.font.width(label, text.size) as i32 / 2 + 4;
    let bottom = place.1 + 4;
    let top = bottom - TextFont::cap_height(text.size) as i32 - 8;
    canvas.fill(
        Area {
            left: x - half,
            top,
            right: x + half,
            bottom,
        },
        WHITE,
    );
    canvas.text(label, place, text.size, INK, (Align::Middle, Align::End));
}

/// The names of the modes in lines that fit a slot, as large as few lines allow.
fn wrap_names(font: &TextFont, modes: &[&str], width: i32) -> (f32, Vec<Vec<String>>) {
    /// More lines than this call for smaller letters.
    const FEW_LINES: usize = 3;
    let wrap = |size: f32| -> Vec<Vec<String>> {
        modes
            .iter()
            .map(|mode| font.wrap(mode, size, width as f32, NAME_SEPARATORS))
            .collect()
    };
    for size in [size::TICK, size::TICK * 0.88] {
        let names = wrap(size);
        if names.iter().all(|lines| lines.len() <= FEW_LINES) {
            return (size, names);
        }
    }
    let smallest = size::TICK * 0.76;
    (smallest, wrap(smallest))
}
