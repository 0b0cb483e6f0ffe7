//! Parts of a model that are quantised one at a time.

use std::collections::BTreeMap;

use super::policy::linear_module;
use super::{ModulePolicy, TensorEntry};

/// How a model is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// Layer by layer.
    Layers,
    /// All weights of one name at a time: `q_proj`, `down_proj` ...
    Projections,
}

/// Weights that are quantised together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `layers.3` or `k_proj`.
    pub name: String,
    /// Their modules, by name.
    pub modules: Vec<String>,
    /// Parameters of all of them.
    pub parameters: u64,
}

/// The parts of what `policy` quantises of a model, layers in their order and projections by name. Modules outside of
/// any layer belong to no layer's part.
pub fn parts<'a>(
    policy: &ModulePolicy,
    granularity: Granularity,
    entries: impl Iterator<Item = (&'a str, &'a TensorEntry)>,
) -> Vec<Part> {
    let mut parts: BTreeMap<(usize, String), Part> = BTreeMap::new();
    for (tensor, entry) in entries.filter(|(tensor, entry)| policy.quantises(tensor, entry)) {
        let Some(module) = linear_module(tensor, entry) else {
            continue;
        };
        let key = match granularity {
            Granularity::Layers => layer(module),
            Granularity::Projections => module.rsplit('.').next().map(|name| (0, name.to_owned())),
        };
        let Some(key) = key else { continue };
        let part = parts.entry(key.clone()).or_insert_with(|| Part {
            name: key.1,
            modules: Vec::new(),
            parameters: 0,
        });
        part.modules.push(module.to_owned());
        part.parameters += entry.shape.iter().product::<usize>() as u64;
    }
    parts.into_values().collect()
}

/// Number and name of the layer that a module belongs to: `(3, "layers.3")` for `model.layers.3.mlp.up_proj`.
fn layer(module: &str) -> Option<(usize, String)> {
    let mut before = "";
    for name in module.split('.') {
        if let Ok(number) = name.parse() {
            return Some((number, format!("{before}.{name}")));
        }
        before = name;
    }
    None
}

#[cfg(test)]
mod tests {
    use qbench_sdk::DType;

    use super::*;

    #[test]
    fn models_come_apart_by_layer_or_projection() {
        let entry = TensorEntry {
            shape: vec![4, 8],
            dtype: Some(DType::BF16),
            stored_as: safetensors::Dtype::BF16,
        };
        let names = [
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.10.self_attn.q_proj.weight",
            "model.layers.2.self_attn.q_proj.weight",
            "model.pooler.dense.weight",
        ];
        let parts = |policy: &ModulePolicy, granularity| -> Vec<(String, usize, u64)> {
            parts(policy, granularity, names.iter().map(|name| (*name, &entry)))
                .into_iter()
                .map(|part| (part.name, part.modules.len(), part.parameters))
                .collect()
        };
        let own = |parts: &[(&str, usize, u64)]| -> Vec<(String, usize, u64)> {
            parts
                .iter()
                .map(|(name, modules, parameters)| ((*name).to_owned(), *modules, *parameters))
                .collect()
        };
        let all = ModulePolicy::default();
        assert_eq!(
            parts(&all, Granularity::Layers),
            own(&[("layers.0", 2, 64), ("layers.2", 1, 32), ("layers.10", 1, 32)])
        );
        assert_eq!(
            parts(&all, Granularity::Projections),
            own(&[("dense", 1, 32), ("q_proj", 3, 96), ("up_proj", 1, 32)])
        );
        let some = ModulePolicy::new(&["layers.0.*".to_owned()], &["q_proj".to_owned()]).unwrap();
        assert_eq!(parts(&some, Granularity::Projections), own(&[("q_proj", 2, 64)]));
    }
}
