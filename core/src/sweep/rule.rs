//! Which cells an exclusion or a group of options is about.

use globset::{Glob, GlobMatcher};

use super::{Axes, PlanError};

/// Where a cell lies in the product.
#[derive(Clone, Copy, Debug)]
pub struct Coordinates<'a> {
    /// The model as the plan names it.
    pub model: &'a str,
    /// The model as tables show it.
    pub model_label: &'a str,
    /// The file of sequences.
    pub data: &'a str,
    /// The mode as tables show it.
    pub mode: &'a str,
    /// The backend.
    pub backend: &'a str,
    /// The device.
    pub device: &'a str,
    /// The precision of the run.
    pub precision: &'a str,
    /// The condition's label.
    pub condition: &'a str,
    /// Sequences a call; `None` for cells that are not about it.
    pub batch_size: Option<usize>,
    /// The seed.
    pub seed: u64,
}

/// Axes as a rule: cells that agree with every axis that is named.
#[derive(Clone, Debug)]
pub struct Rule {
    models: Option<Vec<GlobMatcher>>,
    data: Option<Vec<GlobMatcher>>,
    modes: Option<Vec<GlobMatcher>>,
    backends: Option<Vec<GlobMatcher>>,
    devices: Option<Vec<GlobMatcher>>,
    precisions: Option<Vec<GlobMatcher>>,
    conditions: Option<Vec<GlobMatcher>>,
    batch_sizes: Option<Vec<usize>>,
    seeds: Option<Vec<u64>>,
}

impl Rule {
    /// The rule of `axes`, which stand at `key` of the plan.
    ///
    /// # Errors
    /// [`PlanError::Value`] for a pattern that is none.
    pub fn new(axes: &Axes, key: &str) -> Result<Self, PlanError> {
        let globs = |name: &str, patterns: &Option<Vec<String>>| {
            let compile = |pattern: &String| {
                Glob::new(pattern)
                    .map(|glob| glob.compile_matcher())
                    .map_err(|error| PlanError::value(format!("{key}.{name}"), error.to_string()))
            };
            patterns
                .as_ref()
                .map(|patterns| patterns.iter().map(compile).collect::<Result<Vec<_>, _>>())
                .transpose()
        };
        Ok(Self {
            models: globs("models", &axes.models)?,
            data: globs("data", &axes.data)?,
            modes: globs("modes", &axes.modes)?,
            backends: globs("backends", &axes.backends)?,
            devices: globs("devices", &axes.devices)?,
            precisions: globs("precisions", &axes.precisions)?,
            conditions: globs("conditions", &axes.conditions)?,
            batch_sizes: axes.batch_sizes.clone(),
            seeds: axes.seeds.clone(),
        })
    }

    /// Whether the rule is about a cell. One that names batch sizes is about cells that have one.
    pub fn matches(&self, at: &Coordinates<'_>) -> bool {
        let any = |patterns: &Option<Vec<GlobMatcher>>, values: &[&str]| {
            patterns.as_ref().is_none_or(|patterns| {
                patterns
                    .iter()
                    .any(|pattern| values.iter().any(|value| pattern.is_match(value)))
            })
        };
        any(&self.models, &[at.model, at.model_label])
            && any(&self.data, &[at.data])
            && any(&self.modes, &[at.mode])
            && any(&self.backends, &[at.backend])
            && any(&self.devices, &[at.device])
            && any(&self.precisions, &[at.precision])
            && any(&self.conditions, &[at.condition])
            && self
                .batch_sizes
                .as_ref()
                .is_none_or(|sizes| at.batch_size.is_some_and(|size| sizes.contains(&size)))
            && self.seeds.as_ref().is_none_or(|seeds| seeds.contains(&at.seed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: Coordinates<'_> = Coordinates {
        model: "/models/GO-4B",
        model_label: "GO-4B",
        data: "reads.fa",
        mode: "4bit_nf4",
        backend: "candle",
        device: "cuda:0",
        precision: "bfloat16",
        condition: "tok=512",
        batch_size: Some(8),
        seed: 42,
    };

    fn rule(axes: &str) -> Rule {
        Rule::new(&toml::from_str(axes).unwrap(), "exclude").unwrap()
    }

    #[test]
    fn all_axes_that_are_named_must_agree() {
        assert!(rule("").matches(&CELL));
        assert!(rule("models = ['*4B']\nmodes = ['8bit', '4bit*']\nbatch_sizes = [1, 8]").matches(&CELL));
        assert!(!rule("models = ['*4B']\nmodes = ['8bit']").matches(&CELL));
        assert!(!rule("seeds = [1]").matches(&CELL));
        let quality = Coordinates {
            batch_size: None,
            ..CELL
        };
        assert!(rule("modes = ['4bit*']").matches(&quality));
        assert!(!rule("modes = ['4bit*']\nbatch_sizes = [8]").matches(&quality));
    }

    #[test]
    fn a_pattern_that_is_none_is_named() {
        let axes: Axes = toml::from_str("modes = ['[']").unwrap();
        let message = Rule::new(&axes, "exclude 1").unwrap_err().to_string();
        assert!(message.starts_with("exclude 1.modes: "), "{message}");
    }
}
