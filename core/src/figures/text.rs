//! Text drawn with the font in the repository, so that figures look the same on every machine.
//!
//! Plotters' own text (with `ab_glyph`) places each glyph at a whole pixel and without its left bearing, which shows as
//! uneven letter spacing in print; here glyphs are placed exactly.

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};

/// Liberation Sans 2.1.5, SIL Open Font License 1.1 (licence beside the font).
const FONT: &[u8] = include_bytes!("../../assets/LiberationSans-Regular.ttf");

/// Where the name of a mode may be broken.
pub(super) const NAME_SEPARATORS: &[char] = &['_', '-', ':', '/', '.', ',', '=', ' '];
/// Where a sentence may be broken.
pub(super) const WORD_SEPARATORS: &[char] = &[' '];

/// Between these the text is a superscript.
const SUPERSCRIPT: (char, char) = ('\u{E000}', '\u{E001}');
/// Size of a superscript, and how far it is raised, in ems of the surrounding text.
const SUPERSCRIPT_SIZE: f32 = 0.7;
const SUPERSCRIPT_RISE: f32 = 0.36;
/// Height of a capital letter in this font, in ems.
const CAP_HEIGHT: f32 = 0.688;

/// Where a text lies relative to its point, along one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Align {
    /// The text starts at the point (left edge, or top of the capitals).
    Start,
    /// The text's middle is at the point.
    Middle,
    /// The text ends at the point (right edge, or baseline).
    End,
}

/// A font ready to draw.
#[derive(Debug)]
pub(super) struct TextFont {
    font: FontRef<'static>,
}

impl TextFont {
    /// Loads the embedded font; `None` when it is no font, which a test rules out.
    pub(super) fn load() -> Option<Self> {
        Some(Self {
            font: FontRef::try_from_slice(FONT).ok()?,
        })
    }

    /// Width of one line of text, `size` pixels an em.
    pub(super) fn width(&self, text: &str, size: f32) -> f32 {
        self.lay_out(text, size).1
    }

    /// Height of capitals, for spacing lines and centring.
    pub(super) fn cap_height(size: f32) -> f32 {
        CAP_HEIGHT * size
    }

    /// The pixels of a line of text around its point: `pixel(x, y, coverage)`, x to the right, y down.
    pub(super) fn rasterise(
        &self,
        text: &str,
        size: f32,
        horizontal: Align,
        vertical: Align,
        mut pixel: impl FnMut(i32, i32, f32),
    ) {
        let (glyphs, width) = self.lay_out(text, size);
        let dx = match horizontal {
            Align::Start => 0.0,
            Align::Middle => -width / 2.0,
            Align::End => -width,
        };
        let dy = match vertical {
            Align::Start => Self::cap_height(size),
            Align::Middle => Self::cap_height(size) / 2.0,
            Align::End => 0.0,
        };
        for mut glyph in glyphs {
            glyph.position.x += dx;
            glyph.position.y += dy.round();
            if let Some(outline) = self.font.outline_glyph(glyph) {
                let corner = outline.px_bounds().min;
                outline.draw(|x, y, coverage| {
                    pixel(corner.x as i32 + x as i32, corner.y as i32 + y as i32, coverage);
                });
            }
        }
    }

    /// Glyphs on a baseline at y = 0, and the width of the line.
    fn lay_out(&self, text: &str, size: f32) -> (Vec<Glyph>, f32) {
        let mut glyphs = Vec::new();
        let (mut x, mut raised, mut previous) = (0.0, false, None);
        for character in text.chars() {
            if character == SUPERSCRIPT.0 || character == SUPERSCRIPT.1 {
                raised = character == SUPERSCRIPT.0;
                previous = None;
                continue;
            }
            let ems = if raised { size * SUPERSCRIPT_SIZE } else { size };
            let scaled = self.font.as_scaled(self.scale(ems));
            let id = scaled.glyph_id(character);
            if let Some(previous) = previous {
                x += scaled.kern(previous, id);
            }
            let y = if raised { -SUPERSCRIPT_RISE * size } else { 0.0 };
            glyphs.push(id.with_scale_and_position(self.scale(ems), point(x, y)));
            x += scaled.h_advance(id);
            previous = Some(id);
        }
        (glyphs, x)
    }

    /// `ab_glyph` scales by the height from descender to ascender; sizes here are ems.
    fn scale(&self, ems: f32) -> PxScale {
        let units = self.font.units_per_em().unwrap_or(1000.0);
        PxScale::from(ems * self.font.height_unscaled() / units)
    }

    /// Breaks text into lines no wider than `width`, after one of `separators` where there is one, else anywhere.
    pub(super) fn wrap(&self, text: &str, size: f32, width: f32, separators: &[char]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = String::new();
        for character in text.chars() {
            line.push(character);
            if self.width(line.trim_end(), size) <= width || line.chars().count() == 1 {
                continue;
            }
            // The last character does not fit: the break is before it, or after a separator before it.
            let before_last = line.len() - character.len_utf8();
            let cut = line[..before_last]
                .rfind(separators)
                .map_or(before_last, |at| at + 1);
            let rest = line.split_off(cut);
            lines.push(line.trim_end().to_owned());
            line = rest;
        }
        if !line.trim().is_empty() {
            lines.push(line.trim_end().to_owned());
        }
        lines
    }
}

/// The text as a superscript, to be joined to others.
pub(super) fn superscript(text: &str) -> String {
    format!("{}{text}{}", SUPERSCRIPT.0, SUPERSCRIPT.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_font_loads_and_has_the_signs_that_figures_use() {
        let font = TextFont::load().unwrap();
        for character in "AZaz09µ±×·–−∞‖≤%³".chars() {
            assert_ne!(font.font.glyph_id(character).0, 0, "{character} is missing");
        }
    }

    #[test]
    fn names_break_at_separators_and_every_line_fits() {
        let font = TextFont::load().unwrap();
        let name =
            "org.example.quantisers_mxfp4_e2m1:block=32,scale=e8m0_averyveryverylongwordwithoutanybreak";
        let lines = font.wrap(name, 32.0, 220.0, NAME_SEPARATORS);
        assert!(
            lines.len() > 2 && lines.iter().all(|line| font.width(line, 32.0) <= 220.0),
            "{lines:?}"
        );
        assert_eq!(lines.concat(), name);
        assert_eq!(
            font.wrap("4bit_nf4_double", 32.0, 150.0, NAME_SEPARATORS),
            ["4bit_nf4_", "double"]
        );
    }
}
