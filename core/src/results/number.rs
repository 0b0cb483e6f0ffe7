//! Floating-point numbers in JSON, the non-finite ones as the texts `nan`, `inf` and `-inf`.
//!
//! JSON has no such numbers: `serde_json` writes them as `null`, which does not read back as a number. A mode whose
//! activations overflow has them, and its record must be readable.

use serde::{Deserialize, Deserializer, Serializer, de};

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(f64),
    Text(String),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match *value {
        value if value.is_finite() => serializer.serialize_f64(value),
        value if value.is_nan() => serializer.serialize_str("nan"),
        value if value > 0.0 => serializer.serialize_str("inf"),
        _ => serializer.serialize_str("-inf"),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match NumberOrText::deserialize(deserializer)? {
        NumberOrText::Number(value) => Ok(value),
        NumberOrText::Text(text) => match text.as_str() {
            "nan" => Ok(f64::NAN),
            "inf" => Ok(f64::INFINITY),
            "-inf" => Ok(f64::NEG_INFINITY),
            _ => Err(de::Error::invalid_value(
                de::Unexpected::Str(&text),
                &"a number, nan, inf or -inf",
            )),
        },
    }
}

/// Two such numbers.
pub(super) mod pair {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Number(#[serde(with = "super")] f64);

    pub(in super::super) fn serialize<S: Serializer>(
        values: &[f64; 2],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        values.map(Number).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[f64; 2], D::Error> {
        Ok(<[Number; 2]>::deserialize(deserializer)?.map(|Number(value)| value))
    }
}
