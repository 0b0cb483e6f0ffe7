//! `qbench plugin`, and where every command looks for plugins.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::values::{pin, positive};
use crate::plugins::SearchPath;

#[derive(Clone, Debug, Default, Args)]
pub struct PluginDirArgs {
    /// Directory to look for plugins in, before the standard ones; repeatable.
    #[arg(long, value_name = "DIR")]
    pub plugin_dir: Vec<PathBuf>,
    /// Load this plugin file and those named likewise, and no other; repeatable. `qbench plugin list` shows hashes.
    #[arg(long, value_name = "sha256:HASH", value_parser = pin)]
    pub plugin_allow: Vec<String>,
}

impl PluginDirArgs {
    /// Where to look for plugins, besides files that are named.
    pub fn search(&self, files: Vec<PathBuf>) -> SearchPath {
        SearchPath {
            files,
            directories: self.plugin_dir.clone(),
            allowed: self.plugin_allow.clone(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// List plugins, where each was found, what it offers, and why a file was refused.
    List(PluginListArgs),
    /// Say all about one plugin, or write that beside it, so that it can be listed without being run.
    Info(PluginInfoArgs),
    /// Try whether a plugin keeps its contract: the conformance kit, each case in a process of its own.
    Check(PluginCheckArgs),
    /// Write a new plugin that builds, passes its tests and runs.
    New(PluginNewArgs),
}

#[derive(Clone, Debug, Args)]
pub struct PluginListArgs {
    #[command(flatten)]
    pub plugin_dirs: PluginDirArgs,
    /// A plugin file to look at besides; repeatable.
    #[arg(long, value_name = "FILE")]
    pub plugin: Vec<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct PluginInfoArgs {
    /// A plugin file, or a mode or backend that it offers.
    #[arg(value_name = "FILE|NAME")]
    pub plugin: String,
    /// Ask the plugin and write what it says beside it, as FILE.json.
    #[arg(long)]
    pub write: bool,
    #[command(flatten)]
    pub plugin_dirs: PluginDirArgs,
}

#[derive(Clone, Debug, Args)]
pub struct PluginCheckArgs {
    /// The plugin's file.
    pub file: PathBuf,
    /// Case to try; repeatable [default: all].
    #[arg(long, value_name = "NAME")]
    pub case: Vec<String>,
    /// Device to try a backend on [default: its first].
    #[arg(long)]
    pub device: Option<String>,
    /// Seconds that a case may take before it is stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = positive)]
    pub case_timeout: f64,
}

#[derive(Clone, Debug, Args)]
pub struct PluginNewArgs {
    /// Name of its crate and of its mode, such as my_scheme.
    pub name: String,
    /// Folder to write [default: NAME].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Folder of the crate qbench-sdk, from the source tree or unpacked from its package [default: the one that comes with
    /// this program, or else the published one].
    #[arg(long, value_name = "DIR")]
    pub sdk: Option<PathBuf>,
}
