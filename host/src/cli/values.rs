//! Values of options, as they are typed.

pub(super) fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value < LEAST => Err(format!("expected at least {LEAST}")),
        Ok(value) => Ok(value),
        Err(error) => Err(format!("{error}")),
    }
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        Ok(_) => Err("expected more than 0".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

pub(super) fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        Ok(_) => Err("expected 0 or more".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

/// A share as a fraction or in per cent, above 0 and below `limit`.
fn share(text: &str, limit: f64) -> Result<f64, String> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let value = number.parse::<f64>().map_err(|error| error.to_string())? / unit;
    if value > 0.0 && value < limit {
        Ok(value)
    } else {
        Err(format!(
            "expected more than 0 and less than {limit}, or in per cent"
        ))
    }
}

pub(super) fn share_of_time(text: &str) -> Result<f64, String> {
    share(text, 1.0)
}

pub(super) fn probability(text: &str) -> Result<f64, String> {
    share(text, 0.5)
}

/// The digits of a hash that is written as `sha256:…`.
pub(super) fn pin(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        Ok(digits.to_ascii_lowercase())
    } else {
        Err("expected sha256: and 64 hexadecimal digits".to_owned())
    }
}
