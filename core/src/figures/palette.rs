//! One colour a mode, the same in every figure of an analysis.
//!
//! The known modes have the colours of Okabe and Ito (2008), "Color universal design", which people with any of the
//! common kinds of colour blindness tell apart; others get the rest of that set, then Paul Tol's "muted" scheme.

use plotters::style::RGBColor;

const KNOWN: [(&str, RGBColor); 5] = [
    ("4bit_fp4", RGBColor(213, 94, 0)),
    ("4bit_nf4", RGBColor(0, 114, 178)),
    ("4bit_nf4_double", RGBColor(86, 180, 233)),
    ("8bit", RGBColor(0, 158, 115)),
    ("standard", RGBColor(77, 77, 77)),
];

const FURTHER: [RGBColor; 10] = [
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
    RGBColor(51, 34, 136),
    RGBColor(153, 153, 51),
    RGBColor(136, 34, 85),
    RGBColor(240, 228, 66),
    RGBColor(170, 68, 153),
    RGBColor(17, 119, 51),
    RGBColor(221, 204, 119),
    RGBColor(204, 102, 119),
];

/// The colours of `modes`, in their order. Beyond fifteen modes, colours of others repeat.
pub(super) fn colours(modes: &[&str]) -> Vec<RGBColor> {
    let mut further = FURTHER.iter().cycle();
    modes
        .iter()
        .filter_map(|mode| match KNOWN.iter().find(|(known, _)| known == mode) {
            Some((_, colour)) => Some(*colour),
            None => further.next().copied(),
        })
        .collect()
}

/// Colours of things that are no modes, such as genomes, over and over.
pub(super) fn categories() -> impl Iterator<Item = RGBColor> {
    let known = KNOWN.iter().map(|(_, colour)| *colour);
    known.chain(FURTHER).collect::<Vec<_>>().into_iter().cycle()
}

/// A light tint, for the second of two values of a mode.
pub(super) fn tint(colour: RGBColor) -> RGBColor {
    /// Share of white.
    const WHITE: f64 = 0.62;
    let mix = |channel: u8| (f64::from(channel) * (1.0 - WHITE) + 255.0 * WHITE).round() as u8;
    RGBColor(mix(colour.0), mix(colour.1), mix(colour.2))
}
