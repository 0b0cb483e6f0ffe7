//! config.json of a decoder, in the forms that transformers 4 and 5 write.

use serde::Deserialize;
use serde_json::Value;

use qbench_sdk::{Error, Result};

/// Values of `model_type` that [`DecoderConfig`] reads.
pub const ARCHITECTURES: [&str; 2] = ["llama", "mistral"];

/// Shape and constants of a Mistral or Llama decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// `model_type`: `mistral` or `llama`.
    pub architecture: String,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Longest sequence in tokens that the model was made for.
    pub max_positions: usize,
    /// Constant under the root of the norms.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// A token sees itself and the `sliding_window - 1` positions before it.
    pub sliding_window: Option<usize>,
    /// Whether the output projection is the embedding table.
    pub tied_embeddings: bool,
    /// Whether the projections of the attention have biases.
    pub attention_bias: bool,
    /// Whether the projections of the MLP have biases.
    pub mlp_bias: bool,
}

/// The keys as they are written; each may be absent or null.
#[derive(Deserialize)]
struct Keys {
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f32>,
    rope_theta: Option<f64>,
    rope_parameters: Option<RotaryKeys>,
    rope_scaling: Option<RotaryKeys>,
    sliding_window: Option<usize>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
}

/// `rope_parameters` (transformers 5) or `rope_scaling` (transformers 4).
#[derive(Deserialize)]
struct RotaryKeys {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    #[serde(rename = "type")]
    legacy_type: Option<String>,
    partial_rotary_factor: Option<f64>,
    // Anything else belongs to a type other than `default`, or to layers with parameters of their own.
    #[serde(flatten)]
    other: serde_json::Map<String, Value>,
}

fn invalid(what: impl std::fmt::Display) -> Error {
    Error::InvalidArgument(format!("config.json: {what}"))
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::Unsupported(format!("config.json: {what}"))
}

impl RotaryKeys {
    fn check(&self, key: &str) -> Result<()> {
        let kind = self.rope_type.as_deref().or(self.legacy_type.as_deref());
        match kind {
            Some("default") => {}
            Some(other) => {
                return Err(unsupported(format!("`{key}` of type `{other}`; known: default")));
            }
            None => {
                if let Some(name) = self.other.keys().next() {
                    return Err(unsupported(format!(
                        "`{key}` with `{name}` and without `rope_type`; known: default"
                    )));
                }
            }
        }
        match self.partial_rotary_factor {
            Some(factor) if factor != 1.0 => Err(unsupported(format!(
                "`{key}` with a partial_rotary_factor of {factor}; only 1 is known"
            ))),
            _ => Ok(()),
        }
    }
}

impl DecoderConfig {
    /// Reads the text of a config.json.
    ///
    /// Absent keys mean what transformers' `MistralConfig` and `LlamaConfig` make of them, except for the keys that
    /// give the model its size, which must be there.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when it is no such file or a size is missing or impossible, [`Error::Unsupported`]
    /// for another `model_type`, activation, or type of rotary embedding.
    pub fn from_json(json: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(json).map_err(invalid)?;
        // The model type first: another family's keys may have other types.
        let architecture = match value.get("model_type").and_then(Value::as_str) {
            Some(name) if ARCHITECTURES.contains(&name) => name.to_owned(),
            Some(name) => {
                return Err(unsupported(format!(
                    "model_type `{name}`; known: {}",
                    ARCHITECTURES.join(", ")
                )));
            }
            None => {
                return Err(invalid(format!(
                    "`model_type` is missing; known: {}",
                    ARCHITECTURES.join(", ")
                )));
            }
        };
        // `MistralConfig` has defaults of its own for absent keys; null is no window, and one key-value head a head.
        let absent = |key: &str| value.get(key).is_none() && architecture == "mistral";
        let (window_absent, kv_heads_absent) = (absent("sliding_window"), absent("num_key_value_heads"));
        let mut keys: Keys = serde_json::from_value(value).map_err(invalid)?;
        if window_absent {
            keys.sliding_window = Some(4096);
        }
        if kv_heads_absent {
            keys.num_key_value_heads = Some(8);
        }
        Self::from_keys(architecture, &keys)
    }

    fn from_keys(architecture: String, keys: &Keys) -> Result<Self> {
        let size = |name: &str, value: Option<usize>| match value {
            Some(0) => Err(invalid(format!("`{name}` is 0"))),
            Some(value) => Ok(value),
            None => Err(invalid(format!("`{name}` is missing"))),
        };
        let mistral = architecture == "mistral";
        let hidden_size = size("hidden_size", keys.hidden_size)?;
        let heads = size("num_attention_heads", keys.num_attention_heads)?;
        let kv_heads = size("num_key_value_heads", keys.num_key_value_heads.or(Some(heads)))?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(invalid(format!(
                "{heads} attention heads cannot share {kv_heads} key-value heads evenly"
            )));
        }
        let head_dim = size("head_dim", keys.head_dim.or(Some(hidden_size / heads)))?;
        if !head_dim.is_multiple_of(2) {
            return Err(invalid(format!(
                "heads {head_dim} wide; rotary embeddings need an even width"
            )));
        }
        match keys.hidden_act.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => return Err(unsupported(format!("hidden_act `{other}`; known: silu"))),
        }
        for (key, rope) in [
            ("rope_parameters", &keys.rope_parameters),
            ("rope_scaling", &keys.rope_scaling),
        ] {
            rope.iter().try_for_each(|rope| rope.check(key))?;
        }
        // transformers 5 takes either object for the other, `rope_scaling` first.
        let rope_theta = [&keys.rope_scaling, &keys.rope_parameters]
            .into_iter()
            .find_map(|rope| rope.as_ref()?.rope_theta)
            .or(keys.rope_theta)
            .unwrap_or(10_000.0);
        if !(rope_theta.is_finite() && rope_theta > 0.0) {
            return Err(invalid(format!("a rope_theta of {rope_theta}")));
        }
        let rms_norm_eps = keys.rms_norm_eps.unwrap_or(1e-6);
        if !(rms_norm_eps.is_finite() && rms_norm_eps >= 0.0) {
            return Err(invalid(format!("an rms_norm_eps of {rms_norm_eps}")));
        }
        Ok(Self {
            vocab_size: size("vocab_size", keys.vocab_size)?,
            intermediate_size: size("intermediate_size", keys.intermediate_size)?,
            layers: size("num_hidden_layers", keys.num_hidden_layers)?,
            max_positions: size(
                "max_position_embeddings",
                keys.max_position_embeddings
                    .or(Some(if mistral { 131_072 } else { 2048 })),
            )?,
            rms_norm_eps,
            // Llama has no window, whatever the key says.
            sliding_window: match keys.sliding_window {
                Some(0) if mistral => return Err(invalid("`sliding_window` is 0")),
                window => window.filter(|_| mistral),
            },
            tied_embeddings: keys.tie_word_embeddings.unwrap_or(false),
            attention_bias: !mistral && keys.attention_bias.unwrap_or(false),
            mlp_bias: !mistral && keys.mlp_bias.unwrap_or(false),
            architecture,
            hidden_size,
            heads,
            kv_heads,
            head_dim,
            rope_theta,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &str) -> Result<DecoderConfig> {
        DecoderConfig::from_json(&format!(
            r#"{{"vocab_size": 32, "hidden_size": 64, "intermediate_size": 24, "num_hidden_layers": 2,
                "num_attention_heads": 16 {extra}}}"#
        ))
    }

    #[test]
    fn both_forms_of_the_rotary_base_are_read() {
        let four = parse(r#", "model_type": "mistral", "rope_theta": 1e6"#).unwrap();
        let five = parse(
            r#", "model_type": "mistral", "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}"#,
        )
        .unwrap();
        assert_eq!(four, five);
        assert_eq!(four.rope_theta, 1e6);
        let mixed = parse(
            r#", "model_type": "mistral", "rope_theta": 1e4, "rope_scaling": {"rope_theta": 1e6, "type": "default"}"#,
        );
        assert_eq!(mixed.unwrap(), four);
        assert_eq!(parse(r#", "model_type": "llama""#).unwrap().rope_theta, 1e4);
    }

    #[test]
    fn absent_and_null_keys_take_their_defaults() {
        let config = parse(
            r#", "model_type": "llama", "head_dim": null, "num_key_value_heads": null, "rope_scaling": null,
               "rope_parameters": null, "tie_word_embeddings": null, "sliding_window": 8"#,
        )
        .unwrap();
        assert_eq!((config.head_dim, config.kv_heads), (4, 16));
        assert_eq!(config.max_positions, 2048);
        assert!(!config.tied_embeddings && !config.attention_bias && !config.mlp_bias);
        assert_eq!(config.sliding_window, None);
        let wide = parse(r#", "model_type": "mistral", "head_dim": 256, "num_key_value_heads": 2"#).unwrap();
        assert_eq!(
            (wide.head_dim, wide.kv_heads, wide.sliding_window),
            (256, 2, Some(4096))
        );
        let bare = parse(r#", "model_type": "mistral""#).unwrap();
        assert_eq!((bare.head_dim, bare.kv_heads), (4, 8));
    }

    #[test]
    fn a_null_window_is_no_window() {
        let window = |text: &str| {
            parse(&format!(r#", "model_type": "mistral", "sliding_window": {text}"#))
                .map(|config| config.sliding_window)
        };
        assert_eq!(window("null").unwrap(), None);
        assert_eq!(window("7").unwrap(), Some(7));
        assert!(window("0").is_err());
    }

    #[test]
    fn errors_name_what_there_is() {
        let text = |extra: &str| parse(extra).unwrap_err().to_string();
        let other = text(r#", "model_type": "gpt_neox""#);
        assert!(
            other.contains("gpt_neox") && other.contains("llama, mistral"),
            "{other}"
        );
        assert!(text("").contains("model_type"));
        let yarn = text(
            r#", "model_type": "mistral", "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4}"#,
        );
        assert!(
            yarn.contains("yarn") && yarn.contains("rope_parameters"),
            "{yarn}"
        );
        let linear = text(r#", "model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2}"#);
        assert!(linear.contains("linear"), "{linear}");
        assert!(
            text(r#", "model_type": "llama", "rope_scaling": {"factor": 2}"#).contains("factor"),
            "a scaling without a type is not ignored"
        );
        assert!(text(r#", "model_type": "llama", "hidden_act": "gelu""#).contains("gelu"));
        assert!(text(r#", "model_type": "llama", "num_key_value_heads": 3"#).contains("3 key-value"));
        assert!(text(r#", "model_type": "llama", "head_dim": 3"#).contains("even"));
        assert!(text(r#", "model_type": "llama", "rms_norm_eps": -1e-5"#).contains("rms_norm_eps"));
        let missing = DecoderConfig::from_json(r#"{"model_type": "mistral"}"#)
            .unwrap_err()
            .to_string();
        assert!(missing.contains("hidden_size"), "{missing}");
        assert!(DecoderConfig::from_json("[]").is_err());
        assert!(DecoderConfig::from_json("{").is_err());
    }
}
