//! Axes: from values to pixels, and where the ticks are.

use super::text::superscript;
use crate::analysis::significant;

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScaleKind {
    /// Linear, 0 included: lengths may be compared, so that bars may be drawn.
    FromZero,
    /// Linear over the range of the values, so that small differences show; no bars.
    Zoomed,
    /// Logarithmic; no bars.
    Logarithmic,
}

/// An axis of `low` to `high`, from pixel `start` to pixel `end`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    kind: ScaleKind,
    low: f64,
    high: f64,
    start: i32,
    end: i32,
}

impl Scale {
    /// An axis that shows all finite `values` and keeps `margin` pixels free at its end, for labels (and at its start
    /// where the values do not begin at 0).
    pub(super) fn covering(kind: ScaleKind, values: &[f64], (start, end): (i32, i32), margin: i32) -> Self {
        let usable = |value: &f64| value.is_finite() && (kind != ScaleKind::Logarithmic || *value > 0.0);
        let values: Vec<f64> = values.iter().copied().filter(usable).collect();
        let fold = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick);
        let (mut low, mut high) = (fold(f64::min).unwrap_or(0.0), fold(f64::max).unwrap_or(0.0));
        if values.is_empty() && kind == ScaleKind::Logarithmic {
            (low, high) = (0.1, 1.0);
        }
        let place = |value: f64| {
            if kind == ScaleKind::Logarithmic {
                value.log10()
            } else {
                value
            }
        };
        (low, high) = (place(low), place(high));
        if kind == ScaleKind::FromZero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        // Equal values still need an axis of some length: half a decade, or a tenth of the value, each way.
        if high - low <= high.abs().max(low.abs()) * 1e-12 {
            let reach = match kind {
                ScaleKind::Logarithmic => 0.5,
                _ if low == 0.0 => 1.0,
                _ => low.abs() * 0.1,
            };
            high += reach;
            if kind != ScaleKind::FromZero {
                low -= reach;
            }
        }
        let length = f64::from((end - start).abs()).max(1.0);
        let free = (f64::from(margin) / length).min(0.4);
        let below = match kind {
            ScaleKind::FromZero if low == 0.0 => 0.0,
            ScaleKind::FromZero => free,
            _ => 0.08,
        };
        let unit = (high - low) / (1.0 - free - below);
        Self {
            kind,
            low: low - below * unit,
            high: high + free * unit,
            start,
            end,
        }
    }

    /// An axis with a slot of equal width for each of 0, 1 ... `count` − 1.
    pub(super) fn slots(count: usize, (start, end): (i32, i32)) -> Self {
        Self {
            kind: ScaleKind::Zoomed,
            low: -0.5,
            high: count.max(1) as f64 - 0.5,
            start,
            end,
        }
    }

    /// The pixel of a value; values outside the axis are at its ends.
    pub(super) fn pixel(&self, value: f64) -> i32 {
        let place = if self.kind == ScaleKind::Logarithmic {
            value.log10()
        } else {
            value
        };
        let share = ((place - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        let share = if share.is_nan() { 0.0 } else { share };
        self.start + (share * f64::from(self.end - self.start)).round() as i32
    }

    /// The values that carry a label, with it.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        if self.kind == ScaleKind::Logarithmic {
            self.logarithmic_ticks()
        } else {
            self.linear_ticks()
        }
    }

    fn linear_ticks(&self) -> Vec<(f64, String)> {
        /// Ticks aimed at; the steps of 1, 2, 2.5 and 5 give between 3 and 7.
        const AIM: f64 = 6.0;
        let rough = (self.high - self.low) / AIM;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * power)
            .find(|step| *step >= rough * 0.999)
            .unwrap_or(10.0 * power);
        // The first decimal place at which all multiples of the step are exact.
        let step_decimals = (0..=15)
            .find(|&decimals| {
                let scaled = step * 10f64.powi(decimals);
                (scaled - scaled.round()).abs() < 1e-6 * scaled
            })
            .unwrap_or(15);
        let largest = self.low.abs().max(self.high.abs());
        let exponent = largest.log10().floor() as i32;
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last)
            .map(|multiple| {
                let value = multiple as f64 * step;
                let label = if multiple == 0 {
                    "0".to_owned()
                } else if (-3..6).contains(&exponent) {
                    format!("{value:.*}", step_decimals as usize)
                } else {
                    let decimals = (exponent - step.log10().floor() as i32 + 1).max(0) as usize;
                    let mantissa = format!("{:.decimals$}", value / 10f64.powi(exponent));
                    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
                    format!("{mantissa}×10{}", superscript(&signed(exponent)))
                };
                (value, typeset(&label))
            })
            .collect()
    }

    fn logarithmic_ticks(&self) -> Vec<(f64, String)> {
        let (low, high) = (self.low.floor() as i32, self.high.ceil() as i32);
        let inside = |value: f64| (self.low - 1e-9..=self.high + 1e-9).contains(&value.log10());
        // Over few decades the powers alone would leave the axis bare.
        let factors: &[f64] = match self.high - self.low {
            decades if decades < 1.7 => &[1.0, 2.0, 5.0],
            decades if decades < 3.5 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let step = if self.high - self.low > 8.0 {
            ((self.high - self.low) / 6.0).ceil() as usize
        } else {
            1
        };
        (low..=high)
            .step_by(step)
            .flat_map(|power| factors.iter().map(move |factor| (*factor, power)))
            .map(|(factor, power)| (factor * 10f64.powi(power), factor, power))
            .filter(|(value, ..)| inside(*value))
            .map(|(value, factor, power)| {
                let label = if (-3..=4).contains(&power) {
                    typeset(&significant(value, 1))
                } else if factor == 1.0 {
                    format!("10{}", superscript(&signed(power)))
                } else {
                    format!("{factor}×10{}", superscript(&signed(power)))
                };
                (value, label)
            })
            .collect()
    }
}

fn signed(exponent: i32) -> String {
    exponent.to_string().replace('-', "−")
}

/// A value as a label, with `digits` significant digits, as a power of ten below 0.001.
pub(super) fn value_label(value: f64, digits: usize) -> String {
    let small = value != 0.0 && value.abs() < 1e-3;
    let text = if small {
        format!("{value:.*e}", digits - 1)
    } else {
        significant(value, digits)
    };
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{}×10{}", typeset(mantissa), superscript(&typeset(exponent))),
        None => typeset(&text),
    }
}

/// A number with a real minus sign, and a comma between thousands from 10,000 on.
fn typeset(number: &str) -> String {
    let (sign, digits) = number
        .strip_prefix('-')
        .map_or(("", number), |digits| ("−", digits));
    let whole = digits.chars().take_while(char::is_ascii_digit).count();
    let mut text = sign.to_owned();
    for (place, character) in digits.chars().enumerate() {
        if whole > 4 && place > 0 && place < whole && (whole - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(kind: ScaleKind, values: &[f64]) -> Vec<String> {
        Scale::covering(kind, values, (0, 1000), 0)
            .ticks()
            .into_iter()
            .map(|(_, label)| label)
            .collect()
    }

    #[test]
    fn linear_ticks_are_round_and_labels_equally_precise() {
        assert_eq!(
            labels(ScaleKind::FromZero, &[3.0, 10.0]),
            ["0", "2", "4", "6", "8", "10"]
        );
        assert_eq!(
            labels(ScaleKind::FromZero, &[0.9]),
            ["0", "0.2", "0.4", "0.6", "0.8"]
        );
        assert_eq!(
            labels(ScaleKind::Zoomed, &[0.976, 0.9998]),
            ["0.975", "0.980", "0.985", "0.990", "0.995"]
        );
        let power = superscript("−5");
        let expected = [
            "0".to_owned(),
            format!("1×10{power}"),
            format!("2×10{power}"),
            format!("3×10{power}"),
        ];
        assert_eq!(labels(ScaleKind::FromZero, &[3.5e-5]), expected);
    }

    #[test]
    fn logarithmic_ticks_are_powers_of_ten_or_finer() {
        let expected = [
            format!("10{}", superscript("−5")),
            format!("10{}", superscript("−4")),
            "0.001".into(),
            "0.01".into(),
        ];
        assert_eq!(labels(ScaleKind::Logarithmic, &[1e-5, 2e-2]), expected);
        assert_eq!(labels(ScaleKind::Logarithmic, &[0.2, 1.0]), ["0.2", "0.5", "1"]);
    }

    #[test]
    fn value_labels_are_set_as_in_print() {
        assert_eq!(value_label(156_903.4, 3), "156,903");
        assert_eq!(value_label(-12_345.0, 3), "−12,345");
        assert_eq!(value_label(9_999.0, 3), "9999");
        assert_eq!(value_label(0.083, 2), "0.083");
        assert_eq!(value_label(-0.000_55, 2), format!("−5.5×10{}", superscript("−4")));
        assert_eq!(value_label(1.2e9, 2), format!("1.2×10{}", superscript("9")));
        assert_eq!(
            (value_label(0.0, 2), value_label(f64::INFINITY, 2)),
            ("0".to_owned(), "∞".to_owned())
        );
    }

    #[test]
    fn equal_extreme_and_missing_values_still_give_an_axis() {
        for kind in [ScaleKind::FromZero, ScaleKind::Zoomed, ScaleKind::Logarithmic] {
            for values in [
                &[][..],
                &[0.0],
                &[7.0, 7.0],
                &[1e-300, 1e300],
                &[f64::INFINITY, f64::NAN],
                &[-3.0],
            ] {
                let scale = Scale::covering(kind, values, (1000, 0), 60);
                assert!(scale.high > scale.low, "{kind:?} {values:?} {scale:?}");
                assert!(scale.ticks().len() < 40);
                for &value in values {
                    assert!((0..=1000).contains(&scale.pixel(value)));
                }
            }
        }
    }
}
