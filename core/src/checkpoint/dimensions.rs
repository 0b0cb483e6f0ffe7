//! The sizes of a decoder, from its config.json.

use std::path::Path;

use serde_json::Value;

use super::CheckpointError;

/// Sizes of a decoder: what counting operations and limiting tokens needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Width of a hidden state.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Attention heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// Longest sequence in tokens, if the config limits it.
    pub max_positions: Option<usize>,
    /// Whether the output head is the transposed embedding.
    pub tied_embeddings: bool,
}

impl Dimensions {
    /// Reads a config's sizes. An optional key may be absent or null and then has the value that transformers gives
    /// it: `head_dim` = `hidden_size / num_attention_heads`, `num_key_value_heads` = `num_attention_heads` (for
    /// Mistral 8 where the key is absent), `tie_word_embeddings` = false.
    ///
    /// # Errors
    /// [`CheckpointError::ConfigKey`] naming `path` and the key that is missing, zero, or no number.
    pub fn from_config(path: &Path, config: &Value) -> Result<Self, CheckpointError> {
        let optional = |key| positive(path, config, key);
        let required =
            |key| optional(key)?.ok_or_else(|| key_error(path, key, "a positive whole number", &Value::Null));
        let hidden = required("hidden_size")?;
        let heads = required("num_attention_heads")?;
        let kv_heads = match optional("num_key_value_heads")? {
            Some(heads) => heads,
            None if config["model_type"] == "mistral" && config.get("num_key_value_heads").is_none() => 8,
            None => heads,
        };
        let tied_embeddings = match &config["tie_word_embeddings"] {
            Value::Null => false,
            Value::Bool(tied) => *tied,
            other => return Err(key_error(path, "tie_word_embeddings", "true or false", other)),
        };
        Ok(Self {
            hidden,
            layers: required("num_hidden_layers")?,
            intermediate: required("intermediate_size")?,
            heads,
            kv_heads,
            head_dim: optional("head_dim")?.unwrap_or(hidden / heads),
            vocabulary: required("vocab_size")?,
            max_positions: optional("max_position_embeddings")?,
            tied_embeddings,
        })
    }
}

fn positive(path: &Path, config: &Value, key: &str) -> Result<Option<usize>, CheckpointError> {
    match &config[key] {
        Value::Null => Ok(None),
        value => value
            .as_u64()
            .filter(|&number| number > 0)
            .and_then(|number| usize::try_from(number).ok())
            .map(Some)
            .ok_or_else(|| key_error(path, key, "a positive whole number", value)),
    }
}

pub(super) fn key_error(path: &Path, key: &str, expected: &'static str, found: &Value) -> CheckpointError {
    CheckpointError::ConfigKey {
        path: path.to_owned(),
        key: key.to_owned(),
        expected,
        found: if found.is_null() {
            "nothing".to_owned()
        } else {
            found.to_string()
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> Result<Dimensions, CheckpointError> {
        Dimensions::from_config(Path::new("a/config.json"), config)
    }

    fn smallest() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1024,
            "num_attention_heads": 6, "vocab_size": 4096,
        })
    }

    #[test]
    fn absent_and_null_keys_have_the_values_of_transformers() {
        let expected = Dimensions {
            hidden: 384,
            layers: 6,
            intermediate: 1024,
            heads: 6,
            kv_heads: 6,
            head_dim: 64,
            vocabulary: 4096,
            max_positions: None,
            tied_embeddings: false,
        };
        let mut config = smallest();
        assert_eq!(read(&config).unwrap(), expected);
        for key in [
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "tie_word_embeddings",
        ] {
            config[key] = Value::Null;
        }
        assert_eq!(read(&config).unwrap(), expected);
    }

    #[test]
    fn mistral_has_eight_key_value_heads_unless_told() {
        let mut config = smallest();
        config["model_type"] = json!("mistral");
        assert_eq!(read(&config).unwrap().kv_heads, 8);
        config["num_key_value_heads"] = Value::Null;
        assert_eq!(read(&config).unwrap().kv_heads, 6);
        config["num_key_value_heads"] = json!(2);
        assert_eq!(read(&config).unwrap().kv_heads, 2);
    }

    #[test]
    fn errors_name_file_key_and_value() {
        for (key, value, found) in [
            ("hidden_size", Value::Null, "nothing"),
            ("vocab_size", json!("many"), "\"many\""),
            ("num_attention_heads", json!(0), "0"),
            ("head_dim", json!(-1), "-1"),
            ("tie_word_embeddings", json!(1), "1"),
        ] {
            let mut config = smallest();
            config[key] = value;
            let error = read(&config).unwrap_err().to_string();
            assert!(error.contains("a/config.json"), "{error}");
            assert!(error.contains(&format!("`{key}`")), "{error}");
            assert!(error.ends_with(&format!("found {found}")), "{error}");
        }
    }
}
