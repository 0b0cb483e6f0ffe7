//! Which weights are quantised.

use globset::{Glob, GlobMatcher};

use super::{CheckpointError, TensorEntry};

/// Modules that no mode quantises, as in transformers: the output head (`embed_out` is GPT-NeoX's) ...
pub(super) const HEADS: [&str; 2] = ["lm_head", "embed_out"];
/// ... embeddings, by parts of their names, and norms.
const NOT_LINEAR: [&str; 4] = ["embed", "wte", "wpe", "norm"];

/// Which weights are quantised: every Linear but the output head, narrowed by the user's patterns.
///
/// A module is known by its weight's name without `.weight`. A pattern is a glob that is compared with the module's
/// whole name and with every ending of it that follows a dot: `k_proj`, `mlp.*`, `layers.0.*`, `model.layers.1?.*`.
#[derive(Clone, Debug, Default)]
pub struct ModulePolicy {
    skip: Vec<GlobMatcher>,
    only: Vec<GlobMatcher>,
}

impl ModulePolicy {
    /// Quantises the Linear modules that match one of `only` (all, if it is empty) and none of `skip`.
    ///
    /// # Errors
    /// [`CheckpointError::Pattern`] for a pattern that is no glob.
    pub fn new(skip: &[String], only: &[String]) -> Result<Self, CheckpointError> {
        let compile = |patterns: &[String]| {
            patterns
                .iter()
                .map(|pattern| {
                    Glob::new(pattern)
                        .map(|glob| glob.compile_matcher())
                        .map_err(|source| CheckpointError::Pattern {
                            pattern: pattern.clone(),
                            source,
                        })
                })
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            skip: compile(skip)?,
            only: compile(only)?,
        })
    }

    /// Whether the tensor is quantised.
    pub fn quantises(&self, name: &str, entry: &TensorEntry) -> bool {
        linear_module(name, entry).is_some_and(|module| {
            (self.only.is_empty() || self.only.iter().any(|glob| matches(glob, module)))
                && !self.skip.iter().any(|glob| matches(glob, module))
        })
    }

    /// Checks that every pattern matches a Linear module of the model.
    ///
    /// # Errors
    /// [`CheckpointError::PatternWithoutMatch`] naming the pattern.
    pub fn check<'a>(
        &self,
        entries: impl Iterator<Item = (&'a str, &'a TensorEntry)>,
    ) -> Result<(), CheckpointError> {
        let modules: Vec<&str> = entries
            .filter_map(|(name, entry)| linear_module(name, entry))
            .collect();
        for glob in self.skip.iter().chain(&self.only) {
            if !modules.iter().any(|module| matches(glob, module)) {
                return Err(CheckpointError::PatternWithoutMatch {
                    pattern: glob.glob().glob().to_owned(),
                    example: (*modules
                        .first()
                        .unwrap_or(&"none, as this model has no such module"))
                    .to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// The name of the module, if the tensor is the weight of a Linear that a mode may quantise.
pub(super) fn linear_module<'a>(name: &'a str, entry: &TensorEntry) -> Option<&'a str> {
    linear_or_head(name, entry).filter(|module| !is_head(module))
}

/// The name of the module, if the tensor is the weight of a Linear, output heads included.
pub(super) fn linear_or_head<'a>(name: &'a str, entry: &TensorEntry) -> Option<&'a str> {
    let module = name.strip_suffix(".weight")?;
    let linear = entry.shape.len() == 2
        && entry.dtype.is_some()
        && !NOT_LINEAR.iter().any(|part| last_part(module).contains(part));
    linear.then_some(module)
}

/// Whether the module is the output head.
pub(super) fn is_head(module: &str) -> bool {
    HEADS.contains(&last_part(module))
}

fn last_part(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

fn matches(glob: &GlobMatcher, module: &str) -> bool {
    let endings = module.match_indices('.').map(|(dot, _)| &module[dot + 1..]);
    std::iter::once(module)
        .chain(endings)
        .any(|name| glob.is_match(name))
}

#[cfg(test)]
mod tests {
    use qbench_sdk::DType;

    use super::*;

    fn entry(shape: &[usize]) -> TensorEntry {
        TensorEntry {
            shape: shape.to_vec(),
            dtype: Some(DType::BF16),
            stored_as: safetensors::Dtype::BF16,
        }
    }

    fn policy(skip: &[&str], only: &[&str]) -> ModulePolicy {
        let own = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        ModulePolicy::new(&own(skip), &own(only)).unwrap()
    }

    #[test]
    fn every_linear_but_the_head_is_quantised() {
        let policy = policy(&[], &[]);
        for (name, shape, expected) in [
            ("model.layers.0.self_attn.q_proj.weight", &[8, 8][..], true),
            ("model.layers.0.mlp.down_proj.weight", &[8, 8], true),
            (
                "gpt_neox.layers.0.attention.query_key_value.weight",
                &[8, 8],
                true,
            ),
            ("model.layers.0.self_attn.q_proj.bias", &[8], false),
            ("model.layers.0.input_layernorm.weight", &[8], false),
            ("model.embed_tokens.weight", &[8, 8], false),
            ("embeddings.word_embeddings.weight", &[8, 8], false),
            ("lm_head.weight", &[8, 8], false),
            ("embed_out.weight", &[8, 8], false),
            ("model.layers.0.mlp.experts.weight", &[2, 8, 8], false),
        ] {
            assert_eq!(policy.quantises(name, &entry(shape)), expected, "{name}");
        }
    }

    #[test]
    fn patterns_match_modules_or_their_endings() {
        let name = "model.layers.10.self_attn.k_proj.weight";
        for (pattern, expected) in [
            ("k_proj", true),
            ("[kv]_proj", true),
            ("self_attn.*", true),
            ("layers.1?.*", true),
            ("model.layers.10.self_attn.k_proj", true),
            ("proj", false),
            ("0.self_attn.k_proj", false),
            ("layers.1.*", false),
            ("mlp.*", false),
        ] {
            assert_eq!(
                policy(&[], &[pattern]).quantises(name, &entry(&[8, 8])),
                expected,
                "{pattern}"
            );
            assert_eq!(
                policy(&[pattern], &[]).quantises(name, &entry(&[8, 8])),
                !expected,
                "{pattern}"
            );
        }
        assert!(!policy(&["k_proj"], &["self_attn.*"]).quantises(name, &entry(&[8, 8])));
    }

    #[test]
    fn bad_and_idle_patterns_are_errors() {
        let error = ModulePolicy::new(&["[".to_owned()], &[]).unwrap_err();
        assert!(error.to_string().contains("`[`"), "{error}");
        let entry = entry(&[8, 8]);
        let error = policy(&["q_porj"], &[]).check([("a.q_proj.weight", &entry)].into_iter());
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("`q_porj`") && error.contains("`a.q_proj`"),
            "{error}"
        );
    }
}
