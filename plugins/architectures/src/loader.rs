//! Weights by the names of a Hugging Face checkpoint, checked against the shapes that the configuration asks for.

use qbench_sdk::{Error, Result, StoredTensor, Weights, backend::WeightInfo};

use crate::{Loaded, Ops};

/// Reads weights into a backend and keeps a record of each.
pub(crate) struct Loader<'a, O: Ops> {
    weights: &'a dyn Weights,
    ops: &'a mut O,
    prefix: &'static str,
    has_head: bool,
    record: Vec<WeightInfo>,
}

/// The output projection: never under the prefix of the decoder's body.
pub(crate) const HEAD: &str = "lm_head.weight";

impl<'a, O: Ops> Loader<'a, O> {
    /// Looks at the names: a checkpoint of the bare decoder lacks the prefix `model.`.
    pub(crate) fn new(weights: &'a dyn Weights, ops: &'a mut O) -> Result<Self> {
        let names = weights.names()?;
        let has = |name: &str| names.iter().any(|known| known == name);
        let Some(prefix) = ["model.", ""]
            .into_iter()
            .find(|prefix| has(&format!("{prefix}embed_tokens.weight")))
        else {
            let example = names
                .first()
                .map_or_else(String::new, |name| format!("; the first is `{name}`"));
            return Err(Error::NotFound(format!(
                "tensor `model.embed_tokens.weight` (or `embed_tokens.weight`) among the {} of the checkpoint{example}",
                names.len()
            )));
        };
        Ok(Self {
            has_head: has(HEAD),
            weights,
            ops,
            prefix,
            record: Vec::new(),
        })
    }

    /// Whether the checkpoint is that of a decoder with its head.
    pub(crate) fn expects_head(&self) -> bool {
        self.has_head || !self.prefix.is_empty()
    }

    fn open(&self, name: &str, rows: usize, cols: usize) -> Result<Box<dyn StoredTensor>> {
        let tensor = self.weights.tensor(name)?;
        let layout = tensor.layout();
        if (layout.rows(), layout.cols()) == (rows, cols) {
            return Ok(tensor);
        }
        Err(Error::InvalidArgument(format!(
            "tensor `{name}`: the configuration asks for {rows} x {cols}, the checkpoint has {} x {}",
            layout.rows(),
            layout.cols()
        )))
    }

    fn note<T>(&mut self, name: String, shape: (usize, usize), layout: String, loaded: Loaded<T>) -> T {
        self.record.push(WeightInfo {
            name,
            rows: shape.0,
            cols: shape.1,
            layout,
            bytes: loaded.bytes,
            execution: loaded.execution,
        });
        loaded.value
    }

    /// A vector of the body.
    pub(crate) fn vector(&mut self, name: &str, length: usize) -> Result<O::Vector> {
        let name = format!("{}{name}", self.prefix);
        let tensor = self.open(&name, 1, length)?;
        let layout = tensor.layout().kind().to_owned();
        let loaded = self.ops.load_vector(tensor).map_err(|error| of(&name, error))?;
        Ok(self.note(name, (1, length), layout, loaded))
    }

    /// A matrix `module.weight` of the body, with `module.bias` where there is one.
    pub(crate) fn linear(&mut self, module: &str, rows: usize, cols: usize, bias: bool) -> Result<O::Linear> {
        let bias = if bias {
            Some(self.vector(&format!("{module}.bias"), rows)?)
        } else {
            None
        };
        self.matrix(format!("{}{module}.weight", self.prefix), rows, cols, bias)
    }

    /// The output projection.
    pub(crate) fn head(&mut self, rows: usize, cols: usize) -> Result<O::Linear> {
        self.matrix(HEAD.to_owned(), rows, cols, None)
    }

    fn matrix(
        &mut self,
        name: String,
        rows: usize,
        cols: usize,
        bias: Option<O::Vector>,
    ) -> Result<O::Linear> {
        let tensor = self.open(&name, rows, cols)?;
        let layout = tensor.layout().kind().to_owned();
        let loaded = self
            .ops
            .load_linear(tensor, bias)
            .map_err(|error| of(&name, error))?;
        Ok(self.note(name, (rows, cols), layout, loaded))
    }

    /// What was loaded, in order.
    pub(crate) fn finish(self) -> Vec<WeightInfo> {
        self.record
    }
}

/// Names the tensor in an error of the backend.
fn of(name: &str, error: Error) -> Error {
    match error {
        Error::Unsupported(text) => Error::Unsupported(format!("tensor `{name}`: {text}")),
        Error::InvalidArgument(text) => Error::InvalidArgument(format!("tensor `{name}`: {text}")),
        Error::OutOfMemory(text) => Error::OutOfMemory(format!("tensor `{name}`: {text}")),
        other => other,
    }
}
