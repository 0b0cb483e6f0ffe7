//! `qbench quantize`.

use std::path::PathBuf;

use clap::Args;

use super::{plugin::PluginDirArgs, values::at_least};

#[derive(Clone, Debug, Args)]
pub struct QuantizeArgs {
    /// A Hugging Face directory or a hub id in the local cache; config.json and weights are enough.
    #[arg(value_name = "MODEL_DIR")]
    pub model: String,
    /// Mode to quantise with.
    #[arg(long)]
    pub mode: String,
    /// Directory to write.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace the directory if it is there.
    #[arg(long)]
    pub force: bool,
    /// Largest weight file in GB.
    #[arg(long, value_name = "GB", default_value_t = 5.0)]
    pub shard_size: f64,
    #[command(flatten)]
    pub plugin_dirs: PluginDirArgs,
    /// Weights that are not quantised, by name with wildcards; repeatable.
    #[arg(long, value_name = "GLOB")]
    pub skip: Vec<String>,
    /// Quantise these weights only, by name with wildcards; repeatable.
    #[arg(long, value_name = "GLOB")]
    pub only: Vec<String>,
    /// Threads [default: all cores].
    #[arg(long, value_name = "N", value_parser = at_least::<1>)]
    pub threads: Option<usize>,
}
