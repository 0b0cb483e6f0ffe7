//! Numbers as people read them.

/// The number with `digits` significant digits: plain between 0.0001 and 10⁷ (digits before the point are never cut),
/// as `1.23e-5` outside; `∞` for infinities. Nothing measured is `n/a`.
pub fn significant(value: impl Into<Option<f64>>, digits: usize) -> String {
    let Some(value) = value.into().filter(|value| !value.is_nan()) else {
        return "n/a".to_owned();
    };
    if value.is_infinite() {
        return if value > 0.0 {
            "∞".to_owned()
        } else {
            "−∞".to_owned()
        };
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.*e}", digits.saturating_sub(1));
    let exponent = scientific
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse::<i32>().ok())
        .unwrap_or(0);
    if !(-4..7).contains(&exponent) {
        return scientific;
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_forms() {
        let cases = [
            (0.0, "0"),
            (12_345.6, "12346"),
            (9.996, "9.996"),
            (9.9996, "10.00"),
            (0.000_123_45, "0.0001234"),
            (0.000_012_345, "1.234e-5"),
            (1.5e9, "1.500e9"),
            (-2.5, "-2.500"),
            (f64::INFINITY, "∞"),
            (f64::NAN, "n/a"),
        ];
        for (value, expected) in cases {
            assert_eq!(significant(value, 4), expected);
        }
        assert_eq!(significant(9.996, 3), "10.0");
        assert_eq!(significant(None, 3), "n/a");
    }
}
